"""SANA-Sprint: Gemma's states of a caption behind an instruction, masked behind the last word; one to four steps.

What is read is what the paper (arXiv 2410.10629, section 3.1) keeps of it: the first token, and what comes behind the
instruction. Guidance is a number that the network is told, so it costs no second pass. The network's own output is the
velocity of flow matching at times from 0 to 1; the pipeline turns it into what its scheduler wants.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SanaSprintPipeline
from transformers import Gemma2Model

from anytoany_lib.decoders.protocol import (
    Adapter,
    attended_words,
    embeds_and_mask,
    image_of,
    masked_states,
    short_captions,
)

_CALL = inspect.signature(SanaSprintPipeline.__call__)
_INSTRUCTION = "\n".join(_CALL.parameters["complex_human_instruction"].default)


def _captions(tokenizer: Any, captions: Sequence[str], positions: int) -> Any:
    cleaned = [caption.lower().strip() for caption in captions]
    return short_captions(tokenizer, cleaned, positions, _INSTRUCTION)


def _steps(steps: int) -> dict[str, Any]:
    """The scheduler has a time between its first and its last for two steps alone."""
    return {"num_inference_steps": steps} | ({} if steps == 2 else {"intermediate_timesteps": None})


SANA_SPRINT = Adapter(
    SanaSprintPipeline,
    (Gemma2Model,),
    masked_states,
    image_of,
    True,
    arguments=embeds_and_mask("prompt_attention_mask"),
    told=attended_words,
    tokens=_captions,
    instruction=256,
    network="transformer",
    negative=False,
    steps=_steps,
    half=torch.bfloat16,
    reads_captions=False,
)
