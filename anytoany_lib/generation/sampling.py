"""How a reply is drawn: which tokens may be chosen, and how long and how careful its media are.

`as_sampling` takes the settings of transformers' `generate` for it, those of a model's generation_config.json among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from anytoany_lib.modalities import MEDIA_KINDS, SPEECH

_RULES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "temperature": (Real, lambda value: 0 <= value < inf, "a number from 0 up"),
    "top_p": (Real, lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "top_k": (Integral, lambda value: value >= 0, "a whole number from 0 (no limit) up"),
    "repetition_penalty": (Real, lambda value: 0 < value < inf, "a number above 0, 1 for none"),
    "max_new_tokens": (Integral, lambda value: value >= 1, "a whole number from 1 up"),
    "guidance": (Real, lambda value: 1 <= value < inf, "a number from 1 (no guidance) up"),
    "steps": (Integral, lambda value: value >= 1, "a whole number from 1 up"),
    "frames": (Integral, lambda value: value >= 2, "a whole number from 2 up"),
    "seconds": (Real, lambda value: 0 < value < inf, "a number above 0"),
    "strength": (Real, lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "preview_every": (Integral, lambda value: value >= 0, "a whole number from 0 up"),
}
_KINDS = (*MEDIA_KINDS, SPEECH)
_DIFFUSION = ("steps", "guidance", "frames", "seconds", "preview_every", "enlarge")


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. Temperature 0 takes the likeliest token; `kinds` are the media it may contain, "speech" for
    words that the model wants said.

    `top_k` draws from so many tokens (None: all that top_p leaves); a `repetition_penalty` above 1 makes words less likely that stand
    in the conversation, as in transformers. A reply ends before the first of the `stop_strings`.
    `frames` is the length of clips, `seconds` that of sounds; where a value is None the profile's holds. With `strength` a
    picture begins with the newest one of the conversation, of which that much may change (see `edits`). A picture shows a
    preview after every `preview_every` diffusion steps (0: never). With `enlarge`, pictures and clips have a larger copy beside
    them, "enlarged" in their parts, where the profile says `upscale`. ValueError names the value that cannot be used.
    """

    temperature: float = 0.0
    top_p: float = 0.95
    max_new_tokens: int | None = None
    kinds: tuple[str, ...] = _KINDS
    guidance: float | None = None
    steps: int | None = None
    frames: int | None = None
    seconds: float | None = None
    strength: float | None = None
    preview_every: int = 0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    stop_strings: tuple[str, ...] = ()
    enlarge: bool = False

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has lists
        stops = self.stop_strings
        object.__setattr__(
            self, "stop_strings", (stops,) if isinstance(stops, str) else tuple(stops)
        )
        if not all(isinstance(stop, str) and stop for stop in self.stop_strings):
            raise ValueError(
                f"stop_strings have to be texts with something in them, found {stops!r}"
            )
        unknown = [kind for kind in self.kinds if kind not in _KINDS]
        if unknown:
            raise ValueError(f"kinds have to be among {', '.join(_KINDS)}, found {unknown[0]!r}")
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in _RULES and not (value is None and one.default is None):
                number, fits, expected = _RULES[one.name]
                if not isinstance(value, number) or not fits(value):
                    raise ValueError(f"{one.name} has to be {expected}, found {value!r}")

    def diffusion(self) -> dict[str, Any]:
        """How its media are made: settings of `Decoder.generate`, by their names."""
        return {name: getattr(self, name) for name in _DIFFUSION}


_SHARED = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop_strings")
# What `generate` takes where neither a caller nor a file says anything; `do_sample` is False then.
_SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
# Settings that leave every reply as it is: of speed, of what else is returned, of tokens that the chat template sets here.
_WITHOUT_EFFECT = """use_cache cache_implementation cache_config max_cache_len use_mtp output_attentions output_hidden_states output_scores
    output_logits return_dict_in_generate pad_token_id bos_token_id eos_token_id decoder_start_token_id compile_config
    disable_compile continuous_batching_config low_memory prefill_chunk_size remove_invalid_values is_assistant
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind target_lookbehind
    transformers_version"""
# Values by which the settings that are not known here change nothing.
_NEUTRAL = {"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "typical_p": 1.0}
_NEUTRAL |= {"length_penalty": 1.0, "encoder_repetition_penalty": 1.0, "guidance_scale": 1.0}


def as_sampling(
    settings: GenerationConfig | Mapping[str, Any] | str | Path, **own: Any
) -> Sampling:
    """The settings of transformers' `generate` as a `Sampling`; `own` are further fields of it, such as kinds or steps.

    They are a mapping of those settings, a GenerationConfig (`model.causal_lm.generation_config` is what the language model's authors
    recommend), or a folder with a generation_config.json. As in transformers nothing is sampled without do_sample. ValueError names a
    setting that would change replies and cannot be kept, FileNotFoundError a folder without the file.
    """
    strict = isinstance(settings, Mapping)
    given = dict(settings) if isinstance(settings, Mapping) else _read(settings)
    if "seed" in given:
        raise ValueError(
            "a seed is no setting of Sampling: name it where the reply is asked for, chat(messages, seed=...)"
        )
    sampled = given.pop("do_sample", None)
    shared = {name: given.pop(name) for name in _SHARED if name in given}
    _refuse_others(given)
    shared = {name: value for name, value in shared.items() if value is not None}
    drawn = [name for name in _SAMPLED if name in shared]
    if strict and sampled is None and drawn and shared.get("temperature") != 0:
        raise ValueError(
            f"{', '.join(drawn)} without do_sample: write do_sample=True to draw by it, or leave it out to take the likeliest token"
        )
    if sampled:
        shared = _SAMPLED | shared
    else:
        shared = {name: value for name, value in shared.items() if name not in drawn} | {
            "temperature": 0.0
        }
    return Sampling(**shared, **own)


def _read(settings: GenerationConfig | str | Path) -> dict[str, Any]:
    """What a configuration or its file says, but for max_length: how long a model's conversations may be is the profile's llm.context."""
    if not isinstance(settings, GenerationConfig):
        folder = Path(settings)
        if not (folder / "generation_config.json").is_file():
            raise FileNotFoundError(
                f"no generation_config.json in {folder}: name the folder of a language model that has one, or write the settings down"
            )
        settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    found = settings.to_diff_dict()
    return {name: value for name, value in found.items() if name != "max_length" and name[0] != "_"}


def _refuse_others(given: Mapping[str, Any]) -> None:
    """ValueError that names settings which would change replies and are not kept here."""
    known = vars(GenerationConfig())
    for name, value in given.items():
        if name in _WITHOUT_EFFECT.split() or (
            name in known and (not value or value == _NEUTRAL.get(name))
        ):
            continue
        if name == "max_length":
            advice = "it counts the prompt too: write max_new_tokens"
        elif name in known:
            advice = (
                f"replies are drawn token by token, by {', '.join(_SHARED)} alone: leave it out"
            )
        else:
            advice = f"generate has no such setting: expected {', '.join(('do_sample', *_SHARED))}"
        raise ValueError(f"{name}={value!r} cannot be kept; {advice}")
