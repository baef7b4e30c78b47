"""What precomputing features costs beside the bare models, and how fast cached rows are read.

    python bench/features.py [--profile tiny --captions 4096 --media 384 --threads 2]

Captions: a full run of the cache beside the bare text encoder at its best batch size, and beside one `.npy` file a caption.
Media: beside decoding a batch on as many threads and then embedding it. Each pair is timed in turns, several times, in one
process; the ratios are those of the medians. Reading is counted in seconds of the processor. Results go to
bench/results/features-PROFILE-MACHINE.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import torch
from record import keep, machine, medians, timed

from anytoany_lib.config import Profile
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.encoders.imagebind_inputs import prepare
from anytoany_lib.features.cache import BATCH, CAPTION_BATCH, FeatureCache
from anytoany_lib.features.dataset_features import caption_key
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.llm import pick_device
from anytoany_lib.media import media_files
from anytoany_lib.system.prefetch import WORKERS
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.pictures import FPS
from anytoany_lib.toyworld.scenes import random_scene, render
from anytoany_lib.toyworld.sounds import RATE

BATCH_SIZES = (8, 16, 32, 64, 128)
READ_SECONDS = 1.0


def captions_of(kind: str, count: int) -> list[str]:
    """Different captions of the toy world, numbered where it runs out of words."""
    rng = np.random.default_rng(0)
    return [f"{caption(kind, random_scene(kind, rng))} {number}" for number in range(count)]


def fresh(folder: Path, shape: tuple[int, ...]) -> FeatureCache:
    """An empty cache in a folder of its own."""
    return FeatureCache(Path(tempfile.mkdtemp(dir=folder)), "bench", shape)


def caption_rates(profile: Profile, kind: str, count: int, rounds: int, work: Path) -> dict:
    """Captions a second by the cache, by the bare text encoder, and as single `.npy` files."""
    texts = captions_of(kind, count)
    encode = CaptionEncoder(profile.decoders[kind], pick_device())
    models = FrozenModels(profile, pick_device())
    models.captions(kind, texts[:CAPTION_BATCH])

    def bare(batch: int, captions: list[str]) -> None:
        for at in range(0, len(captions), batch):
            encode(captions[at : at + batch]).cpu()

    def cached() -> None:
        items = ((caption_key(text), text) for text in texts)
        cache = fresh(work, profile.decoders[kind].condition)
        cache.fill(
            items, lambda batch: models.captions(kind, batch), kind, batch_size=CAPTION_BATCH
        )

    few = texts[: count // 4]

    def files() -> None:
        folder = Path(tempfile.mkdtemp(dir=work))
        for number, text in enumerate(few):
            np.save(folder / f"{number}.npy", encode([text])[0].cpu().numpy().astype(np.float16))

    tried = dict(
        zip(
            BATCH_SIZES,
            medians(*(lambda b=b: bare(b, few) for b in BATCH_SIZES), rounds=rounds),
            strict=True,
        )
    )
    best = min(tried, key=tried.get)
    works = (cached, lambda: bare(best, texts), files)
    (ours, theirs, single), noise = timed(*works, rounds=rounds)
    return {
        "captions": count,
        "a second": round(count / ours),
        "bare a second": round(count / theirs),
        "bare batch": best,
        "single files a second": round(len(few) / single),
        "ratio to bare": round(theirs / ours, 3),
        "ratio to single files": round(single / len(few) * count / ours, 2),
        **noise,
    }


def media_rates(profile: Profile, kind: str, count: int, rounds: int, work: Path) -> dict:
    """Media a second by the cache, and by decoding each batch on threads before it is embedded."""
    rng = np.random.default_rng(0)
    folder, paths = work / kind, []
    folder.mkdir()
    for number in range(count):
        made = render(kind, random_scene(kind, rng), rng)
        path = folder / f"{number}{media_files.SUFFIX[kind]}"
        paths.append(
            media_files.save(kind, path, (made, RATE) if kind == "audio" else made, fps=FPS)
        )
    models = FrozenModels(profile, pick_device())
    encoder = models.encoder

    def decoded(path: Path) -> torch.Tensor:
        return prepare(encoder.config, kind, media_files.as_media(kind, path))

    def bare() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            for at in range(0, count, BATCH):
                batch = torch.stack(list(pool.map(decoded, paths[at : at + BATCH])))
                encoder.embed_prepared(kind, batch)

    def cached() -> None:
        fresh(work, (profile.encoder.embedding,)).fill(
            ((path.name, path) for path in paths),
            lambda prepared: models.media(kind, prepared),
            kind,
            lambda path: models.prepared(kind, path),
        )

    (ours, theirs), noise = timed(cached, bare, rounds=rounds)
    return {
        "media": count,
        "a second": round(count / ours, 1),
        "bare a second": round(count / theirs, 1),
        "ratio to bare": round(theirs / ours, 3),
        **noise,
    }


def reading_rates(shape: tuple[int, ...], rows: int, work: Path) -> dict:
    """Rows a second at random places of a cache, one by one and 32 at once."""
    cache = fresh(work, shape)
    rng = np.random.default_rng(0)
    keys = [caption_key(str(number)) for number in range(rows)]
    cache.fill(((key, key) for key in keys), lambda batch: rng.random((len(batch), *shape)), "rows")
    found = {"rows": rows, "shape": shape}
    for at_once in (1, 32):
        chosen = rng.integers(rows, size=(100_000, at_once))
        read, started = 0, time.process_time()
        while time.process_time() - started < READ_SECONDS:
            cache.get([keys[number] for number in chosen[read]])
            read += 1
        found[f"{at_once} at once, a second"] = round(
            read * at_once / (time.process_time() - started)
        )
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--captions", type=int, default=4096)
    parser.add_argument("--media", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    profile = Profile.load(options.profile)
    result = {"machine": machine(), "date": date.today().isoformat(), "profile": profile.name}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for kind, config in profile.decoders.items():
            result[f"{kind} captions"] = caption_rates(
                profile, kind, options.captions, options.rounds, work
            )
            result[f"{kind}s"] = media_rates(profile, kind, options.media, options.rounds, work)
            result[f"reading {kind} captions"] = reading_rates(config.condition, 20_000, work)
        result["reading media"] = reading_rates((profile.encoder.embedding,), 100_000, work)
    keep(result, f"features-{profile.name}")


if __name__ == "__main__":
    main()
