"""ImageBind's patch tokens: of a medium not one vector, but a sequence of states in the same space.

What the head does with the class token, a LayerNorm and a linear map, is done with every other token, so that all senses give
states of one width. Clips and crops follow each other in time; the published lengths and scales are those of the pooled vector
alone. Legend: B batch, S clips, L tokens, W width, D embedding.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_layers import ClassHead
from anytoany_lib.encoders.sequences import of_length


class ImageBindStates(ImageBind):
    """An ImageBind whose `forward` and `embed` give states (B, `length`, D) of media; texts stay vectors."""

    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `embed` gives of a medium: (length, D)."""
        return self.length, *super().shape

    def _encode(self, name: str, x: Tensor) -> Tensor:
        if name == "text" or name not in self.modality_trunks:
            return super()._encode(name, x)
        clips = x.shape[:2] if x.ndim >= 5 else None
        if clips is not None:
            x = x.flatten(0, 1)
        tokens = self.modality_trunks[name](self.modality_preprocessors[name](x))[:, 1:]
        states = cast(ClassHead, self.modality_heads[name]).of_all(tokens)  # (B * S, L, D)
        if clips is not None:
            states = states.unflatten(0, clips).flatten(1, 2)  # (B, S * L, D)
        return of_length(states, self.length)
