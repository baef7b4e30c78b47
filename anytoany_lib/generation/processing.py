"""Conversations as the tensors that the model computes with: what `AutoProcessor` is to a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anytoany_lib.batches import Batch, collate
from anytoany_lib.generation.foreign_messages import as_messages
from anytoany_lib.messages import Message

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny

Conversation = list[Message]


def process(
    model: AnyToAny,
    conversations: Conversation | Sequence[Conversation],
    add_generation_prompt: bool = False,
) -> Batch:
    """One conversation, or many, as a batch on the model's device: ids, mask and labels (B, T), media (M, D) as the encoder sees
    them, and their places (M, 2). Messages may be as transformers writes them (see `foreign_messages`).

    `model(batch)` gives the loss of its replies' words. With `add_generation_prompt` it ends where the assistant is to speak, is
    padded on the left, and goes into `embed_inputs`. Media that replies make have signals and no conditions to learn from: those
    come from `features`. No turn is dropped, however long a conversation is. ValueError if one is malformed, MediaError if a medium of it
    cannot be had.
    """
    single = bool(conversations) and isinstance(conversations[0], dict)
    rows: Sequence[Any] = [conversations] if single else conversations
    if not rows:
        raise ValueError("expected a conversation, or a list of conversations, found an empty list")
    encoded = [model.messages.encode(as_messages(row), add_generation_prompt) for row in rows]
    media = [(kind, medium) for one in encoded for kind, medium, _ in one.media]
    embeddings = iter(model.embed_media(media))
    width, left = model.profile.encoder.embedding, add_generation_prompt
    return collate(encoded, lambda *_: next(embeddings), None, width, left).to(model.device)
