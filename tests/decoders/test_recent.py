"""Decoders of 2025 and 2026 on small replicas: the medium of a caption's condition is the bare pipeline's, told the caption."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recent_layouts
import torch
from diffusers import AnimateDiffPipeline, EulerDiscreteScheduler, MotionAdapter
from safetensors.torch import load_file

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders.adapters import ADAPTERS, CaptionEncoder
from anytoany_lib.decoders.pipelines import Decoder

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
    assert decoder.pipeline.text_encoder is None
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
