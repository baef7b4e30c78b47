"""A small world that can be seen, heard and moved, drawn from a seed: the data, training and judges of profile `tiny`.

Nothing in the rest of the library imports it.
"""

from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.pictures import COLOURS, FPS, FRAMES, MOTIONS, PIXELS
from anytoany_lib.toyworld.scenes import (
    HELD_OUT_MOTIONS,
    HELD_OUT_PAIRS,
    THINGS,
    Scene,
    draw,
    film,
    random_scene,
    render,
    sound,
)
from anytoany_lib.toyworld.sounds import COUNTED, RATE, SECONDS
