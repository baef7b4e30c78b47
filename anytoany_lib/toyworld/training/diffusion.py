"""What the trainings of the tiny diffusion models share: optimiser, noise, loss, few-step schedulers, saving."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel

from anytoany_lib.llm import pick_dtype
from anytoany_lib.system.files import appearing_whole, write_json
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.scenes import Scene
from anytoany_lib.toyworld.training.pace import Pace, minimise

UNet: TypeAlias = UNet2DConditionModel | UNet3DConditionModel
NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


class MuonAdamW:
    """torch's Muon for the weights of hidden layers, convolutions taken as matrices, and AdamW for all others.

    Where only some thousand steps can be afforded it needs about half as many as AdamW alone. `pace_of` slows layers
    down by name: it gives a factor of the learning rates.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        hidden: float = 3e-3,
        other: float = 1e-3,
        pace_of: Callable[[str], float] = lambda name: 1.0,
    ):
        self._model = model
        groups: dict[tuple[bool, float], list] = {}
        for name, weight in model.named_parameters():
            edge = any(part in name for part in ("conv_in", "conv_out", "time_embedding"))
            key = (weight.ndim >= 2 and not edge, pace_of(name))
            groups.setdefault(key, []).append(weight)
        # the matrices share their memory with the weights they are views of
        self._matrices = [
            (torch.nn.Parameter(weight.detach().flatten(1)), weight)
            for (inside, _), weights in groups.items()
            for weight in weights
            if inside
        ]
        matrix_of = {id(weight): matrix for matrix, weight in self._matrices}
        muon = [
            {"params": [matrix_of[id(w)] for w in weights], "peak": hidden * factor}
            for (inside, factor), weights in groups.items()
            if inside
        ]
        rest = [
            {"params": weights, "peak": other * factor}
            for (inside, factor), weights in groups.items()
            if not inside
        ]
        self._muon = torch.optim.Muon(muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self._adam = torch.optim.AdamW(rest, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
        self.param_groups = self._muon.param_groups + self._adam.param_groups

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self._model.zero_grad()

    def step(self) -> None:
        """Clips the gradients to norm 1 and updates all weights."""
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for matrix, weight in self._matrices:
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        self._muon.step()
        self._adam.step()


def noise_scheduler() -> DDIMScheduler:
    """The noise of training (and a sampler): v-prediction, terminal signal-to-noise ratio of zero."""
    return DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=True)


def fast_scheduler() -> DPMSolverMultistepScheduler:
    """A second-order solver for the same noise."""
    return DPMSolverMultistepScheduler(
        **NOISE, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )


def half_where_faster() -> torch.autocast:
    """Autocast to bfloat16 on CPUs that multiply matrices in it; on others it would double the time of a step."""
    native = pick_dtype(torch.device("cpu")) == torch.bfloat16
    return torch.autocast("cpu", torch.bfloat16, enabled=native)


def plain_attention(model: UNet) -> None:
    """Softmax attention step by step: on a CPU several times faster to train than the fused kernel's backward."""
    model.set_attn_processor(AttnProcessor())


def velocity_loss(
    unet: UNet,
    noise: DDIMScheduler,
    clean: torch.Tensor,
    condition: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity.

    `clean` (B, C, H, W) or (B, C, T, H, W) are scaled latents; `condition` (B, 16, 128).
    """
    steps = torch.randint(0, noise.config.num_train_timesteps, (len(clean),), generator=generator)
    added = torch.randn(clean.shape, generator=generator)
    target = noise.get_velocity(clean, added, steps)
    with half_where_faster():
        predicted = unet(noise.add_noise(clean, added, steps), steps, condition).sample
    return torch.nn.functional.mse_loss(predicted.float(), target)


def perturbed(
    condition: torch.Tensor,
    nothing: torch.Tensor,
    generator: torch.Generator,
    drop: float = 0.1,
    blur: float = 0.15,
) -> torch.Tensor:
    """Conditions (B, 16, 128) with a share of them dropped for `nothing` (1, 16, 128), the rest a little noisy.

    The noise is there because the language model's projections will not hit the text encoder's output exactly.
    """
    amount = blur * torch.rand(len(condition), 1, 1, generator=generator)
    noisy = condition + amount * torch.randn(condition.shape, generator=generator)
    dropped = torch.rand(len(condition), 1, 1, generator=generator) < drop
    return torch.where(dropped, nothing, noisy)


class MovingAverage:
    """The moving average of a UNet's weights: what is saved now and then, and what is left at the end."""

    def __init__(self, unet: UNet, save: Callable[[], None] | None = None, minutes: float = 4.0):
        self._unet, self._save, self._minutes = unet, save, minutes
        self._average = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
        self._saved = time.monotonic()

    def step(self) -> None:
        """To be called after each optimiser step."""
        weights = list(self._unet.parameters())
        self._average.step(weights)
        if self._save and time.monotonic() - self._saved > 60 * self._minutes:
            self._average.store(weights)
            self._average.copy_to(weights)
            self._save()
            self._average.restore(weights)
            self._saved = time.monotonic()

    def finish(self) -> UNet:
        """The UNet with the averaged weights, frozen."""
        self._average.copy_to(self._unet.parameters())
        return self._unet.eval().requires_grad_(False)


def train_unet(
    kind: str,
    unet: UNet,
    latents: torch.Tensor,
    scenes: Sequence[Scene],
    condition: Callable[[list[str]], torch.Tensor],
    pace: Pace,
    seed: int = 0,
    batch: int = 16,
    save: Callable[[], None] | None = None,
    pace_of: Callable[[str], float] = lambda name: 1.0,
) -> UNet:
    """Trains a UNet on scaled latents (N, ...) of pictures or films; what is saved, and left in the end, is the weights'
    moving average.

    `condition` gives captions their conditions (B, 16, 128); they are worded anew at each step. `pace_of` as in `MuonAdamW`.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    noise, nothing = noise_scheduler(), condition([""])
    plain_attention(unet.train())
    average = MovingAverage(unet, save)

    def next_loss() -> torch.Tensor:
        """The denoising loss of the next latents, told their captions."""
        rows = rng.integers(len(latents), size=batch)
        texts = [caption(kind, scenes[row], rng) for row in rows]
        conditions = perturbed(condition(texts), nothing, generator)
        return velocity_loss(unet, noise, latents[rows], conditions, generator)

    minimise(next_loss, MuonAdamW(unet, pace_of=pace_of), pace, f"{kind} UNet", average.step)
    return average.finish()


NOTES = "training.json"


def note_training(folder: Path, **facts: object) -> None:
    """Adds one training to the list in a model folder's training.json, which its card shows."""
    notes = Path(folder) / NOTES
    kept = json.loads(notes.read_text()) if notes.is_file() else []
    write_json(notes, [*kept, facts], indent=1)


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder that takes the place of `path` when it is whole; notes of trainings stay."""
    with appearing_whole(path) as new:
        write(new)
        if (path / NOTES).is_file():
            shutil.copy(path / NOTES, new / NOTES)


P = TypeVar("P", bound=DiffusionPipeline)


def load_frozen(pipeline: type[P], path: Path) -> P:
    """A saved decoder in single precision, its parts frozen, without a progress bar."""
    loaded = pipeline.from_pretrained(path, torch_dtype=torch.float32)
    for part in (loaded.vae, loaded.text_encoder, loaded.unet):
        part.eval().requires_grad_(False)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def save_pipeline(pipeline: DiffusionPipeline, path: Path) -> None:
    """Saves a pipeline in half precision, its tokenizer with CLIP's vocab.json and merges.txt as well."""
    parts = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
    }
    halved = type(pipeline)(**parts, **_extras(pipeline))

    def write(folder: Path) -> None:
        """Writes the halved pipeline, without a trace of where its parts came from."""
        halved.save_pretrained(folder, safe_serialization=True)
        halved.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
        for file in folder.rglob("*.json"):
            # Where the parts were loaded from is nobody's business elsewhere.
            settings = json.loads(file.read_text())
            if isinstance(settings, dict) and settings.pop("_name_or_path", None):
                file.write_text(json.dumps(settings, indent=2) + "\n")

    replace_folder(path, write)


def _extras(pipeline: DiffusionPipeline) -> dict:
    asked = "requires_safety_checker"
    return {asked: False} if asked in pipeline.config else {}
