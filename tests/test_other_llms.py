"""Other language models in the same place: small random ones of each profile's architecture, trained a step and talked to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.batches import collate
from anytoany_lib.config import PROFILE_FOLDER, Profile, resolve
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import draw
from anytoany_lib.train import total_loss
from anytoany_lib.training.setup import trained_parts

NAMES = sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml") if path.stem != "tiny")
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module", params=NAMES)
def small(request, profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The profile with a random language model of its architecture, tiny encoder and decoders, and SmolLM2's words."""
    wanted = Profile.load(request.param)
    folder = tmp_path_factory.mktemp(wanted.name)
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    sizes = dict(SMALL) | {"vocab_size": len(tokenizer) + 1}
    if "head_dim" in wanted.llm.architecture:
        sizes["head_dim"] = 16
    torch.manual_seed(0)
    config = AutoConfig.for_model(**wanted.llm.architecture | sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vocabulary = wanted.llm.vocabulary and len(tokenizer)
    words = {"folder": str(folder), "vocabulary": vocabulary, "tokenizer": "auto"}
    llm = wanted.llm.model_copy(update=words)
    encoder = profile.encoder.model_copy(update={"soft_tokens": wanted.encoder.soft_tokens})
    parts = {"encoder": encoder, "input_projection": profile.input_projection}
    return wanted.model_copy(update=parts | {"llm": llm, "decoders": profile.decoders})


def talk() -> list[dict]:
    medium = torch.randn(256, generator=torch.Generator().manual_seed(0))
    shown = [{"type": "image", "image": medium}, {"type": "text", "text": "What is it?"}]
    made = [{"type": "text", "text": "Here."}, {"type": "audio", "caption": "a bell ringing"}]
    return [
        {"role": "user", "content": shown},
        {"role": "assistant", "content": "A red bell."},
        {"role": "user", "content": "Play it."},
        {"role": "assistant", "content": made},
    ]


def test_the_template_learns_replies_and_nothing_else(small: Profile):
    model = AnyToAny.from_profile(small, seed=0)
    encoded = model.messages.encode(talk())
    learnt = [i for i, label in zip(encoded.ids, encoded.labels, strict=True) if label != IGNORED]
    text = model.tokenizer.decode([i for i in learnt if i < model.vocabulary.base_size])
    stop = model.messages.stop_text
    # Qwen3's template shows earlier replies without what stood before them: they are learnt in rows of their own.
    earlier = small.llm.architecture["model_type"] != "qwen3"
    assert ("A red bell." in text) == earlier and "Here." in text
    assert text.count(stop) == 1 + earlier
    assert "What is it?" not in text and "Play it." not in text
    assert sum(i >= model.vocabulary.base_size for i in learnt) == 1
    prompt = model.messages.encode(talk()[:3], prompt=True)
    assert encoded.ids[: len(prompt.ids)] == prompt.ids


def test_a_step_of_each_stage_trains_its_parts(small: Profile):
    for stage in small.stages.values():
        model = AnyToAny.from_profile(small, seed=0)
        parts = trained_parts(model, stage)
        model.train()
        encoded = model.messages.encode(talk())
        batch = collate([encoded], lambda _, m: m, lambda *_: torch.zeros(128), 256)
        total_loss(model(batch), stage).backward()
        for part, parameters in parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            assert gradients and all(g.isfinite().all() for g in gradients), part


def test_it_talks_and_stops(small: Profile):
    model = AnyToAny.from_profile(small, seed=0).eval()
    shown = {"type": "image", "image": draw("bell", "red", np.random.default_rng(0))}
    messages = [{"role": "user", "content": [shown]}, *talk()[1:3]]
    reply = model.chat(messages, sampling=Sampling(max_new_tokens=8, kinds=()))
    assert reply["role"] == "assistant"
    assert all(part["type"] == "text" for part in reply["content"])


def test_four_bit_layers_are_four_bit(small: Profile):
    model = AnyToAny.from_profile(small, seed=0)
    layer = model.causal_lm.get_decoder().layers[0].mlp.up_proj
    assert small.llm.quantization == "nf4" and layer.weight.dtype == torch.uint8
