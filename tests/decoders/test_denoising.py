"""The denoising term: against the bare UNets, on real media of the toy world, and through a stage's training."""

from __future__ import annotations

import json
import os
import shutil
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from resuming import shallow
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from anytoany_lib import train
from anytoany_lib.batches import collate
from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import media_in
from anytoany_lib.decoders import denoising, mels
from anytoany_lib.decoders.denoising import Denoiser, LatentEncoder, latent_shape, term
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.features import precomputing
from anytoany_lib.features.costs import estimate_costs
from anytoany_lib.features.dataset_features import DatasetFeatures, LiveFeatures
from anytoany_lib.media import media_files
from anytoany_lib.memory import planning
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.toyworld.normalised_mels import LEVELS
from anytoany_lib.training import trackers
from anytoany_lib.training.setup import trained_parts
from anytoany_lib.training.stage_data import StageData

CPU = torch.device("cpu")
KINDS = ("image", "audio", "video")
STEPS = torch.tensor([150, 450, 750])


@pytest.fixture(scope="module")
def denoised(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The tiny profile with the term in stage 2, the first layers of its language model, and little to do in a step."""
    settings = shallow(profile, tmp_path_factory.mktemp("llm")).model_dump()
    settings["stages"][2] |= {"denoising_weight": 0.5, "batch_size": 3}
    settings["stages"][2] |= {"fit_before": {"rows": 4, "batch_size": 4}, "fit_after": {"steps": 0}}
    return Profile.parse(settings, "test")


@pytest.fixture(scope="module")
def data(denoised: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the toy dataset whose media are cached as latents too."""
    folder = tmp_path_factory.mktemp("denoising") / "toy"
    shutil.copytree(toy_data, folder)
    added = precomputing.precompute(denoised, folder)
    assert added["media"] == added["captions"] == 0 and added["latents"] > 0
    assert precomputing.precompute(denoised, folder)["latents"] == 0
    return folder


def shown(data: Path, kind: str, count: int) -> list[tuple[str, str]]:
    """(path, caption) of captioned media of a kind, each caption once."""
    rows = (row for row in read_manifest(data, "train") if row.meta.get("kind") == kind)
    by_caption = {row.meta["caption"]: media_in(row.messages)[0][1] for row in rows}
    return [(path, caption) for caption, path in islice(by_caption.items(), count)]


def told(profile: Profile, data: Path, kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditions and latents of captioned media, from the caches."""
    store = DatasetFeatures(profile, data)
    pairs = shown(data, kind, count)
    assert len(pairs) == count
    conditions = [store.caption(kind, caption) for _, caption in pairs]
    latents = [store.latent(kind, path) for path, _ in pairs]
    return torch.from_numpy(np.stack(conditions)), torch.from_numpy(np.stack(latents))


def alphas() -> torch.Tensor:
    """The cumulated alphas of the tiny decoders, by the formulas: scaled linear betas, stretched to an SNR of zero."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    roots = (1 - betas).cumprod(0).sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots.square()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_the_bare_unet(kind: str, denoised: Profile, data: Path):
    config = denoised.decoders[kind]
    conditions, latents = told(denoised, data, kind, len(STEPS))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(denoised.decoders, 0, CPU)
    found = denoiser.errors(kind, conditions, latents, STEPS, noise)
    cls = UNet3DConditionModel if kind == "video" else UNet2DConditionModel
    unet = cls.from_pretrained(resolve(config.folder) / "unet", torch_dtype=torch.float32).eval()
    for n, step in enumerate(STEPS):
        alpha = alphas()[step]
        signal, rest = alpha.sqrt().float(), (1 - alpha).sqrt().float()
        noisy = signal * latents[n : n + 1] + rest * noise[n : n + 1]
        how = {"encoder_hidden_states": conditions[n : n + 1]}
        if kind == "audio":
            how = {"encoder_hidden_states": None, "class_labels": conditions[n : n + 1]}
        velocity = signal * noise[n] - rest * latents[n]
        error = (unet(noisy, step, **how).sample[0] - velocity).square().mean()
        snr = (alpha / (1 - alpha)).item()
        weight = min(snr, 5) / (snr + 1) if kind == "image" else 1
        assert found[n].item() == pytest.approx(weight * error.item(), rel=1e-3)


@torch.no_grad()
def test_draws_follow_from_seed_and_number_alone(denoised: Profile, data: Path):
    conditions, latents = told(denoised, data, "image", 3)

    def losses(seed: int, numbers: list[int]) -> list[float]:
        denoiser = Denoiser(denoised.decoders, seed, CPU)
        found = []
        for number in numbers:
            denoiser.begin(number)
            found.append(denoiser.loss("image", conditions, latents).item())
        return found

    state = torch.get_rng_state()
    first, second = losses(0, [4, 5])
    assert torch.equal(torch.get_rng_state(), state)  # those of the training are its own
    assert losses(0, [5, 4]) == [second, first] and first != second
    assert losses(1, [4]) != [first]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_mediums_own_caption_explains_its_latents_best(kind: str, denoised: Profile, data: Path):
    conditions, latents = told(denoised, data, kind, 5)
    denoiser, generator = Denoiser(denoised.decoders, 0, CPU), torch.Generator().manual_seed(0)
    errors = torch.zeros(3, len(latents))  # told its own caption, and those of two others
    for step in STEPS:
        noise = torch.randn(latents.shape, generator=generator)
        steps = step.expand(len(latents))
        for other in range(len(errors)):
            wrong = conditions.roll(other, 0)
            errors[other] += denoiser.errors(kind, wrong, latents, steps, noise)
    own, others = errors[0], errors[1:]
    assert (own < others).float().mean() >= 0.9 and own.mean() < 0.7 * others.mean()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["image", "video"])
def test_latents_are_what_the_decoder_makes_the_medium_of(kind: str, denoised: Profile, data: Path):
    config = denoised.decoders[kind]
    (path, _), *_ = shown(data, kind, 1)
    latents = torch.from_numpy(DatasetFeatures(denoised, data).latent(kind, path))[None]
    assert latents.shape[1:] == latent_shape(kind, config)
    pipeline = Decoder(config, CPU).pipeline
    flat = latents.transpose(1, 2).flatten(0, 1) if kind == "video" else latents
    made = pipeline.vae.decode(flat / pipeline.vae.config.scaling_factor).sample  # (T, 3, H, W)
    truth = LatentEncoder(kind, config, CPU).prepared(data / path).float() / 127.5 - 1
    assert F.l1_loss(made, truth.expand_as(made)).item() < 0.06


def test_clips_are_cut_to_the_rate_and_pictures_to_the_proportions_that_are_made(
    profile: Profile, tmp_path: Path
):
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 48 * 80 * 3).reshape(24, 48, 80, 3)
    clip = media_files.save("video", tmp_path / "clip.mp4", ramp, fps=8)
    read = LatentEncoder("video", profile.decoders["video"], CPU).prepared(clip)
    assert read.shape == (8, 3, 64, 64)
    # 8 frames at 4 a second are the first 2 s of the 3, every second frame of them.
    assert read.float().mean((1, 2, 3)).diff().mean().item() == pytest.approx(20, abs=2)
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 200
    picture = media_files.save("image", tmp_path / "wide.png", media_files.Image.fromarray(wide))
    read = LatentEncoder("image", profile.decoders["image"], CPU).prepared(picture)
    assert read.shape == (3, 64, 64) and read.float().mean().item() == pytest.approx(200, abs=1)


def test_log_mels_are_audioldms_unless_the_decoder_says_otherwise(tmp_path: Path):
    samples = np.random.default_rng(0).normal(0.1, 0.2, 3200).astype(np.float32)
    levelled = samples - samples.mean()
    levelled *= 0.5 / np.abs(levelled).max()
    padded = np.pad(levelled, 432, mode="reflect")
    window = np.hanning(1025)[:1024]
    frames = np.stack([padded[at : at + 1024] * window for at in range(0, 3200, 160)])
    bank = mel_filter_bank(513, 64, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    expected = np.log(np.maximum(np.abs(np.fft.rfft(frames)) @ bank, 1e-5))
    found = mels.Levels.of(tmp_path).picture(torch.from_numpy(samples)[None])[0]
    assert np.abs(found.numpy() - expected).max() < 1e-2
    LEVELS.save(tmp_path)
    shipped = resolve("ckpt/tiny/audio")
    assert mels.Levels.of(tmp_path) == mels.Levels.of(shipped) == LEVELS


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_and_weights_by_prediction_type(prediction: str):
    schedule = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    clean, noise = torch.randn(2, len(STEPS), 4)
    alpha = schedule.alphas_cumprod[STEPS]
    snr = alpha / (1 - alpha)
    least = snr.clamp(max=5)
    weights = {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}
    found = denoising.min_snr_weights(schedule, STEPS, 5.0)
    torch.testing.assert_close(found, weights[prediction])
    signal, rest = alpha.sqrt()[:, None], (1 - alpha).sqrt()[:, None]
    velocity = signal * noise - rest * clean
    wanted = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction]
    torch.testing.assert_close(denoising.prediction_target(schedule, clean, noise, STEPS), wanted)


def test_weights_are_finite_where_only_noise_is_left_and_other_predictions_are_refused():
    schedule = DDPMScheduler(prediction_type="epsilon", rescale_betas_zero_snr=True)
    assert denoising.min_snr_weights(schedule, torch.tensor([999]), 5.0).item() == 1
    schedule = DDPMScheduler(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="'flow_prediction': the denoising term knows epsilon, "):
        denoising.prediction_target(
            schedule, torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([1])
        )


def test_the_published_decoders_have_their_noise_and_shapes(tmp_path: Path):
    full = Profile.load("nextgpt-7b")
    found = {}
    for kind, widths, channels, sampler in (
        ("image", [128, 256, 512, 512], 4, PNDMScheduler),
        ("audio", [128, 256, 512], 8, DDIMScheduler),
        ("video", [128, 256, 512, 512], 4, DDIMScheduler),
    ):
        config = full.decoders[kind].model_copy(update={"folder": str(tmp_path / kind)})
        settings = {
            "vae": {"block_out_channels": widths, "latent_channels": channels},
            "unet": {"sample_size": 64},
            "vocoder": {"upsample_rates": [5, 4, 2, 2, 2]},
        }
        for part, values in settings.items():
            (tmp_path / kind / part).mkdir(parents=True)
            (tmp_path / kind / part / "config.json").write_text(json.dumps(values))
        (tmp_path / kind / "model_index.json").write_text("{}")
        trained = sampler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        trained.save_pretrained(tmp_path / kind / "scheduler")
        schedule = denoising.noise_schedule(config)
        assert schedule.config.prediction_type == "epsilon"
        torch.testing.assert_close(schedule.alphas_cumprod, trained.alphas_cumprod)
        found[kind] = latent_shape(kind, config)
    assert found == {"image": (4, 64, 64), "audio": (8, 125, 16), "video": (4, 16, 40, 72)}


@pytest.mark.parametrize("kind", ["image", "video"])
def test_computing_activations_twice_changes_nothing(kind: str, denoised: Profile):
    config = denoised.decoders[kind]
    latents = torch.randn(1, *latent_shape(kind, config))
    found = []
    for twice in (False, True):
        conditions = torch.ones(1, *config.condition, requires_grad=True)
        denoiser = Denoiser({kind: config}, 0, CPU, checkpointing=twice)
        denoiser.begin(0)
        loss = denoiser.loss(kind, conditions, latents)
        loss.backward()
        found.append((loss.item(), conditions.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-7)


def test_the_gradient_reaches_projections_and_token_rows_and_nothing_frozen(
    denoised: Profile, data: Path
):
    model = AnyToAny.from_profile(denoised, seed=0)
    parts = trained_parts(model, denoised.stages[2])
    store = DatasetFeatures(denoised, data)
    rows = StageData(data, "train", "generation", model.messages, store, 0)
    _, batch = next(rows.batches(6, latents=True))
    denoiser = Denoiser(denoised.decoders, 0, CPU)
    denoiser.begin(0)
    names = set(model.state_dict())
    losses = model(batch, "l2", denoiser)
    kinds = set(batch.signals_at)
    assert set(losses) == {"text"} | kinds | {term(kind) for kind in kinds}
    sum(losses[term(kind)] for kind in kinds).backward()
    for kind in kinds:
        grads = [p.grad for p in model.output_projections[kind].parameters()]
        assert all(g is not None and g.isfinite().all() for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)
        first = model.vocabulary.signals[kind][0] - model.token_rows.first
        assert model.token_rows.input.grad[first].abs().sum() > 0
        unet = denoiser._parts(kind)[0]
        assert not any(p.requires_grad or p.grad is not None for p in unet.parameters())
    trained = {id(p) for part in parts.values() for p in part}
    assert all(p.grad is None for p in model.parameters() if id(p) not in trained)
    assert set(model.state_dict()) == names  # UNets are none of the model's own


def test_media_without_a_path_have_no_term(denoised: Profile, data: Path, model: AnyToAny):
    latents = {kind: torch.ones(latent_shape(kind, c)) for kind, c in denoised.decoders.items()}

    def asked(path: str | None) -> list[dict]:
        part = {"type": "image", "caption": "a bell"} | ({"image": path} if path else {})
        return [{"role": "user", "content": "Draw it."}, {"role": "assistant", "content": [part]}]

    def batch_of(paths: list[str | None], latent=lambda kind, path: latents[kind] * len(path)):
        encoded = [model.messages.encode(asked(path)) for path in paths]
        condition = denoised.decoders["image"].condition
        return collate(encoded, None, lambda *_: torch.zeros(condition), 1, latent=latent)

    batch = batch_of([None, "ab", None, "abc"])
    assert batch.latents_of["image"].tolist() == [1, 3] and len(batch.targets["image"]) == 4
    assert batch.latents["image"].flatten(1).mean(1).tolist() == [2, 3]
    denoiser = Denoiser(denoised.decoders, 0, CPU)
    without = batch_of([None, None])
    assert not without.latents and not batch_of(["ab"], latent=None).latents
    with torch.no_grad():
        assert set(model(without, "l2", denoiser)) == {"text", "image"}
    assert not any(map(denoiser.loaded, KINDS))


def curves(run: Path) -> list[dict]:
    """The logged losses of a run, without the times."""
    lines = map(json.loads, (run / runs.CURVES).read_text().splitlines())
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_a_stage_trained_with_the_term_logs_it_and_is_the_same_again_though_interrupted(
    denoised: Profile, data: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(trackers.Log, "every", 1)
    told = {"max_steps": 2, "seed": 3}
    first = train.train(denoised, 2, data, tmp_path / "first", **told)
    seen = {name for line in curves(first) for name in line if name.endswith("denoising")}
    assert seen and seen <= {term(kind) for kind in KINDS}
    assert set(runs.read_record(first)["validation"]) >= {*KINDS, *map(term, KINDS)}
    real = train.total_loss

    def checked(losses, stage):
        total = real(losses, stage)
        expected = losses["text"] + sum(losses[k] for k in KINDS if k in losses)
        expected += 0.5 * sum(losses[term(k)] for k in KINDS if term(k) in losses)
        assert float(total) == pytest.approx(float(expected))
        return total

    monkeypatch.setattr(train, "total_loss", checked)
    with pytest.raises(KeyboardInterrupt, match="step 1 of 2 is saved"):
        stop = {"on_log": lambda line: os.kill(os.getpid(), signal.SIGINT)}
        train.train(denoised, 2, data, tmp_path / "again", **told, **stop)
    again = train.train(denoised, 2, data, tmp_path / "again", resume=True, **told)
    assert curves(first) == curves(again)
    assert (first / runs.TENSORS).read_bytes() == (again / runs.TENSORS).read_bytes()


def test_without_the_term_no_decoder_is_loaded(
    profile: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    def refused(*arguments, **named):
        raise AssertionError("a decoder was loaded")

    for cls in (denoising.AutoModel,):
        monkeypatch.setattr(cls, "from_pretrained", refused)
    store = DatasetFeatures(profile, toy_data)
    assert not store.latents and not list(toy_data.glob("features/latents-*"))
    settings = profile.model_dump()
    settings["stages"][1]["batch_size"] = 2
    quick = Profile.parse(settings, "test")
    train.train(quick, 1, toy_data, tmp_path / "run", max_steps=1)


def test_latents_on_the_fly_are_the_cached_ones(
    denoised: Profile, toy_data: Path, data: Path, tmp_path: Path
):
    shutil.copytree(toy_data, tmp_path / "toy")
    live, cached = LiveFeatures(denoised, tmp_path / "toy"), DatasetFeatures(denoised, data)
    wanted = [(kind, path) for kind in KINDS for path, _ in shown(data, kind, 2)]
    live.ready([], [], wanted)
    for kind, path in wanted:
        assert np.abs(live.latent(kind, path) - cached.latent(kind, path)).max() < 5e-3
    assert not list((tmp_path / "toy").glob("features/latents-*"))


def test_what_has_no_such_term_or_no_latents_is_refused(
    denoised: Profile, toy_data: Path, data: Path
):
    image = denoised.decoders["image"].model_copy(update={"pipeline": "stable-diffusion-xl"})
    with pytest.raises(ValueError, match="stable-diffusion-xl has no denoising term"):
        latent_shape("image", image)
    with pytest.raises(ValueError, match="stable-diffusion-xl has no denoising term"):
        Denoiser({"image": image}, 0, CPU)
    store = DatasetFeatures(denoised, toy_data)
    (path, _), *_ = shown(toy_data, "image", 1)
    with pytest.raises(KeyError, match="run anytoany features"):
        store.latent("image", path)
    faster = denoised.decoders["video"].model_copy(update={"fps": 8})
    other = denoised.model_copy(update={"decoders": denoised.decoders | {"video": faster}})
    beside = DatasetFeatures(other, data)  # at another rate these are other frames
    (path, _), *_ = shown(data, "video", 1)
    assert beside.lacking_latents("video", [path]) == [path]
    assert beside.latents["video"].folder != DatasetFeatures(denoised, data).latents["video"].folder


def test_the_costs_have_the_latents(denoised: Profile, data: Path):
    costs = estimate_costs(denoised, data)
    latents = {row["cache"]: row for row in costs.caches if row["cache"].endswith("latents")}
    assert list(latents) == [f"{kind} latents" for kind in KINDS]
    assert latents["video latents"]["shape"] == "4 x 8 x 16 x 16"
    assert all(row["rows"] > 0 and row["lacking"] == 0 for row in latents.values())


def test_the_memory_plan_counts_the_unets():
    full = Profile.load("nextgpt-7b")
    settings = full.model_dump()
    settings["stages"][2]["denoising_weight"] = 1.0
    plan = planning.plan_memory(Profile.parse(settings, "test"))
    assert "denoising UNets" not in plan["stage 3"]
    assert plan["stage 2"].items() >= planning.plan_memory(full)["stage 2"].items()
    # Weights of the whole pipelines while they are not on disk, and what a clip's UNet keeps.
    assert plan["stage 2"]["denoising UNets"] == 2 * (1066 + 975 + 1830) * 10**6
    kept = plan["stage 2"]["denoising activations"]
    assert kept == 4 * 16 * 40 * 72 * 320 * 60 * 2
