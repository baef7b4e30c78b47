"""A run's language model as an ordinary one: its 4-bit weights unpacked, LoRA merged into them, new tokens as rows and words.

What comes out is a folder that plain transformers loads. It reads and writes text: encoder, projections and decoders stay in
the run, and so does what it sees and draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from anytoany_lib.checkpoints.model_card import CARD, text
from anytoany_lib.config import Profile
from anytoany_lib.gates.foreign_code import LOCAL
from anytoany_lib.llm import TokenRows, model_folder, unpack
from anytoany_lib.modalities import SAY
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole, write_file

_README = """# The language model of a run of anytoany

Profile {profile}, stage {stage}, commit {commit}. Its LoRA was trained on {quantization} weights and is merged into them;
they are {dtype} now.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (one.from_pretrained("FOLDER") for one in (AutoModelForCausalLM, AutoTokenizer))
```

{limits}
They are special tokens: decode with `skip_special_tokens=True`; read texts of others with `split_special_tokens=True`, or
these can be typed.

Licence of the language model that it was made from: {licence}.
"""

_LIMITS = """It reads and writes text, by the chat template that comes with it. It cannot see, hear or draw: encoder, projections and decoders
are no part of it. {wrappers} stand around a medium that is shown, whose soft tokens only the run's input projection makes.
{signals} ask for a medium: the first of a kind says that the run would make one here, and what follows it means nothing."""


class Merged(NamedTuple):
    """A merged language model, its tokenizer, the names of the new tokens, what ends a reply, and the run's profile and record."""

    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: tuple[str, ...]
    stop_text: str
    profile: Profile
    record: dict[str, Any]


def merged(run: Path) -> Merged:
    """The language model of a run folder on the CPU in float32, merged: 4 bytes of memory a parameter, and what it loads from.

    FileNotFoundError if there is no run or no language model, ValueError if one does not fit the other.
    """
    model = AnyToAny.from_pretrained(run, torch.device("cpu"), "float32")
    llm, messages = _without_lora(model), model.messages
    _forget_quantisation(llm)
    words = AutoTokenizer.from_pretrained(model_folder(model.profile), **LOCAL)
    words.chat_template = messages.template or words.chat_template
    _add_rows(llm, model.token_rows, _add_words(words, model.vocabulary.names))
    if len(messages.stop) == 1:
        llm.generation_config.eos_token_id = messages.stop[0]
        words.eos_token = words.convert_ids_to_tokens(messages.stop[0])
    record = runs.read_record(run)
    return Merged(llm, words, model.vocabulary.names, messages.stop_text, model.profile, record)


@torch.no_grad()
def _without_lora(model: AnyToAny) -> PreTrainedModel:
    """The language model with its LoRA matrices added to plain weights. Its layers may still be in 4 bits, where memory is short."""
    layers = {n: one for n, one in model.causal_lm.named_modules() if isinstance(one, LoraLayer)}
    llm = model.adapter.unload() if model.adapter is not None else model.llm
    unpack(llm, always=True)
    for name, layer in layers.items():
        llm.get_submodule(name).weight += layer.get_delta_weight("default")
    return llm


def _forget_quantisation(llm: PreTrainedModel) -> None:
    """Has transformers take the model for one that never was in 4 bits, which it would refuse to cast and to save."""
    llm.hf_quantizer, llm.is_quantized, llm.is_loaded_in_4bit = None, False, False
    for name in ("quantization_method", "quantization_config"):
        for place in (llm, llm.config):
            if hasattr(place, name):
                delattr(place, name)


def _add_words(tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...]) -> list[int]:
    """Teaches a tokenizer the new tokens; returns their ids, the next that it has. ValueError if it has one of the names."""
    known = tokenizer.get_vocab()
    if taken := [name for name in names if name in known]:
        raise ValueError(
            f"the tokenizer knows {', '.join(taken)} as a word of its own: expected names that are new to it; give the profile "
            "other wrappers and train again"
        )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


@torch.no_grad()
def _add_rows(llm: PreTrainedModel, rows: TokenRows, ids: list[int]) -> None:
    """Puts the rows of the new tokens into embedding and head, at ids that lie behind the words or in unused rows."""
    count = llm.get_input_embeddings().weight.shape[0]
    llm.resize_token_embeddings(max(count, max(ids) + 1), mean_resizing=False)
    llm.get_input_embeddings().weight[ids] = rows.input
    if rows.output is not None:
        llm.get_output_embeddings().weight[ids] = rows.output


def limits(made: Merged, shown: Callable[[str], str]) -> str:
    """What a merged language model can and cannot do without the rest of its run, in a few lines; `shown` writes a token's name."""
    opening, closing, *signals = (shown(name) for name in made.names if name != SAY)
    asking = f"{signals[0]} to {signals[-1]}" if signals else "It has no tokens that"
    voice = f"\n{shown(SAY)} says that the words behind it are to be said aloud."
    of_media = _LIMITS.format(wrappers=f"{opening} and {closing}", signals=asking)
    return of_media + (voice if SAY in made.names else "")


def _card(made: Merged, dtype: torch.dtype) -> str:
    source = made.profile.llm.source
    return _README.format(
        profile=text(made.profile.name),
        stage=text(made.record["stage"]),
        commit=text(made.record.get("commit") or "not recorded"),
        dtype=str(dtype).removeprefix("torch."),
        quantization=made.profile.llm.quantization,
        limits=limits(made, text),
        licence=text(source.licence if source and source.licence else "not stated in its profile"),
    )


def check_new(out: Path) -> None:
    """FileExistsError unless a path is free, or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} is there already: expected the name of a new folder; name another, or move it away"
        )


def write_merged(run: Path, out: Path, dtype: torch.dtype) -> Path:
    """Writes the merged language model of a run folder as a folder of transformers; returns it. It appears whole or not at all.

    FileExistsError if something is there already; else what `merged` raises.
    """
    check_new(out)
    made = merged(run)
    with appearing_whole(out) as folder:
        made.llm.to(dtype).save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
        write_file(folder / CARD, _card(made, dtype))
    return out
