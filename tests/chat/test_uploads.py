"""Files that come into a chat: of the kind that is in them, under the name that the user gave, and never a trap."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import QUICK

from anytoany_lib.chat import uploads
from anytoany_lib.chat.html import original, preview
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import attachment, attachments_of, check_name, part_of, pasted_path
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError


def animation(path: Path) -> Path:
    first, *others = (Image.fromarray(np.full((32, 32, 3), 20 * n, np.uint8)) for n in range(8))
    more = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=100, **more)
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_clip_and_a_still_of_the_same_form_a_picture(tmp_path, suffix):
    moving = animation(tmp_path / f"moving.{suffix}")
    assert attachment("1", "image", moving.name, moving).kind == "video"
    assert (
        len(media_files.as_video(moving)) == 32 and media_files.load_video(moving)[0].shape[0] == 8
    )
    Image.new("RGB", (32, 32)).save(tmp_path / f"still.{suffix}")
    assert attachment("1", "video", "still", tmp_path / f"still.{suffix}").kind == "image"


def test_what_is_in_a_file_decides_not_its_name(tmp_path):
    sound = media_files.save_audio(
        tmp_path / "a.wav", np.sin(np.arange(9000) / 9).astype(np.float32), 16000
    )
    wrong = sound.rename(tmp_path / "a.mp4")
    assert attachment("1", "video", "a.mp4", wrong).kind == "audio"
    assert part_of(wrong, "a.mp4") == {"type": "audio", "audio": wrong}
    for name in ("A.TIFF", "a.jfif", "a.m4v"):
        check_name(name)
    with pytest.raises(ValueError, match="a.txt: expected a picture"):
        check_name("a.txt")
    with pytest.raises(ValueError, match="IMG_1.HEIC.*HEIC photograph.*save it as JPEG"):
        check_name("IMG_1.HEIC")


def test_a_file_that_is_no_medium_is_refused_for_its_name_or_its_content(tmp_path):
    for name in ("notes.txt", "broken.png"):
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(ValueError, match="notes.txt: expected a picture"):
        part_of(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(MediaError, match="mine.png: unreadable"):
        part_of(tmp_path / "broken.png", "mine.png")
    with pytest.raises(MediaError, match="gone.txt: missing"):
        part_of(tmp_path / "gone.txt", "gone.txt")


def test_a_refusal_names_the_users_file_the_form_and_what_to_do(tmp_path):
    path = tmp_path / "0000.bin"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200))
    with pytest.raises(MediaError) as refused:
        attachment("1", "image", "Holiday.HEIC", path)
    told = str(refused.value)
    assert "Holiday.HEIC" in told and "HEIC photograph" in told and "JPEG" in told
    assert "0000" not in told


def test_what_people_paste_as_a_path(tmp_path, monkeypatch):
    path = tmp_path / "x y#1 (a).png"
    path.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    address = path.as_uri()
    escaped = str(path).replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")
    for text in (
        str(path),
        f"'{path}'",
        f'"{path}"',
        f" “{path}”\n",
        escaped,
        address,
        f"<{address}>",
    ):
        assert pasted_path(text) == path
    assert pasted_path(f"~/{path.name}") == path
    assert pasted_path(f"file://localhost{path}") == path
    assert pasted_path(f"file:{path}") == path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://example.org/cat.png", "is an address: save what is there"),
        ("s3://bucket/cat.png", "is an address"),
        ("file://elsewhere/cat.png", "another machine, elsewhere"),
        ("data:image/png;base64,AAAA", "holds data"),
        ("~nobody-of-this-name/a.png", "no such user"),
        ("a\0b", "expected the path"),
        ("''", "expected the path"),
        pytest.param(
            "C:\\Users\\me\\x.png",
            "a path of Windows",
            marks=pytest.mark.skipif(os.sep != "/", reason="here it is a path"),
        ),
    ],
)
def test_what_is_no_path_here_is_explained(text, why):
    with pytest.raises(ValueError, match=why):
        pasted_path(text)


def test_media_that_have_gone_bad_are_told_when_a_message_is_put_back(tmp_path):
    good, bad = tmp_path / "0000.png", tmp_path / "0001.png"
    Image.new("RGB", (9, 9)).save(good)
    bad.write_text("not a picture any more")
    parts = [{"type": "image", "image": good}, {"type": "image", "image": bad}]
    names = {str(good): "bell.png", str(bad): "car.png"}
    found, lost = attachments_of([*parts, {"type": "text", "text": "which?"}], names)
    assert [one.name for one in found] == ["bell.png"]
    assert len(lost) == 1 and lost[0].startswith("car.png: unreadable")


def test_a_file_that_goes_bad_never_poisons_a_conversation(model, scripted, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(path)
    session = Session(model, sampling=QUICK)
    scripted(["One.", "STOP"], ["Two.", "STOP"], ["Three.", "STOP"])
    with pytest.raises(MediaError):
        session.send([{"type": "image", "image": tmp_path / "none.png"}])
    assert session.messages == [] and not session.busy
    events = session.send([{"type": "image", "image": path}, {"type": "text", "text": "What?"}])
    path.write_text("damaged before the model has seen it")
    list(events)
    assert [part["type"] for part in session.messages[0]["content"]] == ["image", "text"]
    list(session.send("And now?"))
    list(session.edit(0, "Without it"))
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    session.undo()
    assert session.messages == []


def test_a_clip_of_two_frames_can_be_shown(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    path = media_files.save_video(tmp_path / "a.mp4", frames, 30)
    mime, data = preview({"type": "video", "video": path})
    assert mime == "video/mp4" and len(data) > 100


def test_types_of_files_are_the_same_on_every_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("mimetypes.guess_type", lambda *_: ("text/html", None))
    path = tmp_path / "a.flv"
    path.write_bytes(b"FLV")
    assert original({"type": "video", "video": path})[1] == "video/x-flv"
    assert "mimetypes" not in vars(uploads)
