"""What follows the steps of a training: the last fits, the losses on held-out rows, and the run folder."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from anytoany_lib.config import Alignment
from anytoany_lib.data.manifests import splits_in
from anytoany_lib.decoders.denoising import Denoiser
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole, settle, write_json
from anytoany_lib.training.checkpoint import TrainingState, discard
from anytoany_lib.training.fitting import fit_after
from anytoany_lib.training.setup import GO_ON, Job
from anytoany_lib.training.stage_data import StageData

_ABOUT_OLD_WEIGHTS = (runs.EVALUATION, "conversation")


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


def _validation(job: Job, state: TrainingState) -> dict[str, float]:
    """The losses on the validation split, {} if the dataset has none."""
    if "validation" not in splits_in(job.data):
        return {}
    settings, model = job.settings, state.model
    options = (settings.reads, model.messages, state.data.features, job.seed)
    held_out = StageData(job.data, "validation", *options)
    terms = (settings.alignment, state.denoiser)
    return state.with_room(lambda rows: validation_losses(model, held_out, rows, *terms))


def conclude(job: Job, state: TrainingState) -> None:
    """What follows the steps: the last fits, the losses on the validation split, and the run folder."""
    phases = state.phases
    try:
        fit_after(job, state)
        with phases.phase("validation"):
            validation = _validation(job, state)
        # If the last steps have ruined the weights, no later loss could tell.
        if not all(map(math.isfinite, validation.values())):
            raise RuntimeError(
                f"{job.run}: the held-out losses are {validation}: lower the stage's learning rates in the profile"
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"all {state.step} steps are saved: {GO_ON}") from None
    result = {
        "fitted": state.fitted,
        "validation": validation,
        "cut": len(state.data.cut),
        "left_out": len(state.data.left_out),
        "empty_steps": state.empty,
        "skipped_steps": state.skipped,
        "rows_at_once": state.rows_at_once,
        "seconds": state.seconds,
        "peak_memory_bytes": phases.highest(),
        "peak_memory_by_phase": phases.peaks,
    }
    _write_run(job.run, state.model, state.record | result, job.init)


def _write_run(run: Path, model: AnyToAny, record: dict[str, Any], init: Path | None) -> None:
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
