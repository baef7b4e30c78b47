"""A conversation as one page: whole, harmless, and the same when a browser opens it from a file."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest
from browser import browser_page, needs_chromium, screenshot
from PIL import Image
from test_html import ATTACKS, NAME, Elements

from anytoany_lib.chat import export
from anytoany_lib.chat.export import page, write_page
from anytoany_lib.media import media_files

MEDIA_STATE = """() => [...document.querySelectorAll('img, audio, video')].map(
    e => ({tag: e.tagName, width: e.naturalWidth || e.videoWidth || 0, ready: e.readyState, seconds: e.duration,
           beyond: e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().height > innerHeight})
)"""


@pytest.fixture
def messages(tmp_path) -> list[dict]:
    """Every kind of part, from files and from a model, among attacks."""
    pixels = np.linspace(0, 255, 1600 * 1200 * 3).reshape(1200, 1600, 3).astype(np.uint8)
    photo = media_files.save_image(tmp_path / NAME.replace(".png", ".jpg"), Image.fromarray(pixels))
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    tone = (np.sin(np.arange(16_000) / 8) / 2).astype(np.float32)
    reply = [
        {"type": "text", "text": "A photo. Here is a **red bell**, its sound and a clip:"},
        {"type": "image", "image": Image.new("RGB", (64, 64), "red"), "caption": NAME},
        {"type": "audio", "audio": tone, "sampling_rate": 16_000},
        {"type": "video", "video": frames, "fps": 4.0},
    ]
    asked = [{"type": "image", "image": photo}, {"type": "text", "text": "\n\n".join(ATTACKS)}]
    clip = media_files.save_video(tmp_path / "clip.mp4", frames, 4.0)
    return [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": reply},
        {"role": "user", "content": [{"type": "video", "video": clip}]},
        {"role": "assistant", "content": []},
    ]


def embedded(address: str) -> bytes:
    return base64.b64decode(address.partition(";base64,")[2])


def test_the_page_is_whole_and_media_are_the_originals(messages, tmp_path):
    path = write_page(messages, tmp_path / "new" / "page.html", "A <b>title", "profile **tiny**")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    found = Elements(path.read_text(encoding="utf-8")).found
    assert not {"script", "iframe", "object", "link", "form", "base"} & {tag for tag, _ in found}
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    policies = [
        a["content"] for tag, a in found if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies[0].startswith("default-src 'none'; img-src data:; media-src data:;")
    assert [a["src"][:5] for tag, a in found if "src" in a] == ["data:"] * 5
    saved = {a["download"]: embedded(a["href"]) for _, a in found if "download" in a}
    photo = messages[1]["content"][0]["image"]
    assert list(saved) == [photo.name, "image.png", "audio.wav", "video.mp4", "clip.mp4"]
    assert saved[photo.name] == photo.read_bytes()
    assert saved["clip.mp4"] == messages[3]["content"][0]["video"].read_bytes()
    (shown,) = [a["src"] for tag, a in found if tag == "img" and a["alt"] == "image"]
    assert embedded(shown) == photo.read_bytes()


def test_an_enlarged_medium_is_shown_and_what_was_made_kept_beside_it():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    parts = [
        {
            "type": "image",
            "image": Image.new("RGB", (16, 8)),
            "enlarged": Image.new("RGB", (64, 32)),
        },
        {
            "type": "video",
            "video": frames,
            "fps": 4.0,
            "enlarged": frames.repeat(4, 1).repeat(4, 2),
        },
    ]
    text = page([{"role": "assistant", "content": parts}])
    found = Elements(text).found
    saved = {a["download"]: embedded(a["href"]) for _, a in found if "download" in a}
    assert list(saved) == ["image-enlarged.png", "image.png", "video-enlarged.mp4", "video.mp4"]
    sizes = [Image.open(io.BytesIO(saved[name])).size for name in list(saved)[:2]]
    assert sizes == [(64, 32), (16, 8)]
    (shown,) = [a for tag, a in found if tag == "img"]
    assert embedded(shown["src"]) == saved["image-enlarged.png"]
    assert shown["alt"] == shown["title"] == "image (enlarged 4 x)"
    assert text.count("<span>enlarged 4 x · ") == 2


def test_what_is_gone_or_too_large_or_not_shown_by_browsers(messages, tmp_path, monkeypatch):
    photo = messages[1]["content"][0]["image"]
    tiff = media_files.save_image(tmp_path / "scan.tiff", Image.new("RGB", (32, 32), "blue"))
    found = Elements(page([{"role": "user", "content": [{"type": "image", "image": tiff}]}])).found
    (image,) = [a for tag, a in found if tag == "img"]
    (link,) = [a for tag, a in found if "download" in a]
    assert (
        image["src"].startswith("data:image/png;") and embedded(link["href"]) == tiff.read_bytes()
    )

    monkeypatch.setattr(export, "EMBEDDED_BYTES", 10_000)
    large = page([{"role": "user", "content": [{"type": "image", "image": photo}]}])
    assert "too large for this page" in large and "download=" not in large and "<img" in large

    photo.unlink()
    gone = page(messages)
    assert "image: missing: no such file" in gone and str(tmp_path) not in gone


def test_a_clip_that_browsers_do_not_play_is_shown_as_one_that_they_do(tmp_path):
    path = tmp_path / "old.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=4, width=64, height=64, pix_fmt="yuv420p")
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    found = Elements(page([{"role": "user", "content": [{"type": "video", "video": path}]}])).found
    (shown,) = [embedded(a["src"]) for tag, a in found if tag == "video"]
    (saved,) = [embedded(a["href"]) for _, a in found if "download" in a]
    assert saved == path.read_bytes() != shown
    (tmp_path / "shown.mp4").write_bytes(shown)
    with av.open(str(tmp_path / "shown.mp4")) as file:
        assert file.streams.video[0].codec_context.name == "h264"


def test_nothing_said_and_malformed_messages():
    assert "Nothing has been said yet" in page([])
    with pytest.raises(ValueError, match="message 0"):
        page([{"role": "nobody", "content": "hello"}])


def test_a_page_that_cannot_be_written_leaves_the_older_one(messages, tmp_path):
    path = write_page(messages, tmp_path / "page.html")
    older = path.read_bytes()
    with pytest.raises(ValueError, match="message 0"):
        write_page([{"role": "nobody", "content": ""}], path)
    assert path.read_bytes() == older and not list(tmp_path.glob(".*"))


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it_without_asking_for_anything(messages, tmp_path, scheme, width):
    path = write_page(messages, tmp_path / "page.html", "Bells", "profile **tiny**")
    with browser_page(width, 900, color_scheme=scheme) as shown:
        asked, problems = [], []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("console", lambda message: problems.append(message.text))
        shown.goto(path.as_uri())
        shown.wait_for_function(
            f"() => ({MEDIA_STATE})().every(m => m.tag === 'IMG' ? m.width : m.ready >= 1)"
        )
        found = shown.evaluate(MEDIA_STATE)
        assert [one["width"] for one in found] == [1600, 64, 0, 64, 64]
        assert [round(one["seconds"], 1) for one in found[2:]] == [1, 2, 2]
        assert not any(one["beyond"] for one in found)
        assert shown.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert shown.evaluate("() => window.hacked") is None and problems == []
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        with shown.expect_download() as download:
            shown.click("article:nth-of-type(3) a[download='audio.wav']")
        kept = tmp_path / "kept.wav"
        download.value.save_as(kept)
        assert media_files.load_audio(kept)[1] == 16_000
        screenshot(shown, f"page_{scheme}_{width}", "body")
        bright = shown.evaluate("() => getComputedStyle(document.body).backgroundColor")
        channels = [int(number) for number in bright.strip("rgb()").split(",")]
        assert (max(channels) < 60) == (scheme == "dark")
