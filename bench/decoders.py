"""What a decoder's call takes beside the bare pipeline's, on small replicas of the recent decoders, for one and for two media.

    python bench/decoders.py [--rounds 15]

Both are given the same conditions, seeds and steps. What counts is the processor time of one thread, the least of the rounds in turns:
so it can be measured beside other programs. A replica's kernels are so small that their launch is most of it, which is the worst case for
what the kit does around them; how much slower an autoencoder is at one picture after the other is therefore measured at Stable Diffusion's
own widths too, with random weights. Results go to bench/results/decoders-MACHINE.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from record import keep, machine, verdicts

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders.adapters import ADAPTERS, CaptionEncoder
from anytoany_lib.decoders.pipelines import Decoder

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import recent_layouts

REPLICAS = ("animatediff", "wan", "stable_audio", "sana_sprint")
CAPTIONS = ("a red bell rings", "a blue boat, moving left")
CPU = torch.device("cpu")
AT_MOST = {f"{name} {media}: ratio": 1.05 for name in REPLICAS for media in (1, 2)}
_WIDTHS, _LATENTS = (
    (128, 256, 512, 512),
    32,
)  # of Stable Diffusion's autoencoder; pictures of 256 x 256


def least(*works: Callable[[], object], rounds: int) -> list[float]:
    """The least processor seconds of each work, in turns, a first round left out."""
    times: list[list[float]] = []
    for _ in range(rounds + 1):
        times.append([])
        for work in works:
            started = time.thread_time()
            work()
            times[-1].append(time.thread_time() - started)
    return [min(column) for column in zip(*times[1:], strict=True)]


def beside_the_bare(config: DecoderConfig, media: int, rounds: int) -> dict[str, float]:
    """Seconds of so many media by the kit, by its pipeline itself, and their ratio."""
    decoder, adapter = Decoder(config, CPU), ADAPTERS[config.pipeline]
    conditions = CaptionEncoder(config, CPU)(CAPTIONS[:media])
    seeds, pipeline = range(media), decoder.pipeline
    told = decoder._conditions(conditions, config.guidance > 1)

    @torch.inference_mode()
    def bare() -> None:
        pipeline.vae.disable_slicing()
        pipeline(
            **told,
            **adapter.steps(config.steps),
            guidance_scale=config.guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            **config.options,
        )

    ours, theirs = least(lambda: decoder.generate(conditions, seeds), bare, rounds=rounds)
    return {"kit": ours, "bare": theirs, "ratio": ours / theirs}


@torch.inference_mode()
def one_after_the_other(rounds: int) -> dict[str, float]:
    """Seconds of two pictures through Stable Diffusion's autoencoder, one after the other and together, and their ratio."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip
    vae = AutoencoderKL(block_out_channels=_WIDTHS, layers_per_block=2, **blocks).eval()
    latents = torch.randn(2, 4, _LATENTS, _LATENTS)

    def sliced() -> None:
        vae.enable_slicing()
        vae.decode(latents)

    def together() -> None:
        vae.disable_slicing()
        vae.decode(latents)

    apart, both = least(sliced, together, rounds=rounds)
    return {"one after the other": apart, "together": both, "ratio": apart / both}


def measure(rounds: int, names: tuple[str, ...] = REPLICAS) -> dict[str, Any]:
    """All of it, by the name of the replica and the number of media."""
    result: dict[str, Any] = {"machine": machine(), "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            config = getattr(recent_layouts, name)(Path(scratch) / name)
            for media in (1, 2):
                result[f"{name} {media}"] = beside_the_bare(config, media, rounds)
    result["autoencoder of full width"] = one_after_the_other(max(1, rounds // 5))
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    torch.set_num_threads(1)
    result = measure(parser.parse_args().rounds)
    keep(result, "decoders")
    for name, line in verdicts(result, AT_MOST, {}).items():
        print(f"{name} {line}")


if __name__ == "__main__":
    main()
