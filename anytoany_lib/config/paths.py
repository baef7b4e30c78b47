"""Where files lie: the folder that holds `ckpt/` and `data/`, and paths that begin in it."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder that holds `ckpt/` and `data/`: $ANYTOANY_HOME, else the checkout, else the working directory."""
    if os.environ.get("ANYTOANY_HOME"):
        return Path(os.environ["ANYTOANY_HOME"]).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "ckpt").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """A path as it is if absolute or present in the working directory, else below `home()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else home() / path


def portable(path: str | Path) -> str:
    """A path for a record that may be read elsewhere: relative to `home()` if it lies below it."""
    path, root = Path(path).absolute(), home().absolute()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
