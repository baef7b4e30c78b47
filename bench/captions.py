"""How long all caption metrics in Python take over a test set: 10,000 captions with five references each by default.

    python bench/captions.py [--captions 10000 --seed 0]

Captions are drawn: ten words at the mean, of a vocabulary in which, as in English, a word's frequency falls with its rank.
Tokenization, BLEU-1 to 4, ROUGE-L and CIDEr-D are timed together and alone, on one core. Results go to
bench/results/captions-MACHINE.json.
"""

from __future__ import annotations

import argparse
import time
from datetime import date

import numpy as np
import torch
from record import keep, machine

REFERENCES, MEAN_WORDS, VOCABULARY = 5, 10, 10_000
BOUND = 30.0  # seconds that the issue allows for 10,000 captions


def drawn(captions: int, seed: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predictions and references of as many media."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, VOCABULARY + 1)
    chances /= chances.sum()

    def text() -> str:
        words = rng.choice(VOCABULARY, rng.poisson(MEAN_WORDS - 3) + 3, p=chances)
        return "A " + " ".join(f"word{word}" for word in words) + "."

    names = [str(number) for number in range(captions)]
    return {n: text() for n in names}, {n: [text() for _ in range(REFERENCES)] for n in names}


def measure(captions: int, seed: int) -> dict:
    """Seconds of each part and of all."""
    from anytoany_lib.benchmarks.caption_metrics import (
        bleu,
        caption_scores,
        cider_d,
        rouge_l,
        tokenize_all,
    )

    predictions, references = drawn(captions, seed)
    seconds = {}
    started = time.perf_counter()
    scores = caption_scores(predictions, references)
    seconds["all"] = time.perf_counter() - started
    started = time.perf_counter()
    said = tokenize_all(list(predictions.values()))
    told = [tokenize_all(own) for own in references.values()]
    seconds["tokenize"] = time.perf_counter() - started
    for name, metric in (("BLEU", bleu), ("ROUGE-L", rouge_l), ("CIDEr-D", cider_d)):
        started = time.perf_counter()
        metric(said, told)
        seconds[name] = time.perf_counter() - started
    return {"captions": captions, "seed": seed, "seconds": seconds, "scores": scores}


def main() -> None:
    """Command line; exits with 1 if 10,000 captions would take longer than the issue allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.captions, options.seed)
    keep({"machine": machine(), "date": date.today().isoformat(), **result}, "captions")
    raise SystemExit(result["seconds"]["all"] * 10_000 / options.captions > BOUND)


if __name__ == "__main__":
    main()
