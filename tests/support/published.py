"""The published small files that some tests need and that are not distributed: assembled where they are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "published"
needs_published = pytest.mark.skipif(
    not (PUBLISHED / "assemble.py").is_file(),
    reason="needs ../shared/published, real files that are not distributed with the kit",
)


def assembled(repository: str, folder: Path) -> Path:
    """The small files of a published repository in its layout, below `folder`."""
    command = [sys.executable, PUBLISHED / "assemble.py", repository, folder / repository]
    inferred = ["--inferred"] if repository.startswith("Qwen2.5") else []
    subprocess.run([*command, *inferred], check=True, capture_output=True)
    return folder / repository


def golden(name: str) -> dict[str, Any]:
    """A file of golden ids."""
    return json.loads((PUBLISHED / "golden" / name).read_text(encoding="utf-8"))
