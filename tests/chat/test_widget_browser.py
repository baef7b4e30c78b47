"""The chat widget as people meet it: JupyterLab in headless Chromium, a real kernel, real decoders.

Only the choice of tokens is scripted, in the test's own notebook, so that every run says and makes the same. Skipped
where Chromium or playwright are absent. Screenshots are left in `out/screenshots`.
"""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import numpy as np
import pytest
from browser import (
    IDLE,
    SCREENSHOTS,
    browser_page,
    lab,
    needs_chromium,
    open_notebook,
    run_all,
    screenshot,
    write_notebook,
)
from PIL import Image
from scripts import INJECTION, LOADING, SCRIPT

from anytoany_lib.media import media_files

pytestmark = needs_chromium
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WATCH = """() => {
    window.states = [];
    new MutationObserver(() => {
        const bubbles = document.querySelectorAll('.a2a-bubble.a2a-model .a2a-pieces');
        const text = bubbles.length ? bubbles[bubbles.length - 1].innerText.trim() : '';
        if (window.states.at(-1) !== text) window.states.push(text);
    }).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""
MEDIA_STATE = """() => [...document.querySelectorAll('.a2a-model img, .a2a-model audio, .a2a-model video')].map(
    e => ({tag: e.tagName, width: e.naturalWidth || e.videoWidth || 0, ready: e.readyState, seconds: e.duration})
)"""
TEXT = ".a2a-input textarea"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The notebook, open in Chromium, all its cells run, the chat on the screen; one for all tests here."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "root").mkdir()
    write_notebook(folder / "root" / "chat.ipynb", LOADING, SCRIPT, "chat = Chat(model)\nchat")
    with lab(folder) as (address, token), browser_page() as page:
        open_notebook(page, address, token, "chat.ipynb")
        run_all(page)
        page.wait_for_selector(f".a2a-chat {TEXT}")
        try:
            yield page
        finally:
            page.screenshot(path=folder / "last.png")


@pytest.fixture
def clean(page, request):
    """The chat with nothing said."""
    page.click("button.a2a-clear")
    bubbles(page, 0)
    ready(page)  # until the kernel has answered nothing can be sent
    yield page
    page.screenshot(path=SCREENSHOTS / f"last_of_{request.node.name}.png")


@pytest.fixture(scope="module")
def attachments(tmp_path_factory) -> list[str]:
    """A picture whose file name is HTML, a sound and a clip."""
    folder = tmp_path_factory.mktemp("files")
    ramp = np.linspace(0, 255, 96 * 96 * 3).reshape(96, 96, 3).astype(np.uint8)
    tone = (np.sin(np.arange(8_000) / 8) / 2).astype(np.float32)
    rolling = np.stack([np.roll(ramp, 8 * n, 1) for n in range(6)])
    paths = [
        media_files.save_image(folder / f"{INJECTION}.png".replace("/", ""), Image.fromarray(ramp)),
        media_files.save_audio(folder / "tone.wav", tone, 16_000),
        media_files.save_video(folder / "clip.mp4", rolling, 6),
    ]
    return [str(path) for path in paths]


def say(page, text: str) -> None:
    """Writes a message and presses Enter."""
    page.fill(TEXT, text)
    page.press(TEXT, "Enter")


def ready(page) -> None:
    page.wait_for_selector(".a2a-busy", state="detached")
    page.wait_for_selector(".a2a-ready")


def bubbles(page, count: int) -> None:
    page.wait_for_function(f"() => document.querySelectorAll('.a2a-bubble').length === {count}")


def chips(page, count: int) -> None:
    done = f"document.querySelectorAll('.a2a-chip').length === {count}"
    page.wait_for_function(f"() => {done} && !document.querySelector('.a2a-chip progress')")


def written(page, text: str) -> None:
    page.wait_for_function(f"() => document.querySelector('{TEXT}').value === {text!r}")


def last_reply(page) -> str:
    return page.locator(".a2a-model .a2a-pieces").last.inner_text()


def test_a_message_with_everything_gets_a_reply_with_everything(clean, attachments):
    page = clean
    page.evaluate(WATCH)
    with page.expect_file_chooser() as chooser:
        page.click("button.a2a-upload")
    chooser.value.set_files(attachments)
    chips(page, 3)
    assert page.locator(".a2a-chip img.a2a-thumbnail").count() == 2
    screenshot(page, "1_attached")
    page.click(".a2a-chip:nth-of-type(2) button")
    chips(page, 2)

    page.fill(TEXT, f"Look: {INJECTION}")
    page.press(TEXT, "Shift+Enter")
    page.keyboard.type("Show me all of it.")
    assert "\n" in page.input_value(TEXT)
    page.press(TEXT, "Enter")
    page.wait_for_selector(".a2a-model progress")
    screenshot(page, "2_making")
    page.wait_for_selector(".a2a-model video")
    ready(page)
    page.wait_for_function(
        f"() => ({MEDIA_STATE})().every(m => m.tag === 'IMG' ? m.width : m.ready >= 1)"
    )
    image, audio, video = page.evaluate(MEDIA_STATE)
    assert (image["tag"], audio["tag"], video["tag"]) == ("IMG", "AUDIO", "VIDEO")
    assert image["width"] == video["width"] == 256
    hover = page.locator(".a2a-model .a2a-media").first.get_attribute("title")
    assert hover == "image (enlarged 4 x)"
    assert abs(audio["seconds"] - 2) < 0.1 and abs(video["seconds"] - 2) < 0.1
    states = page.evaluate("() => window.states")
    first = "Here is a red bell on the left,"
    growing = [text for text in states if text and first.startswith(text.replace("*", "").strip())]
    assert len(growing) >= 3 and page.locator(".a2a-model strong").inner_text() == "red bell"
    user = page.locator(".a2a-user").first
    assert "onerror=" in user.inner_text() and user.locator("img").count() == 1
    assert user.locator("video").count() == 1 and user.locator("audio").count() == 0
    wide = page.evaluate("() => document.querySelector('.a2a-chat').scrollWidth")
    assert wide <= page.locator(".a2a-chat").bounding_box()["width"]
    screenshot(page, "3_ready")

    for at, name, side in ((0, "image-enlarged.png", 256), (1, "image.png", 64)):
        with page.expect_download() as download:
            page.locator(".a2a-model .a2a-medium").first.hover(force=True)
            page.locator(".a2a-model .a2a-download").nth(at).click()
        assert download.value.suggested_filename == name
        with Image.open(download.value.path()) as saved:
            assert saved.size == (side, side)
    page.locator(".a2a-model").first.hover(force=True)
    page.locator(".a2a-model .a2a-copy").first.click()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith("Here is a **red bell**") and "and a clip." in copied

    say(page, "Try to hack me.")
    page.wait_for_selector(".a2a-model >> text=are only text")
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator(".a2a-model a[href^=javascript]").count() == 0


def test_stop_retry_edit_undo(clean):
    page = clean
    say(page, "Draw slowly.")
    page.wait_for_selector(".a2a-model progress[value]")
    page.wait_for_selector(".a2a-model .a2a-preview")
    screenshot(page, "4_busy")
    began = time.monotonic()
    page.click("button.a2a-stop")
    page.wait_for_selector(".a2a-model >> text=stopped")
    assert time.monotonic() - began < 1.5  # half a second and what the test driver takes
    ready(page)
    say(page, "A long text.")
    page.wait_for_selector(".a2a-model >> text=word word word word")
    page.keyboard.press("Escape")
    page.wait_for_selector(".a2a-turn:nth-child(4) >> text=stopped")
    ready(page)
    bubbles(page, 4)

    page.locator(".a2a-user").first.hover(force=True)
    page.locator(".a2a-user .a2a-edit").first.click()
    written(page, "Draw slowly.")
    page.wait_for_selector(".a2a-editing")
    screenshot(page, "5_editing")
    say(page, "Only a short answer.")
    bubbles(page, 2)
    ready(page)
    assert last_reply(page) == "This is an answer."
    page.locator(".a2a-model").first.hover(force=True)
    page.locator(".a2a-model .a2a-again").first.click()
    ready(page)
    bubbles(page, 2)
    page.click("button.a2a-undo")
    bubbles(page, 0)
    written(page, "Only a short answer.")
    page.wait_for_selector(".a2a-example")
    page.click(".a2a-example")
    assert page.input_value(TEXT) == "Draw a red bell."


def test_files_dropped_pasted_recorded_refused(clean, attachments, tmp_path):
    page = clean
    picture = base64.b64encode(Path(attachments[0]).read_bytes()).decode()
    give = """([picture, how]) => {
        const bytes = Uint8Array.from(atob(picture), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], `${how}.png`, {type: "image/png"}));
        const box = document.querySelector(".a2a-input textarea");
        const event = how === "drop" ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
        box.dispatchEvent(event);
    }"""
    page.evaluate(give, [picture, "drop"])
    chips(page, 1)
    page.evaluate(give, [picture, "paste"])
    chips(page, 2)
    page.click("button.a2a-microphone")
    page.wait_for_selector("button.a2a-microphone[aria-pressed=true]")
    page.wait_for_timeout(1200)
    page.click("button.a2a-microphone")
    chips(page, 3)
    page.fill(".a2a-path", attachments[2])
    page.press(".a2a-path", "Enter")
    chips(page, 4)
    (tmp_path / "notes.txt").write_text("no medium")
    page.evaluate("() => { window.sentAsText = null }")
    with page.expect_file_chooser() as chooser:
        page.click("button.a2a-upload")
    chooser.value.set_files([str(tmp_path / "notes.txt")])
    page.wait_for_selector(".a2a-problem >> text=not attached")
    chips(page, 4)
    huge = """() => {
        const file = new File([], "huge.mp4", {type: "video/mp4"});
        Object.defineProperty(file, "size", {value: 300 * 2 ** 20});
        const data = {files: [file], preventDefault() {}};
        const event = new Event("drop", {bubbles: true, cancelable: true});
        event.dataTransfer = data;
        document.querySelector(".a2a-input textarea").dispatchEvent(event);
    }"""
    page.evaluate(huge)
    page.wait_for_selector(".a2a-problem >> text=300 MB")
    screenshot(page, "6_refused")
    say(page, "What are these?")
    ready(page)
    user = page.locator(".a2a-user").first
    assert [user.locator(tag).count() for tag in ("img", "audio", "video")] == [2, 1, 1]


def test_settings_saving_and_a_page_loaded_anew(clean):
    page = clean
    page.click("button.a2a-gear")
    page.fill("input[name=temperature]", "9999999999")
    page.fill("input[name=steps]", "0")
    page.press("input[name=steps]", "Tab")
    page.wait_for_selector(".a2a-problem >> text=steps")
    page.fill("input[name=steps]", "3")
    page.fill("input[name=temperature]", "0.5")
    page.press("input[name=temperature]", "Tab")
    page.wait_for_selector(".a2a-ready >> text=settings taken")
    screenshot(page, "7_settings")
    say(page, "Show me all.")
    page.wait_for_selector(".a2a-model video")
    ready(page)
    with page.expect_download() as download:
        page.click("button.a2a-page")
    assert download.value.suggested_filename == "conversation.html"
    assert "data:video/mp4" in download.value.path().read_text(encoding="utf-8")
    page.fill(".a2a-place", "out/test-conversation")
    page.click("button.a2a-save")
    page.wait_for_selector(".a2a-ready >> text=saved in")
    page.click("button.a2a-clear")
    bubbles(page, 0)
    page.click("button.a2a-load")
    bubbles(page, 2)
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(500)
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(".a2a-chat .a2a-model video")
    bubbles(page, 2)
    say(page, "Are you still there?")
    bubbles(page, 4)
    ready(page)
    assert last_reply(page) == "This is an answer."


def test_every_control_has_a_name_and_tab_reaches_it(clean):
    page = clean
    say(page, "Show me all.")
    page.wait_for_selector(".a2a-model video")
    ready(page)
    assert page.evaluate("() => document.activeElement.matches('.a2a-input textarea')")
    page.click("button.a2a-gear")
    nameless = """() => [...document.querySelectorAll('.a2a-chat :is(button, input, select, textarea, audio, video, img, [tabindex])')].filter(
        (e) => !e.hidden && !(e.getAttribute('aria-label') || e.labels?.[0]?.innerText.trim() || e.getAttribute('alt'))).map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator(".a2a-chat [role=log]").count() == 1
    page.focus("button.a2a-gear")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("() => document.activeElement.className + document.activeElement.name")
        )
    page.click("button.a2a-gear")
    expected = [
        "temperature",
        "a2a-page",
        "a2a-scroll",
        "a2a-copy",
        "a2a-edit",
        "a2a-again",
        "a2a-download",
    ]
    expected += ["a2a-send", "a2a-upload", "a2a-microphone", "a2a-path", "a2a-undo", "a2a-clear"]
    assert [one for one in expected if not any(one in name for name in reached)] == []


def test_a_long_conversation_stays_at_its_end_unless_the_reader_scrolled_up(clean):
    page, lines = clean, "Only a short answer.\n\n" * 12
    for count in (2, 4):
        say(page, lines)
        bubbles(page, count)
        ready(page)
    at = "() => document.querySelector('.a2a-scroll').scrollTop"
    assert abs(page.evaluate(at)) < 2
    say(page, "A long text.")
    page.wait_for_selector(".a2a-model >> text=word word word word")
    assert abs(page.evaluate(at)) < 2
    top = "() => document.querySelector('.a2a-user').getBoundingClientRect().top - document.querySelector('.a2a-scroll').getBoundingClientRect().top"
    page.evaluate("() => { document.querySelector('.a2a-scroll').scrollTop = -1e6 }")
    page.wait_for_timeout(100)
    before, length = page.evaluate(top), len(last_reply(page))
    page.wait_for_function(
        f"() => [...document.querySelectorAll('.a2a-model .a2a-pieces')].at(-1).innerText.length > {length + 50}"
    )
    assert abs(page.evaluate(top) - before) < 2
    page.keyboard.press("Escape")
    page.wait_for_selector(".a2a-turn:nth-child(6) >> text=stopped")
    ready(page)
    say(page, "Only a short answer.")
    assert abs(page.evaluate(at)) < 2
    ready(page)


def test_nothing_is_wider_than_the_chat(clean, tmp_path):
    page = clean
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    minute = (np.sin(np.arange(60 * 8_000) / 8) / 2).astype(np.float32)
    for count, path in enumerate(
        (
            media_files.save_image(tmp_path / "large.png", Image.fromarray(noise)),
            media_files.save_audio(tmp_path / "minute.wav", minute, 8_000),
        ),
        1,
    ):
        page.fill(".a2a-path", str(path))
        page.press(".a2a-path", "Enter")
        chips(page, count)
    row = "|" + "a wide cell|" * 30
    say(page, "x" * 400 + f"\n\n{row}\n{'|-' * 30}|\n{row}")
    page.wait_for_function("() => document.querySelector('.a2a-user img')?.naturalWidth === 1024")
    page.wait_for_function("() => document.querySelector('.a2a-user audio')?.duration > 59")
    ready(page)
    cell = page.locator(".a2a-user td").first.bounding_box()
    assert cell["width"] > 40 and cell["height"] < 100  # words are whole: the table scrolls instead
    page.evaluate("() => { document.querySelector('.a2a-scroll').scrollTop = 0 }")
    screenshot(page, "11_wide")
    beyond = """() => [...document.querySelectorAll('.a2a-bubble, .a2a-bubble *')].filter((e) => !e.parentElement.closest('table')
        && e.getBoundingClientRect().right > document.querySelector('.a2a-log').getBoundingClientRect().right + 1).map((e) => e.outerHTML)"""
    assert page.evaluate(beyond) == []
    assert page.evaluate(
        "() => document.querySelector('.a2a-scroll').scrollWidth <= document.querySelector('.a2a-scroll').clientWidth"
    )


def test_themes_and_widths(clean):
    page = clean
    say(page, "Show me all.")
    page.wait_for_selector(".a2a-model video")
    ready(page)
    page.evaluate(
        "() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    colour = page.evaluate("() => getComputedStyle(document.querySelector('.a2a-chat')).color")
    assert min(float(number) for number in re.findall(r"[\d.]+", colour)[:3]) > 150
    screenshot(page, "8_dark")
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
    page.set_viewport_size({"width": 460, "height": 1000})
    page.wait_for_timeout(500)
    assert page.locator(".a2a-chat").bounding_box()["width"] < 400
    overflow = "() => [...document.querySelectorAll('.a2a-chat *')].filter(e => e.getBoundingClientRect().right > document.querySelector('.a2a-chat').getBoundingClientRect().right + 1 && !e.closest('.a2a-offscreen')).length"
    assert page.evaluate(overflow) == 0
    page.locator(".a2a-title").scroll_into_view_if_needed()
    screenshot(page, "9_narrow")
    page.set_viewport_size({"width": 1280, "height": 1300})


def test_an_interrupt_stops_and_a_restart_says_so(clean):
    page = clean
    say(page, "Draw slowly.")
    page.wait_for_selector(".a2a-model progress[value]")
    page.wait_for_timeout(500)
    kernel = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.evaluate(f"() => {kernel}.interrupt()")
    page.wait_for_selector(".a2a-model >> text=stopped")
    ready(page)
    page.evaluate(f"() => {kernel}.restart()")
    page.wait_for_function(IDLE)
    say(page, "Who is there?")
    page.wait_for_selector(".a2a-gone >> text=run this cell again")
    assert page.input_value(TEXT) == "Who is there?"
    screenshot(page, "10_restarted", ".jp-OutputArea-output:has(.a2a-chat)")
