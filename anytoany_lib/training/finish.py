"""What comes before and after the steps of a training: bridges fitted to what stands still, held-out losses, the run folder."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from anytoany_lib.config import Alignment, FitConfig
from anytoany_lib.data.manifests import splits_in
from anytoany_lib.decoders.denoising import Denoiser
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole, settle, write_json
from anytoany_lib.training.checkpoint import Standing, discard
from anytoany_lib.training.fitting import (
    CAPTIONS_FITTED,
    States,
    collect_states,
    fit_input_projection,
    fit_output_projections,
)
from anytoany_lib.training.setup import GO_ON, Job
from anytoany_lib.training.stage_data import StageData
from anytoany_lib.training.steps import with_room

_ABOUT_OLD_WEIGHTS = (runs.EVALUATION, "conversation")


def _fit_projections(job: Job, standing: Standing, fit: FitConfig, when: str) -> dict[str, float]:
    """Fits the output projections to the language model as it stands, for longer if the stage is trained for longer."""
    settings, data = job.settings, standing.data
    share = standing.record["steps"] / settings.steps_of(len(data))
    rows, steps = max(fit.batch_size, round(share * fit.rows)), round(share * fit.steps)
    scaled = fit.model_copy(update={"rows": rows, "steps": steps})

    def collected(together: int) -> States:
        batches = data.batches(settings.rows_a_step, together=together)
        return collect_states(standing.model, (batch for _, batch in batches), rows)

    states = with_room(standing, settings, collected)
    losses = fit_output_projections(standing.model, states, scaled, settings.alignment)
    return {f"{kind} {when}": loss for kind, loss in losses.items()}


def fit_before(job: Job, standing: Standing) -> None:
    """Fits the bridges that start here to the frozen models (see `fitting`)."""
    model, settings, fitted = standing.model, job.settings, standing.fitted
    torch.manual_seed(job.seed + job.stage)
    with standing.phases.phase("fits before"):
        if "input_projection" in settings.learning_rates and job.init is None:
            embeddings, captions = standing.data.captioned_media(CAPTIONS_FITTED)
            if captions:
                explained = fit_input_projection(model, embeddings, captions)
                fitted["words explained by soft tokens"] = explained
        reads_states = "output_projections" in settings.learning_rates
        uncalibrated = model.profile.projection.standardise and not model.calibrated
        if reads_states and (settings.fit_before.steps or uncalibrated):
            fitted |= _fit_projections(job, standing, settings.fit_before, "before")


@torch.no_grad()
def validation_losses(
    model: AnyToAny,
    data: StageData,
    batch_size: int,
    alignment: Alignment = "l2",
    denoiser: Denoiser | None = None,
) -> dict[str, float]:
    """Mean of each loss over a split, batch by batch."""
    model.eval()
    sums: dict[str, list[float]] = {}
    batches = data.once(batch_size, latents=denoiser is not None)
    bar = tqdm(batches, total=-(-len(data) // batch_size), desc="validation")
    for number, batch in enumerate(bar):
        if denoiser:
            denoiser.begin(number)
        for name, loss in model(batch.to(model.device), alignment, denoiser).items():
            sums.setdefault(name, []).append(loss.item())
    return {name: float(np.mean(values)) for name, values in sums.items()}


def _validation(job: Job, standing: Standing) -> dict[str, float]:
    """The losses on the validation split, {} if the dataset has none."""
    if "validation" not in splits_in(job.data):
        return {}
    settings, model = job.settings, standing.model
    read = (settings.reads, model.messages, standing.features, job.seed)
    held_out = StageData(job.data, "validation", *read)
    how = (settings.alignment, standing.denoiser)
    return with_room(
        standing, settings, lambda rows: validation_losses(model, held_out, rows, *how)
    )


def _check_finite(validation: dict[str, float], job: Job) -> None:
    """RuntimeError if the last steps have ruined the weights, which no later loss could tell."""
    if not all(map(math.isfinite, validation.values())):
        raise RuntimeError(
            f"{job.run}: the held-out losses are {validation}: lower the stage's learning rates in the profile"
        )


def conclude(job: Job, standing: Standing) -> None:
    """What follows the steps: the last fits, the losses on the validation split, and the run folder."""
    settings, phases = job.settings, standing.phases
    try:
        if settings.fit_after.steps:
            torch.manual_seed(job.seed + job.stage)
            with phases.phase("fits after"):
                standing.fitted |= _fit_projections(job, standing, settings.fit_after, "after")
        with phases.phase("validation"):
            validation = _validation(job, standing)
            _check_finite(validation, job)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"all {standing.step} steps are saved: {GO_ON}") from None
    result = {
        "fitted": standing.fitted,
        "validation": validation,
        "cut": len(standing.data.cut),
        "left_out": len(standing.data.left_out),
        "empty_steps": standing.empty,
        "skipped_steps": standing.skipped,
        "rows_at_once": standing.together,
        "seconds": standing.seconds,
        "peak_memory_bytes": phases.highest(),
        "peak_memory_by_phase": phases.peaks,
    }
    _finish(job.run, standing.model, standing.record | result, job.init)


def _finish(run: Path, model: AnyToAny, record: dict[str, Any], init: Path | None) -> None:
    """Puts the final weights into the run folder; `run.json` comes last and makes it a run."""
    (run / runs.RECORD).unlink(missing_ok=True)
    with appearing_whole(run / ".final") as folder:
        runs.write_tensors(folder, model.bridges(), model.adapter)
        if init and (init / runs.VOCABULARY).is_file():
            shutil.copy(init / runs.VOCABULARY, folder)
    (run / runs.VOCABULARY).unlink(missing_ok=True)
    shutil.rmtree(run / runs.ADAPTER, ignore_errors=True)
    final = [item.replace(run / item.name) for item in (run / ".final").iterdir()]
    (run / ".final").rmdir()
    for stale in _ABOUT_OLD_WEIGHTS:
        shutil.rmtree(run / stale, ignore_errors=True)
    (run / runs.METRICS).unlink(missing_ok=True)
    write_json(run / runs.RECORD, record)
    for item in (*final, run / runs.RECORD):
        settle(item)  # a loss of power would else take it away, and the checkpoints are gone
    discard(run)  # what it would take to make all this again
