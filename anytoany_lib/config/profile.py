"""A profile as a whole: read from YAML, checked, and written out again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from anytoany_lib.config.checked import Checked, Kind
from anytoany_lib.config.parts import (
    PADDED,
    DecoderConfig,
    EncoderConfig,
    InputProjectionConfig,
    LLMConfig,
    LoraSettings,
    ProjectionConfig,
    Source,
)
from anytoany_lib.config.speech import SpeechConfig
from anytoany_lib.config.stages import StageConfig
from anytoany_lib.config.yaml_files import merged, read_yaml

PROFILE_FOLDER = Path(__file__).parents[1] / "profiles"
_LIKE = 8  # longest chain of profiles, each like the next
_LONGEST_NAME = 250


class Profile(Checked):
    """All settings of one size of the system. Read one with `Profile.load`."""

    name: str = Field(pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}$")
    llm: LLMConfig
    encoder: EncoderConfig
    wrappers: tuple[str, str] = ("<Img>", "</Img>")
    decoders: dict[Kind, DecoderConfig]
    input_projection: InputProjectionConfig = InputProjectionConfig()
    projection: ProjectionConfig = ProjectionConfig()
    lora: LoraSettings = LoraSettings()
    stages: dict[Annotated[int, Field(ge=1, le=3)], StageConfig]
    speech: SpeechConfig = SpeechConfig()
    judges: str | None = Field(
        None,
        description="which judges the evaluation asks, by their name in the table judging.JUDGES",
    )
    judges_folder: str | None = None
    similarity: dict[Literal["clip", "clap"], str] = Field(
        {},
        description="folders of more models that the evaluation compares media with, without judges",
    )

    @model_validator(mode="after")
    def _projection_reads_what_is_given(self):
        wanted = "pooled" if self.input_projection.kind == "linear" else "patches"
        if self.encoder.states != wanted:
            raise ValueError(
                f"input_projection: {self.input_projection.kind} reads encoder.states: {wanted}, not {self.encoder.states}"
            )
        return self

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
        settings = read_yaml(path)
        if isinstance(settings, dict) and "like" in settings:
            other = settings.pop("like")
            if not isinstance(other, str) or like == 0:
                raise ValueError(
                    f"{path}: expected `like` to name a profile, and no circle of them"
                )
            settings = merged(cls._loaded(other, like - 1).model_dump(exclude_unset=True), settings)
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

    @model_validator(mode="after")
    def _learns_where_captions_end(self):
        padded = [kind for kind, decoder in self.decoders.items() if decoder.pipeline in PADDED]
        for number, stage in self.stages.items():
            if (
                padded
                and stage.alignment == "cosine"
                and "output_projections" in stage.learning_rates
            ):
                raise ValueError(
                    f"stages.{number}.alignment: cosine leaves lengths free, and zeros say where a caption of the {padded[0]} decoder "
                    "ends: choose l2 or mse"
                )
        return self

    def shown_as_shipped(self) -> Profile:
        """This profile, and what it leaves open of `upscale` as the shipped profile of its name has it, for decoders of the same folder.

        How media are shown is no matter of training: a run from before there was an upscaler gets it too.
        """
        path = PROFILE_FOLDER / f"{self.name}.yaml"
        shipped = Profile.load(path).decoders if path.is_file() else {}
        decoders = {
            kind: decoder.model_copy(
                update={name: getattr(shipped[kind], name) for name in ("upscale", "upscaler")}
            )
            if decoder.upscale is None
            and kind in shipped
            and shipped[kind].folder == decoder.folder
            else decoder
            for kind, decoder in self.decoders.items()
        }
        return self.model_copy(update={"decoders": decoders})

    def frozen_parts(self, speech: bool = False) -> dict[str, tuple[str, Source | None]]:
        """{what: (its folder, where to get it)} of every frozen model; with `speech` of voice and recogniser too, which nothing
        else needs.
        """
        encoder, decoders, spoken = self.encoder, self.decoders, self.speech
        parts = {"llm": (self.llm.folder, self.llm.source)}
        parts["encoder"] = (encoder.folder, encoder.source)
        if encoder.audio_folder:
            parts["audio encoder"] = (encoder.audio_folder, encoder.audio_source)
        parts |= {kind: (one.folder, one.source) for kind, one in decoders.items()}
        for kind, one in decoders.items():
            if one.added:
                parts[f"{kind} added"] = (one.added.file, one.added.source)
            if one.enlarges:
                parts[f"{kind} upscaler"] = (one.upscaler, None)
        if speech:
            parts["voice"] = (spoken.voice.folder, spoken.voice.source)
            parts["recogniser"] = (spoken.recogniser.folder, spoken.recogniser.source)
        return parts

    @property
    def denoises(self) -> bool:
        """Whether a stage trains on latents of the media that it generates."""
        return any(stage.denoising_weight > 0 for stage in self.stages.values())

    def __str__(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
