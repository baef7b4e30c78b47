"""Whether a machine has room for a profile, before anything is fetched: disk, host memory, and the card.

A model that is published as a difference takes its base, the difference and their sum on the disk at once. In host memory lie,
beside the process itself, the encoder and the decoders that are not at work. All of it is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anytoany_lib.checkpoints.fetching import missing_models
from anytoany_lib.config import DecoderConfig, Profile, Source
from anytoany_lib.config.licences import sources
from anytoany_lib.memory import planning

COLAB_T4 = {"disk": 58 * 10**9, "host": 12_700_000_000, "card": 15 * 10**9}
"""What a free Colab machine with a T4 has, in bytes; of the card's 16 GB, 15 can be used."""
FULL_SIZE = ("qwen2.5-1.5b", "qwen3-8b", "nextgpt-7b")
"""The profiles with published models, the one to take first first."""
LADDER = {24: "qwen3-8b", 16: "qwen3-4b", 12: "qwen3-1.7b", 8: "qwen3-0.6b"}
"""The profile to take on a card of so many GB; each leaves room for larger batches than its own."""
_NOWHERE = "ckpt/nowhere"
_PROCESS = 2_500_000_000  # Python, PyTorch and its CUDA libraries: planned
_MERGING = 4 * 2**30  # a shard and the largest tensors; measured


@dataclass(frozen=True)
class Room:
    """What a profile takes of a machine, in bytes: `disk` while it is fetched, `kept` after that, `host` at its peak."""

    disk: int
    kept: int
    host: int


def unfetched(profile: Profile) -> Profile:
    """A profile whose models are counted from what it says of them, not from what this machine happens to hold."""
    llm, encoder = profile.llm, profile.encoder
    if llm.source:
        llm = llm.model_copy(update={"folder": _NOWHERE})
    if encoder.source:
        encoder = encoder.model_copy(update={"folder": _NOWHERE})
    if encoder.audio_source:
        encoder = encoder.model_copy(update={"audio_folder": _NOWHERE})
    decoders = {kind: _unfetched(part) for kind, part in profile.decoders.items()}
    return profile.model_copy(update={"llm": llm, "encoder": encoder, "decoders": decoders})


def _unfetched(part: DecoderConfig) -> DecoderConfig:
    added = part.added
    if added and added.source:
        part = part.model_copy(update={"added": added.model_copy(update={"file": _NOWHERE})})
    return part.model_copy(update={"folder": _NOWHERE}) if part.source else part


def _fetched(source: Source | None) -> int:
    return round(1e9 * ((source and source.gigabytes) or 0))


def room_needed(profile: Profile, on_card: bool = True) -> Room:
    """What a profile takes, of models that are not there yet. Without a card everything is host memory."""
    absent = missing_models(profile)
    of_parts = dict(sources(profile))
    kept = sum(_fetched(of_parts.get(what)) for what in absent)
    source, merged = profile.llm.source, 0
    if "llm" in absent and source and source.difference_to:
        merged = 2 * planning.llm_parameters(profile)  # as large as the base, in 16 bits
    chat = planning.plan_memory(profile)["chat"]
    if on_card:
        host = _PROCESS + sum(planning.weights(profile).values())
    else:
        # In 32 bits, what is not packed.
        host = (
            _PROCESS + chat["language model"] + 2 * (planning.peak(chat) - chat["language model"])
        )
    return Room(kept + merged, kept + merged, max(host, _MERGING if merged else 0))


def shortages(profile: Profile, disk: int, host: int, card: int | None) -> list[str]:
    """What a machine lacks for a profile, its free disk, its memory and its card in bytes; empty if it has all."""
    room, lines = room_needed(profile, card is not None), []
    if room.disk > disk:
        parts = ""
        if profile.llm.source and profile.llm.source.difference_to:
            parts = " (the language model's base, the difference and their sum among it)"
        lines.append(
            f"{profile.name} takes {room.disk / 1e9:.1f} GB of disk{parts}, {disk / 1e9:.1f} are free: make room, mount another "
            "disk as ckpt, or take a smaller profile"
        )
    if room.host > host:
        lines.append(
            f"{profile.name} takes {room.host / 1e9:.1f} GB of host memory in a chat with all media, the machine has "
            f"{host / 1e9:.1f}: ask for fewer kinds of media, or take a smaller profile"
        )
    if card is not None:
        lines += planning.advice(profile, planning.plan_memory(profile), card)
    return lines


def recommended(disk: int, host: int, card: int | None, names: Sequence[str] = FULL_SIZE) -> str:
    """The profile that a machine should take first: of those with published models the smallest, if it has room for it."""
    if card is not None:
        for name in names:
            if not shortages(Profile.load(name), disk, host, card):
                return name
    return "tiny"


def for_card(gigabytes: float) -> str | None:
    """The profile to take on a card of so many gigabytes; None if the card is smaller than all."""
    return next((name for size, name in LADDER.items() if gigabytes >= size), None)


def profile_rows(disk: int, host: int, card: int | None) -> list[dict[str, Any]]:
    """For the table of notebook 00: what each full-size profile takes, and whether the machine has room for it."""
    rows = []
    for name in FULL_SIZE:
        profile = Profile.load(name)
        room, phases = room_needed(profile, card is not None), planning.plan_memory(profile)
        most = max(planning.peak(phase) for phase in phases.values())
        rows.append(
            {
                "profile": name,
                "disk, GB": f"{room.disk / 1e9:.1f}",
                "host memory, GB": f"{room.host / 1e9:.1f}",
                "card, GB": f"{most / 1e9:.1f}",
                "here": "has room" if not shortages(profile, disk, host, card) and card else "no",
            }
        )
    return rows
