"""Messages as transformers and other libraries write them, turned into those of this kit: what a model card shows can be pasted.

    {"type": "image", "url": ...} or "path", "base64", an array under "image"    transformers
    {"type": "image", "image": "https://..." or "data:..."}                      Qwen
    {"type": "image_url", "image_url": {"url": ...}}, "input_audio"              OpenAI, vLLM

Addresses are fetched here, once: what comes out has its media in memory or as paths, and `messages` reads nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from anytoany_lib.media.elsewhere import decoded, fetched, opened
from anytoany_lib.messages import Message, Part
from anytoany_lib.modalities import MEDIA_KINDS, MODALITIES

_KEYS = ("url", "path", "base64")  # where transformers looks beside the kind itself
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OPENAI = {f"{kind}_url": kind for kind in MEDIA_KINDS} | {"input_audio": "audio"}


def as_messages(messages: list[Message]) -> list[Message]:
    """A conversation with the media of its messages as this kit takes them. What is in its form already stays as it is, and so do
    replies: nobody looks at their media again, and a conversation of somebody else could have addresses in them.

    MediaError if a medium cannot be had, ValueError if a part names it in a form that has no one meaning; what is no
    conversation at all is left to `messages.check`.
    """
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": as_content(message["content"])}
        if isinstance(message, dict) and "content" in message and message.get("role") != "assistant"
        else message
        for message in messages
    ]


def as_content(content: Any) -> Any:
    """A message's content with its media as this kit takes them; see `as_messages`."""
    return [as_part(part) for part in content] if isinstance(content, list) else content


def as_part(part: Any) -> Any:
    """A part with its medium under its kind, as a path or in memory; any other part as it is."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _OPENAI:
        return _of_openai(part, kind)
    if kind not in MEDIA_KINDS:
        return part
    if part.get(kind) is not None:
        medium = part[kind]
    else:
        named = [key for key in _KEYS if part.get(key) is not None]
        if not named:
            return part
        if len(named) > 1:
            raise ValueError(
                f"a part of type {kind} names its medium under {' and '.join(named)}: keep one of them"
            )
        medium = part[named[0]]
        if named == ["base64"] and isinstance(medium, str):
            medium = decoded(kind, medium)
    taken = _medium(kind, medium, part)
    if taken is part.get(kind):
        return part
    return {name: value for name, value in part.items() if name not in _KEYS} | {kind: taken}


def _of_openai(part: Part, name: str) -> Part:
    """A part as OpenAI writes it: an address or data URI below "image_url", or a sound as base64 below "input_audio"."""
    kind, held = _OPENAI[name], part.get(name)
    held = held.get("data" if name == "input_audio" else "url") if isinstance(held, dict) else held
    if not isinstance(held, str):
        key = "data" if name == "input_audio" else "url"
        raise ValueError(
            f"a part of type {name} needs its medium as text: {{{name!r}: {{{key!r}: ...}}}}"
        )
    text = name == "input_audio" and not _ADDRESS.match(held)
    return {"type": kind, kind: decoded(kind, held) if text else _medium(kind, held, part)}


def _medium(kind: str, medium: Any, part: Part) -> Any:
    """A medium in one of the forms that others have, in one of this kit's."""
    if isinstance(medium, str) and medium.startswith("data:"):
        return decoded(kind, medium)
    if isinstance(medium, str) and _ADDRESS.match(medium):
        return fetched(kind, medium)
    if isinstance(medium, bytes | bytearray):
        return opened(kind, bytes(medium), f"{len(medium):,} bytes")
    if kind == "audio" and isinstance(medium, Mapping):
        return _sound(medium)
    if hasattr(medium, "detach"):  # a tensor
        medium = medium.detach().cpu().numpy()
    if kind == "audio" and isinstance(medium, np.ndarray) and not part.get(MODALITIES[kind].beside):
        raise ValueError(
            "samples have no sampling rate of their own: write {'type': 'audio', 'audio': (samples, rate in Hz)}, or "
            "'sampling_rate' beside them"
        )
    if kind == "image" and isinstance(medium, np.ndarray):
        return _picture(medium)
    if kind == "video" and isinstance(medium, list) and medium:
        return _frames(medium)
    return medium


def _sound(column: Mapping[str, Any]) -> Any:
    """A sound as `datasets` has it: {"array", "sampling_rate"}, {"bytes"} or {"path"}."""
    if column.get("array") is not None and column.get("sampling_rate"):
        return (np.asarray(column["array"]), int(column["sampling_rate"]))
    if column.get("bytes") is not None:
        return opened("audio", column["bytes"], str(column.get("path") or "bytes"))
    if isinstance(column.get("path"), str):
        return _medium("audio", column["path"], {})
    raise ValueError(
        f"expected a sound with 'array' and 'sampling_rate', 'bytes' or 'path', found the keys {', '.join(map(str, column)) or 'of nothing'}"
    )


def _picture(values: np.ndarray) -> Image.Image:
    """Pixels as a picture: uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). ValueError for others, whose range is not known."""
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype != np.uint8 or not (values.ndim == 2 or values.shape[2:] in ((3,), (4,))):
        raise ValueError(
            f"expected a picture as uint8 (height, width, 3), found {values.dtype} {values.shape}: scale it to 0 ... 255, cast it and "
            "put channels last, or give a PIL.Image"
        )
    return Image.fromarray(values)


def _frames(frames: list[Any]) -> Any:
    """A list of frames as uint8 (T, H, W, 3). ValueError unless they are pictures of one size."""
    if not all(isinstance(one, Image.Image | np.ndarray) for one in frames):
        raise ValueError(
            "a list of frames has pictures (PIL.Image or arrays) in it, found "
            f"{type(frames[0]).__name__}: open them first, or name a file of the whole clip"
        )
    arrays = [
        np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one) for one in frames
    ]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError("the frames of a clip have to be of one size: resize them")
    return np.stack(arrays)
