"""Media that come as an address or as text (base64), for messages as other libraries write them: read into memory, checked like files.

Addresses pass `gates.addresses`; what comes from there is opened by the same code, with the same bounds, as a file.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import tempfile
from pathlib import Path
from typing import Any

from anytoany_lib.gates.addresses import TooLarge, read_public
from anytoany_lib.gates.sources import NotTrusted
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.media_files import as_media, check_kind, load_video
from anytoany_lib.system.urls import without_secrets

MAX_BYTES = 64 * 2**20
_FRAMES, _SHORT_SIDE = 32, 256  # of a clip, as `as_video` takes them of a file
_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.=+-]+)*;base64,", re.ASCII)


def fetched(kind: str, url: str) -> Any:
    """The medium at a public https address: a PIL image, (samples, rate), or (frames, fps).

    MediaError says what is wrong with the address, or with what is there, and what to write in its place.
    """
    named = without_secrets(url)
    try:
        content = read_public(url, MAX_BYTES)
    except NotTrusted as error:
        advice = "write an https:// address, or the path of a file under 'path'"
        raise MediaError("not fetched", f"{error}; {advice}", named) from error
    except TooLarge as error:
        raise MediaError("too large", f"{error}: name a smaller one", named) from error
    except (OSError, http.client.HTTPException) as error:
        advice = "save what is there as a file, and write its path under 'path'"
        raise MediaError("not fetched", f"{error}; {advice}", named) from error
    return opened(kind, content, named)


def decoded(kind: str, text: str) -> Any:
    """The medium that base64, with or without `data:...;base64,` before it, stands for; in the forms of `fetched`."""
    name = f"base64 of {len(text):,} characters"
    if len(text) > MAX_BYTES * 4 // 3 + 200:
        raise MediaError("too large", f"more than {MAX_BYTES / 2**20:g} MB", name)
    head = _DATA.match(text)
    try:
        content = base64.b64decode("".join(text[head.end() if head else 0 :].split()), None, True)
    except (binascii.Error, ValueError) as error:
        expected = "expected base64, or data:TYPE;base64, and base64"
        raise MediaError("unreadable", f"{expected} ({error})", name) from error
    return opened(kind, content, name)


def opened(kind: str, content: bytes, name: str) -> Any:
    """The medium in the bytes of a file, in memory. MediaError, with this name, if they are none."""
    with tempfile.TemporaryDirectory(prefix="anytoany-medium-") as folder:
        path = Path(folder) / check_kind(kind)  # without an ending: what is in it counts
        path.write_bytes(content)
        try:
            if kind == "video":
                return load_video(path, num_frames=_FRAMES, short_side=_SHORT_SIDE)
            return as_media(kind, path)
        except MediaError as error:
            raise MediaError(error.reason, error.detail, name) from error
