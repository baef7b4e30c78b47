"""The chat as a Gradio page: through Gradio's own client, and as a browser shows it. Skipped where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page, needs_chromium, screenshot
from PIL import Image
from small_runs import small_run
from tones import Tones

from anytoany_lib.chat.access import Gate, Limits
from anytoany_lib.chat.session import Session
from anytoany_lib.media import media_files
from anytoany_lib.model import AnyToAny

gradio_client = pytest.importorskip("gradio_client", reason="the extra gradio is not installed")
gradio_app = pytest.importorskip(
    "anytoany_lib.chat.gradio_app", reason="the extra is not installed"
)

# temperature, top-p, max tokens, seed, guidance, steps, frames, seconds, each kind of medium, reading aloud, hearing words
SETTINGS = ["0.0", "0.95", "", "0", "", "3", "", "", True, True, True, False, True]
ATTACK = """<img src=x onerror="window.hacked=1"> <script>window.hacked=2</script> [x](javascript:window.hacked=3)

```html

<svg onload="window.hacked=4">

![b](http://evil.invalid/b.png)
```
![c](http://evil.invalid/c.png)"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> AnyToAny:
    """The shipped run without quantisation."""
    return AnyToAny.from_pretrained(small_run(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def address(shipped: AnyToAny) -> Iterator[str]:
    """A page served on this machine, with the shipped run."""
    # Whoever reaches the port is let in (see test_served for tokens), and may ask for as many steps as the tests do.
    how = {"gate": Gate.of("", ()), "limits": Limits(steps=5000, waiting=32)}
    page = gradio_app.serve(
        shipped, "run `tiny`", port=None, prevent_thread_lock=True, quiet=True, **how
    )
    yield page.local_url
    assert page.share_url is None and page.local_url.startswith("http://127.0.0.1:")
    page.close()


@pytest.fixture
def client(address) -> gradio_client.Client:
    return gradio_client.Client(address, verbose=False)


def say(client, text: str, *files: Path, settings: list = SETTINGS) -> list[list[dict]]:
    """Sends a message; the states of the conversation that the page went through."""
    message = {"text": text, "files": [gradio_client.handle_file(file) for file in files]}
    job = client.submit(message, *settings, api_name="/_send")
    job.result(60)
    return [state[0] for state in job.outputs()]


def pieces(turn: dict) -> list[str]:
    """What a turn consists of: the HTML of its texts, the suffixes of its files."""
    return [
        piece["text"] if piece["type"] == "text" else Path(piece["file"]).suffix
        for piece in turn["content"]
    ]


def picture(folder: Path, name: str = "in.png") -> Path:
    return media_files.save_image(folder / name, Image.new("RGB", (64, 64), "blue"))


def test_text_streams_and_every_medium_arrives(client, tmp_path):
    states = say(client, "Draw a red bell.")
    assert "•••" in pieces(states[0][-1])[0]
    user, reply = states[-1]
    assert "Draw a red bell." in pieces(user)[0]
    assert pieces(reply)[-1] == ".png" and "bell" in pieces(reply)[0]
    assert any("<progress" in piece for state in states for piece in pieces(state[-1]))
    assert pieces(say(client, "Play the sound of a train.")[-1][-1])[-1] == ".wav"
    assert pieces(say(client, "Film a green drum moving left.")[-1][-1])[-1] == ".mp4"
    tone = media_files.save_audio(
        tmp_path / "a.wav", np.sin(np.arange(16_000) / 8).astype(np.float32), 16_000
    )
    last = say(client, "What are these?", picture(tmp_path), tone)[-1]
    assert len(last) == 8 and pieces(last[-2])[:2] == [".png", ".wav"]


def test_a_picture_is_seen_while_it_is_drawn(client):
    states = say(client, "Draw a red bell.", settings=[*SETTINGS[:5], "12", *SETTINGS[6:]])
    making = [piece for state in states for piece in pieces(state[-1]) if "<progress" in piece]
    looks = ['src="data:image/jpeg' in piece for piece in making]
    assert any(looks) and looks == sorted(looks)  # none at first, and then always one


def test_settings_hold_back_media_and_cut_the_reply(client):
    only_text = ["0", "0.95", "3", "0", *[""] * 4, False, False, False]
    reply = say(client, "Draw a red bell.", settings=only_text)[-1][-1]
    assert not {".png", ".wav", ".mp4"} & set(pieces(reply))
    assert "cut at the length limit" in pieces(reply)[-1]


def test_each_browser_session_has_its_own_conversation(client, address):
    say(client, "What is the capital of France?")
    other = gradio_client.Client(address, verbose=False)
    assert len(say(other, "Hello.")[-1]) == 2
    assert len(say(client, "And of Spain?")[-1]) == 4


def test_retry_undo_clear_and_save(client, shipped, tmp_path):
    first = say(client, "Draw a red bell.", picture(tmp_path))[-1]
    again = client.predict(*SETTINGS, api_name="/_retry")
    assert len(again) == len(first) == 2 and again[0]["role"] == "user"
    page, archive = client.predict(api_name="/save")["value"]
    assert "Draw a red bell." in Path(page).read_text()
    shutil.unpack_archive(archive, tmp_path / "kept")
    loaded = Session.load(tmp_path / "kept", shipped).messages
    assert [message["role"] for message in loaded] == ["user", "assistant"]
    turns, box = client.predict(api_name="/_undo")
    assert turns == [] and box["text"] == "Draw a red bell." and len(box["files"]) == 1
    say(client, "Hello.")
    assert client.predict(api_name="/_clear") == []


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [("notes.txt", b"hello", "expected a picture"), ("broken.png", b"no picture", "unreadable")],
)
def test_what_cannot_be_sent_is_said_in_the_conversation(client, tmp_path, name, content, cause):
    (tmp_path / name).write_bytes(content)
    turns = say(client, "Look", tmp_path / name)[-1]
    assert len(turns) == 1 and cause in pieces(turns[0])[0] and "a2a-error" in pieces(turns[0])[0]
    assert "empty" in pieces(say(client, "  ")[-1][-1])[0]
    assert len(say(client, "Hello.")[-1]) == 2


def test_a_failing_decoder_leaves_the_text_and_its_cause(client, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("<b>out of paint</b>")

    monkeypatch.setattr(AnyToAny, "render", broken)
    last = say(client, "Draw a red bell.")[-1]
    said = "".join(piece for turn in last for piece in pieces(turn))
    assert "out of paint" in said and "<b>" not in said and "bell" in said


def test_settings_that_cannot_be_used_are_said(client):
    for value, cause in (("7", "top_p has to be"), ("much", "Top-p: expected a number")):
        turns = say(client, "Hello.", settings=[SETTINGS[0], value, *SETTINGS[2:]])[-1]
        assert len(turns) == 1 and cause in pieces(turns[0])[0]


def test_stop_ends_a_picture_being_drawn(client):
    message = {"text": "Draw a red bell.", "files": []}
    job = client.submit(message, *SETTINGS[:5], "2000", *SETTINGS[6:], api_name="/_send")
    while not any("<progress" in str(state) for state in job.outputs()):
        assert not job.done()
    client.predict(api_name="/_stop")
    reply = pieces(job.result(20)[0][-1])
    assert "not made" in reply[-2] and "stopped" in reply[-1]


@needs_chromium
def test_in_a_browser_nothing_executes_and_nothing_is_asked_from_elsewhere(address):
    with browser_page(1100, 1000) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.click("text=Settings")
        page.get_by_label("Steps").fill("12")
        page.fill("textarea >> nth=0", "Draw a red bell.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".message-buttons a[download]")
        page.wait_for_function("() => document.querySelector('.bot img')?.naturalWidth === 256")
        assert not page.locator("button[title=Share]").is_visible()
        page.fill("textarea >> nth=0", ATTACK)
        for _ in range(60):  # until the reply before has ended, which is after its picture is there
            page.keyboard.press("Enter")
            page.wait_for_timeout(500)
            if page.locator(".user >> text=onerror").is_visible():
                break
        page.wait_for_selector(".user >> text=onerror")
        page.wait_for_timeout(500)
        screenshot(page, "gradio", "body")
        assert page.evaluate("() => window.hacked") is None
        assert page.locator(".user img").count() == page.locator(".user svg[onload]").count() == 0
        own = (address, "data:", "blob:")
        assert [url for url in asked if not url.startswith(own)] == []


def test_the_last_reply_is_read_aloud_and_shows_a_player(shipped):
    visitor = gradio_app.Visitor(shipped)
    (turn,) = gradio_app._read_aloud(visitor)
    assert "nothing to read aloud" in turn["content"][0]
    visitor.session.speech = Tones()
    visitor.session.messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It rings."}]},
    ]
    before, after = visitor.turns(), gradio_app._read_aloud(visitor)
    assert "<audio" not in str(before) and "<audio controls" in after[1]["content"][0]
    assert "data:audio/wav;base64," in after[1]["content"][0] and after[0] == before[0]
