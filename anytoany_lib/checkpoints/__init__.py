"""Frozen models on disk: fetched (`fetching`, `hub`, `downloads`), put together (`delta_weights`), looked at (`integrity`).

`publishing` takes runs to the hub, with their `model_card`, and has them from there. `nextgpt` takes over the weights that NExT-GPT
published, and writes them.
"""

from typing import Any

from anytoany_lib.checkpoints.fetching import (
    disk_use,
    fetch,
    fetch_plan,
    missing_models,
    verify_models,
)
from anytoany_lib.checkpoints.nextgpt import export_nextgpt, import_nextgpt
from anytoany_lib.old_names import renamed


def __getattr__(name: str) -> Any:
    """The functions by their names of version 0.1."""
    return renamed(__name__, name)
