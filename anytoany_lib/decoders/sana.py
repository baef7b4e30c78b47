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
    image_of,
    short_captions,
    up_to_the_last_word,
    words_of,
)

_CALL = inspect.signature(SanaSprintPipeline.__call__).parameters
_INSTRUCTION = "\n".join(_CALL["complex_human_instruction"].default)
_GUIDANCE = 0.1 * _CALL["guidance_scale"].default  # by the network's guidance_embeds_scale


def _instructed(tokenizer: Any, captions: Sequence[str], positions: int) -> Any:
    """Token ids of instruction and caption; `begin` is the first of them that is kept beside the very first."""
    begin = len(tokenizer.encode(_INSTRUCTION)) - 1
    tokenizer.padding_side = "right"
    texts = [_INSTRUCTION + caption.lower().strip() for caption in captions]
    tokens = short_captions(tokenizer, texts, begin + positions - 1)
    return tokens | {"begin": begin}


def _kept_states(encoders: list[Any], tokens: list[Any]) -> torch.Tensor:
    read, mask, begin = tokens[0], tokens[0]["attention_mask"], tokens[0]["begin"]
    states = encoders[0](read["input_ids"], attention_mask=mask, use_cache=False)[0]
    kept = [0, *range(begin, mask.shape[1])]
    return up_to_the_last_word(states[:, kept], mask[:, kept])


def _masked(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": condition, "prompt_attention_mask": words_of(condition)}


def _told(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    return {
        "encoder_hidden_states": condition,
        "encoder_attention_mask": words_of(condition),
        "guidance": condition.new_full((len(condition),), _GUIDANCE),
    }


def _latents(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    return vae.encode(pixels).latent * vae.config.scaling_factor


def _steps(steps: int) -> dict[str, Any]:
    """The scheduler has a time between its first and its last for two steps alone."""
    return {"num_inference_steps": steps} | ({} if steps == 2 else {"intermediate_timesteps": None})


SANA_SPRINT = Adapter(
    SanaSprintPipeline,
    (Gemma2Model,),
    _kept_states,
    image_of,
    True,
    arguments=_masked,
    told=_told,
    tokens=_instructed,
    instruction=256,
    network="transformer",
    latents=_latents,
    negative=False,
    steps=_steps,
    half=torch.bfloat16,
    reads_captions=False,
)
