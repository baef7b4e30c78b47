"""Frozen decoders: diffusion pipelines that are given a projected condition in the place of a caption.

`adapters` says what each class of pipeline needs and makes conditions of captions, `pipelines` generates, `denoising` is a decoder's
own loss. Another decoder begins in `protocol`, which says what an adapter has to say.
"""

from typing import Any

from anytoany_lib.old_names import renamed


def __getattr__(name: str) -> Any:
    """Functions and classes by their names of version 0.1."""
    return renamed(__name__, name)
