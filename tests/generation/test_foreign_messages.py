"""Messages as model cards of others show them: each form gives the medium that a file gives, or says what to write."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_pages import pages
from PIL import Image

from anytoany_lib.chat.session import Session
from anytoany_lib.gates.sources import LOOPBACK
from anytoany_lib.generation.foreign_messages import as_messages, as_part
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import elsewhere, media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny

RATE = 16_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("media")
    frames = np.zeros((6, 32, 48, 3), np.uint8)
    frames[:, :, :24, 0] = 200
    return {
        "image": media_files.save_image(folder / "a.png", Image.new("RGB", (40, 30), "teal")),
        "audio": media_files.save_audio(folder / "a.wav", _tone(), RATE),
        "video": media_files.save_video(folder / "a.mp4", frames, 4.0),
    }


@pytest.fixture(scope="module")
def address(files: dict[str, Path]) -> Iterator[str]:
    contents = {path.name: path.read_bytes() for path in files.values()} | {"page": b"<html>"}
    with pytest.MonkeyPatch.context() as patch, pages(contents) as found:
        patch.setenv(LOOPBACK, "1")
        yield found


def _tone() -> np.ndarray:
    return np.sin(np.arange(RATE // 2) / 9).astype(np.float32) / 2


def _same(kind: str, found: Any, file: Path) -> bool:
    """Whether the encoder would see the same as of the file."""
    expected, own = (media_files.as_media(kind, one) for one in (file, found))
    if kind == "audio":
        return own[1] == expected[1] and np.array_equal(own[0], expected[0])
    return np.array_equal(np.asarray(own), np.asarray(expected))


@pytest.mark.parametrize("kind", MEDIA_KINDS)
def test_every_place_of_a_medium_gives_what_the_file_gives(kind: str, files, address: str):
    file = files[kind]
    text = base64.b64encode(file.read_bytes()).decode()
    uri, url = f"data:{kind}/x;base64,{text}", f"{address}/{file.name}"
    forms: list[dict[str, Any]] = [
        {"type": kind, "url": url},
        {"type": kind, kind: url},
        {"type": kind, "path": str(file)},
        {"type": kind, "url": str(file)},
        {"type": kind, "base64": text},
        {"type": kind, "base64": uri},
        {"type": kind, "url": uri},
        {"type": kind, kind: file.read_bytes()},
        {"type": f"{kind}_url", f"{kind}_url": {"url": uri}},
        {"type": f"{kind}_url", f"{kind}_url": url},
    ]
    for form in forms:
        part = as_part(form)
        assert set(part) == {"type", kind} and part["type"] == kind, form
        assert _same(kind, part[kind], file), form


def test_sounds_and_pictures_in_memory(files):
    samples = _tone()
    column = {"array": samples, "sampling_rate": RATE, "path": None}
    spoken = {"data": base64.b64encode(files["audio"].read_bytes()).decode(), "format": "wav"}
    for form in (
        {"type": "audio", "audio": column},
        {"type": "audio", "audio": {"bytes": files["audio"].read_bytes(), "path": "a.wav"}},
        {"type": "audio", "audio": {"path": str(files["audio"])}},
        {"type": "input_audio", "input_audio": spoken},
    ):
        found = media_files.as_audio(as_part(form)["audio"])
        assert found[1] == RATE and np.allclose(found[0], samples, atol=1e-4)
    pixels = np.asarray(media_files.load_image(files["image"]))
    for values in (pixels, torch.from_numpy(pixels.copy())):
        assert np.array_equal(
            np.asarray(as_part({"type": "image", "image": values})["image"]), pixels
        )
    assert as_part({"type": "image", "image": pixels[..., 0]})["image"].mode == "L"
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    assert as_part({"type": "video", "video": frames})["video"].shape == (2, 6, 8, 3)


def test_what_is_in_the_kits_form_stays_the_same_object(files):
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "https://example.com/a.png"},
        {"type": "image", "image": files["image"]},
        {"type": "image", "image": Image.new("RGB", (4, 4))},
        {"type": "image", "caption": "a bell"},
        {"type": "audio", "audio": (_tone(), RATE)},
        {"type": "audio", "audio": _tone(), "sampling_rate": RATE},
        {"type": "video", "video": np.zeros((2, 4, 4, 3), np.uint8), "fps": 4.0},
    ]
    (message,) = as_messages([{"role": "user", "content": parts}])
    assert all(one is other for one, other in zip(message["content"], parts, strict=True))
    assert as_messages([{"role": "user", "content": "Hi"}]) == [{"role": "user", "content": "Hi"}]


def test_addresses_in_replies_are_not_asked_for():
    """Of a conversation that somebody else saved: opening it must tell nobody."""
    reply = {
        "role": "assistant",
        "content": [{"type": "image", "url": "https://10.0.0.1/seen.png"}],
    }
    assert as_messages([reply]) == [reply]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image", "url": "file:///etc/passwd"}, "expected https://.*under 'path'"),
        ({"type": "image", "url": "http://example.com/a.png"}, "expected https://, found http"),
        ({"type": "image", "url": "https://10.0.0.1/a.png"}, "10.0.0.1.*private network"),
        ({"type": "image", "url": "https://169.254.169.254/latest"}, "private network"),
        ({"type": "image", "url": "s3://bucket/a.png"}, "expected https://, found s3"),
        ({"type": "image", "url": "HTTP/gone"}, "not fetched: .*404.*as a file"),
        ({"type": "image", "url": "HTTP/page"}, "HTTP/page: unreadable"),
        ({"type": "audio", "url": "HTTP/a.png"}, "HTTP/a.png: "),
        ({"type": "image", "url": "HTTP/endless"}, "too large: there are more than 1 MB"),
        ({"type": "image", "base64": "no base64!"}, "expected base64, or data:TYPE"),
        ({"type": "image", "base64": "A" * 2_000_000}, "too large"),
        ({"type": "image", "url": "a.png", "path": "b.png"}, "under url and path: keep one"),
        ({"type": "image", "image": np.zeros((3, 8, 8), np.uint8)}, "put channels last"),
        ({"type": "image", "image": np.zeros((8, 8, 3))}, "found float64"),
        ({"type": "audio", "audio": np.zeros(800)}, r"\(samples, rate in Hz\)"),
        ({"type": "audio", "audio": {"array": [0.0]}}, "'array' and 'sampling_rate'"),
        ({"type": "video", "video": ["a.png", "b.png"]}, "open them first"),
        ({"type": "image_url", "image_url": {}}, "needs its medium as text"),
        (
            {"type": "video", "video": [Image.new("L", (2, 2)), Image.new("L", (3, 2))]},
            "of one size",
        ),
    ],
)
def test_what_cannot_be_had_is_said(part: dict, expected: str, address: str, monkeypatch):
    monkeypatch.setattr(elsewhere, "MAX_BYTES", 2**20)
    part = {k: v.replace("HTTP", address) if isinstance(v, str) else v for k, v in part.items()}
    with pytest.raises(ValueError, match=expected.replace("HTTP", address)):
        as_part(part)


def test_no_password_of_an_address_is_told():
    with pytest.raises(MediaError) as told:
        as_part({"type": "image", "url": "https://me:secret@10.0.0.1/a.png"})
    assert "secret" not in str(told.value)


def test_a_chat_and_a_session_take_them(model: AnyToAny, files, address: str):
    text = {"type": "text", "text": "What is this?"}
    sampling = Sampling(kinds=(), max_new_tokens=4)
    own, others = (
        [{"role": "user", "content": [{"type": "image", **place}, text]}]
        for place in ({"image": files["image"]}, {"url": f"{address}/a.png"})
    )
    assert model.chat(others, sampling=sampling) == model.chat(own, sampling=sampling)
    session = Session(model, sampling=sampling)
    for _ in session.send(others[0]["content"]):
        pass
    kept = session.messages[0]["content"][0]
    assert set(kept) == {"type", "image"} and isinstance(kept["image"], Image.Image)
    with pytest.raises(MediaError, match="private network"):
        session.send([{"type": "image", "url": "https://192.168.0.1/cam.jpg"}, text])
    assert len(session.messages) == 2
