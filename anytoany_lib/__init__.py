"""anytoany: train, measure and talk to any-to-any multimodal LLMs, in notebooks.

import anytoany_lib as a2a
model = a2a.AnyToAny.from_pretrained("ckpt/runs/tiny/stage3")
reply = model.chat([{"role": "user", "content": "Draw a red bell."}], seed=0)
"""

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anytoany_lib.old_names import OldNames

if TYPE_CHECKING:
    from anytoany_lib.chat.session import Session
    from anytoany_lib.chat.widget import Chat
    from anytoany_lib.config import Profile
    from anytoany_lib.model import AnyToAny

_HOMES = {
    "AnyToAny": "model",
    "Chat": "chat.widget",
    "Profile": "config",
    "Session": "chat.session",
}

# Before torch is imported, whose OpenMP reads it then. Its threads wait for each other by spinning, for milliseconds unless told
# otherwise: beside any other program they spin while the one that they wait for has no core. docs/LOG.md has measurements.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Two notices at import, about optional packages (kernels, torchvision) that the kit does without on purpose.
for _noisy in ("bitsandbytes.backends.cpu.ops", "transformers.utils.import_utils"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)

sys.meta_path.append(OldNames())

__all__ = ["AnyToAny", "Chat", "Profile", "Session"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
