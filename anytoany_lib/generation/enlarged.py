"""Media that a decoder's upscaler made larger for the eye: what the chat shows of a part, and how it says so.

Beside the medium as it was made, which is what the model, evaluations and edits go on with, such a part has the larger one under
"enlarged", a picture or frames as the medium itself is.
"""

from __future__ import annotations

from typing import Any

from anytoany_lib.messages import Part, medium_of
from anytoany_lib.modalities import MODALITIES


def enlarged_of(part: Part) -> Any:
    """A part's enlarged medium as `media` takes it: a PIL.Image, or (frames, fps)."""
    beside = MODALITIES[part["type"]].beside
    return (part["enlarged"], part[beside]) if beside else part["enlarged"]


def shown_of(part: Part) -> Any:
    """What is shown of a part: its enlarged medium if it has one, else the medium as it is."""
    return enlarged_of(part) if "enlarged" in part else medium_of(part)


def enlargement(part: Part) -> str:
    """ "enlarged 4 x" of a part that is shown so, "" of others."""
    if "enlarged" not in part:
        return ""
    return f"enlarged {_width(part['enlarged']) // _width(part[part['type']])} x"


def _width(medium: Any) -> int:
    """Pixels of a picture, or of frames (T, H, W, 3)."""
    return medium.width if hasattr(medium, "width") else medium.shape[2]
