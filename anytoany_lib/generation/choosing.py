"""What changes the odds of the next token before one is drawn: transformers' own processors, by the settings of a `Sampling`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from anytoany_lib.generation.sampling import Sampling

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny

Choose = Callable[
    [torch.Tensor, Sequence[int]], list[int]
]  # logits (B, V) of rows -> a token of each


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """Temperature, top-k and top-p, in the order of `generate`; none if the likeliest token is taken."""
    chosen = LogitsProcessorList()
    if sampling.temperature > 0:
        chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen


def penalised(
    choose: Choose, sampling: Sampling, prompts: Sequence[Sequence[int]], words: int
) -> Choose:
    """`choose` with a repetition penalty: every token of a row's prompt and reply is made less likely, as by `generate`.

    It holds for the LLM's own tokens, the first `words`; to ask for a second medium is no repetition.
    """
    if sampling.repetition_penalty == 1:
        return choose
    penalise = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
    said = [[token for token in prompt if token < words] for prompt in prompts]

    def penalising(logits: torch.Tensor, rows: Sequence[int]) -> list[int]:
        for at, row in enumerate(rows):
            ids = torch.tensor([said[row]], device=logits.device, dtype=torch.long)
            logits[at : at + 1] = penalise(ids, logits[at : at + 1])
        tokens = choose(logits, rows)
        for row, token in zip(rows, tokens, strict=True):
            said[row] += [token] if token < words else []
        return tokens

    return penalising


def check_finite(numbers: torch.Tensor, model: AnyToAny) -> None:
    """RuntimeError, with what to do, unless all numbers that a token is chosen by are finite."""
    if numbers.isfinite().all():
        return
    dtype = model.causal_lm.dtype
    if dtype == torch.float16:
        advice = (
            "it computes in float16, which ends at 65,504: set llm.dtype: bfloat16 or float32 in the profile, or load the run "
            "with AnyToAny.from_pretrained(run, dtype=...)"
        )
    else:
        advice = (
            "its weights, or those of the run, are damaged: fetch them again, or take another run"
        )
    raise RuntimeError(f"the language model's logits are not finite in {dtype}; {advice}")
