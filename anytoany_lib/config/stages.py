"""The training stages, as a profile describes them: what is read, what is trained and how fast."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from anytoany_lib.config.checked import Alignment, Checked, Part


class FitConfig(Checked):
    """Steps of the output projections alone, on hidden states of a language model that stands still, without the denoising
    term: hundreds of steps are cheap as long as no diffusion model has a part in them.
    """

    rows: int = Field(128, gt=0, description="conversations whose hidden states are computed")
    steps: int = Field(0, ge=0, description="0 only measures what a new projection will read")
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(2e-3, gt=0)


class StageConfig(Checked):
    """One row of the stage table: what is read, what is trained and how fast."""

    reads: Literal["comprehension", "generation", "instructions"]
    learning_rates: dict[Part, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    steps: int | None = Field(None, gt=0, description="of the optimiser; or give epochs")
    epochs: float | None = Field(None, gt=0, description="times that every row is read")
    batch_size: int = Field(
        gt=0, description="rows that are computed at once; fewer where they do not fit the memory"
    )
    accumulation: int = Field(
        1,
        gt=0,
        description="batches an optimiser step adds up; several processes share the rows of all of them",
    )
    mixture: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None,
        description="source: weight; an epoch holds that part of its rows, 1 where none is given",
    )
    warmup: float = Field(0.05, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    alignment: Alignment = Field(
        "l2", description="distance to the caption embeddings; l2 is the published one"
    )
    alignment_weight: float = Field(1.0, ge=0)
    denoising_weight: float = Field(
        0.0,
        ge=0,
        description="of the decoders' own training loss, told the conditions; NExT-GPT v1.5 has 1, 0 loads no decoder",
    )
    divergence_weight: float = Field(
        0.0,
        ge=0,
        description="of the distance to the untouched LLM's next words, in rows whose meta says plain; costs those a second pass",
    )
    fit_before: FitConfig = FitConfig()
    fit_after: FitConfig = FitConfig()
    weight_decay: float = 0.001
    clip: float = 1.0
    optimiser: Literal["adamw", "paged-adamw-8bit"] = Field(
        "adamw",
        description="the 8-bit one keeps its state in a quarter of the memory, on CUDA cards",
    )
    checkpointing: bool = Field(
        False,
        description="compute activations twice and keep one a layer: less memory, a third more time",
    )

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of the two")
        return self

    @property
    def rows_a_step(self) -> int:
        """What a step of the optimiser reads, whatever the number of processes."""
        return self.batch_size * self.accumulation

    def steps_of(self, rows: int) -> int:
        """Optimiser steps over a dataset of so many rows. Every epoch's last step reads what is left of it."""
        if self.steps:
            return self.steps
        whole, rest = divmod(self.epochs or 0.0, 1)
        in_rest = round(rest * rows / self.rows_a_step, 6)  # 1.1 - 1 is a little more than 0.1
        return int(whole) * math.ceil(rows / self.rows_a_step) + math.ceil(in_rest)

    @model_validator(mode="after")
    def _fits_what_it_trains(self) -> StageConfig:
        if "output_projections" not in self.learning_rates and (
            self.fit_before.steps or self.fit_after.steps
        ):
            raise ValueError(
                "fit_before and fit_after fit the output projections: give learning_rates.output_projections, or drop them"
            )
        return self
