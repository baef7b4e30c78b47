"""A reply: `decoding` draws tokens, `replies` has the media made that they choose, `events` reports both as they happen.

`sampling` says how a reply is drawn, `foreign_messages` and `processing` take conversations as models of transformers do,
`kv_cache` keeps what a conversation's turns have read already, `media_models` holds the encoder and the decoders, `enlarged`
says which of a part's media is shown.
"""

from typing import Any

from anytoany_lib.generation.replies import reply_all
from anytoany_lib.generation.sampling import Sampling, as_sampling
from anytoany_lib.old_names import renamed

__all__ = ["Sampling", "as_sampling", "reply_all"]


def __getattr__(name: str) -> Any:
    """Functions and classes by their names of version 0.1."""
    return renamed(__name__, name)
