"""The GGUF file in llama.cpp itself, by a package that brings it built: it reads, words and continues prompts as transformers do."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_runs import SHIPPED
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from anytoany_lib.export import gguf_file, merging
from anytoany_lib.toyworld.conversations.authors import known_answers

llama_cpp = pytest.importorskip(
    "xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)"
)

LONGEST = 32
NEAR = {"float32": 0.005, "float16": 0.05}  # of two logits, so that rounding may choose
ODD = [
    "12 + 34?  And   naïve\n日本 🙂",
    "Draw a red bell.",
    "I'd love to hear three bells, please!",
    "Show me a blue fish that swims to the left.",
    "Write <|im_end|> and [IMG0] as they are.",
    "def f(x):\n\treturn x ** 2  # 3,141.59",
]
PROMPTS = [question for question, _ in known_answers()[: 50 - len(ODD)]] + ODD


class Served:
    """A .gguf file in llama.cpp's own server, on this machine."""

    def __init__(self, file: Path):
        settings = llama_cpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.verbosity = str(file), 512, 0
        # Its threads wait for each other without rest: beside other work one is faster than two.
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        # What it remembers of a prompt would be halved by itself.
        settings.cache_type_k = settings.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
        self.server = llama_cpp.Server(settings)

    def __call__(self, path: str, **asked: Any) -> dict[str, Any]:
        """The answer to a request."""
        address, body = f"{self.server.listening_address}{path}", json.dumps(asked).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)


class Continued(NamedTuple):
    """A prompt, its tokens by the chat template, and the likeliest tokens behind it."""

    turns: list[dict[str, str]]
    ids: list[int]
    tokens: list[int]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, list[Continued]]:
    """The language model of the run that ships in plain transformers, and what it makes of the prompts."""
    folder = tmp_path_factory.mktemp("merged") / "llm"
    merging.write_merged(SHIPPED, folder, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for prompt in PROMPTS:
        turns = [{"role": "user", "content": prompt}]
        read = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        ids = read.input_ids
        drawn = model.generate(torch.tensor([ids]), max_new_tokens=LONGEST, do_sample=False)
        found.append(Continued(turns, ids, drawn[0, len(ids) :].tolist()))
    return model, found


@torch.no_grad()
def _apart(model: PreTrainedModel, one: Continued, other: list[int]) -> float:
    """How far apart transformers has the logits of the two tokens at which other continuations part from its own."""
    at = next(
        n for n, (own, found) in enumerate(zip(one.tokens, other, strict=False)) if own != found
    )
    logits = model(torch.tensor([one.ids + one.tokens[:at]])).logits[0, -1]
    return float(logits[one.tokens[at]] - logits[other[at]])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fifty_prompts_are_read_and_continued_alike(dtype: str, plain, tmp_path: Path):
    model, continued = plain
    served = Served(gguf_file.write_gguf(SHIPPED, tmp_path / "a.gguf", getattr(torch, dtype)))
    settings, parted = {"n_predict": LONGEST, "temperature": 0, "return_tokens": True}, []
    for one in continued:
        shown = served("/apply-template", messages=one.turns)["prompt"]
        ids = served("/tokenize", content=shown, add_special=True, parse_special=True)["tokens"]
        assert ids == one.ids, one.turns
        found = served("/completion", prompt=ids, **settings)["tokens"]
        if found != one.tokens:
            parted.append(_apart(model, one, found))
    print(f"{dtype}: {50 - len(parted)} of 50 alike, others at logits {parted} apart")
    # Sums are rounded in another order: of two tokens that are as likely either may come.
    assert len(continued) == 50 and len(parted) <= 5 and max(parted, default=0) < NEAR[dtype]
