"""Draws the things of the toy world: flat, outlined, anti-aliased pictures of 64 x 64 pixels, and films of them.

A thing is drawn in unit coordinates (x to the right, y down, the thing fills about -1..1) through a `Pen`, which
places, scales and turns it. A picture is drawn four times too large and reduced, which anti-aliases it. A film is
the same drawing with a pose that changes from frame to frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (247, 135, 20),
    "yellow": (250, 212, 40),
    "green": (46, 158, 72),
    "blue": (38, 98, 220),
    "purple": (130, 58, 186),
    "pink": (248, 140, 190),
    "brown": (122, 76, 40),
}
MOTIONS = ("left", "right", "up", "down", "spinning", "growing", "shrinking", "blinking")

PIXELS = 64
FRAMES = 8
FPS = 4
_OVERSAMPLING = 4
_INK = (42, 40, 48)
_WHITE = (252, 252, 252)


@dataclass(frozen=True)
class Pose:
    """Where a thing stands: centre and half-width as fractions of the picture's width, turn in radians."""

    x: float = 0.5
    y: float = 0.5
    radius: float = 0.3
    turn: float = 0.0
    visible: bool = True


class Pen:
    """Draws in a thing's own unit coordinates onto an oversampled canvas."""

    def __init__(self, canvas: Image.Image, pose: Pose):
        side = canvas.width
        self._draw = ImageDraw.Draw(canvas)
        self._scale = pose.radius * side
        self._centre = (pose.x * side, pose.y * side)
        self._cos, self._sin = math.cos(pose.turn), math.sin(pose.turn)
        self._ink_width = max(3, round(0.095 * self._scale))

    def _place(self, points: Points) -> list[tuple[float, float]]:
        (cx, cy), s = self._centre, self._scale
        return [
            (cx + s * (x * self._cos - y * self._sin), cy + s * (x * self._sin + y * self._cos))
            for x, y in points
        ]

    def shape(self, points: Points, fill: Colour, outline: bool = True) -> None:
        """A filled polygon, with an ink outline whose corners are round."""
        placed = self._place(points)
        self._draw.polygon(placed, fill=fill)
        if outline:
            self._draw.line(placed + placed[:2], fill=_INK, width=self._ink_width, joint="curve")

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour,
        outline: bool = True,
        turn: float = 0.0,
    ) -> None:
        """A filled ellipse about (x, y)."""
        c, s = math.cos(turn), math.sin(turn)
        angles = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        points = [
            (
                x + rx * math.cos(a) * c - ry * math.sin(a) * s,
                y + rx * math.cos(a) * s + ry * math.sin(a) * c,
            )
            for a in angles
        ]
        self.shape(points, fill, outline)

    def line(self, points: Points, fill: Colour = _INK, width: float = 0.095) -> None:
        """A line with round joints; `width` in unit coordinates."""
        pixels = max(2, round(width * self._scale))
        placed = self._place(points)
        self._draw.line(placed, fill=fill, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):
            r = pixels / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _shade(colour: Colour, factor: float) -> Colour:
    """The colour darkened (factor < 1) or lightened towards white (factor > 1)."""
    shaded = (c * factor if factor <= 1 else 255 - (255 - c) * (2 - factor) for c in colour)
    red, green, blue = map(round, shaded)
    return red, green, blue


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    """Points on an ellipse from angle `start` to `stop`, in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 18))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _bell(pen: Pen, colour: Colour) -> None:
    pen.oval(0, 0.78, 0.2, 0.18, _INK)
    pen.oval(0, -0.85, 0.16, 0.15, _shade(colour, 0.7))
    dome = _arc(0, -0.15, 0.55, 0.62, 180, 360)
    pen.shape([(-0.88, 0.66), (-0.6, 0.35), *dome, (0.6, 0.35), (0.88, 0.66)], colour)
    pen.line([(-0.66, 0.42), (0.66, 0.42)], _shade(colour, 0.7))


def _bird(pen: Pen, colour: Colour) -> None:
    pen.line([(-0.05, 0.5), (-0.12, 0.92)])
    pen.line([(0.2, 0.5), (0.2, 0.92)])
    pen.shape([(-0.55, 0.0), (-1.0, -0.35), (-0.98, 0.22)], _shade(colour, 0.75))
    pen.oval(-0.02, 0.12, 0.68, 0.48, colour)
    pen.shape([(0.78, -0.5), (1.05, -0.36), (0.78, -0.24)], _INK)
    pen.oval(0.5, -0.42, 0.36, 0.34, colour)
    pen.oval(0.58, -0.48, 0.11, 0.11, _WHITE)
    pen.shape([(0.2, 0.02), (-0.5, -0.1), (-0.3, 0.34), (0.0, 0.36)], _shade(colour, 0.75))


def _drum(pen: Pen, colour: Colour) -> None:
    pen.line([(0.1, -0.45), (0.75, -1.0)], width=0.12)
    pen.line([(-0.1, -0.45), (-0.75, -1.0)], width=0.12)
    side = [*_arc(0, 0.6, 0.8, 0.28, 180, 0), (0.8, -0.3), (-0.8, -0.3)]
    pen.shape(side, colour)
    pen.line([(-0.76, 0.55), (-0.38, 0.0), (0, 0.78), (0.38, 0.0), (0.76, 0.55)], _WHITE, 0.08)
    pen.oval(0, -0.3, 0.8, 0.28, _WHITE)


def _car(pen: Pen, colour: Colour) -> None:
    pen.shape([(-0.55, -0.1), (-0.34, -0.58), (0.34, -0.58), (0.62, -0.1)], colour)
    pen.shape([(-0.36, -0.12), (-0.24, -0.42), (-0.02, -0.42), (-0.02, -0.12)], _WHITE)
    pen.shape([(0.12, -0.12), (0.12, -0.42), (0.27, -0.42), (0.42, -0.12)], _WHITE)
    pen.shape(
        [(-0.98, 0.42), (-0.98, 0.0), (-0.8, -0.12), (0.78, -0.12), (0.98, 0.08), (0.98, 0.42)],
        colour,
    )
    for x in (-0.52, 0.54):
        pen.oval(x, 0.44, 0.25, 0.25, _INK)
        pen.oval(x, 0.44, 0.09, 0.09, _WHITE, outline=False)


def _cloud(pen: Pen, colour: Colour) -> None:
    for x in (-0.55, -0.08, 0.4):
        pen.line([(x, 0.42), (x - 0.14, 0.92)], _shade(colour, 0.8), 0.13)
    puffs = ((-0.55, 0.05, 0.4), (0.58, 0.08, 0.38), (-0.15, -0.3, 0.46), (0.32, -0.2, 0.38))
    for x, y, r in puffs:
        pen.oval(x, y, r, r, colour)
    for x, y, r in puffs:
        pen.oval(x, y, r * 0.9, r * 0.9, colour, outline=False)
    pen.shape([(-0.55, 0.05), (0.55, 0.05), (0.55, 0.4), (-0.55, 0.4)], colour, outline=False)
    pen.line([(-0.55, 0.45), (0.58, 0.45)])


def _heart(pen: Pen, colour: Colour) -> None:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    pen.shape(list(zip(x * 0.98, y * 0.98, strict=True)), colour)
    pen.oval(-0.44, -0.4, 0.16, 0.2, _shade(colour, 1.6), outline=False, turn=0.6)


def _clock(pen: Pen, colour: Colour) -> None:
    pen.line([(-0.5, 0.7), (-0.7, 0.98)], width=0.14)
    pen.line([(0.5, 0.7), (0.7, 0.98)], width=0.14)
    pen.oval(-0.5, -0.68, 0.3, 0.2, _shade(colour, 0.75), turn=-0.7)
    pen.oval(0.5, -0.68, 0.3, 0.2, _shade(colour, 0.75), turn=0.7)
    pen.oval(0, 0.08, 0.82, 0.82, colour)
    pen.oval(0, 0.08, 0.54, 0.54, _WHITE)
    pen.line([(0.3, 0.22), (0, 0.08), (0, -0.3)], width=0.11)


def _bee(pen: Pen, colour: Colour) -> None:
    pen.oval(-0.22, -0.5, 0.26, 0.42, _WHITE, turn=-0.4)
    pen.oval(0.2, -0.5, 0.26, 0.42, _WHITE, turn=0.4)
    pen.shape([(-0.7, 0.08), (-1.02, 0.2), (-0.7, 0.32)], _INK)
    pen.oval(0, 0.2, 0.78, 0.5, colour)
    for x, half in ((-0.38, 0.4), (-0.05, 0.46), (0.26, 0.42)):
        pen.line([(x, 0.2 - half), (x, 0.2 + half)], _INK, 0.15)
    pen.oval(0.56, 0.1, 0.09, 0.1, _INK, outline=False)
    pen.line([(0.62, -0.18), (0.84, -0.5)])


def _train(pen: Pen, colour: Colour) -> None:
    pen.shape([(0.4, -0.3), (0.34, -0.85), (0.74, -0.85), (0.68, -0.3)], _shade(colour, 0.7))
    pen.shape([(-0.9, -0.78), (-0.12, -0.78), (-0.12, 0.45), (-0.9, 0.45)], colour)
    pen.shape([(-0.7, -0.56), (-0.32, -0.56), (-0.32, -0.14), (-0.7, -0.14)], _WHITE)
    pen.shape([(-0.12, -0.3), (0.8, -0.3), (0.9, 0.0), (0.9, 0.45), (-0.12, 0.45)], colour)
    pen.shape([(0.9, 0.3), (1.05, 0.72), (0.7, 0.62)], _INK)
    for x, r in ((-0.56, 0.32), (0.12, 0.24), (0.62, 0.24)):
        pen.oval(x, 0.86 - r, r, r, _INK)
        pen.oval(x, 0.86 - r, r * 0.35, r * 0.35, _WHITE, outline=False)


def _boat(pen: Pen, colour: Colour) -> None:
    pen.line([(0.0, 0.4), (0.0, -0.98)], width=0.12)
    pen.shape([(0.1, -0.88), (0.1, 0.2), (0.82, 0.2)], _WHITE)
    pen.shape([(-0.1, -0.6), (-0.1, 0.2), (-0.68, 0.2)], _shade(colour, 1.35))
    pen.shape([(-1.0, 0.36), (1.0, 0.36), (0.66, 0.88), (-0.66, 0.88)], colour)


def _phone(pen: Pen, colour: Colour) -> None:
    pen.shape([(-0.5, -0.2), (0.5, -0.2), (0.86, 0.78), (-0.86, 0.78)], colour)
    pen.oval(0, 0.3, 0.34, 0.32, _WHITE)
    pen.oval(0, 0.3, 0.1, 0.1, _INK, outline=False)
    bow = _arc(0, -0.05, 0.92, 0.72, 195, 345)
    inner = _arc(0, 0.0, 0.62, 0.42, 340, 200)
    pen.shape([(-1.0, -0.12), *bow, (1.0, -0.12), (0.62, -0.08), *inner, (-0.62, -0.08)], colour)


def _cat(pen: Pen, colour: Colour) -> None:
    pen.shape([(-0.82, -0.1), (-0.72, -0.95), (-0.15, -0.5)], colour)
    pen.shape([(0.82, -0.1), (0.72, -0.95), (0.15, -0.5)], colour)
    pen.oval(0, 0.12, 0.86, 0.72, colour)
    for side in (-1, 1):
        pen.oval(side * 0.34, 0.0, 0.13, 0.17, _WHITE)
        pen.oval(side * 0.34, 0.02, 0.05, 0.1, _INK, outline=False)
        pen.line([(side * 0.45, 0.42), (side * 1.0, 0.34)], width=0.06)
        pen.line([(side * 0.42, 0.52), (side * 0.94, 0.62)], width=0.06)
    pen.shape([(-0.11, 0.3), (0.11, 0.3), (0, 0.44)], _INK)
    pen.line([(-0.2, 0.6), (0, 0.48), (0.2, 0.6)], width=0.07)


DRAWINGS = {
    "bell": _bell,
    "bird": _bird,
    "drum": _drum,
    "car": _car,
    "cloud": _cloud,
    "heart": _heart,
    "clock": _clock,
    "bee": _bee,
    "train": _train,
    "boat": _boat,
    "phone": _phone,
    "cat": _cat,
}


def _known(thing: str, colour: str) -> None:
    if thing not in DRAWINGS:
        raise ValueError(f"no thing called {thing!r}; the toy world has {', '.join(DRAWINGS)}")
    if colour not in COLOURS:
        raise ValueError(f"no colour called {colour!r}; the toy world has {', '.join(COLOURS)}")


def ground(rng: np.random.Generator) -> Colour:
    """A light, nearly neutral background colour."""
    red, green, blue = map(int, rng.integers(228, 251) + rng.integers(-6, 5, size=3))
    return red, green, blue


def picture(thing: str, colour: str, pose: Pose, background: Colour) -> Image.Image:
    """One 64 x 64 RGB picture of a thing in a pose. Raises ValueError for an unknown thing or colour."""
    _known(thing, colour)
    side = PIXELS * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    if pose.visible:
        DRAWINGS[thing](Pen(canvas, pose), COLOURS[colour])
    return canvas.reduce(_OVERSAMPLING)


def moving_poses(motion: str, start: Pose) -> list[Pose]:
    """The pose of each of the 8 frames of a film; `start` gives place (across the motion) and size."""
    x, y, r = start.x, start.y, start.radius
    poses: list[Pose] = []
    for step in np.linspace(-1, 1, FRAMES):
        travel = 0.26 * step
        poses.append(
            {
                "left": Pose(0.5 - travel, y, r),
                "right": Pose(0.5 + travel, y, r),
                "up": Pose(x, 0.5 - travel, r),
                "down": Pose(x, 0.5 + travel, r),
                "spinning": Pose(x, y, r, turn=math.pi * (step + 1) * FRAMES / (FRAMES + 1)),
                "growing": Pose(x, y, r * (1 + 0.5 * step)),
                "shrinking": Pose(x, y, r * (1 - 0.5 * step)),
                "blinking": Pose(x, y, r, visible=len(poses) % 2 == 0),
            }[motion]
        )
    return poses


def film_frames(
    thing: str, colour: str, motion: str, start: Pose, background: Colour
) -> np.ndarray:
    """A film as uint8 (8, 64, 64, 3), meant to be shown at 4 frames a second."""
    if motion not in MOTIONS:
        raise ValueError(f"no motion called {motion!r}; the toy world has {', '.join(MOTIONS)}")
    frames = [picture(thing, colour, pose, background) for pose in moving_poses(motion, start)]
    return np.stack([np.asarray(frame) for frame in frames])
