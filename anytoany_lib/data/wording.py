"""Captioned rows worded as conversations: for stage 1 the medium is described, for stage 2 it is asked for.

A captioned row holds one medium and its caption. Which instruction it gets is drawn anew every time it is read. A question
with a short answer is worded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anytoany_lib.data.rows import Row, media_in

DESCRIBE = {
    "image": ("Describe this picture.", "What does this picture show?", "Write a caption for it."),
    "audio": ("Describe this sound.", "What do you hear?", "Write a caption for this recording."),
    "video": ("Describe this clip.", "What happens in this video?", "Write a caption for it."),
    "depth": ("Describe this depth map.", "What stands where here?", "Write a caption for it."),
    "thermal": ("Describe this thermal picture.", "What is warm here?", "Write a caption for it."),
    "imu": ("Describe this movement.", "What does the wearer do?", "Write a caption for it."),
}
PRODUCE = {
    "image": ("Draw this: {}", "Show me a picture: {}", "I would like an image of this: {}"),
    "audio": ("Play this: {}", "Let me hear it: {}", "I would like the sound of this: {}"),
    "video": ("Film this: {}", "Show me a clip: {}", "I would like a video of this: {}"),
}
# The wording of LLaVA-1.5 (Liu et al. 2023): without it a chat model answers in sentences, none of which is right.
SHORT_ANSWER = "Answer the question using a single word or phrase."


def as_comprehension(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Stage 1: the medium and a short instruction, answered by the caption."""
    kind, name = media_in(row.messages)[0]
    instruction = {"type": "text", "text": str(rng.choice(DESCRIBE[kind]))}
    return [
        {"role": "user", "content": [{"type": kind, kind: name}, instruction]},
        {"role": "assistant", "content": [{"type": "text", "text": row.meta["caption"]}]},
    ]


def as_generation(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Stage 2: an instruction with the caption, answered by the medium, told by that caption."""
    kind, name = media_in(row.messages)[0]
    caption = row.meta["caption"]
    text = str(rng.choice(PRODUCE[kind])).format(caption)
    return [
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": kind, kind: name, "caption": caption}]},
    ]


def as_answer(
    name: str, source: str, shown: Sequence[tuple[str, str]], question: str, answer: str, split: str
) -> Row:
    """A row of media, (kind, path) each, and a question about them that is answered in a word; `split` may be ""."""
    media = [{"type": kind, kind: path} for kind, path in shown]
    asked = {"type": "text", "text": f"{question}\n{SHORT_ANSWER}"}
    messages = [
        {"role": "user", "content": [*media, asked]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return Row(name, source, messages, {"task": source} | ({"split": split} if split else {}))
