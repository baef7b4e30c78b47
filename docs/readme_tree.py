"""What is where, for the pages in docs: the notebooks and the folders; and how to cite the kit.

Notebooks come from their titles, the library's wings from their docstrings.
The other folders have none: `FOLDERS` says by hand what they hold, and has to name all of them.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import readme_results

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "anytoany_lib": "the library: the story on the ground floor, a wing behind each door",
    "anytoany_lib/profiles": "everything that differs by size, a YAML file each",
    "anytoany_lib/accelerate": "configurations for many cards: DDP, FSDP, ZeRO-2",
    "notebooks": "the whole job, in numbered steps",
    "ckpt": "models and runs; README.md says which",
    "ckpt/tiny": "the frozen models of profile tiny, its judges, and a trained run",
    "data": "datasets; README.md says how each is had and read",
    "docs": "how it is built, extended and reproduced, and what was tried",
    "docs/ablations": "what each setting of the recipe is worth",
    "docs/decoders": "profiles with decoders of today, one for each",
    "docs/demo": "what the recorded demo and conversation left",
    "docs/figures": "drawings, made by the scripts beside them",
    "bench": "how fast and how large, beside the bare libraries",
    "bench/replicas": "published models with random weights, in exactly their layout",
    "bench/results": "what was measured, by machine",
    "tests": "unit tests, every notebook, the chat in a real browser",
}
_NOT_OURS = {"out", "__pycache__"}


def notebooks() -> str:
    """The notebooks by their titles, and the minutes that each took in the recorded demo."""
    times = readme_results.demo_times()
    lines = ["| notebook | what happens | minutes in the demo |", "| --- | --- | ---: |"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        _, _, what = title.partition(": ")
        minutes = f"{times[path.stem]['seconds'] / 60:.1f}" if path.stem in times else ""
        lines.append(f"| [`{path.stem}`](notebooks/{path.name}) | {what} | {minutes} |")
    return "\n".join(lines)


def folders_there() -> set[str]:
    """The repository's folders, those below anytoany_lib, bench, ckpt and docs included, that are not left by a run."""
    tops = {path for path in ROOT.iterdir() if path.is_dir()}
    below = {
        path
        for name in ("anytoany_lib", "bench", "docs")
        for path in (ROOT / name).iterdir()
        if path.is_dir()
    }
    found = {path.relative_to(ROOT) for path in {*tops, *below, ROOT / "ckpt" / "tiny"}}
    return {
        path.as_posix()
        for path in found
        if path.name[0] not in "._" and path.suffix != ".egg-info" and path.name not in _NOT_OURS
    }


def wings() -> dict[str, str]:
    """The library's wings, each with what its docstring begins with."""
    found = {}
    for door in sorted((ROOT / "anytoany_lib").glob("*/__init__.py")):
        said = ast.get_docstring(ast.parse(door.read_text(encoding="utf-8"))) or ""
        found[door.parent.relative_to(ROOT).as_posix()] = re.split(r"[.:;,] ?", said)[0]
    return found


def tree() -> str:
    """The folders, each with what it holds."""
    lines = []
    folders = list(FOLDERS.items())
    after = [path for path, _ in folders].index("anytoany_lib") + 1
    for path, what in [*folders[:after], *wings().items(), *folders[after:]]:
        depth, name = path.count("/"), path.rpartition("/")[2]
        lines.append(f"{'  ' * depth}{name}/".ljust(20) + what)
    return "\n".join(["```", *lines, "```"])


def citation() -> str:
    """A BibTeX entry for this kit, with the name, version and description that pyproject.toml gives."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name, version, what = (
        re.search(rf'^{key} = "(.+)"', settings, re.MULTILINE)[1]
        for key in ("name", "version", "description")
    )
    lines = [
        f"@software{{{name},",
        f"  title   = {{{name}: {what}}},",
        f"  version = {{{version}}},",
        "  note    = {commit ...}",
        "}",
    ]
    return "\n".join(["```bibtex", *lines, "```"])
