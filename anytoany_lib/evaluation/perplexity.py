"""Perplexity on plain instructions: whether a model that learnt media still talks as its language model did.

    anytoany perplexity --run RUN --data DATA [--split test]

Counted over the answers of conversations that hold no medium, in batches of like length, beside the language model as it was
before any training. Written to RUN/perplexity.json.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from anytoany_lib.batches import Batch, collate
from anytoany_lib.checkpoints.publishing import run_to_measure
from anytoany_lib.config import portable
from anytoany_lib.data.manifests import SPLITS, read_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.messages import IGNORED, parts_of
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import terminal
from anytoany_lib.system.files import write_json
from anytoany_lib.system.remote import local

PERPLEXITY = "perplexity.json"


def is_plain(row: Row) -> bool:
    """Whether a conversation is text alone and ends with an answer."""
    kinds = {part["type"] for message in row.messages for part in parts_of(message)}
    return kinds <= {"text"} and row.messages[-1]["role"] == "assistant"


def losses(model: AnyToAny, batch: Batch) -> tuple[int, float, float]:
    """(tokens to learn, summed cross entropy in nats, the same of the untouched language model)."""
    learnt = batch.labels[:, 1:] != IGNORED
    labels = batch.labels[:, 1:][learnt]
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)

    def states() -> torch.Tensor:  # that predict those tokens, (tokens, H)
        return model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1][learnt]

    own = hidden = states()
    if model.adapter is not None:
        with model.adapter.disable_adapter():
            hidden = states()
    untouched = model.causal_lm.get_output_embeddings()(hidden).float()
    own_loss, untouched_loss = (
        F.cross_entropy(logits, labels, reduction="sum").item()
        for logits in (model.logits(own), untouched)
    )
    return len(labels), own_loss, untouched_loss


@torch.inference_mode()
def perplexity(model: AnyToAny, rows: Sequence[Row], batch_size: int = 8) -> dict[str, Any]:
    """{"rows", "tokens", "perplexity", "untouched", "ratio"} over the plain conversations among `rows`; ValueError without any."""
    encoded = [model.messages.encode(row.messages) for row in rows if is_plain(row)]
    if not encoded:
        raise ValueError("no conversation of text alone to measure perplexity on")
    encoded.sort(key=lambda one: len(one.ids))
    tokens, own, untouched = 0, 0.0, 0.0
    for start in tqdm(range(0, len(encoded), batch_size), desc="perplexity", unit="batch"):
        batch = collate(encoded[start : start + batch_size], lambda *_: None, None, 1)
        counted, loss, before = losses(model, batch.to(model.device))
        tokens, own, untouched = tokens + counted, own + loss, untouched + before
    return {
        "rows": len(encoded),
        "tokens": tokens,
        "perplexity": math.exp(own / tokens),
        "untouched": math.exp(untouched / tokens),
        "ratio": math.exp((own - untouched) / tokens),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure a run and write RUN/perplexity.json."""
    parser = terminal.parser(
        "perplexity", __doc__.splitlines()[0], "--run ckpt/runs/tiny/stage3 --data data/toy"
    )
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args(arguments)
    run, data = run_to_measure(given.run), local(given.data)
    rows = list(read_manifest(data, given.split))
    found = perplexity(AnyToAny.from_pretrained(run), rows, given.batch_size)
    record = {"data": portable(data), "split": given.split, **found}
    write_json(run / PERPLEXITY, record)
    print(json.dumps(record, indent=2))
