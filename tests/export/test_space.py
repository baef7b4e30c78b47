"""A Space: what stands in it, that nobody's text gets out of its place, and that it starts as it stands and talks."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceCard
from loopback_hub import Hub, writable_hub
from packaging.requirements import Requirement
from small_runs import SHIPPED, small_run

from anytoany_lib.checkpoints.publishing import FILES, push
from anytoany_lib.config import Profile, resolve
from anytoany_lib.export import command, space
from anytoany_lib.system import runs

NAME = "me/bells"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with writable_hub(monkeypatch, tmp_path / "there") as found:
        yield found


def _page(port: int, seconds: float, process: subprocess.Popen) -> str:
    """What the page of a Space answers once it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise AssertionError(f"no page: {process.communicate()[0][-3000:]}")


@contextmanager
def started(
    folder: Path, python: str, variables: Mapping[str, str], seconds: float
) -> Iterator[tuple[int, str]]:
    """A Space that runs as `python app.py`, whose port and page are given; nothing of the checkout is on its path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"GRADIO_SERVER_PORT": str(port), "NO_PROXY": "127.0.0.1,localhost", **variables}
    process = subprocess.Popen(
        [python, "app.py"],
        cwd=folder,
        env=own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield port, _page(port, seconds, process)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _asked_to_draw(port: int) -> list[dict]:
    """The reply of the page on this port to a wish for a picture."""
    gradio_client = pytest.importorskip("gradio_client", reason="the extra gradio is not installed")
    client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
    settings = ["0.0", "0.95", "", "0", "", "2", "", "", True, True, True, False, True]
    message = {"text": "Draw a red bell.", "files": []}
    chat, _ = client.predict(message, *settings, api_name="/_send")
    return chat[-1]["content"]


def test_a_space_has_all_that_it_needs(tmp_path: Path, capsys):
    command.main(["--space", str(tmp_path / "space"), str(SHIPPED)])
    out = tmp_path / "space"
    assert capsys.readouterr().out.strip() == str(out)
    card = SpaceCard((out / "README.md").read_text())
    assert (card.data.sdk, card.data.app_file) == ("gradio", "app.py")
    wanted = [Requirement(line) for line in (out / "requirements.txt").read_text().splitlines()]
    gradio = next(one for one in wanted if one.name == "gradio")
    assert gradio.specifier.contains(card.data.sdk_version)
    assert {"torch", "transformers", "huggingface_hub"} <= {one.name for one in wanted}
    index, torch = (out / "pre-requirements.txt").read_text().splitlines()
    assert index == f"--index-url {space.CPU_TORCH}" and Requirement(torch) in wanted
    assert f"CPU_TORCH := {space.CPU_TORCH}\n" in (ROOT / "Makefile").read_text()
    assert not {"pytest", "wandb", "lmms-eval"} & {one.name for one in wanted}
    here = metadata.metadata("anytoany").get_all("Requires-Python")
    assert Requirement(f"python{here[0]}").specifier.contains(card.data.python_version)
    assert "the run is" not in card.text and "Parts and their terms" in card.text
    ast.parse((out / "app.py").read_text())
    for name in FILES:
        if (SHIPPED / name).is_file():
            assert (out / "run" / name).read_bytes() == (SHIPPED / name).read_bytes()
    there = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert {"ckpt/tiny/encoder", "ckpt/tiny/video/model_index.json"} <= there
    assert not any(name.startswith(("ckpt/SmolLM2", "anytoany_lib/toyworld")) for name in there)
    assert not any("__pycache__" in name for name in there)
    with pytest.raises(FileExistsError, match="there already.*name another"):
        space.write_space(SHIPPED, out)


def test_a_run_on_the_hub_is_loaded_by_its_name(served: Hub, tmp_path: Path):
    push(SHIPPED, NAME)
    out = space.write_space(NAME, tmp_path / "space")
    assert not (out / "run").exists() and f"RUN = {NAME!r}" in (out / "app.py").read_text()
    card = SpaceCard((out / "README.md").read_text())
    assert card.data.models == [NAME] and card.data.title == NAME
    with pytest.raises(FileNotFoundError, match="no repository o/n on the hub"):
        space.write_space("o/n", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name",
    [
        "a: b # x",
        "--- [y]",
        "{{ x }} {0}",
        "'\" + 1",
        "<b>*x*<b> `y` ![i](u) http:e",
    ],
)
def test_nobodys_text_gets_out_of_its_place(name: str, tmp_path: Path):
    run = small_run(tmp_path / "run", name=name)
    plain = small_run(tmp_path / "plain", name="plain")
    out, other = (space.write_space(one, tmp_path / f"{one.name}-space") for one in (run, plain))
    shape = [ast.dump(ast.parse((one / "app.py").read_text())) for one in (out, other)]
    assert shape[0].replace(repr(f"anytoany {name}"), "") == shape[1].replace(
        "'anytoany plain'", ""
    )
    card = (out / "README.md").read_text()
    assert set(yaml.safe_load(card.split("---\n")[1])) == set(
        yaml.safe_load((other / "README.md").read_text().split("---\n")[1])
    )
    body = card.split("\n---\n", 1)[1]
    assert not any(odd in body for odd in ("<b>", "*x*", "![i]"))


def test_what_a_space_can_neither_fetch_nor_bring_is_said(tmp_path: Path):
    record = json.loads((SHIPPED / runs.RECORD).read_text())
    for number, (folder, error, expected) in enumerate(
        [
            ("/elsewhere/encoder", ValueError, "expected a folder below ckpt/"),
            ("ckpt/../../encoder", ValueError, "expected a folder below ckpt/"),
            ("ckpt/nowhere", FileNotFoundError, "a Space cannot fetch it: put it there"),
        ]
    ):
        changed = record["profile"]["encoder"] | {"folder": folder}
        run = small_run(tmp_path / f"run{number}", encoder=changed)
        with pytest.raises(error, match=f"its encoder is .*{expected}"):
            space.write_space(run, tmp_path / "space")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / runs.RECORD).write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match="it is no whole run"):
        space.write_space(tmp_path / "cut", tmp_path / "space")
    assert not (tmp_path / "space").exists()


def _bring_language_model(out: Path) -> None:
    """The one frozen model that the Space would fetch from a package index."""
    folder = Profile.load("tiny").llm.folder
    (out / folder).symlink_to(resolve(folder).resolve())


def test_it_starts_as_it_stands_and_draws(four_bits: Profile, tmp_path: Path):
    pytest.importorskip("gradio", reason="the extra gradio is not installed")
    out = space.write_space(small_run(tmp_path / "run"), tmp_path / "space")
    _bring_language_model(out)
    with started(out, sys.executable, {"OMP_NUM_THREADS": "1"}, 600) as (port, page):
        assert "gradio" in page
        assert any(piece["type"] == "file" for piece in _asked_to_draw(port))


def _without_its_index(python: str, file: Path) -> list[str]:
    """Options by which pip installs pre-requirements.txt as it is where its index is not reached: of what the machine's own index
    has, which is fetched beside the file. --no-index goes before the index that a file names.
    """
    index, torch = file.read_text().splitlines()
    try:
        with urllib.request.urlopen(f"{index.split()[1]}/torch/", timeout=5):
            return []
    except OSError:
        wheels = file.with_name("wheels")
        command = [python, "-m", "pip", "download", "-q", "-d", wheels, torch]
        subprocess.run(command, check=True)
        return ["--no-index", "--find-links", str(wheels)]


@pytest.mark.long
def test_it_starts_in_a_clean_environment_with_a_run_of_the_hub(
    served: Hub, four_bits: Profile, tmp_path: Path
):
    """With what its two files of requirements name, and nothing else."""
    push(SHIPPED, NAME)
    out = space.write_space(NAME, tmp_path / "space")
    _bring_language_model(out)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    first, rest = out / "pre-requirements.txt", out / "requirements.txt"
    for file, options in ((first, _without_its_index(python, first)), (rest, ())):
        subprocess.run([python, "-m", "pip", "install", "-q", *options, "-r", file], check=True)
    served.asked.clear()
    variables = {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
    variables |= {"HF_HUB_DISABLE_XET": "1"}
    with started(out, python, variables, 600) as (port, page):
        assert "gradio" in page
        assert any(piece["type"] == "file" for piece in _asked_to_draw(port))
    assert any(name.endswith(runs.TENSORS) for name, *_ in served.asked)
