"""Decoders of 2025 and 2026 on small replicas: the medium of a caption's condition is the bare pipeline's, told the caption."""

from __future__ import annotations

import gc
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import old_layouts
import pytest
import recent_layouts
import torch
from diffusers import (
    AnimateDiffPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from anytoany_lib.checkpoints import fetching
from anytoany_lib.config import AddedWeights, DecoderConfig, Profile
from anytoany_lib.decoders import footprints, protocol, text_encoders
from anytoany_lib.decoders.adapters import ADAPTERS, CaptionEncoder
from anytoany_lib.decoders.denoising import Denoiser, FlowMatching, LatentEncoder, latent_shape
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.media import media_files

CPU = torch.device("cpu")
CAPTIONS = ["a red bell rings", "A  blue boat, moving left &amp; on"]
SEEDS = [3, 4]
needs_torchsde = pytest.mark.skipif(
    importlib.util.find_spec("torchsde") is None, reason="Stable Audio's scheduler needs torchsde"
)
KINDS = {
    "wan": "video",
    "stable_audio": "audio",
    "sana_sprint": "image",
    "animatediff": "video",
}
EACH = [pytest.param(n, marks=needs_torchsde if n == "stable_audio" else ()) for n in KINDS]


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DecoderConfig]:
    """A replica by its name, written when it is first asked for."""
    made: dict[str, DecoderConfig] = {}

    def of(name: str) -> DecoderConfig:
        if name not in made:
            made[name] = getattr(recent_layouts, name)(tmp_path_factory.mktemp(name))
        return made[name]

    return of


def bare(config: DecoderConfig) -> Any:
    """The pipeline as its publisher loads it."""
    cls = ADAPTERS[config.pipeline].pipeline
    if cls is not AnimateDiffPipeline:
        return cls.from_pretrained(config.folder)
    file = Path(config.added.file)
    motion = MotionAdapter.from_config(MotionAdapter.load_config(file.parent))
    motion.load_state_dict(load_file(file))
    pipeline = cls.from_pretrained(config.folder, motion_adapter=motion)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", beta_schedule="linear"
    )
    return pipeline


def drawn(pipeline: Any, config: DecoderConfig, **more: Any) -> list[np.ndarray]:
    """What the bare pipeline makes of the captions themselves."""
    made = pipeline(
        CAPTIONS,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        output_type="np",
        **config.options,
        **more,
    )
    return list(np.asarray(made[0]))


@pytest.mark.parametrize("name", EACH)
def test_a_condition_makes_what_the_bare_pipeline_makes_of_the_caption(name: str, replica):
    config, kind = replica(name), KINDS[name]
    decoder = Decoder(config, CPU)
    made = decoder.generate(CaptionEncoder(config, CPU)(CAPTIONS), SEEDS)
    pipeline = bare(config)
    assert decoder.pipeline.text_encoder is None  # it would only take room
    assert getattr(decoder.pipeline, "motion_adapter", None) is None  # it is in the UNet
    for medium, floats in zip(made, drawn(pipeline, config), strict=True):
        if kind == "audio":
            assert medium["sampling_rate"] == 44100 and medium["audio"].std() > 0
            middle = slice(882, -882)  # between the fades
            np.testing.assert_allclose(
                medium["audio"][middle], np.clip(floats.mean(0), -1, 1)[middle], atol=1e-4
            )
            continue
        found, expected = np.asarray(medium[kind], float), floats * 255
        assert found.std() > 0 and np.abs(found - expected).max() <= 1.01


@pytest.mark.parametrize("name", EACH)
def test_steps_are_counted_and_lengths_are_those_that_are_wished(name: str, replica):
    config, kind = replica(name), KINDS[name]
    decoder, told = Decoder(config, CPU), CaptionEncoder(config, CPU)(CAPTIONS[:1])
    seen: list[tuple[int, int, Any]] = []
    how = {"frames": 1 if name == "wan" else 3, "seconds": 0.02, "preview_every": 1}
    (made,) = decoder.generate(told, [0], 3, None, lambda *at: seen.append(at), **how)
    assert seen == [(1, 3, None), (2, 3, None), (3, 3, None)]
    if kind != "image":
        assert len(made[kind]) == (882 if kind == "audio" else how["frames"])
    fewer, more = (decoder.working_bytes(media) for media in (1, 3))
    assert 0 < fewer < more <= 3 * fewer


def passes(decoder: Decoder, guidance: float, media: int = 1) -> list[int]:
    """How many latents the network of a decoder saw in each of its calls, for so many media."""
    seen: list[int] = []
    network = getattr(decoder.pipeline, decoder._adapter.network)

    def noted(module: Any, given: tuple, named: dict) -> None:
        seen.append(len(given[0] if given else named["hidden_states"]))

    hook = network.register_forward_pre_hook(noted, with_kwargs=True)
    try:
        told = torch.randn(media, *decoder.config.condition)
        decoder.generate(told, list(range(media)), 2, guidance)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("name", "guided"), [("wan", [1, 1, 1, 1]), ("sana_sprint", [1, 1]), ("animatediff", [2, 2])]
)
def test_guidance_of_one_is_no_pass_without_the_caption(name: str, guided: list[int], replica):
    decoder = Decoder(replica(name), CPU)
    assert passes(decoder, 1.0) == [1, 1] and decoder._unconditional is None
    assert passes(decoder, 3.0) == guided
    assert (decoder._unconditional is not None) == (len(guided) + max(guided) > 3)


@pytest.mark.parametrize("name", ["wan", "sana_sprint", "animatediff"])
def test_small_media_are_decoded_together_and_large_ones_one_after_the_other(
    name: str, replica, monkeypatch: pytest.MonkeyPatch
):
    config, kind = replica(name), KINDS[name]
    decoder, told = Decoder(config, CPU), CaptionEncoder(config, CPU)(CAPTIONS)
    seen: list[int] = []
    decoder.pipeline.vae.decoder.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]))
    )
    together, taken = decoder.generate(told, SEEDS), decoder.working_bytes(2)
    pieces = 2 * config.options["num_frames"] if name == "animatediff" else 2
    assert set(seen) == {pieces}
    seen.clear()
    monkeypatch.setattr(footprints, "_TOGETHER", 0)
    apart = decoder.generate(told, SEEDS)
    assert set(seen) == {1} and decoder.working_bytes(2) <= taken
    for one, other in zip(together, apart, strict=True):
        assert np.abs(np.asarray(one[kind], float) - np.asarray(other[kind], float)).max() <= 1


class Operations(TorchDispatchMode):
    """Counts what torch is asked to compute: of small networks that is the time, whatever else the machine does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", EACH)
def test_two_media_take_no_more_operations_than_of_the_bare_pipeline(
    name: str, replica, monkeypatch: pytest.MonkeyPatch
):
    config = replica(name)
    decoder, adapter = Decoder(config, CPU), ADAPTERS[config.pipeline]
    conditions = CaptionEncoder(config, CPU)(CAPTIONS)
    decoder.generate(conditions, SEEDS, 2)  # which reads the empty caption
    with torch.inference_mode():
        told = decoder._conditions(conditions, config.guidance > 1)
        decoder.pipeline.vae.disable_slicing()
        with Operations() as bare_ones:
            decoder.pipeline(
                **told,
                **adapter.steps(config.steps),
                guidance_scale=config.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
                output_type="np",
                **config.options,
            )
    with Operations() as ours:
        decoder.generate(conditions, SEEDS)
    monkeypatch.setattr(footprints, "_TOGETHER", 0)
    with Operations() as apart:
        decoder.generate(conditions, SEEDS)
    assert ours.count <= 1.05 * bare_ones.count < apart.count


def test_what_is_decoded_together_is_counted_together():
    rule = footprints.Footprint((4, 8), (4, 64), 10, 2**20, 5, pieces=4)
    assert [rule.sliced(media) for media in (1, 16, 17)] == [False, False, True]
    assert [rule.of(media) for media in (1, 16, 17)] == [2**22 + 5, 2**26 + 80, 2**20 + 85]
    assert footprints.Footprint((8,), (64,), 2**30, 2**20, 5).of(2) == 2**31


# --- where captions end ---


@pytest.mark.parametrize("name", ["wan", "sana_sprint"])
def test_a_condition_ends_with_its_caption(name: str, replica):
    config = replica(name)
    long, short = CaptionEncoder(config, CPU)([CAPTIONS[1], "red"])
    apart = CaptionEncoder(config, CPU)(["red"])[0]
    torch.testing.assert_close(apart, short, atol=1e-5, rtol=1e-4)
    words = [int((one != 0).any(-1).sum()) for one in (long, short)]
    assert words[1] < words[0] < config.condition[0]
    both = torch.stack([long, short])
    assert protocol.counted(both).sum(1).tolist() == words
    read = protocol.as_read(config, both)
    assert read.shape[1] == config.padded_to and torch.equal(read[:, : both.shape[1]], both)
    assert not read[:, both.shape[1] :].any()
    # A projection misses every number a little: the ends are where they were, and what is behind is nothing again.
    blurred = both + 0.1 * both.std() * torch.randn(
        both.shape, generator=torch.Generator().manual_seed(0)
    )
    assert protocol.counted(blurred).sum(1).tolist() == words
    assert not protocol.as_read(config, blurred)[1, words[1] :].any()


def test_a_caption_that_is_longer_than_the_condition_is_cut(replica):
    config = replica("wan").model_copy(update={"condition": (4, recent_layouts.WIDTH)})
    told = CaptionEncoder(config, CPU)([CAPTIONS[0]])
    assert told.shape == (1, 4, recent_layouts.WIDTH) and (told != 0).any(-1).all()


WRONG = {
    "padded_to: 8 positions are fewer than the 32": ("wan", {"padded_to": 8}),
    "padded_to: every position": ("animatediff", {"padded_to": 99}),
    "condition: wan reads .positions, width.": ("wan", {"condition": (32,), "padded_to": None}),
    "animatediff: give `added:": ("animatediff", {"added": None}),
    "added: a wan pipeline takes no weights": ("wan", {"added": {"file": "x"}}),
    "scheduler: give its `class`": ("wan", {"scheduler": {"flow_shift": 5.0}}),
    "edit_strength: wan begins with noise": ("wan", {"edit_strength": 0.5}),
    "guidance": ("animatediff", {"guidance": 0.0}),
}


@pytest.mark.parametrize("message", WRONG)
def test_settings_that_do_not_go_together_are_refused(message: str, replica):
    name, changes = WRONG[message]
    with pytest.raises(ValueError, match=message):
        DecoderConfig.model_validate(replica(name).model_dump() | changes)


def test_a_distance_that_leaves_lengths_free_is_refused(profile: Profile, replica):
    settings = profile.model_dump()
    settings["decoders"]["video"] = replica("wan").model_dump()
    assert Profile.parse(settings, "test").decoders["video"].padded_to == 512
    settings["stages"][2]["alignment"] = "cosine"
    with pytest.raises(ValueError, match="stages.2.alignment: cosine leaves lengths free.*video"):
        Profile.parse(settings, "test")


# --- few steps with a Stable Diffusion ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DecoderConfig:
    return old_layouts.stable_diffusion(tmp_path_factory.mktemp("pictures"))


FEW = {
    "LCM": {"class": "LCMScheduler"},
    "trailing DDIM, as Hyper-SD": {"class": "DDIMScheduler", "timestep_spacing": "trailing"},
    "TCD": {"class": "TCDScheduler"},
}


@pytest.mark.parametrize("name", FEW)
def test_a_scheduler_for_few_steps_makes_what_the_pipeline_makes_with_it(
    name: str, pictures: DecoderConfig
):
    few = pictures.model_copy(update={"scheduler": FEW[name], "steps": 4, "guidance": 1.0})
    made = Decoder(few, CPU).generate(CaptionEncoder(few, CPU)(CAPTIONS), SEEDS)
    pipeline = StableDiffusionPipeline.from_pretrained(pictures.folder, safety_checker=None)
    settings = {key: value for key, value in FEW[name].items() if key != "class"}
    cls = getattr(diffusers, FEW[name]["class"])
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **settings)
    for medium, floats in zip(made, drawn(pipeline, few), strict=True):
        assert np.abs(np.asarray(medium["image"], float) - floats * 255).max() <= 1.01


def test_matrices_for_few_steps_are_added_to_the_unet(pictures: DecoderConfig, tmp_path: Path):
    bare = StableDiffusionPipeline.from_pretrained(pictures.folder, safety_checker=None)
    bare.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(bare.unet))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    few = pictures.model_copy(update={"added": AddedWeights(file=str(file)), "guidance": 1.0})
    decoder, told = Decoder(few, CPU), CaptionEncoder(few, CPU)(CAPTIONS)
    assert not any("lora" in name for name, _ in decoder.pipeline.unet.named_parameters())
    for medium, floats in zip(decoder.generate(told, SEEDS), drawn(bare, few), strict=True):
        assert np.abs(np.asarray(medium["image"], float) - floats * 255).max() <= 1.01
    plain = Decoder(pictures.model_copy(update={"guidance": 1.0}), CPU).generate(told, SEEDS)
    other = np.asarray(plain[0]["image"], float) - np.asarray(medium["image"], float)
    assert np.abs(other).max() > 2
    save_file({f"text_encoder.{k}": v for k, v in state.items()}, file)
    with pytest.raises(ValueError, match="of the UNet alone, found some of text_encoder"):
        Decoder(few, CPU)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no LoRA matrices in .*take `added` out"):
        Decoder(few, CPU)


def test_a_scheduler_that_is_none_is_refused(pictures: DecoderConfig):
    for settings, message in (
        ({"class": "LCM"}, "diffusers has no LCM"),
        ({"class": "LCMScheduler", "shift": 3.0}, "LCMScheduler has no shift: it knows .*beta_end"),
    ):
        with pytest.raises(ValueError, match=message):
            Decoder(pictures.model_copy(update={"scheduler": settings}), CPU)


def test_weights_beside_a_pipeline_are_missed_and_looked_at(
    profile: Profile, replica, tmp_path: Path
):
    clips = replica("animatediff")

    def added(file: Path) -> Profile:
        settings = {"added": AddedWeights(file=str(file))}
        decoders = {"video": clips.model_copy(update=settings)}
        return profile.model_copy(update={"decoders": decoders})

    whole, cut = Path(clips.added.file), tmp_path / "cut.safetensors"
    assert "video added" not in fetching.missing_models(added(whole))
    assert fetching.missing_models(added(cut)) == {"video added": str(cut)}
    with pytest.raises(FileNotFoundError, match="its video added is not in .*put it there"):
        fetching.fetch(added(cut))
    cut.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cut.safetensors: expected .* bytes, found"):
        fetching.verify_models(added(cut))


# --- one text encoder in a process ---


def test_pipeline_and_caption_encoder_share_weights_whichever_comes_first(pictures: DecoderConfig):
    decoder = Decoder(pictures, CPU)
    own = decoder.pipeline.text_encoder
    assert CaptionEncoder(pictures, CPU).text_encoders["text_encoder"] is own
    assert CaptionEncoder(pictures, CPU, torch.bfloat16).text_encoders["text_encoder"] is not own
    del decoder, own
    gc.collect()
    assert not [key for key in text_encoders._LOADED if pictures.folder in str(key)]
    reader = CaptionEncoder(pictures, CPU)
    assert Decoder(pictures, CPU).pipeline.text_encoder is reader.text_encoders["text_encoder"]


def test_files_that_changed_are_read_again(pictures: DecoderConfig, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(pictures.folder, folder)
    config = pictures.model_copy(update={"folder": str(folder)})
    first = CaptionEncoder(config, CPU)
    file = folder / "text_encoder" / "pytorch_model.bin"
    state = {k: v + 1 if v.is_floating_point() else v for k, v in torch.load(file).items()}
    torch.save(state, tmp_path / "new.bin")
    (tmp_path / "new.bin").replace(file)  # the old one is mapped while it is held
    second = CaptionEncoder(config, CPU)
    assert first.text_encoders["text_encoder"] is not second.text_encoders["text_encoder"]
    assert not torch.equal(first(["red"]), second(["red"]))


# --- flow matching ---


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_shifted_times_and_noise_are_those_of_the_scheduler(shift: float):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = FlowMatching(shift, 1000, 1000)
    steps = torch.arange(1000)
    torch.testing.assert_close(schedule.times(steps), scheduler.sigmas.flip(0))
    clean, noise = torch.randn(2, 1000, 3, 2)
    expected = scheduler.scale_noise(clean, scheduler.timesteps.flip(0), noise)
    torch.testing.assert_close(schedule.add_noise(clean, noise, steps), expected)


@pytest.mark.parametrize("name", ["wan", "sana_sprint"])
def test_the_flow_error_is_that_of_the_bare_transformer(name: str, replica):
    config, kind = replica(name), KINDS[name]
    conditions = CaptionEncoder(config, CPU)(CAPTIONS)
    latents, noise = torch.randn(2, 2, *latent_shape(kind, config))
    steps = torch.tensor([150, 700])
    denoiser = Denoiser({kind: config}, 0, CPU)
    found = denoiser.errors(kind, conditions, latents, steps, noise)
    transformer = bare(config).transformer
    for n, step in enumerate(steps.tolist()):
        u = (step + 1) / 1000
        s = 3 * u / (1 + 2 * u) if name == "wan" else u
        noisy = (1 - s) * latents[n : n + 1] + s * noise[n : n + 1]
        told = protocol.as_read(config, conditions[n : n + 1])
        how: dict[str, Any] = {"timestep": torch.tensor([1000 * s])}
        if name == "sana_sprint":
            mask = (told != 0).any(-1).long()
            how = {"timestep": torch.tensor([s]), "encoder_attention_mask": mask}
            how |= {"guidance": torch.tensor([0.45])}
        with torch.no_grad():
            flow = transformer(noisy, encoder_hidden_states=told, **how).sample[0]
        error = (flow - (noise[n] - latents[n])).square().mean()
        assert found[n].item() == pytest.approx(error.item(), rel=1e-4)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", ["wan", "sana_sprint"])
def test_the_flow_gradient_reaches_the_words_of_a_condition(name: str, twice: bool, replica):
    config, kind = replica(name), KINDS[name]
    told = CaptionEncoder(config, CPU)(CAPTIONS[:1]).requires_grad_()
    words = int((told != 0).any(-1).sum())
    denoiser = Denoiser({kind: config}, 0, CPU, checkpointing=twice)
    latents = torch.randn(
        1, *latent_shape(kind, config), generator=torch.Generator().manual_seed(0)
    )
    denoiser.begin(3)
    loss = denoiser.loss(kind, told, latents)
    loss.backward()
    reached = told.grad[0].abs().sum(-1)
    assert (reached[:words] > 0).all() and not reached[words:].any()
    # Against the difference that a small step along the gradient makes.
    step = 0.3 * told.grad / told.grad.norm()
    with torch.no_grad():
        losses = []
        for sign in (1, -1):
            denoiser.begin(3)
            losses.append(denoiser.loss(kind, told + sign * step, latents).item())
    slope = (losses[0] - losses[1]) / (2 * step.norm().item())
    assert slope == pytest.approx(told.grad.norm().item(), rel=0.05)
    network = denoiser._parts(kind)[0]
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", ["wan", "sana_sprint"])
def test_latents_are_as_the_pipeline_decodes_them(name: str, replica, tmp_path: Path):
    config, kind = replica(name), KINDS[name]
    encoder = LatentEncoder(kind, config, CPU)
    size = (5, 32, 32, 3) if kind == "video" else (64, 64, 3)
    seen = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    medium = seen if kind == "video" else media_files.Image.fromarray(seen)
    suffix = ".mp4" if kind == "video" else ".png"
    prepared = encoder.prepared(
        media_files.save(kind, tmp_path / f"medium{suffix}", medium, fps=16)
    )
    latents = encoder([prepared])
    assert latents.shape[1:] == latent_shape(kind, config)
    vae, pixels = bare(config).vae, prepared.float()[None] / 127.5 - 1
    with torch.no_grad():
        if kind == "image":
            expected = vae.encode(pixels).latent * 0.41407
        else:
            raw = vae.encode(pixels.transpose(1, 2)).latent_dist.mode()
            mean, spread = (
                torch.tensor(v).view(1, 16, 1, 1, 1)
                for v in (vae.config.latents_mean, vae.config.latents_std)
            )
            expected = (raw - mean) / spread
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["stable_audio", "animatediff"])
def test_what_has_no_denoising_term_says_so(name: str, replica):
    if name == "stable_audio":
        pytest.importorskip("torchsde")
    with pytest.raises(ValueError, match="has no denoising term: .*denoising_weight: 0"):
        Denoiser({"video": replica(name)}, 0, CPU)
