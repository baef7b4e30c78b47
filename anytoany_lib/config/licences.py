"""What the licences of models say of commercial use, as far as profiles name them; read by people, no lawyer among them.

`commercial_use` gives the answer for every part of a profile, `forbids` what stands in the way. A part whose licence is not in
the table counts as forbidden: nobody has looked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from anytoany_lib.config.parts import Source
from anytoany_lib.config.profile import Profile

Use = Literal["allowed", "conditions", "forbidden"]


class Terms(NamedTuple):
    """Whether a licence lets a model be used commercially, and on what condition, or why not."""

    use: Use
    why: str


_USES = "not for the uses that its attachment forbids, which are to be passed on to users"
LICENCES: dict[str, Terms] = {
    "Apache-2.0": Terms("allowed", "with its notice"),
    "MIT": Terms("allowed", "with its notice"),
    "BSD-3-Clause": Terms("allowed", "with its notice"),
    "CC-BY-4.0": Terms("allowed", "naming its authors"),
    "CreativeML OpenRAIL-M": Terms("conditions", _USES),
    "OpenRAIL-M": Terms("conditions", _USES),
    "OpenRAIL++-M": Terms("conditions", _USES),
    "Stability AI Community License": Terms(
        "conditions",
        "free for who makes less than 1,000,000 US dollars a year, all income counted, and registers; above that an "
        "enterprise licence is needed",
    ),
    "Gemma": Terms("conditions", "Google's terms for Gemma and its list of forbidden uses"),
    "CC-BY-NC-4.0": Terms("forbidden", "non-commercial"),
    "CC-BY-NC-SA-4.0": Terms("forbidden", "non-commercial"),
    "NSCL": Terms("forbidden", "NVIDIA's source code licence: research and evaluation"),
    "LLaMA research licence": Terms("forbidden", "research alone"),
}
# What the repository ships, by its folder: no profile names a source of it.
SHIPPED = {
    "ckpt/tiny/encoder": "Apache-2.0",
    "ckpt/tiny/image": "Apache-2.0",
    "ckpt/tiny/audio": "Apache-2.0",
    "ckpt/tiny/video": "Apache-2.0",
    "ckpt/tiny/upscaler": "BSD-3-Clause",  # Real-ESRGAN's; the others were trained here
}
_WORST: tuple[Use, ...] = ("allowed", "conditions", "forbidden")


def terms_of(licence: str | None) -> Terms:
    """The terms of a licence; of several with a plus between them, those of the strictest."""
    if not licence:
        return Terms("forbidden", "no licence is named")
    several = [
        LICENCES.get(one.strip(), Terms("forbidden", f"nobody has looked at {one.strip()!r}"))
        for one in licence.split(" + ")
    ]
    return max(several, key=lambda terms: _WORST.index(terms.use))


def licence_of(folder: str, source: Source | None) -> str | None:
    """The licence of a frozen model: its profile's word, or of what the repository ships this module's. None if none is named."""
    return source.licence if source else SHIPPED.get(folder)


def commercial_use(profile: Profile) -> dict[str, tuple[str, Terms]]:
    """{part: (its licence, the terms)} of every part that is fetched, or ships with the kit."""
    named = {
        part: licence_of(folder, source)
        for part, (folder, source) in profile.frozen_parts(speech=True).items()
        if source or folder in SHIPPED
    }
    return {part: (licence or "none named", terms_of(licence)) for part, licence in named.items()}


def forbids(profile: Profile) -> list[str]:
    """One line for each part of a profile that is not for commercial use; empty if all are, be it on conditions."""
    return [
        f"{part}: {licence}, {terms.why}"
        for part, (licence, terms) in commercial_use(profile).items()
        if terms.use == "forbidden"
    ]


def sources(profile: Profile, speech: bool = False) -> Iterator[tuple[str, Source]]:
    """(part, its source) of every part of a profile that is fetched; with `speech` of its voice and recogniser too."""
    parts = profile.frozen_parts(speech).items()
    yield from ((what, source) for what, (_, source) in parts if source)
