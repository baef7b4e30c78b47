"""The chat widget as people meet it: JupyterLab in headless Chromium, a real kernel, real decoders.

Only the choice of tokens is scripted, in the test's own notebook, so that every run says and makes the same. Needs
Chromium and playwright's Python package (no browser of its own); skipped where they are absent. Screenshots are left in
the test's temporary folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from anytoany_lib import media
from anytoany_lib.config import home

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

INJECTION = "<img src=x onerror='window.hacked=1'>"
LOADING = """
from anytoany_lib import AnyToAny, Chat, Profile, generation
from anytoany_lib.generation import Sampling

model = AnyToAny.from_profile(Profile.load("tiny")).requires_grad_(False).eval()
print("loaded")
"""
SCRIPT = f"""
REPLIES = [
    ["Here is a red bell on the left,", "image", " this is how it rings,", "audio", " and a clip.", "video", "STOP"],
    ["The tag {INJECTION} is only text.", "STOP"],
    ["Wait:", "image", "STOP"],
    ["This one came at the second attempt.", "STOP"],
]
STEPS = [3, 3, 2000, 3]

def tokens(item):
    if item in model.vocabulary.signals:
        return [model.vocabulary.signals[item][0]]
    return model.messages.stop if item == "STOP" else model.messages.text_ids(item)

def chooser(*_):
    drawn = iter([token for item in REPLIES.pop(0) for token in tokens(item)])
    STEPS.pop(0)
    chat.session.sampling = Sampling(steps=STEPS[0] if STEPS else 3)  # of the reply after this one
    return lambda logits: [next(drawn)]

generation._chooser = chooser
"""
WATCH = """() => {
    window.states = [];
    new MutationObserver(() => {
        const bubbles = document.querySelectorAll('.a2a-bubble.a2a-model');
        const text = bubbles.length ? bubbles[bubbles.length - 1].innerText.trim() : '';
        if (window.states.at(-1) !== text) window.states.push(text);
    }).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""
MEDIA_STATE = """() => [...document.querySelectorAll('.a2a-model img, .a2a-model audio, .a2a-model video')].map(
    e => ({tag: e.tagName, width: e.naturalWidth || e.videoWidth || 0, ready: e.readyState, seconds: e.duration})
)"""
IDLE = """() => {
    const context = jupyterapp.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab server of its own on a folder with the test's notebook; its address and token."""
    cells = [LOADING, SCRIPT, "chat = Chat(model, sampling=Sampling(steps=3))\nchat"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    (tmp_path / "root").mkdir()
    nbformat.write(notebook, tmp_path / "root" / "chat.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, log = secrets.token_hex(16), tmp_path / "lab.log"
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={tmp_path / 'root'}", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.extension_manager=readonly"]
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            env=_environment(tmp_path),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_up(server, f"{address}/api/status?token={token}", log)
        yield address, token
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Settings of the server's own, without the pop-up about news."""
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    own = {f"JUPYTER_{name}": str(folder / name) for name in names}
    own |= {f"JUPYTERLAB_{name}": str(folder / name) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    overrides = folder / "CONFIG_DIR" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    overrides.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": quiet}))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": path, "ANYTOANY_HOME": str(home())}
    return os.environ | own


def _wait_until_up(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.25)
    raise AssertionError(f"JupyterLab did not come up:\n{log.read_text()}")


@pytest.fixture
def page(lab, tmp_path):
    """The notebook, open in Chromium, all its cells run, the chat on the screen."""
    address, token = lab
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1300})
        page.set_default_timeout(60_000)
        page.goto(
            f"{address}/lab/tree/chat.ipynb?token={token}&reset", wait_until="domcontentloaded"
        )
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(IDLE)
        page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        try:
            page.wait_for_selector(".a2a-chat .a2a-input textarea")
            yield page
        finally:
            page.screenshot(path=tmp_path / "last.png")
            browser.close()


@pytest.fixture
def attachments(tmp_path) -> list[str]:
    """A picture whose file name is HTML, a sound and a clip."""
    ramp = np.linspace(0, 255, 96 * 96 * 3).reshape(96, 96, 3).astype(np.uint8)
    tone = (np.sin(np.arange(8_000) / 8) / 2).astype(np.float32)
    paths = [
        media.save_image(
            tmp_path / "<img src=x onerror='window.hacked=1'>.png", Image.fromarray(ramp)
        ),
        media.save_audio(tmp_path / "tone.wav", tone, 16_000),
        media.save_video(
            tmp_path / "clip.mp4", np.stack([np.roll(ramp, 8 * n, 1) for n in range(6)]), 6
        ),
    ]
    return [str(path) for path in paths]


def say(page, text: str) -> None:
    page.fill(".a2a-input textarea", text)
    page.click("button.a2a-send")


def wait_ready(page) -> None:
    page.wait_for_selector(".a2a-busy", state="detached")
    page.wait_for_selector(".a2a-ready")


def test_a_conversation(page, attachments, tmp_path):
    page.evaluate(WATCH)
    with page.expect_file_chooser() as chooser:
        page.click("button.a2a-upload")
    chooser.value.set_files(attachments)
    page.wait_for_function("() => document.querySelectorAll('.a2a-chip').length === 3")
    page.locator(".a2a-chat").screenshot(path=tmp_path / "1_attached.png")
    page.click(".a2a-chip:nth-of-type(2) button")
    page.wait_for_function("() => document.querySelectorAll('.a2a-chip').length === 2")

    say(page, f"Look: {INJECTION}\nDraw it, play it, film it.")
    page.wait_for_selector(".a2a-model progress")
    page.locator(".a2a-chat").screenshot(path=tmp_path / "2_making.png")
    page.wait_for_selector(".a2a-model video")
    wait_ready(page)
    page.wait_for_function(
        f"() => ({MEDIA_STATE})().every(m => m.tag === 'IMG' ? m.width : m.ready >= 1)"
    )
    image, audio, video = page.evaluate(MEDIA_STATE)
    assert (image["tag"], audio["tag"], video["tag"]) == ("IMG", "AUDIO", "VIDEO")
    assert image["width"] == video["width"] == 64
    assert abs(audio["seconds"] - 2) < 0.1 and abs(video["seconds"] - 2) < 0.1
    states = page.evaluate("() => window.states")
    growing = [
        text for text in states if text and "Here is a red bell on the left,".startswith(text)
    ]
    assert len(growing) >= 4 and growing == sorted(set(growing), key=len)
    user = page.locator(".a2a-user").first
    assert "onerror=" in user.inner_text() and user.locator("img").count() == 1
    assert user.locator("video").count() == 1 and user.locator("audio").count() == 0
    page.locator(".a2a-chat").screenshot(path=tmp_path / "3_ready.png")

    say(page, "And in words?")
    page.wait_for_selector(".a2a-model:nth-child(4) >> text=is only text")
    wait_ready(page)
    assert page.evaluate("() => window.hacked") is None

    say(page, "Again, slowly.")
    page.wait_for_selector(".a2a-model progress[value]")
    page.locator(".a2a-chat").screenshot(path=tmp_path / "4_busy.png")
    began = time.monotonic()
    page.click("button.a2a-stop")
    page.wait_for_selector(".a2a-model >> text=stopped")
    assert time.monotonic() - began < 8
    wait_ready(page)
    page.click("button.a2a-retry")
    page.wait_for_selector(".a2a-model:nth-child(6) >> text=second attempt")
    wait_ready(page)
    assert page.locator(".a2a-bubble").count() == 6
    page.locator(".a2a-chat").screenshot(path=tmp_path / "5_retried.png")
    page.click("button.a2a-clear")
    page.wait_for_function("() => document.querySelectorAll('.a2a-bubble').length === 0")
