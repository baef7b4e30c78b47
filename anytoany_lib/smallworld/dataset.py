"""Writes the small world as a dataset: media files, and manifests for every split, as all datasets of the kit are.

    python -m anytoany_lib.smallworld.dataset OUT [--packages FOLDER --media N --conversations N --seed S]

Training rows are captioned media (stages 1 and 2) and conversations about them (stage 3). A quarter of the test rows shows pairs
that no training row does. `report.json` says what came, `LICENCES.md` whose work it is.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib.config import resolve
from anytoany_lib.data.building import check_target
from anytoany_lib.data.drawn_worlds import SceneFiles, generator
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import Row
from anytoany_lib.smallworld import packages
from anytoany_lib.smallworld.assets import World
from anytoany_lib.smallworld.conversations import TASKS, talk
from anytoany_lib.smallworld.language import caption
from anytoany_lib.smallworld.pictures import CLIP_PIXELS, FPS, FRAMES, PIXELS, clip, picture
from anytoany_lib.smallworld.scenes import Scene, random_scene
from anytoany_lib.smallworld.sounds import RATE, SECONDS, sound
from anytoany_lib.system.files import appearing_whole

SOURCE, FOLDER = "smallworld", "data/small-packages"
_KIND_SHARES = {"image": 0.45, "audio": 0.2, "video": 0.35}
_UNSEEN_SHARE = 0.25
_NOTHING_UNSEEN = ("audio->image", "audio->video")  # what is shown there has no held-out pair
_MEASURES = {"image": (PIXELS, 0.0), "audio": (0, SECONDS), "video": (CLIP_PIXELS, FRAMES / FPS)}


def render(world: World, kind: str, scene: Scene, rng: np.random.Generator) -> Any:
    """A scene as `media_files.save` takes it: a picture, (samples, rate), or (frames, rate)."""
    if kind == "image":
        return picture(world, scene, rng)
    if kind == "audio":
        return sound(world.instruments, scene.thing, scene.pitch, scene.count or 1), RATE
    return clip(world, scene, rng), FPS


def conversation_rows(files: SceneFiles, count: int) -> list[Row]:
    """Conversations of all directions, in turn."""
    rows = []
    for number in tqdm(range(count), desc=f"{files.split} conversations"):
        task = TASKS[number % len(TASKS)]
        messages = files.stored(talk(task, files.rng).messages)
        rows.append(Row(f"{files.split}-talk-{number}", SOURCE, messages, {"task": task}))
    return rows


def test_rows(files: SceneFiles, per_task: int) -> list[Row]:
    """`per_task` requests of every direction without their replies, a quarter of them about held-out pairs where there are any."""
    rows = []
    for task in tqdm(TASKS, desc="test conversations"):
        for number in range(per_task):
            unseen = number < round(per_task * _UNSEEN_SHARE) and task not in _NOTHING_UNSEEN
            one = talk(task, files.rng, unseen)
            messages = files.stored(one.messages[:-1])
            meta = {"task": task, "expect": one.expect, "unseen": unseen}
            rows.append(Row(f"test-{task}-{number}", SOURCE, messages, meta))
    return rows


def write(
    out: Path,
    world: World,
    media_count: int = 4000,
    conversations: int = 4000,
    per_task: int = 12,
    seed: int = 0,
) -> dict[str, int]:
    """Writes the dataset into a folder (whole or not at all); returns the rows of each split."""
    check_target(Path(out), overwrite=True)
    report = Report()
    with appearing_whole(Path(out)) as folder:

        def files_of(split: str) -> SceneFiles[Scene]:
            rng = generator(seed, split)
            return SceneFiles(folder, split, rng, partial(render, world), _MEASURES)

        for split, media, talks in (
            ("train", media_count, conversations),
            ("validation", media_count // 12, conversations // 25),
        ):
            files = files_of(split)
            varied = partial(caption, rng=files.rng)
            rows = files.captioned_rows(SOURCE, media, _KIND_SHARES, random_scene, varied)
            files.write(rows + conversation_rows(files, talks), report)
        files = files_of("test")
        files.write(test_rows(files, per_task), report)
        report.save(folder / "report.json")
        for name in (packages.LICENCES, packages.MANIFEST):
            shutil.copyfile(world.folder / name, folder / f"packages-{name}")
    return report.splits


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fetch the packages unless they are there, and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, default=resolve(FOLDER), help="870 MB to fetch")
    parser.add_argument("--media", type=int, default=4000)
    parser.add_argument("--conversations", type=int, default=4000)
    parser.add_argument("--per-task", type=int, default=12, help="test rows of each direction")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    world = World(packages.fetch(options.packages))
    counts = (options.media, options.conversations, options.per_task)
    print(write(options.out, world, *counts, options.seed))


if __name__ == "__main__":
    main()
