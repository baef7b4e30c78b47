"""What 15 million captioned pairs take: disk, tokens, card hours on 1, 8 and 64 cards, and what each step waits for.

    python bench/scale.py        writes the first part of docs/SCALE.md; what follows its end mark is written by hand

Shapes come from the profiles, rates from bench/results, the rest from the constants below, each with its source. Nothing is
measured here, and no weights are needed; what one card has measured (`RECORD`) stands beside what is planned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import stored_row
from anytoany_lib.data.rows import DESCRIBE, PRODUCE, Row
from anytoany_lib.encoders.imagebind_inputs import HUGE
from anytoany_lib.features.cache import KEY
from anytoany_lib.recipe import rates as planned_rates
from anytoany_lib.recipe.rates import (
    UTILISATION,
    Card,
    blocks,
    imagebind_operations,
    operations,
    unpacking,
)

BENCH = Path(__file__).resolve().parent
DOCUMENT = BENCH.parent / "docs" / "SCALE.md"
BEGIN = "<!-- written by bench/scale.py, do not edit -->"
END = "<!-- end of what bench/scale.py writes -->"
PROFILES = ("nextgpt-7b", "qwen3-8b")
COUNTS = (1, 8, 64)

# The size of NExT-GPT's sources: CC3M has 3.3 M pictures (Sharma et al. 2018), WebVid-10M has 10.7 M clips of 52,000 hours
# in all (Bain et al. 2021). Sounds fill up to 15 M: AudioCaps alone has 46,000.
PAIRS = {"image": 3_300_000, "audio": 1_000_000, "video": 10_700_000}
# LLaVA 150 K, Alpaca 52 K, VideoChat 11 K, T2M 14.7 K, MosIT 5 K (Wu et al. 2023).
CONVERSATIONS = 230_000
# Captions have 10.3 words in CC3M and 12 in WebVid (the same papers); a word is 4/3 tokens by OpenAI's rule of thumb.
CAPTION_WORDS, TOKENS_A_WORD = 12, 4 / 3
# The chat template around a question and its answer, counted by hand for both profiles.
FRAME_TOKENS = 14
CONVERSATION_TOKENS, LEARNT_SHARE = (
    512,
    0.5,
)  # NExT-GPT's limit, so at most; answers are taken for half of them
# Bytes of a medium: a copy of CC3M at up to 1024 pixels on the Hugging Face hub is 271 GB for 3.02 M pictures; ten seconds of
# 16-bit sound at 16 kHz; WebVid's 17.5 s a clip at 1 Mbit/s, which is assumed.
MEDIUM_BYTES = {"image": 90_000, "audio": 320_000, "video": 2_190_000}
# Width and layers of the text encoders: Stable Diffusion 1.5, AudioLDM (CLAP's RoBERTa), ZeroScope (their configurations).
TEXT_ENCODERS = {"image": (768, 12), "audio": (768, 12), "video": (1024, 23)}
TEXT_POSITIONS = 77
ROWS_AT_ONCE = {1: 64, 2: 64, 3: 8}  # rows of a card and stage: some 3,000 to 4,000 tokens
RECORD = "gpu-nextgpt-7b-nvidia-h100-80gb-hbm3.json"  # of `make gpu-check`, random weights
CARDS_A_MACHINE = 8
NETWORK = 50e9  # bytes a second each way between machines: one adapter of 400 Gbit/s
CORES_A_CARD = 16  # of the host, for decoding media
# Hugging Face and Unsloth, LLaMA-2-7B, 4-bit LoRA, an A100, as LLaMA-Factory publishes them.
PUBLISHED_TOKENS = {"Hugging Face": 2415, "Unsloth": 3726}
GB, HOUR = 1e9, 3600.0


# Dense half precision to float32 without TF32, by the same data sheets: 312 to 19.5, 989 to 67 TFLOP a second.
FLOAT32_SLOWER = (16, 15)
CARDS = (Card("A100", 312e12, 2.04e12, 300e9), Card("H100", 989e12, 3.35e12, 450e9))


@dataclass(frozen=True)
class Rates:
    """What was measured, from bench/results."""

    machine: str
    manifest: float
    """Rows a second at random places of a manifest of 900,000 rows, on one core."""
    cached: float
    """Single rows a second from a cache, however small they are."""
    cached_bytes: float
    """Bytes a second from a cache, 32 rows at once."""
    beside_bare: float
    """Precomputing, as a part of the bare models' rate: the least of all kinds."""


@cache
def rates(machine: str = "amd-epyc-x2") -> Rates:
    """The rates of a machine's records."""
    features = json.loads((BENCH / f"results/features-tiny-{machine}.json").read_text())
    manifests = json.loads((BENCH / f"results/manifests-{machine}.json").read_text())
    reading = features["reading image captions"]
    row_bytes = 2 * math.prod(reading["shape"])
    return Rates(
        features["machine"],
        manifests["jsonl"]["1000000"]["read"]["random_rows_per_second"],
        reading["1 at once, a second"],
        reading["32 at once, a second"] * row_bytes,
        min(v["ratio to bare"] for v in features.values() if "ratio to bare" in v),
    )


@cache
def record() -> dict[str, dict]:
    """What a card measured: the sections of its record."""
    return json.loads((BENCH / "results" / RECORD).read_text())["sections"]


@cache
def sizes(name: str) -> planned_rates.Sizes:
    """Numbers in the parts of the profile of that name."""
    return planned_rates.sizes(Profile.load(name))


def _words(templates: dict[str, Sequence[str]]) -> float:
    return float(np.mean([len(text.split()) for some in templates.values() for text in some]))


def _mean(of_kind: dict[str, float]) -> float:
    """The mean over the pairs."""
    return sum(PAIRS[kind] * of_kind[kind] for kind in PAIRS) / sum(PAIRS.values())


def tokens(profile: Profile, stage: int) -> tuple[float, float]:
    """Tokens of a row, and how many of them are learnt."""
    caption = CAPTION_WORDS * TOKENS_A_WORD
    if stage == 1:
        asked = _words(DESCRIBE) * TOKENS_A_WORD + len(profile.wrappers)
        return FRAME_TOKENS + asked + profile.encoder.soft_tokens + caption, caption
    if stage == 2:
        signals = _mean({kind: decoder.signals for kind, decoder in profile.decoders.items()})
        return FRAME_TOKENS + _words(PRODUCE) * TOKENS_A_WORD + caption + signals, 1
    return CONVERSATION_TOKENS, LEARNT_SHARE * CONVERSATION_TOKENS


def rows(stage: int) -> int:
    """Rows of an epoch."""
    return CONVERSATIONS if stage == 3 else sum(PAIRS.values())


def row_operations(profile: Profile, stage: int) -> float:
    """Floating-point operations of a training row: of every matrix twice its numbers forward, as many backward (weights stand
    still, activations do not), and forward again where activations are not kept; of the head for learnt tokens alone.
    """
    return operations(profile, stage, *tokens(profile, stage))


@dataclass(frozen=True)
class Measured:
    """A step that a card was measured at: its name, tokens, and seconds planned (multiplying and unpacking) and found."""

    name: str
    tokens: int
    planned: float
    found: dict

    @property
    def seconds(self) -> float:
        return self.found["step_seconds"]


@cache
def measured_steps() -> dict[tuple[int, int], Measured]:
    """The steps of the record, by stage and tokens of a row as they were asked for."""
    profile, card, steps = Profile.load(PROFILES[0]), CARDS[-1], {}
    for name, found in record()["training"].items():
        if not name.startswith("stage"):
            continue
        stage, asked = (int(word) for word in name.replace(",", "").split() if word.isdigit())
        count = math.prod(found["batch"])
        seconds = operations(profile, stage, count, count) / (card.operations * UTILISATION)
        steps[stage, asked] = Measured(
            name, count, seconds + unpacking(profile, stage, card), found
        )
    return steps


def launching(stage: int) -> float:
    """Seconds that the shortest measured step of a stage takes beyond multiplying and unpacking: the host starts every
    small work one by one.
    """
    _, least = min((at, step) for at, step in measured_steps().items() if at[0] == stage)
    return least.seconds - least.planned


@dataclass(frozen=True)
class Step:
    """Seconds of a step's parts, one after the other."""

    multiplying: float
    unpacking: float
    launching: float
    exchanging: float
    reading: float

    @property
    def seconds(self) -> float:
        return sum(vars(self).values())

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(vars(self), key=vars(self).get)


def step(
    profile: Profile,
    stage: int,
    card: Card,
    cards: int,
    at_once: int | None = None,
) -> Step:
    """A step of so many cards, `at_once` rows each; every process reads as many."""
    at_once = at_once or ROWS_AT_ONCE[stage]
    there, measured = sizes(profile.name), rates()
    gradients = 4 * there.trained[stage]
    near, machines = min(cards, CARDS_A_MACHINE), math.ceil(cards / CARDS_A_MACHINE)
    exchanged = 2 * gradients * ((1 - 1 / near) / card.link + (1 - 1 / machines) / NETWORK)
    targets = 0.0 if stage == 1 else _mean({k: _condition(profile, k) for k in PAIRS})
    one_row = (
        1 / measured.cached + (targets + 2 * profile.encoder.embedding) / measured.cached_bytes
    )
    read = at_once / measured.manifest + at_once * one_row
    return Step(
        at_once * row_operations(profile, stage) / (card.operations * UTILISATION),
        unpacking(profile, stage, card),
        launching(stage),
        exchanged,
        read,
    )


def _condition(profile: Profile, kind: str) -> int:
    """Bytes of a cached caption embedding."""
    return 2 * math.prod(profile.decoders[kind].condition)


def hours(profile: Profile, stage: int, card: Card, cards: int) -> float:
    """Of one epoch."""
    steps = rows(stage) / (ROWS_AT_ONCE[stage] * cards)
    return steps * step(profile, stage, card, cards).seconds / HOUR


def caption_operations(kind: str) -> float:
    """Operations of a decoder's text encoder for a caption."""
    return blocks(*TEXT_ENCODERS[kind], TEXT_POSITIONS)


def card_hours(kind: str, card: Card) -> tuple[float, float]:
    """Of precomputing all media of a kind, and all their captions."""
    rate = card.operations * UTILISATION * min(1, rates().beside_bare) * HOUR
    return PAIRS[kind] * imagebind_operations(kind) / rate, PAIRS[kind] * caption_operations(
        kind
    ) / rate


def media_a_second(kind: str, card: Card) -> float:
    """Media that ImageBind is planned to take in half precision."""
    return card.operations * UTILISATION / imagebind_operations(kind)


def manifest_bytes() -> int:
    """Of a captioned row before compression."""
    caption = " ".join(["caption"] * CAPTION_WORDS)
    path = f"media/{'0' * 10}.mp4"
    messages = [{"role": "user", "content": [{"type": "video", "video": path}]}]
    meta = {"kind": "video", "caption": caption, "content": {path: "0" * KEY.itemsize}}
    stored = stored_row(Row("0" * 10, "webvid", messages, meta))
    return sum(len(text.encode()) for text in stored[:4])


def _table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for line in lines:
        yield "| " + " | ".join(map(str, line)) + " |"
    yield ""


def _gigabytes(count: float) -> str:
    return f"{count / GB:,.1f} GB" if count < 100 * GB else f"{count / GB:,.0f} GB"


def _hours(count: float) -> str:
    return f"{count:,.1f} h" if count < 100 else f"{count:,.0f} h"


def storage(profile: Profile) -> Iterator[str]:
    """The section on disk and memory."""
    pairs, every = sum(PAIRS.values()), {}
    every["manifest, before compression"] = pairs * manifest_bytes()
    every["ImageBind embeddings, fp16"] = pairs * 2 * profile.encoder.embedding
    for kind in PAIRS:
        shape = " x ".join(map(str, profile.decoders[kind].condition))
        every[f"{kind} caption embeddings, fp16, {shape}"] = PAIRS[kind] * _condition(profile, kind)
    every["keys of all of them"] = pairs * (2 * (KEY.itemsize + 1) + 2 * KEY.itemsize)
    for kind in PAIRS:
        every[f"{kind}s (assumed: {MEDIUM_BYTES[kind] / 1e3:,.0f} KB each)"] = (
            PAIRS[kind] * MEDIUM_BYTES[kind]
        )
    kept = every[
        f"video caption embeddings, fp16, {' x '.join(map(str, profile.decoders['video'].condition))}"
    ]
    held = 2 * pairs * (KEY.itemsize + 8)
    yield "## Disk and memory"
    yield ""
    yield from _table(
        ("what", "size"), [(name, _gigabytes(count)) for name, count in every.items()]
    )
    yield "Training reads manifests and features alone; media are needed once, for the features, and may then go. The caption"
    yield f"embeddings of films are the largest part ({_gigabytes(kept)}). Every process holds the keys of all cached rows and their"
    yield f"numbers, {_gigabytes(held)} of the host's memory, {_gigabytes(held * CARDS_A_MACHINE)} for the {CARDS_A_MACHINE} of a machine."
    share = {p.name: _on_the_fly(p) for p in map(Profile.load, PROFILES)}
    said = " and ".join(f"{100 * part:.0f} % ({name})" for name, part in share.items())
    yield f"Computed on the fly instead, captions would add {said} to the operations of stage 2."
    yield ""


def _on_the_fly(profile: Profile) -> float:
    return _mean({kind: caption_operations(kind) for kind in PAIRS}) / row_operations(profile, 2)


def precomputing() -> Iterator[str]:
    """The section on features."""
    yield "## Features, once"
    yield ""
    lines = []
    for kind in PAIRS:
        media, captions = zip(*(card_hours(kind, card) for card in CARDS), strict=True)
        lines.append(
            (
                f"{kind}s",
                f"{PAIRS[kind] / 1e6:g} M",
                f"{imagebind_operations(kind) / 1e9:,.0f}",
                " / ".join(_hours(n) for n in media),
                f"{caption_operations(kind) / 1e9:,.0f}",
                " / ".join(_hours(n) for n in captions),
            )
        )
    names = " / ".join(card.name for card in CARDS)
    head = (
        "kind",
        "number",
        "GFLOP of ImageBind",
        f"card hours, {names}",
        "GFLOP of the text encoder",
        f"card hours, {names}",
    )
    yield from _table(head, lines)
    total = [sum(sum(card_hours(kind, card)) for kind in PAIRS) for card in CARDS]
    spread = "; ".join(
        f"{card.name}: " + ", ".join(f"{_hours(n / count)} on {count}" for count in COUNTS)
        for card, n in zip(CARDS, total, strict=True)
    )
    fast = max(CARDS, key=lambda card: card.operations)
    clips = media_a_second("video", fast)
    yield f"In all {' / '.join(_hours(n) for n in total)} of cards, dealt out evenly ({spread}), if media are decoded as fast as the"
    yield f"cards take them. An {fast.name} takes {clips:.0f} clips a second (planned; measured: below): with {CORES_A_CARD} cores a card, decoding must take less than"
    yield f"{1000 * CORES_A_CARD / clips:.0f} ms of a core for the {2 * HUGE.video_clips} frames of a clip, or it is the bottleneck. That has not been measured at this size."
    yield f"Beside the bare models the cache was measured at {rates().beside_bare:.2f} of their rate or more (profile tiny, {rates().machine}), which is"
    yield "counted in. The encoder and the text encoders compute in half precision on a card, at whose rate they are counted; in float32 a"
    yield f"card without TF32 is to multiply {FLOAT32_SLOWER[0]} ({CARDS[0].name}) or {FLOAT32_SLOWER[1]} times ({CARDS[1].name}) slower, {_hours(total[0] * FLOAT32_SLOWER[0])} and {_hours(total[1] * FLOAT32_SLOWER[1])}."
    yield ""


def training(profile: Profile) -> Iterator[str]:
    """The section on a profile's stages."""
    there = sizes(profile.name)
    yield f"## Training, `{profile.name}`"
    yield ""
    yield f"{there.matrices / 1e9:.2f} G numbers in the layers' matrices, {there.head / 1e9:.2f} G in the head."
    yield ""
    lines = []
    for stage in profile.stages:
        every, learnt = tokens(profile, stage)
        epoch = rows(stage) * every / 1e9
        work = row_operations(profile, stage) / 1e12
        lines.append(
            (f"stage {stage}", f"{every:.0f}", f"{learnt:.0f}", f"{work:.1f}", f"{epoch:.2f}")
        )
    head = ("a row of", "tokens", "of which learnt", "TFLOP", "G tokens an epoch")
    yield from _table(head, lines)
    found = []
    for stage in profile.stages:
        for card in CARDS:
            cells = []
            for count in COUNTS:
                spent = hours(profile, stage, card, count)
                part = step(profile, stage, card, count).bottleneck
                together = f" ({_hours(spent * count)} of cards)" if count > 1 else ""
                cells.append(f"{_hours(spent)}{together}, {part}")
            found.append((f"stage {stage}, {card.name}", *cells))
    head = ("an epoch", *(f"{count} card{'s' * (count > 1)}" for count in COUNTS))
    yield from _table(head, found)


def parts(profile: Profile) -> Iterator[str]:
    """What the steps of a profile consist of, and what that says."""
    card = CARDS[-1]
    yield f"## What a step waits for (`{profile.name}`, {card.name})"
    yield ""
    lines = []
    for stage in profile.stages:
        for count in COUNTS:
            one = step(profile, stage, card, count)
            cells = (f"{1000 * seconds:,.0f} ms" for seconds in vars(one).values())
            lines.append((f"stage {stage}, {count} x {ROWS_AT_ONCE[stage]} rows", *cells))
    yield from _table(("a step", *vars(one)), lines)
    most = COUNTS[-1]
    few = profile.stages[1].batch_size
    little, much = (
        step(profile, 1, card, 1, at_once=n).seconds / n for n in (few, ROWS_AT_ONCE[1])
    )
    on_most = step(profile, 1, card, most)
    yield "- **Rows at once.** 4-bit weights are unpacked in every pass and every work is launched, whatever the batch: at the"
    yield f"  profile's {few} rows a captioned pair takes {little / much:.1f} times as long as at {ROWS_AT_ONCE[1]}. Captioned rows are short: raise `batch_size` until the"
    yield "  memory plan (`anytoany memory`) says stop."
    yield "- **Launching.** What the shortest measured steps took beside multiplying and unpacking (below), of the same stage. It does not"
    yield "  depend on the batch, and is the host's as much as the card's; the other profile and the A100 are given the same."
    yield "- **Reading.** Each process reads and tokenises its share of the rows, and is given the others' as token ids, so that all agree on"
    yield f"  the order; rows come from random places of the manifest: {rates().manifest:,.0f} a second were measured on one core, before they are"
    yield f"  tokenised. In stage 1 that is {on_most.reading / on_most.multiplying:.2f} of the time of multiplying, on {most} cards as on one: {_hours(hours(profile, 1, card, most))} an epoch."
    yield f"- **Exchange.** Stage 1 averages {4 * sizes(profile.name).trained[1] / 1e6:,.0f} MB of gradients a step, stages 2 and 3 {4 * sizes(profile.name).trained[2] / 1e6:,.0f} and {4 * sizes(profile.name).trained[3] / 1e6:,.0f} MB. Between machines"
    yield "  that is what `accumulation` is for: several batches a step, one exchange. DDP hides part of it behind the backward pass;"
    yield "  here nothing is hidden."
    yield ""


def on_a_card() -> Iterator[str]:
    """The section on what a card measured, beside what is planned of it."""
    card, found = CARDS[-1], record()
    context, versions = found["four-bits"]["context"], found["four-bits"]["versions"]
    kept = (versions[name].partition("+")[0] for name in ("torch", "transformers"))
    yield "## What one card measured"
    yield ""
    yield f"One {context['card']}, `{PROFILES[0]}` with random weights in the published sizes, torch {' and transformers '.join(kept)}"
    yield "(`make gpu-check`, `bench/results`). Medians of steps; works of ImageBind once each, after one to warm up."
    yield ""
    lines = []
    for step in measured_steps().values():
        one = step.found
        size = " x ".join(map(str, one["batch"]))
        beside = f"{one['ratio to bare, logits everywhere']:.2f}"
        rate = f"{one['tokens_per_second']:,}"
        planned, spent = (f"{1000 * seconds:,.0f} ms" for seconds in (step.planned, step.seconds))
        lines.append((step.name.split(",")[0], size, planned, spent, rate, beside))
    head = ("a step", "rows x tokens", "multiplying and unpacking, planned", "measured")
    yield from _table((*head, "tokens a second", "of the bare libraries' time"), lines)
    yield from _on_steps()
    lines = []
    for kind in PAIRS:
        half, full = (
            found["features"][f"{kind} x 32 torch.{name}"]["a second"]
            for name in ("float16", "float32")
        )
        planned = media_a_second(kind, card)
        slower = planned / FLOAT32_SLOWER[-1]
        cells = (f"{planned:,.0f}", f"{half:,.0f}", f"{slower:,.1f}", f"{full:,.1f}")
        lines.append((f"{kind}s", *cells))
    head = ("fp16, planned", "fp16, measured", "float32, planned", "float32, measured")
    yield from _table(("ImageBind, 32 at once, a second", *head), lines)
    yield from _on_talking()


def _on_steps() -> Iterator[str]:
    (_, short), (_, long) = sorted(measured_steps().items())[-2:]
    said = long.planned + launching(max(stage for stage, _ in measured_steps()))
    half = record()["training-float16"]["stage 3, 128 tokens"]
    yield f"A short step waits for other things than arithmetic: with {long.tokens / short.tokens:.0f} times the tokens stage 3 takes {long.seconds / short.seconds:.2f} of the time. What the"
    yield "shortest steps took beyond the plan is counted above as launching, which fits (4-bit layers are many small works) but was not"
    yield f"profiled; for {long.name.split(', ')[1]} a row that makes {1000 * said:,.0f} ms, {abs(said / long.seconds - 1) * 100:.0f} % {'more' if said > long.seconds else 'less'} than was measured. Larger batches have"
    yield f"not been measured. In float16, with a scaled loss, stage 3 takes {1000 * half['step_seconds']:,.0f} ms at 4 x 129 ({half['ratio to bare, logits everywhere']:.2f} of the bare libraries' time)."
    yield ""


def _on_talking() -> Iterator[str]:
    talking, chat = record()["talking"], record()["chat"]

    def rates_of(what: str) -> str:
        one = talking[f"with LoRA: {what}"]
        kit, bare = (
            f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"
            for rate in (one["tokens_per_second"], one["of bare generate"])
        )
        return f"{kit} tokens a second beside {bare}"

    def a_step(kind: str) -> str:
        turns = [found for name, found in chat.items() if name.endswith(f"making {kind}")]
        low, *_, high = sorted(f"{found['a step']:.3f}" for found in turns) * 2
        return low if low == high else f"{low} to {high}"

    yield f"Talking, with LoRA, beside bare `generate`: writing {rates_of('writing 32')}, 16 conversations at once {rates_of('16 at once, writing 32')},"
    yield f"reading a prompt of 992 tokens {rates_of('reading 992')}."
    yield f"A diffusion step, with guidance: picture {a_step('image')} s, sound {a_step('audio')} s, clip {a_step('video')} s; 40 steps are asked for, of which"
    yield f"the pictures' solver makes {chat['first turn: making image']['steps']} calls. The time lent ended within the second turn: its clip and the bare pipelines were not timed."
    yield ""


def certainty() -> Iterator[str]:
    """The section on what to believe."""
    profile = Profile.load(PROFILES[0])
    a100 = CARDS[0]
    ours = a100.operations * UTILISATION / (6 * sizes(profile.name).matrices)
    published = ", ".join(f"{name} {rate:,}" for name, rate in PUBLISHED_TOKENS.items())
    low, high = (rate / ours * UTILISATION for rate in PUBLISHED_TOKENS.values())
    yield "## How certain this is"
    yield ""
    yield f"- Measured: reading ({rates().machine}: manifests of 900,000 rows; caches in the page cache) and the cache beside bare models, all on"
    yield "  CPUs with profile `tiny`. From shapes: parameters, operations, bytes of features. Assumed: the sizes of media, tokens of a"
    yield f"  row (a third more or less), and that cards multiply at {100 * UTILISATION:.0f} % of their published peak. On one H100: the steps and rates of the"
    yield "  section before, of which launching is counted. No A100, no T4, no real weights and no training to its end; nothing has run on"
    yield "  several cards. FSDP needs torch 2.13, the card had an older one, so that it has not run on a card."
    yield f"- The utilisation in large batches means {ours:,.0f} tokens a second on an A100 ({PROFILES[0]}, checkpointing). Published for LLaMA-2-7B, 4-bit"
    yield f"  LoRA, A100 (LLaMA-Factory): {published}; these are {100 * low:.0f} and {100 * high:.0f} %. Hours of multiplying are right within"
    yield "  a factor of 1.5 either way, no better."
    yield "- Left out: validation, the fits before and after a stage, checkpoints, tokenising, the optimiser's own step (a few"
    yield "  milliseconds), start-up, padding (rows of like length share a batch), stragglers and broken machines."
    yield "- `make gpu-check` times the steps of a profile on a card that you have; what it says goes before these numbers."
    yield ""


def section() -> str:
    """The part of docs/SCALE.md between the marks."""
    profiles = [Profile.load(name) for name in PROFILES]
    pairs = ", ".join(f"{count / 1e6:g} M {kind}s" for kind, count in PAIRS.items())
    lines = [
        BEGIN,
        "",
        f"What training at NExT-GPT's scale takes: {sum(PAIRS.values()) / 1e6:g} M captioned pairs ({pairs}) for stages 1 and 2,",
        f"{CONVERSATIONS / 1e6:g} M conversations for stage 3, one epoch each. It is arithmetic, not a measurement, but for",
        "[what one card measured](#what-one-card-measured): `python bench/scale.py` derives every number from the profiles' shapes, the rates in",
        "`bench/results` and the constants at its top, which name their sources.",
        "",
        *storage(profiles[0]),
        *precomputing(),
        *(line for profile in profiles for line in training(profile)),
        *parts(profiles[0]),
        *on_a_card(),
        *certainty(),
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    """Writes the marked part of docs/SCALE.md anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + section() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
