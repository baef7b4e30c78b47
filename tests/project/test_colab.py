"""Colab's kernel: ipywidgets 7.7 and ipykernel 6.17 in an environment of their own, spoken to over its sockets.

First the chat: nothing of Colab's page is here, but all that its page would say to the kernel and hear from it. Then the
notebooks as they are opened there: in an empty folder, where their Colab cell has to get the kit. Skipped where pip
reaches no index.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.kernelspec import KernelSpec
from scripts import LOADING, SCRIPT, Screen, picture
from test_course import EVERY, code_of, make_address
from test_notebooks import TINY, quick

from anytoany_lib.config import Profile, home, resolve
from anytoany_lib.media import media_files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ipywidgets==7.7.1", "ipykernel==6.17.1", "ipython_genutils")
CHECK = """
import importlib.machinery, sys, types, ipykernel, ipywidgets
assert (ipywidgets.__version__, ipykernel.__version__) == ("7.7.1", "6.17.1")
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].__spec__ = importlib.machinery.ModuleSpec("google.colab", None)
type(get_ipython()).__str__ = lambda shell: "<google.colab._shell.Shell object at 0x7f>"
"""
COLAB_PYTHON, COLAB_TORCH = "3.12", "2.11.0"
KIT = ("pyproject.toml", "README.md", "LICENSE", "anytoany_lib", "notebooks", "ckpt")
HELD = ("torch", "numpy", "ipykernel", "ipywidgets")
# So little that every first half is a matter of seconds; that the rest runs too is shown by test_notebooks.
HALVES = {
    "00_setup": {},
    "01_checkpoints": {"IMAGE_CAPTIONS": ["a red bell"], "AUDIO_CAPTIONS": ["a bell ringing"]},
    "02_data": {"OVERWRITE": False, "SHOWN": 2},
    "03_embeddings": {"COMPARED": 30, "SHOWN": 2},
    "04_stage1_input_alignment": {"MAX_STEPS": 1, "SHOWN": 2},
    "05_stage2_output_alignment": {"MAX_STEPS": 1, "SHOWN": 1},
    "06_stage3_instruction_tuning": {"MAX_STEPS": 1, "SHOWN": 1},
    "07_chat": {"SCRIPT": ["Draw a red bell."]},
    "08_evaluate": {"RUN": "ckpt/runs/tiny/stage3", "PER_TASK": 1, "BOUND": 0},
    "09_compare": {"RUNS": ["ckpt/runs/tiny/stage2", "ckpt/tiny/run"]},
    "ablation": {"STEPS": "1 1 1", "PER_TASK": 1, "VALUES": "4"},
    "from_scratch": {"BATCH": 3},
    "gallery": {},
} | {name: {**told, "OUT": "out/tiny"} for name, told in TINY.items()}


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


def started(python: Path, **how: Any) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel of an interpreter and a client of it, until the generator is closed."""
    manager = KernelManager()
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="Colab", language="python")
    manager.start_kernel(**how)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(120)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(python: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel of that interpreter, which finds the kit in this checkout."""
    own = {"PYTHONPATH": str(ROOT), "ANYTOANY_HOME": str(home()), "TQDM_DISABLE": "1"}
    yield from started(python, env=os.environ | own)


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
    data = media_files.save_image(tmp_path / "a.png", picture()).read_bytes()
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
    # The chat looks every quarter of a second whether the kernel ignores interrupts.
    time.sleep(0.5)
    page.interrupt()
    page.until(lambda: page.status["state"] == "ready")
    assert page.said(1) == ["Wait:", "image not made", "stopped"]


def published(folder: Path, settings: str | None = None) -> str:
    """The address of a git repository that holds this checkout as it stands: what GitHub would have.

    With other `settings` in place of pyproject.toml's it is without models, which only an install that fails can do without.
    """
    tree, repository = folder / "tree", folder / "repository"
    for name in KIT if settings is None else KIT[:-1]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("SmolLM2*", "runs", "__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    if settings is not None:
        (tree / "pyproject.toml").write_text(settings)
    git = ["git", f"--git-dir={repository}", f"--work-tree={tree}", "-c", "user.name=x"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "kit"]):
        subprocess.run([*git, "-c", "user.email=x@y.z", *command], check=True, cwd=tree)
    return repository.as_uri()


def environment() -> dict[str, str]:
    """The environment of a kernel that knows nothing of this checkout."""
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ANYTOANY_HOME")}
    return known | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def run(client: BlockingKernelClient, code: str) -> str:
    """Runs a cell to its end; returns what it printed."""
    printed: list[str] = []

    def heard(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    # After an error a kernel may drop what it is asked next, unless it is told not to.
    how = {"timeout": 600, "output_hook": heard, "stop_on_error": False}
    reply = client.execute_interactive(code, **how)["content"]
    assert reply["status"] == "ok", "\n".join([*printed, *reply["traceback"]])
    return "".join(printed)


def install_cell(source: str) -> str:
    """The Colab cell of all notebooks (test_course), of a kit that is published there."""
    return make_address.colab_cell(source)


VERSIONS = f"import importlib.metadata as m; print([m.version(name) for name in {HELD}])"


@pytest.fixture(scope="module")
def opened(python: Path, toy_data: Path, tmp_path_factory) -> Iterator[BlockingKernelClient]:
    """Colab's kernel in an empty folder, in which the install cell was run; then a language model and a dataset are put there."""
    folder = tmp_path_factory.mktemp("content")
    source = published(tmp_path_factory.mktemp("github"))
    for _, client in started(python, env=environment(), cwd=str(folder)):
        run(client, CHECK)
        with pytest.raises(AssertionError, match="No module named 'anytoany_lib'"):
            run(client, "import anytoany_lib")
        before = run(client, VERSIONS)
        assert f"in {folder / 'anytoany'}" in run(client, install_cell(source))
        assert run(client, VERSIONS) == before
        clone = folder / "anytoany"
        found = run(client, "import anytoany_lib; print(anytoany_lib.__file__)")
        assert Path(found.strip()).is_relative_to(clone)
        llm = Profile.load("tiny").llm.folder
        (clone / llm).symlink_to(resolve(llm).resolve(), target_is_directory=True)
        shutil.copytree(toy_data, clone / "data/toy")
        (clone / "fast.yaml").write_text(quick(Profile.load("tiny")))
        yield client


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
@pytest.mark.long  # minutes; the cell itself is tested below
def test_a_notebooks_first_half_runs_in_colab(opened: BlockingKernelClient, path: Path):
    """One after the other in one kernel, as each reads what those before it have written."""
    parameters, _, *cells = code_of(nbformat.read(path, as_version=4))
    told = {"PROFILE": "fast.yaml", **HALVES[path.stem]}
    if path.stem in TINY:
        told |= dict.fromkeys(re.findall(r"^(\w*STEPS): int", parameters.source, re.MULTILINE), 2)
    run(opened, "%reset -f\n" + parameters.source)
    run(opened, "\n".join(f"{name} = {value!r}" for name, value in told.items()))
    for cell in cells[: (len(cells) + 1) // 2]:
        run(opened, cell.source)


def test_the_install_cell_would_rather_fail_than_change_torch(python: Path, tmp_path: Path):
    settings, there = (ROOT / "pyproject.toml").read_text(), importlib.metadata.version("torch")
    assert '"torch>=' in settings
    other = f'"torch!={there.partition("+")[0]}"'  # which pip would get, if it may
    source = published(tmp_path, re.sub(r'"torch>=[^"]*"', other, settings))
    (tmp_path / "content").mkdir()
    for _, client in started(python, env=environment(), cwd=str(tmp_path / "content")):
        run(client, CHECK)
        with pytest.raises(AssertionError, match="ResolutionImpossible"):
            run(client, install_cell(source))
        assert there in run(client, VERSIONS)


def test_elsewhere_the_install_cell_does_nothing(python: Path, tmp_path: Path):
    for _, client in started(python, env=environment(), cwd=str(tmp_path)):
        assert run(client, install_cell("file:///nowhere")) == ""
    assert not list(tmp_path.iterdir())


def colab_python() -> str:
    """Colab's Python if this machine has it, pyenv's counted, else the one that runs the tests."""
    named = [shutil.which(f"python{COLAB_PYTHON}")]
    kept = Path.home().glob(f".pyenv/versions/{COLAB_PYTHON}.*/bin/python")
    for found in filter(None, [*named, *map(str, sorted(kept))]):
        if subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return found
    return sys.executable


@pytest.mark.long
def test_the_install_cell_in_an_environment_with_nothing_else(tmp_path: Path):
    """Colab's Python and torch, and everything that the kit needs from an index: gigabytes where it has CUDA's torch only."""
    subprocess.run([colab_python(), "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    there = [*PACKAGES, f"torch=={COLAB_TORCH}", "numpy<2.1", "matplotlib"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *there], check=True)
    (tmp_path / "content").mkdir()
    source = published(tmp_path)
    for _, client in started(python, env=environment(), cwd=str(tmp_path / "content")):
        run(client, CHECK)
        before = run(client, VERSIONS)
        assert COLAB_TORCH in before
        run(client, install_cell(source))
        assert run(client, VERSIONS) == before
        parameters, _, *cells = code_of(nbformat.read(EVERY[0], as_version=4))
        for cell in (parameters, *cells):
            run(client, cell.source)
