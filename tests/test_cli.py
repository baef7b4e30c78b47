"""One command line for everything: it names every command, each says what it takes, and errors end in one line."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anytoany_lib import cli
from anytoany_lib.system import terminal

ROOT = Path(__file__).resolve().parents[1]
# What a command needs that an extra installs.
EXTRAS = {"app": "voila", "gradio": "gradio"}


def ended(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command line that ends the program itself."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    return (end.value.code, *capsys.readouterr())


def process(*command: str) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_help_names_every_command_and_what_it_is_for(capsys):
    status, printed, _ = ended(capsys, "--help")
    assert status == 0 and printed.startswith("usage: anytoany COMMAND ...\n")
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for name, command in cli.COMMANDS.items():
        assert lines[name].endswith(f"  {command.purpose}"), name
    assert printed.rstrip().splitlines()[-1] == "  anytoany chat"


def test_help_loads_nothing_heavy():
    code = (
        "import sys, contextlib\n"
        "from anytoany_lib import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    status, printed, errors = process(sys.executable, "-c", code)
    assert status == 0 and printed.splitlines()[-1] == "[]", errors


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_each_command_ends_with_an_example(name: str, capsys):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], reason=f"the extra {name} is not installed")
    status, printed, _ = ended(capsys, name, "--help")
    assert status == 0 and printed.startswith(f"usage: anytoany {name} ")
    _, examples = printed.split("\nfor example:\n")
    assert all(
        line == f"  anytoany {name}" or line.startswith(f"  anytoany {name} ")
        for line in examples.rstrip("\n").split("\n")
    )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [((), "found nothing"), (("trian", "--stage", "1"), "found 'trian'"), (("",), "found nothing")],
)
def test_what_is_no_command_is_told_what_there_is(arguments: tuple[str, ...], found: str, capsys):
    status, printed, errors = ended(capsys, *arguments)
    assert (status, printed) == (2, "") and found in errors
    assert "usage: anytoany COMMAND" in errors and all(name in errors for name in cli.COMMANDS)


def test_an_option_that_there_is_not_is_named(capsys):
    status, _, errors = ended(capsys, "--run", "x")
    assert status == 2 and "unrecognized arguments: --run" in errors


@pytest.mark.parametrize(
    ("step", "option"),
    [
        ("predict", "--predictions"),
        ("score", "--tokenizer"),
        ("generate", "--made"),
        ("compare", "--features"),
    ],
)
def test_every_step_of_a_benchmark_is_reached(step: str, option: str, capsys):
    status, printed, _ = ended(capsys, "benchmark", step, "--help")
    assert status == 0 and option in printed
    assert printed.startswith(f"usage: anytoany benchmark {step} ")


def test_the_exit_status_is_the_commands(capsys, tmp_path: Path):
    assert cli.main(["memory", "--profile", "tiny"]) == 0
    lost = ["--annotations", str(tmp_path / "lost.json"), "--predictions", str(tmp_path / "p")]
    assert cli.main(["benchmark", "score", "--benchmark", "coco", *lost]) == 1
    assert "lost.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], [], ["copy"]])
def test_the_module_is_the_script(arguments: list[str]):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["anytoany"].split(":")
    script = f"import sys; from {module} import {function}; sys.exit({function}())"  # as pip has it
    as_module = process(sys.executable, "-m", "anytoany_lib", *arguments)
    assert as_module == process(sys.executable, "-c", script, *arguments)
    assert as_module[0] == (0 if arguments == ["--help"] else 2)


# --- errors ---


@pytest.fixture(autouse=True)
def _terminated() -> Iterator[None]:
    """Commands that clear up when they are terminated leave a handler behind, which is not for other tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Things that are not what a command expects, by name, and a port that is taken."""
    folder = tmp_path_factory.mktemp("wrong")
    files = {
        "text": "hello",
        "broken.yaml": "name: [unclosed\n  x: {",
        "misspelt.yaml": "like: tiny\nllmm: 3\n",
        "cut.json": '{"images": []',
        "cut_run/run.json": '{"stage": ',
        "other_run/run.json": '{"stage": 1}',
        "no_run/metrics.json": "{}",
        "no_parquet/train.parquet": "no parquet",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name in ("empty", "bare"):
        (folder / name).mkdir()
    names = ("missing", "empty", "bare", *files, "out")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        yield {name.partition("/")[0]: str(folder / name.partition("/")[0]) for name in names} | {
            "port": port
        }


NO_RUN = "no run in {missing} (expected run.json): train one"
NO_DATA = "{empty}: no train.parquet (splits there: none); notebook 02_data or"
NO_PROFILE = "no profile 'none': expected one of nextgpt-7b"
BROKEN = "{broken.yaml}: expected YAML, found at line 2, column 4: expected ',' or ']'"
COCO = "--benchmark coco --annotations"
WRONG = [
    ("demo --profile none", NO_PROFILE),
    ("demo --profile {broken.yaml}", BROKEN),
    ("demo --from 77", "no notebook from '77' on: expected 00 to 09"),
    ("fetch --profile none", NO_PROFILE),
    ("fetch --profile {misspelt.yaml}", "llmm: Extra inputs are not permitted"),
    ("memory --profile {missing}.yaml", "no profile '{missing}.yaml': expected one of"),
    ("memory --profile {broken.yaml}", BROKEN),
    ("rehearse --profile none", NO_PROFILE),
    ("data folder {missing} {out}", "{missing}: no such folder"),
    ("data folder {text} {out}", "{text}: no such folder"),
    ("data cc3m {bare} {out}", "expected cc3m.json and images/ in {bare}, found nothing"),
    ("data parquet {no_parquet} {out}", "train.parquet: no readable Parquet file"),
    ("features --data {empty}", NO_DATA),
    ("features --data {empty} --plan", NO_DATA),
    ("features --data {missing}", "{missing}: no train.parquet"),
    ("features --data {no_parquet}", "train.parquet: not a readable parquet file"),
    ("features --profile {broken.yaml} --data {empty}", BROKEN),
    ("train --stage 1 --data {empty} --run {out}", NO_DATA),
    ("train --stage 1 --data {missing} --run {out}", "{missing}: no train.parquet"),
    ("train --stage 1 --data {empty} --run {out} --profile {misspelt.yaml}", "llmm: Extra inputs"),
    ("train --stage 1 --data {empty} --run {out} --report-to x", "no tracker 'x': report_to takes"),
    ("train --stage 1 --data {empty} --run {out} --resume", "start without --resume"),
    ("train --stage 1 --data {empty} --run {out} --max-steps 0", "are at least 1; found 100 and 0"),
    ("evaluate --run {missing}", NO_RUN),
    ("evaluate --run {text}", "no run in {text}"),
    ("evaluate --run {cut_run}", "expected JSON, found a file that is cut or damaged"),
    ("evaluate --run {other_run}", "run.json: expected "),
    ("evaluate --run ckpt/tiny/run --data {empty}", "{empty}: no test.parquet"),
    ("retrieval --run {missing} --data {empty}", "{empty}: no test.parquet"),
    ("perplexity --run {missing} --data {missing}", "{missing}: no test.parquet"),
    (
        f"benchmark predict --run x {COCO} {{missing}} --media x --predictions x",
        "{missing}: no such file; docs/REPRODUCE.md says where coco is",
    ),
    (f"benchmark score {COCO} {{cut.json}} --predictions x", "{cut.json}: "),
    (f"benchmark generate --run x {COCO} {{missing}} --made {{out}}", "{missing}: no such file"),
    (f"benchmark compare {COCO} {{cut.json}} --made {{out}} --media x", "{cut.json}: "),
    ("recipe --recipe none", "no recipe 'none': expected one of card-day"),
    ("recipe --profile none --gigabytes 24", NO_PROFILE),
    ("recipe --recipe {broken.yaml}", BROKEN),
    (
        "recipe --profile qwen3-8b --gigabytes 8",
        "qwen3-8b does not fit a card of 8 GB: stage 1 takes",
    ),
    ("recipe --gigabytes 24 --sources {empty} --out {out}", "cc3m: no folder {empty}/cc3m; fetch"),
    ("recipe --gigabytes 24 --hours 0.5 --out {out}", "0.5 hours are too few: fetching and measur"),
    ("speech --run {missing}", NO_RUN),
    ("speech --run ckpt/tiny/run --data {empty}", "{empty}: no test.parquet"),
    ("chat hello --run {missing}", NO_RUN),
    ("chat hello --run {no_run}", "no run in {no_run}"),
    ("app --run {missing}", NO_RUN),
    ("app --port {port}", "port {port}: [Errno 98] Address already in use; name another one"),
    ("app --port 99999", "expected a port from 1 to 65535, found 99999"),
    ("gradio --run {cut_run}", "expected JSON, found a file that is cut or damaged"),
    ("gradio --port {port}", "port {port}: [Errno 98] Address already in use; name another one"),
    ("export --merge {missing} {out}", NO_RUN),
    ("export --gguf {no_run} {out}.gguf", "no run in {no_run}"),
    ("export --space {out} {missing}", NO_RUN),
    ("export --space {text} ckpt/tiny/run", "{text} is there already: expected the name of a new"),
    (
        "export --push {missing} someone",
        "expected the name of a repository on the hub as OWNER/NAME",
    ),
    ("copy {missing} memory://bucket/x", "expected a folder to copy, found none at {missing}"),
    ("copy nowhere://bucket/x {out}", "nowhere://bucket/x: expected a URL that begins with one of"),
]


def error_of(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit status of a command line, the last line of its errors, and what stands before it but bars of progress."""
    status = cli.main(arguments)
    *before, last = re.split(r"[\r\n]+", capsys.readouterr().err.strip())
    return status, last, "\n".join(before)


def needs_extra(command: str) -> None:
    if command in EXTRAS:
        pytest.importorskip(EXTRAS[command], reason=f"the extra {command} is not installed")


@pytest.mark.parametrize(("line", "expected"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_input_is_told_in_one_line(wrong: dict[str, str], line: str, expected: str, capsys):
    def filled(text: str) -> str:
        return re.sub(r"\{([\w.]+)\}", lambda name: wrong[name[1]], text)

    arguments = line.split()
    needs_extra(arguments[0])
    status, last, before = error_of(capsys, *map(filled, arguments))
    assert status == 1 and last.startswith("error: ") and filled(expected) in last
    assert "Traceback" not in before and "did not expect" not in last
    assert not Path(wrong["out"]).exists() and not Path(wrong["missing"]).exists()


def test_every_command_is_tried_with_something_wrong():
    assert {line.split()[0] for line, _ in WRONG} == cli.COMMANDS.keys()


@pytest.mark.parametrize("place", ["before", "after", "not"])
def test_debug_shows_the_traceback(place: str, capsys):
    debug = {"before": ("--debug", "fetch"), "after": ("fetch", "--debug"), "not": ("fetch",)}
    status, last, before = error_of(capsys, *debug[place], "--profile", "none")
    assert status == 1 and last.startswith("error: no profile 'none'")
    assert ("Traceback (most recent call last):" in before) == (place != "not")
    assert ("FileNotFoundError" in before) == (place != "not")


def test_debug_behind_two_dashes_is_an_argument():
    assert terminal.run(lambda given: given != ["--", "--debug"], ["--", "--debug"]) == 0


def test_wrong_usage_ends_in_a_line_as_well(capsys):
    for arguments in (("train",), ("memory", "--tokens", "x"), ("data", "nothing", "a", "b")):
        status, _, errors = ended(capsys, *arguments)
        usage, last = errors.split("\nerror: ")
        assert status == 2 and usage.startswith(f"usage: anytoany {arguments[0]}")
        assert last.endswith(f"; `anytoany {arguments[0]} --help` explains the options\n")


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def command(arguments: list[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two:\n\tthree\n"), "error: one; two: three"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), "error: /x: No space left on "),
        (OSError(errno.EROFS, "/x could not be written"), "error: [Errno 30] /x could not be"),
        (KeyError("rows"), "error: KeyError: 'rows': the program did not expect this; the same"),
        (ValueError(), "error: ValueError: the program did not expect this; the same command with"),
        (KeyboardInterrupt(), "interrupted"),
        (KeyboardInterrupt("step 3 of 8 is saved"), "interrupted: step 3 of 8 is saved"),
    ],
    ids=repr,
)
def test_errors_are_worded(error: BaseException, line: str, capsys):
    status = terminal.run(raising(error), [])
    printed = capsys.readouterr().err
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert printed.startswith(line) and printed.count("\n") == 1
    assert not isinstance(error, KeyboardInterrupt) or printed == f"{line}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, capsys):
    tmp_path.chmod(0o500)
    status, last, _ = error_of(capsys, "demo", "--out", str(tmp_path / "out"))
    assert status == 1 and str(tmp_path) in last and "Permission denied; name another" in last


def test_a_file_in_the_place_of_a_folder_is_named(wrong: dict[str, str], capsys):
    status, last, _ = error_of(capsys, "demo", "--out", wrong["text"])
    assert (status, last) == (
        1,
        f"error: {wrong['text']}: File exists; name another path, or move away what is there",
    )


@pytest.mark.parametrize("name", EXTRAS)
def test_without_its_extra_a_command_says_what_installs_it(name: str, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, f"anytoany_lib.{cli.COMMANDS[name].module}", raising=False)
    for module in [m for m in sys.modules if m.split(".")[0] == EXTRAS[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, EXTRAS[name], None)
    status, last, before = error_of(capsys, name)
    assert status == 1 and "Traceback" not in before
    assert last.startswith(f"error: anytoany {name} needs the extra {name!r}, of which ")
    assert last.endswith(f'-m pip install -e "{ROOT}[{name}]"')
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(EXTRAS[name] in one for one in project["optional-dependencies"][name])


@pytest.mark.parametrize("module", ["train", "features"])
def test_what_launchers_start_ends_as_its_command_does(module: str, tmp_path: Path):
    stage = ["--stage", "1", "--run", str(tmp_path / "run")] if module == "train" else []
    command = [sys.executable, "-m", f"anytoany_lib.{module}", "--data", str(tmp_path), *stage]
    status, printed, errors = process(*command)
    assert (status, printed) == (1, "") and "Traceback" not in errors
    last = errors.rstrip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}: no train.parquet (splits there: none); ")
