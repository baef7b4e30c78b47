"""How much memory a profile takes, before anything is loaded: rules (`planning`) and a rehearsal on shapes alone.

`preflight` looks whether this machine has the room.
"""

from typing import Any

from anytoany_lib.old_names import renamed


def __getattr__(name: str) -> Any:
    """Functions and classes by their names of version 0.1."""
    return renamed(__name__, name)
