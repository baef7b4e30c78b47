"""A training step as the kit takes it, and the floor: the same language model on the same tokens by transformers and PEFT.

Both read `Step`s, so they can be given the very same batches, and be timed in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from anytoany_lib import train
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.checkpoint import TrainingState
from anytoany_lib.training.setup import Job
from anytoany_lib.training.stage_data import StageData, Step


class Kit:
    """A training of one process whose steps are taken one by one: what `train` does between two checkpoints."""

    def __init__(self, job: Job, state: TrainingState, accelerator: Accelerator):
        self.job, self.state, self.accelerator = job, state, accelerator
        self.wrapped, self.optimiser = accelerator.prepare(state.model, state.optimiser)
        self.wrapped.train()

    def reading(self, data: StageData) -> Iterator[Step]:
        """The steps of the stage's data, from the first one on."""
        settings, latents = self.job.settings, self.state.denoiser is not None
        return data.steps(settings.rows_a_step, settings.batch_size, latents=latents)

    def take(self, step: Step) -> None:
        """One step: gradients, the look at the losses, the optimiser."""
        state, settings = self.state, self.job.settings
        state.seed_step(0)
        losses = train._gradients(self.accelerator, self.wrapped, step, settings, state.denoiser)
        losses, _ = train._summed(losses, False)
        train._check_losses(losses, self.job, state, step.names)
        train._update(self.accelerator, self.optimiser, self.job, state, step)
        state.step += 1


def bare_step(model: AnyToAny, everywhere: bool = True) -> Callable[[Step], None]:
    """A step of the model's LLM by transformers alone: embeddings in, loss out, and what the kit too does with LoRA: the
    scaler of float16, clipping, fused AdamW.

    Without LoRA there are only gradients to the input embeddings, which the kit's bridges need in any case. As transformers
    has it, logits are computed at all positions; without `everywhere` only where there is a label, as the kit does it. New
    tokens are strangers to the LLM: its last one stands for them. The weights, which the kit shares, stay as they are: the
    rate is 0, at which AdamW computes no less.
    """
    llm, known, stage = model.llm, model.vocabulary.base_size, max(model.profile.stages)
    settings = model.profile.stages[stage]
    lora = [p for name, p in llm.named_parameters() if "lora_" in name and p.requires_grad]
    optimiser = torch.optim.AdamW(
        lora or [nn.Parameter(torch.zeros(1))],
        lr=0.0,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    half = model.causal_lm.dtype == torch.float16
    scaler = torch.amp.GradScaler(model.device.type, enabled=half and bool(lora))
    loss_of = _loss_everywhere if everywhere else _loss_where_learnt

    def take(read: Step) -> None:
        for batch, _ in read.parts:
            batch = batch.to(model.device)
            ids = batch.ids.clamp(max=known - 1)
            labels = batch.labels.masked_fill(batch.labels >= known, IGNORED)
            inputs = llm.get_input_embeddings()(ids).detach().requires_grad_(not lora)
            scaler.scale(loss_of(model, inputs, batch.mask, labels)).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(lora, settings.clip)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()

    return take


def _loss_everywhere(
    model: AnyToAny, inputs: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    read = {"inputs_embeds": inputs, "attention_mask": mask, "labels": labels}
    return model.llm(**read, use_cache=False).loss


def _loss_where_learnt(
    model: AnyToAny, inputs: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    hidden = model.hidden_states(inputs, mask, use_cache=False)
    learnt = labels[:, 1:] != IGNORED
    logits = model.causal_lm.get_output_embeddings()(hidden[:, :-1][learnt])
    return F.cross_entropy(logits.float(), labels[:, 1:][learnt])


def over(take: Callable[[Step], None], steps: Sequence[Step]) -> Callable[[], None]:
    """Takes the next of these steps whenever it is called, the first one again after the last."""
    endless = cycle(steps)
    return lambda: take(next(endless))
