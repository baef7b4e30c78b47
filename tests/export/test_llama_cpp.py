"""The GGUF file in llama.cpp itself, by a package that brings it built: it reads, words and continues prompts as transformers do."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_runs import SHIPPED
from transformers import AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.export import gguf_file, merging
from anytoany_lib.toyworld.conversations.authors import known_answers

llama_cpp = pytest.importorskip(
    "xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)"
)

LONGEST = 32
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
    """A prompt as its template has it, in tokens, and the likeliest tokens behind it."""

    turns: list[dict[str, str]]
    ids: list[int]
    tokens: list[int]


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> list[Continued]:
    """What transformers alone makes of the prompts, of the run that ships, merged."""
    folder = tmp_path_factory.mktemp("merged") / "llm"
    merging.write_merged(SHIPPED, folder, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for prompt in PROMPTS:
        turns = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        ids = ids.input_ids
        drawn = model.generate(torch.tensor([ids]), max_new_tokens=LONGEST, do_sample=False)
        tokens = [at for at in drawn[0, len(ids) :].tolist() if at != tokenizer.eos_token_id]
        found.append(Continued(turns, ids, tokens))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fifty_prompts_are_read_and_continued_alike(dtype: str, continued, tmp_path: Path):
    served = Served(gguf_file.write_gguf(SHIPPED, tmp_path / "a.gguf", getattr(torch, dtype)))
    settings = {"n_predict": LONGEST, "temperature": 0, "return_tokens": True}
    assert len(continued) == 50
    for one in continued:
        shown = served("/apply-template", messages=one.turns)["prompt"]
        ids = served("/tokenize", content=shown, add_special=True, parse_special=True)["tokens"]
        assert ids == one.ids, one.turns
        assert served("/completion", prompt=ids, **settings)["tokens"] == one.tokens, one.turns
