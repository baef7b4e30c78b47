"""The language model: loaded in 4-bit NF4, kept frozen, extended by a few new token rows and by LoRA.

The new tokens' embeddings live in `TokenRows`, beside the LLM and not in it: its own matrices stay as published, and
a training step computes no gradient for the whole vocabulary.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from anytoany_lib.config import Dtype, LoraSettings, Profile, resolve
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.gates.sources import how_to_get
from anytoany_lib.messages import MessageEncoder, Vocabulary
from anytoany_lib.system.runs import compare, tensors_in
from anytoany_lib.tokenizer.pieces import Tokenizer
from anytoany_lib.tokenizer.sentencepiece_legacy import LegacyTokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
COMPUTED = "rotary_emb.inv_freq"  # old checkpoints carry it; today's code computes it


def pick_device() -> torch.device:
    """This process's CUDA card by its number, or the CPU. Processes of a launcher take a card each.

    A "cuda" without a number is another card in a thread than where the process has chosen one.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies matrices in it, else float16 on CUDA and float32 on a CPU.

    A CPU with AVX512-BF16 but no AMX is not enough for talking: there a token takes twice the time of float32. Training takes
    less (`training.setup`).
    """
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16") else torch.float32


def compute_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The type that a language model computes in, by a profile's llm.dtype; "auto" is `pick_dtype` of the device."""
    return pick_dtype(device) if dtype == "auto" else getattr(torch, dtype)


def model_folder(profile: Profile) -> Path:
    """Where the profile's language model lies. FileNotFoundError if it does not."""
    folder = resolve(profile.llm.folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no language model in {folder} (expected config.json, tokenizer and safetensors): "
            f"{how_to_get('llm', profile.llm.folder)}. notebooks/01_checkpoints.ipynb does so too; or set llm.folder in the profile"
        )
    return without_code(folder)


def load_llm(profile: Profile, device: torch.device | None = None) -> PreTrainedModel:
    """The frozen causal LM, its linear layers in 4-bit NF4 unless the profile says otherwise.

    ValueError names weights that are missing in its folder, surplus or of another shape.
    """
    device = device or pick_device()
    dtype = compute_dtype(profile.llm.dtype, device)
    quantization = None
    if profile.llm.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=_storage(dtype),
        )
    folder = model_folder(profile)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantization,
        device_map={"": device},
        ignore_mismatched_sizes=True,  # they are in the report
        output_loading_info=True,
        **LOCAL,
    )
    _check_weights(model, report, folder)
    _trim_vocabulary(model, profile)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On such CPUs the first forward without gradients repacks the weights in place and thereby
            # corrupts the gradients of any training after it (bitsandbytes 0.50).
            module.support_avx512bf16_for_cpu = False
            # A weight that knows its layer keeps both, and the memory of both, until a collection of garbage.
            module.weight.module = None
    return model.requires_grad_(False).eval()


def _check_weights(model: PreTrainedModel, report: dict[str, Any], folder: Path) -> None:
    """Raises ValueError if weights are missing, surplus or of another shape: transformers draws such ones at random.

    `report` is its own of the loading: a head that is tied and stored as well, and what a model computes itself
    (`rotary_emb.inv_freq`), do not stand in it.
    """
    problems = [f"missing {name}" for name in sorted(report["missing_keys"])]
    surplus = [name for name in report["unexpected_keys"] if not name.endswith(COMPUTED)]
    problems += [f"surplus {name}" for name in sorted(surplus)]
    problems += [
        f"{name} is {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in sorted(report["mismatched_keys"], key=str)
    ]
    # Of a layer in 4 bits transformers compares no shapes.
    for name, layer in model.named_modules():
        packed = (
            getattr(layer.weight, "quant_state", None) if isinstance(layer, Linear4bit) else None
        )
        expected = (layer.out_features, layer.in_features) if packed else ()
        if packed and tuple(packed.shape) != expected:
            problems.append(f"{name}.weight is {tuple(packed.shape)} instead of {expected}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"the weights in {folder} are not those of its config.json: {'; '.join(problems[:8])}{more}. They were saved for "
            "another class or are not complete: fetch them again, or save them with save_pretrained of the whole model"
        )


def unpack(llm: PreTrainedModel, always: bool = False) -> None:
    """Gives the 4-bit layers of an LLM on a CPU the weights they stand for, if half of the free memory holds them, or `always`.

    A CPU unpacks a 4-bit layer anew in every pass, which is a fifth of the time of a token; hidden states and gradients are
    the same to the last bit.
    """
    layers = {name: m for name, m in llm.named_modules() if isinstance(m, Linear4bit)}
    size = sum(layer.in_features * layer.out_features for layer in layers.values())
    room = psutil.virtual_memory().available // 2
    if not always and (llm.device.type != "cpu" or size * llm.dtype.itemsize > room):
        return
    for name, layer in layers.items():
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(llm.dtype)
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        llm.set_submodule(name, plain)


def launched_for(what: str) -> bool:
    """Whether `accelerate launch` was asked for "FSDP" or "DEEPSPEED"."""
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"


def _storage(dtype: torch.dtype) -> torch.dtype:
    """The type of tensor that 4-bit weights are packed in: bytes, or under FSDP the floating type, which it can shard."""
    return dtype if launched_for("FSDP") else torch.uint8


def _trim_vocabulary(model: PreTrainedModel, profile: Profile) -> None:
    """Drops the rows behind the profile's vocabulary (Vicuna v0 has one for padding, where new tokens go)."""
    rows, counted = model.get_input_embeddings().weight.shape[0], profile.llm.vocabulary
    if counted is not None and counted > rows:
        raise ValueError(
            f"{profile.llm.folder} has an embedding of {rows} rows, the profile says {counted}: correct llm.vocabulary, "
            "or name the language model that the profile was written for"
        )
    if counted is not None and counted < rows:
        model.resize_token_embeddings(counted, mean_resizing=False)


@torch.no_grad()
def replace_vocabulary(model: PreTrainedModel, file: Path) -> None:
    """Copies "embedding" and "head" of a safetensors file over the model's own. ValueError if a shape differs."""
    tables = {
        "embedding": model.get_input_embeddings().weight,
        "head": model.get_output_embeddings().weight,
    }
    tensors = tensors_in(file)
    compare(tables, tensors, f"{file} does not fit the profile")
    for name, table in tables.items():
        table.copy_(tensors[name])


class TokenRows(nn.Module):
    """Embedding rows of the new tokens: `input` (n, H), and `output` (n, H) where the LLM does not tie the two."""

    def __init__(self, llm: PreTrainedModel, count: int):
        super().__init__()
        self.first = llm.get_input_embeddings().weight.shape[0]
        self.input = nn.Parameter(self._mean_rows(llm.get_input_embeddings().weight, count))
        head = llm.get_output_embeddings().weight
        tied = llm.config.get_text_config().tie_word_embeddings
        self.output = None if tied else nn.Parameter(self._mean_rows(head, count))

    @staticmethod
    def _mean_rows(weight: torch.Tensor, count: int) -> torch.Tensor:
        """The average token, moved a little so that the rows differ."""
        mean, spread = weight.float().mean(0), weight.float().std()
        return (
            mean + 0.1 * spread * torch.randn(count, mean.numel(), device=weight.device)
        ).detach()

    def embed(self, ids: torch.Tensor, embedding: nn.Embedding) -> torch.Tensor:
        """ids (B, T) of old and new tokens -> input embeddings (B, T, H) in the LLM's dtype."""
        is_new = ids >= self.first
        old = embedding(ids.masked_fill(is_new, 0))
        # Not self.input[...], whose gradients threads add up in whatever order they come.
        new = F.embedding((ids - self.first).clamp(min=0), self.input).to(old.dtype)
        return torch.where(is_new[..., None], new, old)

    def logits(self, hidden: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        """Hidden states (..., H) -> logits (..., V + n) in float32, the new tokens last."""
        rows = self.input if self.output is None else self.output
        if rows.dtype == hidden.dtype:
            return torch.cat([head(hidden), F.linear(hidden, rows)], dim=-1).float()
        return torch.cat([head(hidden).float(), F.linear(hidden.float(), rows.float())], dim=-1)


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The profile's LoRA settings as PEFT has them."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )


def add_lora(llm: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Puts fresh LoRA matrices into the LLM's layers (in place), with the identity as their first effect."""
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is on its way out.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(llm, lora_config(settings))


def load_tokenizer(profile: Profile, folder: Path | None = None) -> Tokenizer:
    """The tokenizer in `folder` (the profile's LLM folder if None), of the kind that the profile names.

    FileNotFoundError if there is none, ValueError if it cannot be read.
    """
    folder = without_code(folder or resolve(profile.llm.folder))
    if profile.llm.tokenizer == "sentencepiece-legacy":
        return LegacyTokenizer(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise FileNotFoundError(
            f"no tokenizer in {folder} (expected {', '.join(_TOKENIZER_FILES[:-1])}, or {_TOKENIZER_FILES[-1]} and merges.txt): run "
            "notebooks/01_checkpoints.ipynb, or set llm.folder in the profile"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # a file that is cut raises whatever its parser does
        raise ValueError(
            f"the tokenizer in {folder} cannot be read: one of its files is cut, or of another model; delete "
            f"tokenizer* there and fetch them again ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def check_tokenizer(profile: Profile, folder: Path | None = None) -> Tokenizer:
    """The tokenizer in `folder`, which needs the small files alone (config.json and the tokenizer's), checked with the profile.

    Checked are that it has no more words than the embedding has rows, that it knows the template's special tokens, that the
    template ends a reply, and that a prompt is how a learnt conversation begins. ValueError says what does not fit.
    """
    folder = folder or resolve(profile.llm.folder)
    tokenizer = load_tokenizer(profile, folder)
    rows = _embedding_rows(folder)
    counted = profile.llm.vocabulary or rows
    if counted > rows:
        raise ValueError(
            f"{folder / 'config.json'} names {rows} words, the profile {counted}: correct llm.vocabulary, or take the language "
            "model that the profile was written for"
        )
    MessageEncoder(tokenizer, profile, Vocabulary.of(counted, profile))
    return tokenizer


def _embedding_rows(folder: Path) -> int:
    """Rows of the embedding by a folder's config.json."""
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL).get_text_config().vocab_size
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is no configuration of a language model: expected model_type and vocab_size; fetch it "
            f"again ({str(error).splitlines()[0][:200]})"
        ) from error
