"""One command line for everything: it names every command, and each of them says what it takes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anytoany_lib import cli

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
