"""Conversations about the toy world: what is asked, in whose words, and what the reply shows."""

from anytoany_lib.toyworld.conversations.authors import kit, plain
from anytoany_lib.toyworld.conversations.cells import CELLS
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.conversations.tasks import (
    BEYOND,
    BRIEF_PLAIN_SHARE,
    BRIEF_SHARES,
    PLAIN_SHARE,
    SHARES,
)

__all__ = [
    "BEYOND",
    "BRIEF_PLAIN_SHARE",
    "BRIEF_SHARES",
    "CELLS",
    "PLAIN_SHARE",
    "SHARES",
    "Maker",
    "Talk",
    "kit",
    "plain",
]
