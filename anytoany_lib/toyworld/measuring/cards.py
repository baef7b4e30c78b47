"""Model cards of the frozen tiny models: measured over all prompts, drawn as a sheet, written beside the weights.

    python -m anytoany_lib.toyworld.measuring.cards [ckpt/tiny] [--only image video]

Every folder gets `measured.json` (rates between 0 and 1), `sheet.png` and a README.md made from both and from
`training.json`, in which each training notes what it did. Prompts are all there are: every thing in every colour, with
every motion, or called every number of times, high and low; pairs that no training shows are counted apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AudioLDMPipeline, DiffusionPipeline
from PIL import Image

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.system.files import write_file, write_json
from anytoany_lib.toyworld.judges import Judges, load_judges
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.measuring import encoder_probes
from anytoany_lib.toyworld.measuring.decoder_checks import drawn, judged_reconstructions, verdicts
from anytoany_lib.toyworld.normalised_mels import normalised_mel
from anytoany_lib.toyworld.pictures import COLOURS, MOTIONS
from anytoany_lib.toyworld.scenes import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED, PITCHES
from anytoany_lib.toyworld.training import (
    audio_models,
    audio_training,
    image_training,
    video_training,
)
from anytoany_lib.toyworld.training.diffusion import NOTES

TITLES = {
    "encoder": "ImageBind for pictures, sounds, films and captions of the toy world",
    "image": "Stable Diffusion pipeline for 64 x 64 pictures of the toy world",
    "audio": "AudioLDM pipeline for two seconds of sound at 16 kHz",
    "video": "text-to-video pipeline for 8 frames of 64 x 64",
}
Measured = dict[str, dict[str, float]]


def picture_prompts() -> list[Scene]:
    """Every thing in every colour."""
    return [Scene(thing, colour) for thing, colour in product(THINGS, COLOURS)]


def sound_prompts() -> list[Scene]:
    """Every thing; those that call out once, twice and three times, high and low."""
    called = [
        Scene(thing, count=count, pitch=pitch)
        for thing, count, pitch in product(THINGS, (1, 2, 3), PITCHES)
        if thing in COUNTED
    ]
    return called + [Scene(thing) for thing in THINGS if thing not in COUNTED]


def film_prompts() -> list[Scene]:
    """Every thing with every motion, in colours that take turns and make no held-out pair of their own."""
    scenes = []
    for number, (thing, motion) in enumerate(product(THINGS, MOTIONS)):
        fit = [colour for colour in COLOURS if (thing, colour) not in HELD_OUT_PAIRS]
        scenes.append(Scene(thing, fit[number % len(fit)], motion=motion))
    return scenes


def _is_unseen(scene: Scene) -> bool:
    seen = (scene.thing, scene.motion) not in HELD_OUT_MOTIONS
    return not seen or (scene.thing, scene.colour) in HELD_OUT_PAIRS


def rates(judges: Judges, kind: str, made: Sequence[Any], scenes: Sequence[Scene]) -> Measured:
    """Right attributes among seen and among unseen pairs; "all" where every attribute is right."""
    asked = verdicts(judges, kind, made, scenes)
    unseen = np.array([_is_unseen(scene) for scene in scenes])
    table = {}
    for title, group in (("seen pairs", ~unseen), ("unseen pairs", unseen)):
        if group.any():
            found = {name: round(float(np.nanmean(row[group])), 4) for name, row in asked.items()}
            table[title] = {"n": int(group.sum())} | found
    return table


def _strip(film: Any) -> Image.Image:
    """The frames of a film (T, H, W, 3) side by side."""
    return Image.fromarray(np.concatenate(list(film), axis=1))


def measure_images(
    pipeline: DiffusionPipeline, judges: Judges, seed: int, **settings: Any
) -> tuple[Measured, Image.Image | None]:
    """(rates, sheet) of all pictures."""
    scenes = picture_prompts()
    made = drawn(pipeline, [caption("image", scene) for scene in scenes], seed, **settings)
    table = rates(judges, "image", made, scenes)
    table["autoencoder"] = judged_reconstructions(pipeline.vae, judges)
    return table, image_training.sheet(made, columns=len(COLOURS))


def measure_films(
    pipeline: DiffusionPipeline, judges: Judges, seed: int, **settings: Any
) -> tuple[Measured, Image.Image | None]:
    """(rates, sheet) of all films; the sheet shows each thing once, motions in turn."""
    scenes = film_prompts()
    made = drawn(pipeline, [caption("video", scene) for scene in scenes], seed, **settings)
    shown = [len(MOTIONS) * row + row % len(MOTIONS) for row in range(len(THINGS))]
    strips = [_strip(made[number]) for number in shown]
    return rates(judges, "video", made, scenes), image_training.sheet(strips, columns=1)


def measure_sounds(
    pipeline: AudioLDMPipeline, judges: Judges, seed: int, **settings: Any
) -> tuple[Measured, Image.Image | None]:
    """(rates, sheet) of all sounds; the sheet shows log-mels, time to the right."""
    scenes = sound_prompts()
    made = audio_training.generate_sounds(
        pipeline, [caption("audio", scene) for scene in scenes], seed, **settings
    )
    mels = normalised_mel(torch.from_numpy(made)).numpy()  # (N, frames, bands)
    grey = (255 * np.clip((mels - mels.min()) / np.ptp(mels), 0, 1)).astype(np.uint8)
    pictures = [np.repeat(mel.T[::-1, :, None], 3, axis=2) for mel in grey]
    return rates(judges, "audio", list(made), scenes), image_training.sheet(pictures, columns=6)


def measure_encoder(
    model: ImageBind, judges: Judges, seed: int
) -> tuple[Measured, Image.Image | None]:
    """(rates, no sheet): linear probes and the nearest caption."""
    found = encoder_probes.probe_rates(model)
    return {
        f"{title.replace('_', '-')}, {kind}": named
        for title, kinds in found.items()
        for kind, named in kinds.items()
    }, None


MEASURES: dict[str, tuple[Callable[[Path], Any], Callable]] = {
    "encoder": (ImageBind.from_checkpoint, measure_encoder),
    "image": (image_training.load_image_pipeline, measure_images),
    "audio": (audio_models.load_pipeline, measure_sounds),
    "video": (video_training.load_video_pipeline, measure_films),
}


def card(name: str, measured: Measured, trainings: Sequence[dict[str, Any]], size: int) -> str:
    """The README of a model folder."""
    lines = [f"# Tiny {name}", "", f"{TITLES[name]}, {size / 1e6:.1f} MB in fp16.", ""]
    if (name != "encoder") and measured:
        lines += ["![what it makes of all prompts](sheet.png)", ""]
    by = "judges that were trained apart"
    if name == "encoder":
        by = "linear probes, and by which caption lies nearest"
    lines += ["## Measured", "", f"In %, by {by}.", ""]
    for title, found in measured.items():
        said = [
            f"{key} {value:.1f}" if key == "psnr" else f"{key} {100 * value:.1f}"
            for key, value in found.items()
            if key != "n"
        ]
        count = f" ({found['n']} prompts)" if "n" in found else ""
        lines.append(f"- {title}{count}: {', '.join(said)}")
    lines += ["", "## Trained", "", "On scenes drawn from a seed; nothing was downloaded.", ""]
    lines += [f"- {', '.join(f'{key} {value}' for key, value in t.items())}" for t in trainings]
    return "\n".join(lines) + "\n"


def write_card(folder: Path, judges: Judges, seed: int = 0, **settings: Any) -> Measured:
    """Measures the model in a folder and writes its card; returns what was measured."""
    load, measure = MEASURES[folder.name]
    measured, sheet = measure(load(folder), judges, seed, **settings)
    write_json(folder / "measured.json", measured)
    if sheet is not None:
        sheet.save(folder / "sheet.png", optimize=True)
    note = folder / NOTES
    trainings = json.loads(note.read_text()) if note.is_file() else []
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    write_file(folder / "README.md", card(folder.name, measured, trainings, size))
    return measured


def main() -> None:
    """Command line: measure models and write their cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path("ckpt/tiny"))
    parser.add_argument("--only", nargs="*", choices=tuple(MEASURES), default=tuple(MEASURES))
    parser.add_argument("--steps", type=int, help="diffusion steps (default: a training's own)")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judges = load_judges(options.root / "judges")
    for name in options.only:
        steps = "inference_steps" if name == "audio" else "steps"
        settings = {steps: options.steps, "guidance": options.guidance}
        chosen = {k: v for k, v in settings.items() if v is not None and name != "encoder"}
        print(json.dumps({name: write_card(options.root / name, judges, options.seed, **chosen)}))


if __name__ == "__main__":
    main()
