"""The profiles and the models they name, for docs/profiles.md and docs/licences.md: what each needs, how it is licensed, what its stages train.

Everything comes from anytoany_lib/profiles/*.yaml and from `anytoany_lib.memory.planning`, as on a machine that has fetched nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import readme_results
import yaml

from anytoany_lib.config import PROFILE_FOLDER, DecoderConfig, Profile, Source
from anytoany_lib.memory import planning

_NOWHERE = "ckpt/nowhere"


def profiles() -> list[Profile]:
    """All profiles that ship, those that are like another one behind it, else the smallest first."""
    found = {path.stem: Profile.load(path) for path in PROFILE_FOLDER.glob("*.yaml")}
    return sorted(found.values(), key=lambda p: (_generation(p.name), peak(p), p.name))


def _generation(name: str) -> int:
    settings = yaml.safe_load((PROFILE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return 1 + _generation(settings["like"]) if "like" in settings else 0


def _comment(profile: Profile) -> str:
    """The first sentence of the comment that a profile's file opens with."""
    line = (PROFILE_FOLDER / f"{profile.name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return line.removeprefix("#").strip().split(". ")[0].rstrip(".")


def peak(profile: Profile) -> int:
    """Bytes that a profile is planned to take on its device at most, whichever phase that is."""
    return max(planning.peak(phase) for phase in planning.plan_memory(_unfetched(profile)).values())


def _unfetched(profile: Profile) -> Profile:
    """A profile whose models are counted from what it says of them, not from what this machine happens to hold."""
    parts = {"llm": profile.llm, "encoder": profile.encoder}
    parts = {
        name: part.model_copy(update={"folder": _NOWHERE})
        for name, part in parts.items()
        if part.source
    }
    decoders = {
        kind: part.model_copy(update={"folder": _NOWHERE}) if part.source else part
        for kind, part in profile.decoders.items()
    }
    return profile.model_copy(update={**parts, "decoders": decoders})


def _sources(profile: Profile) -> Iterator[Source]:
    parts = (profile.llm, profile.encoder, *profile.decoders.values())
    yield from (part.source for part in parts if part.source)


def _speech_sources(profile: Profile) -> Iterator[Source]:
    """Where the voice and the recogniser come from, which are fetched for speech alone."""
    yield from (part.source for part in vars(profile.speech).values() if part.source)


def _needs(profile: Profile) -> str:
    fetched = sum(source.gigabytes or 0 for source in _sources(profile))
    if _ships(profile):
        device = f"2 CPU cores, {readme_results.demo_peak():.1f} GB of memory (measured: the demo)"
    else:
        device = f"a CUDA card (planned: {peak(profile) / 1e9:.1f} GB at most)"
    return f"{device}; {fetched:.1f} GB of models to fetch"


def _ships(profile: Profile) -> bool:
    """Whether encoder and decoders are part of the repository."""
    return not any(p.source for p in (profile.encoder, *profile.decoders.values()))


def _made_of(profile: Profile) -> str:
    """The frozen models of a profile, in a few words each."""
    llm, encoder = profile.llm, profile.encoder
    quantised = " in NF4" if llm.quantization == "nf4" else ""
    reading = "tiny ImageBind" if _ships(profile) else "ImageBind-huge"
    tokens = f"{encoder.soft_tokens} soft token{'s' * (encoder.soft_tokens > 1)} a medium"
    writing = ", ".join(
        f"{'' if _ships(profile) else Path(config.folder).name + ' '}{_size(config)}"
        for config in profile.decoders.values()
    )
    own = "tiny diffusion pipelines: " if _ships(profile) else ""
    return f"{Path(llm.folder).name}{quantised}; {reading}, {tokens}; {own}{writing}"


def _size(config: DecoderConfig) -> str:
    """How large a decoder's media are."""
    options = config.options
    if "audio_length_in_s" in options:
        return f"{options['audio_length_in_s']:g} s"
    frames = f" x {options['num_frames']} frames" if "num_frames" in options else ""
    return f"{options['width']} x {options['height']}{frames}"


def table() -> str:
    """What each profile is, needs and consists of."""
    lines = ["| profile | what it is | needs | models |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{profile.name}` | {_comment(profile)} | {_needs(profile)} | {_made_of(profile)} |"
        for profile in profiles()
    ]
    return "\n".join(lines)


def licences() -> str:
    """Every model that some profile fetches: how large it is, where it comes from, and on what terms."""
    rows: dict[str, str] = {}
    for profile in profiles():
        for source in (*_sources(profile), *_speech_sources(profile)):
            origin = source.wheel or source.hub or source.url
            shown = f"PyPI `{origin}`" if source.wheel else f"<{_address(source)}>"
            base = f", added to `{source.difference_to}`" if source.difference_to else ""
            rows[origin] = f"| {shown}{base} | {source.gigabytes:g} GB | {source.licence} |"
    return "\n".join(["| model | to fetch | licence |", "| --- | ---: | --- |", *rows.values()])


def _address(source: Source) -> str:
    return source.url or f"https://huggingface.co/{source.hub}"
