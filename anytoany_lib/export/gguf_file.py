"""A run's merged language model as a GGUF file, which llama.cpp, Ollama and transformers read, tokenizer and chat template in it.

For models of the llama architecture whose tokenizer is a byte-level BPE. A Modelfile for Ollama is written beside it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from anytoany_lib.checkpoints.model_card import one_line
from anytoany_lib.export.merging import Merged, limits, merged
from anytoany_lib.gates import templates
from anytoany_lib.gates.foreign_code import LOCAL
from anytoany_lib.llm import model_folder
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_file, write_file

_TYPES = {
    torch.float32: (np.float32, gguf.LlamaFileType.ALL_F32),
    torch.float16: (np.float16, gguf.LlamaFileType.MOSTLY_F16),
}
_LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
_MARK = re.compile("\ue000\\d\ue001")


def _check(config: Any, folder: Path) -> None:
    """ValueError unless a model's configuration is one that llama.cpp's "llama" computes."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type != "llama" or rope != "default":
        raise ValueError(
            f"{folder} is a {config.model_type} model with {rope} rotary embeddings: a .gguf is written of llama models with "
            "default ones alone; use --merge, and llama.cpp's own converter on what it writes"
        )


def _pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """What llama.cpp calls the way in which a byte-level BPE (a tokenizer.json) splits texts. ValueError if it has no name for it."""
    steps = tokenizer["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if tokenizer["model"]["type"] == "BPE":
        if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return "smollm"
        split = steps[0]["pattern"].get("Regex", "") if kinds == ["Split", "ByteLevel"] else ""
        if split.startswith(_LLAMA3_SPLIT):
            return "llama-bpe"
    raise ValueError(
        f"the tokenizer ({tokenizer['model']['type']}, split by {kinds}) is none that a .gguf is written of: expected the "
        "byte-level BPE of GPT-2, SmolLM or Llama 3; use --merge, and llama.cpp's own converter on what it writes"
    )


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Writes the words, one for each row of the embedding, the merges, and which tokens begin and end."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words, kinds = [f"[PAD{n}]" for n in range(rows)], [gguf.TokenType.UNUSED] * rows
    for word, at in tokenizer.get_vocab().items():
        added = tokenizer.added_tokens_decoder.get(at)
        other = gguf.TokenType.CONTROL if added and added.special else gguf.TokenType.USER_DEFINED
        words[at], kinds[at] = word, other if added else gguf.TokenType.NORMAL
    merges = described["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(described))
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for name, at in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if at is not None:
            getattr(writer, f"add_{name}_token_id")(at)
    writer.add_add_bos_token(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _add_sizes(writer: gguf.GGUFWriter, made: Merged, file_type: gguf.LlamaFileType) -> None:
    config = made.llm.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    source = made.profile.llm.source
    writer.add_name(made.profile.name)
    writer.add_description(" ".join(limits(made, one_line).split()))
    if source and source.licence:
        writer.add_license(source.licence)
    writer.add_file_type(file_type)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_weights(writer: gguf.GGUFWriter, llm: Any, number: type) -> None:
    """Writes the weights by llama.cpp's names; matrices as `number`, vectors in float32."""
    config = llm.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in llm.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            # llama.cpp rotates neighbouring numbers, transformers those half a head apart.
            halves = values.reshape(heads, 2, -1, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        named = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if named is None:
            raise ValueError(f"llama.cpp has no name for the weights {name}: use --merge")
        writer.add_tensor(named, values.astype(number if values.ndim > 1 else np.float32))


def _template(made: Merged) -> str | None:
    """The chat template in the language of Ollama, None if it is more than texts around the messages."""

    def around(roles: list[str], prompt: bool) -> list[str]:
        turns = [{"role": role, "content": f"\ue000{n}\ue001"} for n, role in enumerate(roles)]
        template = made.profile.llm.chat_template
        return _MARK.split(templates.render(made.tokenizer, template, turns, prompt))

    roles = ["system", "user", "assistant", "user"]
    try:
        before, behind = around(["user"], False)
        opening = around(["user"], True)[1].removeprefix(behind)
        first, between, _ = around(["system", "user"], False)
        _, answer, end = around(["user", "assistant"], False)
        whole = around(roles, True)
    except ValueError:  # it refuses such turns, or does not show each of them once
        return None
    texts = {
        "system": (first, between.removesuffix(before)),
        "user": (before, behind),
        "assistant": (answer.removeprefix(behind), end),
    }
    joined = "".join(f"{texts[role][0]}\ue000{texts[role][1]}" for role in roles) + opening
    if joined.split("\ue000") != whole or '"""' in joined or "{{" in joined:
        return None
    turns = "{{ else if ".join(
        f'eq .Role "{role}" }}}}{a}{{{{ .Content }}}}{b}' for role, (a, b) in texts.items()
    )
    return f"{{{{ range .Messages }}}}{{{{ if {turns}{{{{ end }}}}{{{{ end }}}}{opening}"


def write_gguf(run: Path, out: Path, dtype: torch.dtype) -> Path:
    """Writes the merged language model of a run folder as a .gguf file in float16 or float32, and a Modelfile beside it.

    ValueError if its architecture, its tokenizer, the name or the type is none of those that are written; else what `merged` raises.
    """
    if out.suffix != ".gguf" or dtype not in _TYPES:
        known = ", ".join(str(one).removeprefix("torch.") for one in _TYPES)
        raise ValueError(
            f"expected a file that ends in .gguf, of numbers in {known}; found {out.name} in {dtype}"
        )
    folder = model_folder(runs.profile_of(runs.read_record(run), run))
    _check(AutoConfig.from_pretrained(folder, **LOCAL), folder)
    made, (number, file_type) = merged(run), _TYPES[dtype]
    out.parent.mkdir(parents=True, exist_ok=True)
    with appearing_file(out) as beside:
        writer = gguf.GGUFWriter(beside, "llama")
        _add_sizes(writer, made, file_type)
        _add_tokenizer(writer, made.tokenizer, made.llm.config.vocab_size)
        _add_weights(writer, made.llm, number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    template = _template(made)
    known = f'TEMPLATE """{template}"""' if template else "# Its chat template is to be added here."
    stop = f"PARAMETER stop {json.dumps(made.stop_text)}"
    said = "".join(f"# {line}\n" for line in limits(made, one_line).splitlines())
    write_file(out.with_name("Modelfile"), f"{said}FROM ./{out.name}\n{known}\n{stop}\n")
    return out
