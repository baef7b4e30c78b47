"""Edits of a picture: where a new one begins with one that the conversation has, so that a photograph can be edited.

Stable Diffusion can begin with a picture as well as with noise. How much of it may change is the `strength`: the published
image-to-image procedure (SDEdit, Meng et al. 2022) noises the picture that far and takes the steps that are left.
"""

from __future__ import annotations

from typing import Any

from anytoany_lib.config import Profile
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, check
from anytoany_lib.modalities import MEDIA_KINDS


def picture_to_edit(
    messages: list[Message], profile: Profile, sampling: Sampling
) -> dict[str, Any]:
    """What the pictures of the next reply begin with: {"picture", "strength"}, or {} where they are drawn anew.

    A picture that the last turn shows alone is edited where the profile's image decoder has an `edit_strength`. With the
    sampling's own `strength` it is the newest picture of the conversation, shown or made. MediaError if it cannot be read.
    """
    decoder = profile.decoders.get("image")
    if decoder is None:
        return {}
    turns = [[part for part in parts if part["type"] in MEDIA_KINDS] for parts in check(messages)]
    if sampling.strength is not None:
        shown = [part for media in turns for part in media if "image" in part][-1:]
    else:
        shown = [part for part in turns[-1] if "image" in part] if len(turns[-1]) == 1 else []
    strength = decoder.edit_strength if sampling.strength is None else sampling.strength
    if strength is None or not shown:
        return {}
    return {"picture": media_files.as_media("image", shown[0]["image"]), "strength": strength}
