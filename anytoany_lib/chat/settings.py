"""The chat's settings: the input fields of a page, and their values as a session's `Sampling` and seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anytoany_lib.chat.access import Limits
from anytoany_lib.chat.session import Session
from anytoany_lib.config import Profile
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.modalities import SPEECH

# (name, label, tip, further attributes of the input)
_NUMBERS = (
    ("temperature", "Temperature", "0 takes the likeliest word", {"min": 0, "max": 2, "step": 0.1}),
    (
        "top_p",
        "Top-p",
        "share of the probable words drawn from",
        {"min": 0.05, "max": 1, "step": 0.05},
    ),
    ("max_new_tokens", "Max tokens", "length of a reply", {"min": 1, "step": 1}),
    ("seed", "Seed", "the same seed gives the same conversation", {"step": 1}),
    ("guidance", "Guidance", "how closely media follow what was said", {"min": 1, "step": 0.5}),
    ("steps", "Steps", "diffusion steps of a medium", {"min": 1, "step": 1}),
    ("frames", "Frames", "length of a clip", {"min": 2, "step": 1}),
    ("seconds", "Seconds", "length of a sound", {"min": 0.1, "step": 0.1}),
)
_SPEECH = (
    ("aloud", "Read aloud", "whether replies are said as they come"),
    ("hears", "Hear words", "whether recordings in which somebody speaks are read as words"),
)
_PLURAL = {"image": "Pictures", "audio": "Sounds", "video": "Clips"}
_WHOLE = ("max_new_tokens", "seed", "steps", "frames")


def fields(
    profile: Profile, sampling: Sampling, seed: int, aloud: bool = False, hears: bool = True
) -> list[dict[str, Any]]:
    """The input fields with their present values; an empty number is the profile's own."""
    values = {"seed": seed} | vars(sampling)
    numbers = [
        {"name": name, "label": label, "tip": tip, "type": "number", "value": values[name], **more}
        | ({} if name in ("temperature", "top_p", "seed") else {"placeholder": "auto"})
        for name, label, tip, more in _NUMBERS
    ]
    switches = [
        (kind, _PLURAL[kind], "whether replies may have them", kind in sampling.kinds)
        for kind in profile.decoders
    ]
    said = {"aloud": aloud, "hears": hears}
    switches += [(name, label, tip, said[name]) for name, label, tip in _SPEECH]
    return numbers + [
        {"name": name, "label": label, "tip": tip, "type": "checkbox", "value": value}
        for name, label, tip, value in switches
    ]


def fields_of(session: Session) -> list[dict[str, Any]]:
    """The input fields with the values of a session."""
    sampling = session.sampling or Sampling()
    return fields(session.model.profile, sampling, session.seed, session.aloud, session.hears)


def apply(values: dict[str, Any], session: Session, limits: Limits | None = None) -> None:
    """Gives a session the values of the input fields, by name: they hold from its next reply on.

    ValueError names the field that is no number, out of its range or beyond the limits, SpeechMissing says what reading aloud
    needs; nothing has changed then.
    """
    sampling, seed = _parsed(values, session)
    sampling = limits.check(sampling) if limits else sampling
    session.read_replies_aloud(bool(values["aloud"]))
    session.sampling, session.seed, session.hears = sampling, seed, bool(values["hears"])


def _parsed(values: dict[str, Any], session: Session) -> tuple[Sampling, int]:
    """The values as sampling and seed. An empty seed, temperature or top-p leaves the session's seed and the usual numbers."""
    numbers: dict[str, Any] = {}
    for name, label, *_ in _NUMBERS:
        text = str(values[name]).strip()
        try:
            whole = name in _WHOLE
            numbers[name] = None if not text else int(text) if whole else float(text)
        except ValueError as error:
            raise ValueError(f"{label}: expected a number, found {text!r}") from error
    seed = numbers.pop("seed")
    for name in ("temperature", "top_p"):
        if numbers[name] is None:
            numbers[name] = getattr(Sampling(), name)
    sampling = session.sampling or Sampling()
    kinds = [kind for kind in session.model.profile.decoders if values[kind]]
    kinds += [SPEECH] if SPEECH in sampling.kinds else []
    sampling = replace(sampling, **numbers, kinds=tuple(kinds))
    return sampling, session.seed if seed is None else seed
