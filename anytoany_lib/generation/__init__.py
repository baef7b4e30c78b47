"""A reply: `decoding` draws tokens, `replies` makes the media that they ask for, `events` tell of both as they happen.

`sampling` says how a reply is drawn, `kv_cache` keeps what a conversation's turns have read already.
"""

from anytoany_lib.generation.replies import reply_all
from anytoany_lib.generation.sampling import Sampling

__all__ = ["Sampling", "reply_all"]
