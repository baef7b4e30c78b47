"""How like what was asked for a reply's medium is, where no judge knows the data: ranks among distractors in an encoder's space.

A medium is compared with its own caption and with captions of other requests of its kind, drawn by the seed. ImageBind is the
profile's own, which the model reads with and the decoders know nothing of; CLIP and CLAP are used if the profile names
their folders (`similarity`). A medium that is missing or broken is never right.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anytoany_lib.benchmarks import extractors
from anytoany_lib.benchmarks.extractors import Extractor
from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import Row, as_generation
from anytoany_lib.decoders.adapters import caption_model_files
from anytoany_lib.encoders import clip_vocabulary
from anytoany_lib.encoders.imagebind import check_words
from anytoany_lib.evaluation.baselines import evenly
from anytoany_lib.evaluation.judging import Verdict, cell_of, check_expected, request_of
from anytoany_lib.messages import Message, medium_of
from anytoany_lib.modalities import KINDS, SENSED_KINDS

_SPACES: dict[Literal["clip", "clap"], tuple[str, ...]]
_SPACES = {"clip": ("image", "video"), "clap": ("audio",)}
DISTRACTORS = 99  # fewer where the data have fewer captions


@dataclass(frozen=True)
class MediaRequest:
    """A request for one medium: its row's name, its cell, the conversation, the kind asked for, and what it is to show."""

    id: str
    cell: str
    messages: list[Message]
    kind: str
    caption: str


def _request_for(row: Row, rng: np.random.Generator) -> MediaRequest | None:
    """The request that a row stands for: a captioned medium is asked for in words; None unless it is for one medium."""
    if "caption" in row.meta:
        kind = row.meta["kind"]
        if kind in SENSED_KINDS:  # shown, never generated
            return None
        asked = as_generation(row, rng)[:1]
        return MediaRequest(row.id, f"text->{kind}", asked, kind, row.meta["caption"])
    if "expect" not in row.meta:
        return None
    check_expected(row, ("task",), ("kind", "caption"))
    wanted = [part for part in row.meta["expect"] if part["kind"] != "text"]
    if len(wanted) != 1:
        return None
    (part,) = wanted
    return MediaRequest(row.id, cell_of(row), request_of(row), part["kind"], part["caption"])


def media_requests(data: Path, per_task: int | None, seed: int) -> list[MediaRequest]:
    """What a dataset's test rows ask for, `per_task` of each cell at most. ValueError if no media, or if a row says not which."""
    manifest, rng = read_manifest(data, "test"), np.random.default_rng(seed)
    groups: dict[str, list[MediaRequest]] = defaultdict(list)
    for row in manifest:
        if request := _request_for(manifest.resolved(row), rng):
            groups[request.cell].append(request)
    if not groups:
        raise ValueError(f"{data}: no test row has a caption or says what medium it expects")
    return [request for group in groups.values() for request in evenly(group, per_task)]


def distractors(captions: Sequence[str], seed: int) -> list[list[int]]:
    """For each caption the places of DISTRACTORS others, of other text, drawn by the seed; fewer if there are not as many texts."""
    rng = np.random.default_rng(seed)
    places = {caption: n for n, caption in enumerate(captions)}  # one of each text
    found = []
    for caption in captions:
        others = [place for other, place in places.items() if other != caption]
        found.append(rng.permutation(others)[:DISTRACTORS].astype(int).tolist())
    return found


def ranks(media: np.ndarray, texts: np.ndarray, others: Sequence[Sequence[int]]) -> np.ndarray:
    """The place of each medium's own caption by cosine, 1 the likest: media and texts (N, D) -> (N,).

    What is as near as the own caption is before it. Of media that are not finite or have no direction it is infinite: with
    few distractors the last place might pass for a good one.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        media, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (media, texts))
    found = []
    for medium, own, places in zip(media, texts, others, strict=True):
        nearer = texts[np.array(places, dtype=int)] @ medium >= own @ medium
        found.append(1.0 + nearer.sum() if np.isfinite(medium).all() else np.inf)
    return np.array(found)


def scorers(profile: Profile, device: str) -> dict[str, tuple[Extractor, tuple[str, ...]]]:
    """{prefix of its rates: (extractor, the kinds that it embeds)}; nothing is downloaded."""
    found: dict[str, tuple[Extractor, tuple[str, ...]]] = {}
    if profile.encoder.model == "imagebind":
        words = clip_vocabulary.folders(profile)
        own = extractors.imagebind(resolve(profile.encoder.folder), device, words=words)
        found[""] = (own, tuple(profile.decoders))
    for name, kinds in _SPACES.items():
        if folder := profile.similarity.get(name):
            found[f"{name} "] = (getattr(extractors, name)(resolve(folder), device), kinds)
    return found


def check(profile: Profile) -> None:
    """Raises what `scorers` and the targets of `retrieval` would, so that it is known before hours of replies are drawn.

    ValueError or FileNotFoundError name what is missing. No weights are read.
    """
    if profile.encoder.model == "imagebind":
        check_words(resolve(profile.encoder.folder), clip_vocabulary.folders(profile))
    elif not profile.similarity:
        raise ValueError(
            f"the encoder {profile.encoder.model} is not asked how like a medium is to its caption: name a CLIP or CLAP under "
            "similarity in the profile, or judges"
        )
    for name in _SPACES:
        if folder := profile.similarity.get(name):
            extractors.model_folder(resolve(folder), name.upper())
    for config in profile.decoders.values():
        caption_model_files(config)


def _features(extract: Extractor, kind: str, items: Sequence[Any]) -> np.ndarray:
    """(N, D); a clip's is the mean of its frames'."""
    found = extract(kind, items)
    return found.mean(1) if found.ndim == 3 else found


def _verdict(request: MediaRequest, reply: Message) -> Verdict:
    """Whether the right kind of medium came, in the form that `failures` lists; how like it is comes later."""
    expect = [{"kind": request.kind, "scene": {}, "caption": request.caption}]
    meta = {"task": request.cell, "expect": expect, "unseen": False}
    kinds = [part["type"] for part in reply["content"] if part["type"] != "text"]
    row = Row(request.id, "test", request.messages, meta)
    return Verdict(row, reply, kinds == [request.kind], {})


def _ranked(
    extract: Extractor, asked: Sequence[MediaRequest], made: Sequence[Any], seed: int
) -> tuple[np.ndarray, int]:
    """Ranks of media of one kind among the captions of all, and among how many distractors."""
    captions = [request.caption for request in asked]
    others = distractors(captions, seed)
    texts = _features(extract, "text", captions)
    media = _features(extract, asked[0].kind, made)
    if media.shape[1] != texts.shape[1]:  # not one could be embedded
        media = np.full_like(texts, np.nan)
    return ranks(media, texts, others), min(map(len, others))


def _summary(
    places: Sequence[tuple[float, int]], prefix: str
) -> tuple[dict[str, float | int | None], dict[str, float]]:
    """Of (rank, distractors): the median rank, None where most media are broken or missing, and the fewest distractors; and
    how often the own caption would be among the first if the order were drawn.
    """
    found, others = map(np.array, zip(*places, strict=True))
    middle = float(np.median(found))
    chance = {best: float(np.minimum(1, best / (others + 1)).mean()) for best in (1, 5)}
    return {
        f"{prefix}median rank": middle if np.isfinite(middle) else None,
        f"{prefix}distractors": int(others.min()),
    }, {f"{prefix}R@{best}": round(rate, 4) for best, rate in chance.items()}


def rank_replies(
    profile: Profile,
    asked: Sequence[MediaRequest],
    replies: Sequence[Message],
    seed: int,
    device: str,
) -> tuple[dict[str, Any], list[Verdict]]:
    """The metrics "baselines" (chance) and "ranks" by cell, and what came of each request.

    A reply is right if it holds the right kind of medium alone, with its own caption among the first five (R@5) in every
    space; R@1 is marked.
    """
    results = [_verdict(request, reply) for request, reply in zip(asked, replies, strict=True)]
    places: dict[str, dict[str, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
    for (prefix, (extract, kinds)), kind in product(scorers(profile, device).items(), KINDS):
        of_kind = [n for n, request in enumerate(asked) if request.kind == kind and kind in kinds]
        if not of_kind:
            continue
        parts = ([p for p in replies[n]["content"] if p["type"] == kind] for n in of_kind)
        made = [medium_of(own[0]) if own else None for own in parts]
        found, count = _ranked(extract, [asked[n] for n in of_kind], made, seed)
        for n, rank in zip(of_kind, found, strict=True):
            results[n].marks[f"{prefix}R@1"] = bool(rank <= 1)
            results[n].attributes[f"{prefix}R@5"] = bool(rank <= 5)
            places[asked[n].cell][prefix].append((rank, count))
    baselines: dict[str, dict[str, Any]] = {}
    table: dict[str, dict[str, Any]] = {}
    for cell, by_prefix in places.items():
        table[cell], baselines[cell] = {}, {"chance": {}}
        for prefix, of_prefix in by_prefix.items():
            ranked, chance = _summary(of_prefix, prefix)
            table[cell] |= ranked
            baselines[cell]["chance"] |= chance
    return {"baselines": baselines, "ranks": table}, results
