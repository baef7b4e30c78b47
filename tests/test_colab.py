"""The chat in Colab's kernel: ipywidgets 7.7 and ipykernel 6.17 in an environment of their own, spoken to over its sockets.

Nothing of Colab's page is here, but all that its page would say to the kernel and hear from it. Skipped where pip
reaches no index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.kernelspec import KernelSpec
from scripts import LOADING, SCRIPT, Screen, picture

from anytoany_lib import media
from anytoany_lib.config import home

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ipywidgets==7.7.1", "ipykernel==6.17.1", "ipython_genutils")
CHECK = """
import sys, types, ipykernel, ipywidgets
assert (ipywidgets.__version__, ipykernel.__version__) == ("7.7.1", "6.17.1")
sys.modules["google.colab"] = types.ModuleType("google.colab")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter that finds Colab's versions first, and everything else where this one finds it."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    others = Path(sysconfig.get_path("purelib", vars=paths)) / "others.pth"
    others.write_text(sysconfig.get_path("purelib") + "\n")
    found = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", found, "install", "--quiet", "--no-deps"]
    done = subprocess.run([*install, *PACKAGES], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {PACKAGES[0]}: {done.stderr.strip()[-200:]}")
    return found


@pytest.fixture(scope="module")
def kernel(python: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel of that interpreter and a client of it."""
    manager = KernelManager()
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="Colab", language="python")
    own = {"PYTHONPATH": str(ROOT), "ANYTOANY_HOME": str(home()), "TQDM_DISABLE": "1"}
    manager.start_kernel(env=os.environ | own)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


class Page(Screen):
    """A page at the other end of a kernel's sockets, with the chat that a cell made."""

    def __init__(self, kernel: tuple[KernelManager, BlockingKernelClient]):
        super().__init__({})
        self.manager, self.client = kernel
        self.comm, self.state = "", {}
        self._done = ""

    def cell(self, code: str) -> None:
        """Runs a cell; a chat that it makes is the one talked to from now on."""
        asked = self.client.execute(code)
        self.until(lambda: self._done == asked)
        reply = self.client.get_shell_msg(timeout=60)["content"]
        assert reply["status"] == "ok", "\n".join(reply["traceback"])

    def post(self, data: dict[str, Any], *buffers: bytes) -> str:
        """A message to the chat, as ipywidgets' page sends it; its id."""
        content = {"comm_id": self.comm, "data": data}
        message = self.client.session.msg("comm_msg", content)
        self.client.session.send(self.client.shell_channel.socket, message, buffers=list(buffers))
        return message["header"]["msg_id"]

    def begin(self, what: str, *buffers: bytes, **told: Any) -> str:
        content = {"do": what, **told}
        return self.post({"method": "custom", "content": content}, *buffers)

    def do(self, what: str, *buffers: bytes, **told: Any) -> None:
        asked = self.begin(what, *buffers, **told)
        self.until(lambda: self._done == asked)

    def until(self, ripe: Callable[[], bool]) -> None:
        """Listens until it is."""
        while not ripe():
            message = self.client.get_iopub_msg(timeout=60)
            content, data = message["content"], message["content"].get("data", {})
            if message["msg_type"] == "comm_open" and "snapshot" in data["state"]:
                self.comm = content["comm_id"]
                super().__init__(data["state"]["snapshot"])
            elif message["msg_type"] == "comm_msg" and content["comm_id"] == self.comm:
                if data["method"] == "custom":
                    self.hear(data["content"], message["buffers"])
                else:
                    self.state = {"update": data, "buffers": message["buffers"]}
            elif content.get("execution_state") == "idle":
                self._done = message["parent_header"]["msg_id"]

    def making(self) -> bool:
        """Whether a medium is on its way."""
        return any(told.get("piece", {}).get("done") for told in self.history)

    def interrupt(self) -> None:
        """What a notebook's Stop button does."""
        self.history.clear()
        self.manager.interrupt_kernel()


@pytest.fixture(scope="module")
def loaded(kernel) -> Page:
    page = Page(kernel)
    page.cell(LOADING)
    page.cell(CHECK + SCRIPT)
    return page


@pytest.fixture
def page(loaded: Page) -> Page:
    """A new chat, which has found out by itself that it is in Colab."""
    loaded.cell("chat = Chat(model)\nassert chat.blocking and chat._loop is not None\nchat")
    assert loaded.status["state"] == "ready" and loaded.bubbles == []
    return loaded


def test_a_reply_grows_inside_the_message_that_asks_for_it(page: Page):
    page.do("send", text="Show me all.")
    assert page.said(0) == ["Show me all."] and page.status["state"] == "ready"
    assert [piece["kind"] for piece in page.bubbles[1]["pieces"]] == [
        *("text", "image", "text", "audio", "text", "video")
    ]
    assert page.bubbles[1]["pieces"][1]["data"].startswith(b"\x89PNG")
    drawn = [told["piece"] for told in page.history if told["op"] == "piece"]
    assert {piece.get("medium") for piece in drawn} == {None, "image", "audio", "video"}
    page.do("send", text="A short answer.")
    assert page.said(3) == ["This is an answer."]


def test_a_page_that_opens_later_gets_the_media_as_bytes(page: Page):
    page.do("send", text="Show me all.")
    asked = page.post({"method": "request_state"})
    page.until(lambda: page._done == asked)
    update, buffers = page.state["update"], page.state["buffers"]
    roles = [bubble["role"] for bubble in update["state"]["snapshot"]["bubbles"]]
    assert roles == ["user", "assistant"] and len(buffers) == 3
    assert ["snapshot", "bubbles", 1, "pieces", 1, "data"] in update["buffer_paths"]
    assert bytes(buffers[0]).startswith(b"\x89PNG")


def test_files_arrive_in_chunks(page: Page, tmp_path: Path):
    data = media.save_image(tmp_path / "a.png", picture()).read_bytes()
    page.upload("a.png", data, "image/png", chunk=len(data) // 3)
    assert [one["kind"] for one in page.attached] == ["image"]
    page.do("send", text="What is this?")
    assert page.said(0) == ["image", "What is this?"] and page.attached == []
    page.upload("notes.txt", b"no medium", "text/plain")
    assert page.status["text"].startswith("not attached")


def test_an_interrupt_ends_a_blocking_reply_and_the_next_one_comes(page: Page):
    asked = page.begin("send", text="Draw slowly.")
    page.until(page.making)
    began = time.monotonic()
    page.interrupt()
    page.until(lambda: page._done == asked)
    assert time.monotonic() - began < 1
    assert page.said(1) == ["Wait:", "image not made", "stopped"]
    assert page.status == {"state": "ready", "text": "ready"}
    asked = page.begin("send", text="A long text.")
    page.until(lambda: "word word" in str(page.bubbles[3:]))
    page.interrupt()
    page.until(lambda: page._done == asked)
    assert page.said(3)[-1] == "stopped" and page.said(3)[0].startswith("word word")
    page.do("send", text="A short answer.")
    assert page.said(5) == ["This is an answer."]


def test_an_interrupt_of_an_idle_kernel_ends_what_a_thread_draws(page: Page):
    page.cell("chat = Chat(model, blocking=False)\nchat")
    page.do("send", text="Draw slowly.")
    page.until(page.making)
    time.sleep(
        0.5
    )  # the chat looks every quarter of a second whether the kernel ignores interrupts
    page.interrupt()
    page.until(lambda: page.status["state"] == "ready")
    assert page.said(1) == ["Wait:", "image not made", "stopped"]
