"""Published repositories with random weights, in exactly their layout: file names, formats, tensor names, types, settings.

`replica` writes one, `fill` those that a profile needs and this machine lacks. Full size or narrowed by a factor; what is
written of weights is a block of random numbers, repeated, so that a file takes as long as the disk.
"""

from __future__ import annotations

from . import tables, words
from .facts import REPOSITORIES
from .layout import Config, Part, Repository, narrowed
from .making import files_of, fill, replica

__all__ = [
    "REPOSITORIES",
    "Part",
    "Repository",
    "files_of",
    "fill",
    "narrowed_config",
    "replica",
    "tables",
    "words",
]


def narrowed_config(part: Part, narrow: int) -> Config:
    """The configuration of a part of a narrowed replica."""
    return narrowed(part.config, narrow)
