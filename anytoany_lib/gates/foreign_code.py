"""The gate of model folders: weights and settings are read from them, code never, and nothing is fetched for them.

transformers runs Python files of a model folder where its settings say so (`auto_map`), and asks on the terminal first. Here
such a folder is refused before transformers sees it, and every Auto class is told LOCAL besides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anytoany_lib.system.files import read_json

LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
_CODE = ("auto_map", "custom_pipelines", "custom_generate")


def without_code(folder: Path) -> Path:
    """The folder of a model, whose settings name no code. ValueError names the file and the entry if they do, or are no JSON."""
    for file in sorted(folder.glob("*config.json")):
        if entry := _entry_with_code(read_json(file)):
            raise ValueError(
                f"{file}: {entry} makes the model run code of its own, which is never done here: use a model that transformers "
                "has the code of, or take the entry out if it does without"
            )
    return folder


def _entry_with_code(settings: Any) -> str:
    """The first entry that names code, or a kernel of the hub's, at any depth; "" if none does."""
    waiting = [settings]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for name, value in one.items():
                kernel = "attn_implementation" in name and "/" in str(value)
                if (name in _CODE and value) or kernel:
                    return name
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return ""
