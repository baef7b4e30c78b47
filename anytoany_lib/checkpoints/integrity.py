"""Whether a model's folder is whole, before minutes go into loading it: every file there, readable, and of that model.

Heads of weights files are read, never the numbers; nothing in a pickled file is executed. Tensors are compared with what
the configuration beside them promises, and tokenizers with the rows of the embedding that they count for. Each problem is
a sentence with the file, what was expected and what was found.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.checkpoints.hub import INDEX, first_line, is_weights
from anytoany_lib.encoders.imagebind import expected_shapes
from anytoany_lib.gates.foreign_code import LOCAL

Shapes = dict[str, tuple[int, ...]]
# Stored with the weights by older versions of the libraries, computed by today's.
_COMPUTED = ("position_ids", "token_type_ids", "inv_freq", "num_batches_tracked")
_PICKLES = (".bin", ".pth", ".pt")
_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before 1.6
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def encoder_problems(path: Path) -> list[str]:
    """What is wrong with ImageBind's folder or single file."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return [f"{file} is missing"]
    problem, found = head_of(file)
    if problem:
        return [problem]
    try:
        expected = expected_shapes(path)
    except ValueError as error:
        return [f"{path}: {error}"]
    odd = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if not odd:
        return []
    name = odd[0]
    return [
        f"{file} is no ImageBind of the expected size: {len(odd)} tensors differ, such as {name}: expected "
        f"{expected.get(name)}, found {found.get(name)}"
    ]


# The class in transformers of each folder that an encoder other than ImageBind is made of, and its model_type.
_TOWERS = {
    ("encoder", "pe-av"): ("PeAudioVideoModel", "pe_audio_video"),
    ("encoder", "siglip2+whisper"): ("SiglipModel", "siglip"),
    ("audio encoder", "siglip2+whisper"): ("WhisperModel", "whisper"),
}


def tower_problems(folder: Path, what: str, model: str) -> list[str]:
    """What is wrong with a folder of an encoder of transformers' models; `what` is its name in a plan, `model` the encoder's."""
    cls, model_type = _TOWERS[what, model]
    problems, config = _json(folder / "config.json")
    if not problems and (found := config.get("model_type")) != model_type:
        problems = [f"{folder / 'config.json'} is of a {found!r}, expected {model_type!r}"]
    problems += _json(folder / "preprocessor_config.json")[0]
    # Without its extra the library cannot make a PE-AV to compare with.
    known = model != "pe-av" or find_spec("timm") is not None
    return problems or _weights(folder, cls if known else "", config)


def llm_problems(folder: Path) -> list[str]:
    """What is wrong with a language model's folder."""
    problems, config = language_config(folder)
    return problems or _weights(folder, "causal", config) + _tokenizer(folder, config["vocab_size"])


def weights_problems(folder: Path) -> list[str]:
    """What is wrong with the weights of a language model's folder, whatever its tokenizer."""
    problems, config = language_config(folder)
    return problems or _weights(folder, "causal", config)


def words_problems(folder: Path) -> list[str]:
    """What is wrong with a language model's tokenizer and configuration, which come before its weights."""
    problems, config = language_config(folder)
    return problems or _tokenizer(folder, config["vocab_size"])


def language_config(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """(problems, content) of a language model's config.json."""
    file = folder / "config.json"
    problems, config = _json(file)
    lacking = [key for key in ("model_type", "vocab_size") if key not in config]
    if not problems and lacking:
        problems = [
            f"{file} is no language model's: expected {lacking}, found {sorted(config)[:5]}"
        ]
    return problems, config


def _json(file: Path) -> tuple[list[str], dict[str, Any]]:
    """(problems, content) of a file that is to hold a JSON object."""
    if not file.is_file():
        return [f"{file} is missing"], {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"{file} is no JSON, or is cut ({error})"], {}
    if not isinstance(content, dict):
        return [f"{file}: expected a JSON object, found {type(content).__name__}"], {}
    return [], content


def pipeline_problems(folder: Path, without: Collection[str] = ()) -> list[str]:
    """What is wrong with a pipeline's folder; parts `without` are not looked at."""
    problems, index = _json(folder / INDEX)
    for name, value in index.items():
        if not isinstance(value, list) or not value[0] or name in without:
            continue
        part = folder / name
        if not part.is_dir():
            problems.append(f"{part} is missing, which {INDEX} names")
        elif "okenizer" in value[1]:
            encoder = folder / name.replace("tokenizer", "text_encoder") / "config.json"
            rows = _json(encoder)[1].get("vocab_size") if encoder.is_file() else None
            problems += _tokenizer(part, rows)
        elif "Scheduler" in value[1]:
            problems += _json(part / "scheduler_config.json")[0]
        elif "Processor" in value[1] or "Extractor" in value[1]:
            problems += _json(part / "preprocessor_config.json")[0]
        else:
            wrong, config = _json(part / "config.json")
            problems += wrong or _weights(part, value[1], config)
    return problems


def _tokenizer(folder: Path, rows: int | None) -> list[str]:
    """Its files one by one, then whether they make a tokenizer that gives a sentence back and fits the embedding."""
    settings = folder / "tokenizer_config.json"
    there = [name for name in _VOCABULARIES if (folder / name).is_file()]
    problems = _json(settings)[0]
    if not there:
        problems.append(f"{folder} has no vocabulary: expected one of {', '.join(_VOCABULARIES)}")
    for file in sorted(folder.glob("*.json")):
        if file.name in ("tokenizer.json", "vocab.json", "special_tokens_map.json"):
            problems += _json(file)[0]
    merges = folder / "merges.txt"
    if "vocab.json" in there and not problems:
        problems += _merges(merges, _json(folder / "vocab.json")[1])
    if problems:
        return problems
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        again = tokenizer.decode(tokenizer("a bell rings", add_special_tokens=False).input_ids)
    except Exception as error:  # what a tokenizer raises has no common class
        return [f"{folder}: no tokenizer can be made of {', '.join(there)} ({first_line(error)})"]
    if rows is not None and len(tokenizer) > rows:
        problems.append(
            f"{folder}: its tokenizer ({', '.join(there)}) knows {len(tokenizer):,} words, the embedding has {rows:,} rows: "
            "the two are of different models"
        )
    if again.strip() != "a bell rings":
        problems.append(
            f"{folder}: its tokenizer ({', '.join(there)}) makes {again!r} of 'a bell rings': its files are cut, or of "
            "different models"
        )
    return problems


def _merges(file: Path, vocabulary: dict[str, int]) -> list[str]:
    """Whether the merges of a byte-level BPE make the words of its vocabulary."""
    if not file.is_file():
        return [f"{file} is missing"]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        return [f"{file} is no text ({error})"]
    rules = [line for line in lines if line and not line.startswith("#version")]
    made = ["".join(rule.split(" ")) for rule in rules]
    odd = [rule for rule, word in zip(rules, made, strict=True) if word not in vocabulary]
    if odd or not rules:
        found = odd[0] if odd else "no rule"
        return [f"{file} does not belong to the vocab.json beside it, or is cut: found {found!r}"]
    return []


# --- weights ---


def _weights(folder: Path, cls: str, config: dict[str, Any]) -> list[str]:
    """The weights files of a model against its configuration."""
    files = sorted(file for file in folder.iterdir() if is_weights(file.name))
    if any(file.suffix == ".safetensors" for file in files):  # the libraries prefer them
        files = [file for file in files if file.suffix == ".safetensors"]
    problems: list[str] = []
    for index in sorted(folder.glob("*.index.json")):
        wrong, content = _json(index)
        names = sorted(set(content.get("weight_map", {}).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        problems += wrong + [
            f"{folder / name} is missing, which {index.name} names" for name in absent
        ]
    if not files:
        problems.append(
            f"{folder} has no weights: expected model.safetensors, pytorch_model.bin or the like"
        )
    found: Shapes = {}
    for file in files:
        problem, shapes = head_of(file)
        problems += [problem] if problem else []
        found |= shapes
    return problems or _compared(folder, cls, config, found)


def _compared(folder: Path, cls: str, config: dict[str, Any], found: Shapes) -> list[str]:
    """Shapes that the configuration promises and no tensor has. Names are not compared: the libraries rename old ones."""
    try:
        expected = _expected(cls, json.dumps(config))
    except Exception as error:  # a configuration can be wrong in as many ways as there are models
        return [f"{folder / 'config.json'}: no {cls} can be made of it ({error})"]
    stored = {name: shape for name, shape in found.items() if not name.endswith(_COMPUTED)}
    lacking = Counter(expected.values()) - Counter(stored.values())
    surplus = Counter(stored.values()) - Counter(expected.values())
    if not lacking:
        return []
    shape = next(iter(lacking))
    name = next(name for name, own in expected.items() if own == shape)
    other = next((name for name, own in stored.items() if surplus[own]), None)
    beside = f", but has {other} of {stored[other]}" if other else ""
    return [
        f"{folder}: its weights are of another model than its config.json: {sum(lacking.values())} tensors are not there, "
        f"such as {name} of {shape}{beside}"
    ]


@lru_cache(maxsize=64)
def _expected(cls: str, config_json: str) -> Shapes:
    """Parameters of the model that a configuration (JSON) describes, built where nothing is allocated."""
    config = json.loads(config_json)
    with torch.device("meta"):
        if cls == "causal":
            kind = config.pop("model_type")
            settings = AutoConfig.for_model(kind, **config)
            model: Any = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        elif hasattr(diffusers, cls):
            model = getattr(diffusers, cls).from_config(config)
        elif hasattr(transformers, cls):
            made = getattr(transformers, cls)
            model = made(made.config_class(**config))
        else:  # a class of a pipeline's own
            return {}
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def head_of(file: Path) -> tuple[str | None, Shapes]:
    """(what is wrong with a weights file by its own account, the shapes of its tensors), without reading the numbers."""
    if file.suffix == ".safetensors":
        return _safetensors_head(file)
    return _pickled_head(file) if file.suffix in _PICKLES else (None, {})


def _safetensors_head(file: Path) -> tuple[str | None, Shapes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if not 2 <= length <= 10**8:  # the format allows no longer one
            return f"{file} is no safetensors file: it begins with {head!r}", {}
        if 8 + length > size:
            return f"{file} is cut within its head", {}
        try:
            header = json.loads(opened.read(length))
            tensors = {name: t for name, t in header.items() if name != "__metadata__"}
            end = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{file} is no safetensors file: its head cannot be read ({error})", {}
    if size != end:
        return f"{file}: expected {end:,} bytes, found {size:,}", {}
    try:
        with safe_open(file, framework="pt"):
            return None, {name: tuple(t["shape"]) for name, t in tensors.items()}
    except SafetensorError as error:
        return f"{file} is no safetensors file ({error})", {}


def _pickled_head(file: Path) -> tuple[str | None, Shapes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        begin = opened.read(len(_TORCH))
    if begin[:2] != b"PK":
        if begin == _TORCH:
            return None, {}
        return f"{file} ({size:,} bytes) is no weights file: it begins with {begin!r}", {}
    if not zipfile.is_zipfile(file):
        return f"{file} is cut: it ends after {size:,} bytes without its list of contents", {}
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        text = first_line(error)
        return (
            f"{file} holds more than tensors, or is damaged; nothing in it was executed ({text[:200]})",
            {},
        )
    return None, dict(_shapes(tensors))


def _shapes(tensors: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    items = tensors.items() if isinstance(tensors, dict) else ()
    return ((name, tuple(t.shape)) for name, t in items if isinstance(t, torch.Tensor))
