"""Pictures and clips of the small world: things in a hue, at a place and in a size, one or several, on a ground.

A hue replaces a thing's own colours and keeps their light and shade. Sizes and places are parts of a picture's side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from anytoany_lib.smallworld.assets import LOOP_FRAMES, World
from anytoany_lib.smallworld.scenes import HUES, PLACES, SIZES, Scene

PIXELS, CLIP_PIXELS = 128, 96
FRAMES, FPS = LOOP_FRAMES, 8
_FULL, _STARS = 255, 60
_PLAIN = {"white": (250, 250, 250), "black": (24, 24, 28)}
# Colours of grounds from top to bottom, and where the lower one begins: 1 is at the bottom edge.
_FADING = {
    "sky": ((90, 160, 235), (205, 230, 250), 1.0),
    "sand": ((188, 222, 242), (232, 205, 150), 0.6),
    "grass": ((176, 214, 245), (96, 168, 72), 0.55),
    "night": ((10, 14, 48), (38, 44, 100), 1.0),
}
_ROWS = {2: ((0.3, 0.5), (0.7, 0.5)), 3: ((0.28, 0.3), (0.72, 0.3), (0.5, 0.72))}
_SEVERAL = 0.36  # of the side: each of two or three


def tinted(thing: Image.Image, hue: str | None) -> Image.Image:
    """A thing (RGBA) in a hue; in its own colours where that is None."""
    if hue is None:
        return thing
    _, saturation, value = (
        np.asarray(band, np.float32) for band in thing.convert("RGB").convert("HSV").split()
    )
    # Grey and white parts take the colour too, dark ones keep being dark.
    saturation = 0.55 * _FULL + 0.45 * saturation
    lift = 0.35 * np.clip((value / _FULL - 0.2) / 0.3, 0, 1)
    value += (lift * (_FULL - value)).astype(np.float32)
    degrees = np.full(value.shape, HUES[hue] / 360 * _FULL, np.float32)
    bands = np.stack([degrees, saturation, value], -1).round().clip(0, _FULL).astype(np.uint8)
    coloured = Image.fromarray(bands, "HSV").convert("RGB")
    coloured.putalpha(thing.getchannel("A"))
    return coloured


def ground(name: str | None, side: int, rng: np.random.Generator) -> Image.Image:
    """A ground as RGB of side x side pixels; where the name is None, a plain light one of some tone."""
    if name is None:
        tone = rng.integers(214, 246, size=3)
        return Image.new("RGB", (side, side), tuple(int(one) for one in tone))
    if name in _PLAIN:
        return Image.new("RGB", (side, side), _PLAIN[name])
    above, below, edge = _FADING[name]
    down = np.linspace(0, 1, side)[:, None, None]
    mix = down if edge == 1.0 else (down > edge).astype(float)
    pixels = np.array(above) * (1 - mix) + np.array(below) * mix
    pixels = np.broadcast_to(pixels, (side, side, 3)).copy()
    if name == "night":
        stars = rng.integers(side, size=(_STARS * side // PIXELS, 2))
        pixels[stars[:, 0], stars[:, 1]] = rng.uniform(150, 250, (len(stars), 1))
    return Image.fromarray(pixels.round().astype(np.uint8))


def _put(
    canvas: Image.Image, thing: Image.Image, hue: str | None, pose: tuple[float, float, float]
) -> None:
    """Pastes a thing in a hue by its pose, (x, y, size): its middle and its longer side in parts of the canvas's side."""
    (x, y, size), side = pose, canvas.width
    scale = size * side / max(thing.size)
    width, height = (max(1, round(length * scale)) for length in thing.size)
    small = tinted(thing.resize((width, height), Image.Resampling.LANCZOS), hue)
    canvas.paste(small, (round(x * side - width / 2), round(y * side - height / 2)), small)


def picture(world: World, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A scene as RGB of PIXELS x PIXELS."""
    canvas = ground(scene.ground, PIXELS, rng)
    for pose in _poses(scene, rng):
        _put(canvas, world.picture(scene.thing), scene.hue, pose)
    return canvas


def _poses(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Where each of a scene's things stands, and how large: (x, y, size)."""
    wander = 0.02 if scene.place or (scene.count or 1) > 1 else 0.05
    places: Sequence[tuple[float, float]] = [PLACES.get(scene.place or "", (0.5, 0.5))]
    size = SIZES.get(scene.size or "", rng.uniform(0.42, 0.58))
    if scene.place:  # what stands at the edge has to fit in
        size = min(size, 0.47 if scene.size == "big" else 0.4)
    if (scene.count or 1) > 1:
        places, size = _ROWS[scene.count or 1], _SEVERAL
    return [
        (x + rng.uniform(-wander, wander), y + rng.uniform(-wander, wander), size)
        for x, y in places
    ]


def clip(world: World, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A scene as frames uint8 (FRAMES, CLIP_PIXELS, CLIP_PIXELS, 3), FPS a second: the thing's own loop, moved across them."""
    canvas = ground(scene.ground, CLIP_PIXELS, rng)
    frames = []
    across, size = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.5)
    for at, thing in enumerate(world.loop(scene.thing)):
        frame = canvas.copy()
        _put(frame, thing, scene.hue, _moved(scene.motion, at / (FRAMES - 1), across, size))
        frames.append(np.asarray(frame))
    return np.stack(frames)


def _moved(
    motion: str | None, time: float, across: float, size: float
) -> tuple[float, float, float]:
    """(x, y, size) at a time from 0 to 1 of a thing that moves."""
    ahead = 0.26 + 0.48 * time
    back = 1 - ahead
    poses = {
        "left": (back, across, size),
        "right": (ahead, across, size),
        "up": (across, back, size),
        "down": (across, ahead, size),
        "growing": (0.5, 0.5, 0.22 + 0.6 * time),
        "shrinking": (0.5, 0.5, 0.82 - 0.6 * time),
    }
    return poses[motion] if motion else (0.5, 0.5, size)
