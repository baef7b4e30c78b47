"""Tokenizers of the classes, files, numbers of words and special ids that are published, learnt from this repository's docs.

The vocabularies of others are not here. What is learnt knows some thousand words; made-up ones that no text reaches fill
the vocabulary to the published size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from .layout import Config

_TEXTS = sorted(Path(__file__).resolve().parents[2].glob("docs/*.md"))
_LEARNT = 4000
_MARKS = (
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end"),
    *("box_start", "box_end", "quad_start", "quad_end"),
    *("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
)
_CODE = ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
_QWEN25 = [
    *(f"<|{name}|>" for name in _MARKS),
    *("<tool_call>", "</tool_call>"),
    *(f"<|{name}|>" for name in _CODE),
]
_QWEN3 = [*_QWEN25, "<tool_response>", "</tool_response>", "<think>", "</think>"]
_QWEN_WORDS = 151643
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _save(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _added(content: str, **other: bool) -> Config:
    said = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | other
    return {"__type": "AddedToken", "content": content} | said


def _pieces(suffix: str = "") -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-level BPE of the documentation: letters and longer words, the latter in the order of the merges."""
    ending = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer = Tokenizer(models.BPE(**ending))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_LEARNT,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        **ending,
    )
    tokenizer.train([str(path) for path in _TEXTS], trainer)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + suffix for letter in letters] if suffix else []
    known = set(letters)
    merges = []
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        # The trainer marks only letters that it saw at an end.
        if left in known and right in known:
            merges.append((left, right))
            known.add(left + right)
    return letters + list(dict.fromkeys(a + b for a, b in merges)), merges


def _filled(words: list[str], size: int) -> list[str]:
    return words + [f"filler{number}" for number in range(size - len(words))]


def _ids(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _merges(folder: Path, merges: list[tuple[str, str]], head: str) -> None:
    lines = [head, *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _clip(folder: Path, padding: str) -> None:
    """CLIP's: 49,408 words, the last two begin and end a text."""
    words, merges = _pieces("</w>")
    ends = ["<|startoftext|>", "<|endoftext|>"]
    _save(folder / "vocab.json", _ids(_filled(words, 49406) + ends))
    _merges(folder, merges, "#version: 0.2")
    special = {
        "bos_token": _added(ends[0]),
        "eos_token": _added(ends[1]),
        "unk_token": _added(ends[1]),
    }
    _save(
        folder / "tokenizer_config.json",
        special
        | {
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": ends[1],
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    plain = {
        name: {key: value for key, value in token.items() if key != "__type"}
        for name, token in special.items()
    }
    _save(folder / "special_tokens_map.json", plain | {"pad_token": padding})


def _roberta(folder: Path) -> None:
    """RoBERTa's, of AudioLDM: 50,265 words, the special ones first and <mask> last."""
    words, merges = _pieces()
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = _ids([*_filled(first + words, 50264), "<mask>"])
    _save(folder / "vocab.json", vocabulary)
    _merges(folder, merges, "#version: 0.2")
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    said = {
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": 512,
        "tokenizer_class": "RobertaTokenizer",
        "trim_offsets": True,
    }
    _save(folder / "tokenizer_config.json", special | said)
    _save(folder / "special_tokens_map.json", special)
    AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _qwen(folder: Path, special: list[str]) -> None:
    """Qwen's: 151,643 byte-level words and the special ones behind them."""
    words, merges = _pieces()
    vocabulary = _ids(_filled(words, _QWEN_WORDS))
    _save(folder / "vocab.json", vocabulary)
    _merges(folder, merges, "#version: 0.2")
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    made.save(str(folder / "tokenizer.json"))
    said = {
        "added_tokens_decoder": {
            str(_QWEN_WORDS + number): {
                "content": content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for number, content in enumerate(special)
        },
        "bos_token": None,
        "chat_template": _CHATML,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _save(folder / "tokenizer_config.json", said)


def _llama(folder: Path, both: bool) -> None:
    """LLaMA's: a SentencePiece model of 32,000 pieces with bytes for what it does not know; `both` adds tokenizer.json."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(
            line for path in _TEXTS for line in path.read_text("utf-8").splitlines()
        ),
        model_writer=model,
        vocab_size=_LEARNT,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=10000,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    last = min(piece.score for piece in proto.pieces)
    for number in range(32000 - len(proto.pieces)):
        proto.pieces.add(piece=f"\u2581filler{number}", score=last - 1 - number)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    special = {
        "bos_token": _added("<s>"),
        "eos_token": _added("</s>"),
        "unk_token": _added("<unk>"),
    }
    said = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    _save(folder / "tokenizer_config.json", special | said)
    _save(
        folder / "special_tokens_map.json",
        {
            name: {k: v for k, v in token.items() if k != "__type"}
            for name, token in special.items()
        },
    )
    if both:
        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _signals(folder: Path) -> None:
    """NExT-GPT's: LLaMA's, and the tokens that it added."""
    _llama(folder, False)
    counts = {"IMG": 4, "VID": 24, "AUD": 8}
    signals = [f"[{kind}{number}]" for kind, count in counts.items() for number in range(count)]
    added = {word: 32000 + number for number, word in enumerate(["<Img>", "</Img>", *signals])}
    _save(folder / "added_tokens.json", added)
    file = folder / "special_tokens_map.json"
    _save(file, json.loads(file.read_text(encoding="utf-8")) | {"pad_token": "</s>"})


_KINDS: dict[str, Callable[[Path], None]] = {
    "clip": lambda folder: _clip(folder, "<|endoftext|>"),
    "clip, padded with !": lambda folder: _clip(folder, "!"),
    "roberta": _roberta,
    "qwen3": lambda folder: _qwen(folder, _QWEN3),
    "qwen2.5": lambda folder: _qwen(folder, _QWEN25),
    "llama": lambda folder: _llama(folder, False),
    "llama, with signals": _signals,
    "llama, both forms": lambda folder: _llama(folder, True),
}


def tokenizer(kind: str, folder: Path) -> None:
    """Writes the files of a kind of tokenizer into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _KINDS[kind](folder)
