"""A run as a Space of the Hugging Face hub: a folder whose app.py serves the chat of `chat.gradio_app`, there or on any machine.

app.py                 loads the run, fetches what its profile may fetch, serves the page
pre-requirements.txt   the CPU build of torch, which the hub installs first
requirements.txt       the kit's own dependencies, with its extra `gradio`
README.md              the Space's settings in YAML, and what talks there on which terms
run/                   the files of the run, unless it is loaded from the hub by its name
ckpt/                  frozen models that no profile of the kit has a source for
anytoany_lib/          the kit as it is here, without the toy world
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from huggingface_hub import SpaceCardData

from anytoany_lib.checkpoints import publishing
from anytoany_lib.checkpoints.model_card import CARD, one_line, parts_and_terms, text
from anytoany_lib.config import Profile, resolve
from anytoany_lib.export.merging import check_new
from anytoany_lib.gates import sources
from anytoany_lib.gates.sources import HUB_NAME
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole, write_file

CPU_TORCH = "https://download.pytorch.org/whl/cpu"
_LIBRARY = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "toyworld")
_OWN = "run"  # the run's folder in the Space
_EXTRA = re.compile(r";.*extra == ['\"]gradio['\"]")

_APP = '''"""The chat with a run of anytoany, as a page. Written by `anytoany export --space`."""

import os
from pathlib import Path

os.environ["ANYTOANY_HOME"] = str(Path(__file__).resolve().parent)

from anytoany_lib import AnyToAny
from anytoany_lib.chat.access import Gate
from anytoany_lib.chat.gradio_app import serve
from anytoany_lib.checkpoints import fetch
from anytoany_lib.checkpoints.publishing import run_folder
from anytoany_lib.system.runs import profile_of, read_record

RUN = {run!r}
HOST = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
PORT = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
NAMES = os.environ.get("SPACE_HOST", "").split(",")  # the page answers under these and addresses alone

run = run_folder(RUN)
fetch(profile_of(read_record(run), run))
model = AnyToAny.from_pretrained(run)
serve(model, {name!r}, HOST, PORT, Gate.of("", filter(None, NAMES)), quiet=True, ssr_mode=False)
'''

_README = """---
{metadata}
---

# {title}

A chat with {run}, profile {profile}: it reads and writes texts, pictures, sounds and clips. The code is that of the kit anytoany,
version {version}, Apache-2.0. On a machine of your own:

```
pip install -r pre-requirements.txt  # torch for a CPU; leave it out where there is a card
pip install -r requirements.txt
python app.py
```

In a Space with a card, delete `pre-requirements.txt`. Whoever opens the page may talk, within the limits of
`anytoany_lib/chat/access.py`; what is said is kept nowhere.

## Parts and their terms

{parts}
"""


def _requirements() -> list[str]:
    """What the kit depends on, its extra `gradio` included, as pip reads it."""
    wanted = metadata.requires("anytoany") or []
    return sorted(
        one.partition(";")[0].strip()
        for one in wanted
        if "extra ==" not in one or _EXTRA.search(one)
    )


def _cpu_torch(requirements: list[str]) -> str:
    """The pre-requirements.txt of a Space without a card: torch from the index of its CPU builds. The package index has for Linux
    the build for CUDA alone, which brings gigabytes that a processor has no use for.

    A file of its own because an index counts for a whole file: as one more in requirements.txt it would be asked for every
    package, and could answer for any.
    """
    torch = next(one for one in requirements if re.match("torch[<>=]", one))
    return f"--index-url {CPU_TORCH}\n{torch}\n"


def _gradio_version(requirements: list[str]) -> str:
    """The lowest version of Gradio that the kit is tested with, as a Space names it: 6.31.0."""
    bound = next(re.search(r">=([\d.]+)", one) for one in requirements if one.startswith("gradio"))
    assert bound is not None, "the extra gradio has a lower bound"
    return ".".join([*bound[1].split("."), "0", "0"][:3])


def _carried(profile: Profile) -> list[str]:
    """Folders of the frozen models that a Space has to bring: no profile of the kit says where to get them, and nobody there says
    that another place is trusted. ValueError if one lies elsewhere than in ckpt/, FileNotFoundError if it is not here.
    """
    found = []
    for what, (folder, source) in profile.frozen_parts().items():
        place = Path(folder).parts
        if place[:1] != ("ckpt",) or ".." in place:
            raise ValueError(
                f"profile {profile.name}: its {what} is in {folder}: expected a folder below ckpt/, which a Space can fill; move it "
                "there and correct the profile"
            )
        if source is not None and sources.known(source):
            continue
        if not resolve(folder).exists():
            raise FileNotFoundError(
                f"profile {profile.name}: its {what} is not in {resolve(folder)}, and a Space cannot fetch it: put it there"
            )
        found.append(folder)
    return list(dict.fromkeys(found))


def _copy(source: Path, target: Path) -> None:
    """Copies a folder, or a file with the .json of its name."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in (source, source.with_suffix(".json")):
        if file.is_file():
            shutil.copy(file, target.with_name(file.name))


def write_space(run: str | Path, out: Path) -> Path:
    """Writes a Space that talks with a run: a folder's files go into it, one named OWNER/NAME on the hub is loaded by that name.

    Returns the folder, which appears whole or not at all. FileExistsError if something is there; FileNotFoundError or ValueError if
    there is no whole run, or a model of it can neither be fetched there nor brought along; else what `run_folder` raises.
    """
    check_new(out)
    folder = publishing.run_folder(run)
    profile = runs.profile_of(runs.read_record(folder), folder)
    on_hub = HUB_NAME.fullmatch(str(run)) is not None and folder != resolve(run)
    files = [name for name in publishing.FILES if (folder / name).is_file()]
    if runs.TENSORS not in files:
        raise FileNotFoundError(
            f"{folder} has no {runs.TENSORS}: it is no whole run; train it again"
        )
    carried, requirements = _carried(profile), _requirements()
    title = one_line(str(run) if on_hub else f"anytoany {profile.name}")
    about = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=_gradio_version(requirements),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=[str(run)] if on_hub else None,
        tags=["any-to-any", "anytoany"],
        emoji="🔔",
        colorFrom="blue",
        colorTo="green",
    )
    named = f"the run {text(run)} of the hub" if on_hub else "a run"
    readme = _README.format(
        metadata=about.to_yaml(),
        title=text(title),
        run=named,
        profile=text(profile.name),
        version=metadata.version("anytoany"),
        parts="\n".join(parts_and_terms(profile)),
    )
    with appearing_whole(out) as space:
        shutil.copytree(_LIBRARY, space / _LIBRARY.name, ignore=_LEFT_OUT)
        for name in () if on_hub else files:
            _copy(folder / name, space / _OWN / name)
        for place in carried:
            _copy(resolve(place), space / place)
        write_file(space / "pre-requirements.txt", _cpu_torch(requirements))
        write_file(space / "requirements.txt", "\n".join(requirements) + "\n")
        app = _APP.format(run=str(run) if on_hub else _OWN, name=title)
        write_file(space / "app.py", app)
        write_file(space / CARD, readme)
    return out
