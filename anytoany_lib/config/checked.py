"""What all parts of a profile share: unknown keys and numbers that are none are errors, and nothing changes once read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

# Wider than any model: a larger number is a mistake, and would ask for all the memory there is.
WIDE = 2**20
Alignment = Literal["l2", "mse", "cosine"]
Dtype = Literal["auto", "float16", "bfloat16", "float32"]
if TYPE_CHECKING:  # looked up by any text; what a profile may say is checked when it is read
    Kind: TypeAlias = str
    Part: TypeAlias = str
    Shown: TypeAlias = str
else:
    Kind = Literal["image", "audio", "video"]
    Shown = Literal["image", "audio", "video", "depth", "thermal", "imu"]
    Part = Literal["input_projection", "output_projections", "token_rows", "lora"]


class Checked(BaseModel):
    """A part of a profile as it is read: unknown keys are errors, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
