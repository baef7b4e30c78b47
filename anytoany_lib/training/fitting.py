"""Bridges fitted to the frozen models alone, before and after the language model has a part in their training.

A soft token reads as a word, so the input projection starts as the map from what the encoder gives to the words of
the captions: in closed form if it is linear, else by `input_projection.fit_steps`. What an output projection reads does not move while the language model stands still:
its hidden states are computed once and the projection alone takes hundreds of steps on them, at a thousandth of the
cost of steps through the language model. docs/LOG.md has what both bring.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import get_scheduler

from anytoany_lib.batches import Batch
from anytoany_lib.config import Alignment, FitConfig
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import InputProjection, OutputProjection, alignment_loss
from anytoany_lib.sequence_projections import Resampler
from anytoany_lib.training.checkpoint import TrainingState
from anytoany_lib.training.setup import Job

_WARMUP = 0.05
CAPTIONS_FITTED = 4096  # at most, of the captions that an input projection is fitted to


@torch.no_grad()
def caption_words(model: AnyToAny, captions: Sequence[str]) -> torch.Tensor:
    """Captions -> (N, K, H): the mean embedding of each of K runs of tokens; where a run is empty, the caption's mean."""
    embedding = model.causal_lm.get_input_embeddings().weight
    count = model.input_projection.soft_tokens
    rows = []
    for caption in captions:
        words = embedding[model.messages.inner_ids(caption)].float()  # (T, H)
        runs = np.array_split(np.arange(len(words)), count)
        rows.append(torch.stack([(words[run] if len(run) else words).mean(0) for run in runs]))
    return torch.stack(rows)


def fit_input_projection(
    model: AnyToAny, embeddings: torch.Tensor, captions: Sequence[str]
) -> float:
    """Least squares from encoder embeddings (N, D) to the words of their captions; returns the explained variance."""
    words = caption_words(model, captions).flatten(1)
    linear = cast(InputProjection, model.input_projection)
    linear.fit(embeddings.to(words.device), words)
    with torch.no_grad():
        soft_tokens = linear(embeddings.to(words.device)).flatten(1)
    return 1 - ((soft_tokens - words).var(0).sum() / words.var(0).sum()).item()


def fit_reader(model: AnyToAny, states: torch.Tensor, captions: Sequence[str]) -> float:
    """AdamW from states (N, L, D) to the words of their captions, in an order fixed by torch's seed, for as many steps as
    the profile says; returns the explained variance. For the projections of `reading`, which have no closed form.
    """
    settings = model.profile.input_projection
    reader = cast(Resampler, model.input_projection)
    words = caption_words(model, captions)
    parameters = list(reader.parameters())
    mean, spread = words.mean(0), words.var(0).sum()
    with torch.no_grad():  # begins at the mean word, and as far from it as words are
        last = cast(torch.nn.Linear, reader.model[-1])
        soft = reader(states[: settings.fit_batch_size].to(words.device))
        last.weight.mul_((words - mean).std() / (soft - soft.mean((0, 1))).std())
        last.bias.copy_(mean.mean(0))
    reader.train()
    optimiser = torch.optim.AdamW(parameters, lr=settings.fit_learning_rate, betas=(0.9, 0.95))
    schedule = get_scheduler(
        "cosine", optimiser, round(_WARMUP * settings.fit_steps), settings.fit_steps
    )
    for _ in tqdm(range(settings.fit_steps), desc="fitting input projection", mininterval=1):
        picked = torch.randint(len(states), (settings.fit_batch_size,))
        missed = reader(states[picked].to(words.device)) - words[picked.to(words.device)]
        optimiser.zero_grad()
        (missed.square().sum((1, 2)).mean() / spread).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    optimiser.zero_grad()
    reader.eval()
    with torch.no_grad():
        parts = zip(states.split(256), words.split(256), strict=True)
        missed = [(reader(some.to(words.device)) - own).square().sum() for some, own in parts]
    reader.train()
    return 1 - (sum(missed) / (words - mean).square().sum()).item()


States = dict[str, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def collect_states(model: AnyToAny, batches: Iterable[Batch], rows: int) -> States:
    """What each output projection reads (S, N, H) and what it should give (S, *condition), of about `rows` conversations.

    Both stay on the host: states in the type that the language model computes in, conditions in the float16 of the caches.
    """
    was_training = model.training
    model.eval()
    states: dict[str, list[torch.Tensor]] = {}
    targets: dict[str, list[torch.Tensor]] = {}
    seen = 0  # a bar that is switched off counts nothing
    with tqdm(total=rows, desc="hidden states at signals") as bar:
        for batch in batches:
            there = batch.to(model.device)
            inputs = model.embed_inputs(there.ids, there.media, there.media_at)
            hidden = model.hidden_states(inputs, there.mask, use_cache=False)
            for kind, at in there.signals_at.items():
                states.setdefault(kind, []).append(model.signal_states(hidden, kind, at).cpu())
                targets.setdefault(kind, []).append(batch.targets[kind].half())
            bar.update(len(batch.ids))
            seen += len(batch.ids)
            if seen >= rows:
                break
    model.train(was_training)
    return {kind: (torch.cat(states[kind]), torch.cat(targets[kind])) for kind in sorted(states)}


def _fit(
    projection: OutputProjection,
    read: torch.Tensor,
    signals: torch.Tensor,
    targets: torch.Tensor,
    settings: FitConfig,
    alignment: Alignment,
    title: str,
) -> float:
    """AdamW on saved states, which come from the host by batches in torch's order; returns the loss on all of them after it."""
    parameters = list(projection.parameters())
    device = parameters[0].device

    def loss_of(states: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        projected = projection(states.to(device).float(), signals)
        return alignment_loss(projected, conditions.to(device).float(), alignment)

    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.95))
    warmup = round(_WARMUP * settings.steps)
    schedule = get_scheduler("cosine", optimiser, warmup, settings.steps)
    for _ in tqdm(range(settings.steps), desc=title, mininterval=1, disable=not settings.steps):
        picked = torch.randint(len(read), (settings.batch_size,))
        loss = loss_of(read[picked], targets[picked])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    optimiser.zero_grad()
    with torch.no_grad():
        pieces = zip(read.split(256), targets.split(256), strict=True)
        total = sum(loss_of(some, conditions) * len(some) for some, conditions in pieces)
    return float(total) / len(read)


def fit_output_projections(
    model: AnyToAny, states: States, settings: FitConfig, alignment: Alignment = "l2"
) -> dict[str, float]:
    """Fits every output projection, calibrated first if it never was, to what `collect_states` gives; each kind's loss after it."""
    losses = {}
    for kind, (read, targets) in states.items():
        projection = cast(OutputProjection, model.output_projections[kind])
        signals = model.signal_embeddings(kind).detach()
        if model.profile.projection.standardise and not projection.calibrated:
            projection.calibrate(read.float() + signals.cpu())
        losses[kind] = _fit(
            projection, read, signals, targets, settings, alignment, f"fitting {kind}"
        )
    return losses


def _fit_projections(job: Job, state: TrainingState, fit: FitConfig, when: str) -> dict[str, float]:
    """Fits the output projections to the language model as it stands, for longer if the stage is trained for longer."""
    settings, data = job.settings, state.data
    share = state.record["steps"] / settings.steps_of(len(data))
    rows, steps = max(fit.batch_size, round(share * fit.rows)), round(share * fit.steps)
    # Whole steps: the same rows, however many of them share a batch.
    rows = -(-rows // settings.rows_a_step) * settings.rows_a_step
    scaled = fit.model_copy(update={"rows": rows, "steps": steps})

    def collected(rows_at_once: int) -> States:
        batches = data.batches(settings.rows_a_step, rows_at_once=rows_at_once)
        return collect_states(state.model, (batch for _, batch in batches), rows)

    states = state.with_room(collected)
    losses = fit_output_projections(state.model, states, scaled, settings.alignment)
    return {f"{kind} {when}": loss for kind, loss in losses.items()}


def fit_before(job: Job, state: TrainingState) -> None:
    """Fits the bridges that a stage starts with to the frozen models, before its first step."""
    model, settings, fitted = state.model, job.settings, state.fitted
    torch.manual_seed(job.seed + job.stage)
    with state.phases.phase("fits before"):
        if "input_projection" in settings.learning_rates and job.init is None:
            embeddings, captions = state.data.captioned_media(CAPTIONS_FITTED)
            if captions and isinstance(model.input_projection, InputProjection):
                explained = fit_input_projection(model, embeddings, captions)
                fitted["words explained by soft tokens"] = explained
            elif captions and model.profile.input_projection.fit_steps:
                explained = fit_reader(model, embeddings, captions)
                fitted["words explained by soft tokens"] = explained
        reads_states = "output_projections" in settings.learning_rates
        uncalibrated = model.profile.projection.standardise and not model.calibrated
        if reads_states and (settings.fit_before.steps or uncalibrated):
            fitted |= _fit_projections(job, state, settings.fit_before, "before")


def fit_after(job: Job, state: TrainingState) -> None:
    """Fits the output projections to the language model as the last step has left it, if the stage says so."""
    if not job.settings.fit_after.steps:
        return
    torch.manual_seed(job.seed + job.stage)
    with state.phases.phase("fits after"):
        state.fitted |= _fit_projections(job, state, job.settings.fit_after, "after")
