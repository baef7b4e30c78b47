"""The language model as it is loaded: on which device, with which rows, and gone when nobody has it any more."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from resuming import shallow, with_stage
from transformers import LlamaConfig, LlamaForCausalLM

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.llm import load_llm, pick_device
from anytoany_lib.model import AnyToAny

CPU = torch.device("cpu")


def test_every_process_has_its_own_card_from_threads_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert pick_device() == torch.device("cuda", 0)
    for rank, card in (("0", 0), ("1", 1), ("3", 1)):  # of four that see two cards each
        monkeypatch.setenv("LOCAL_RANK", rank)
        found = []
        thread = threading.Thread(target=lambda found=found: found.append(pick_device()))
        thread.start()
        thread.join()
        assert found == [pick_device()] == [torch.device("cuda", card)]


@pytest.fixture(scope="module")
def padded(four_bits: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """A language model with a row behind its vocabulary, and a head of its own."""
    folder = tmp_path_factory.mktemp("padded")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 33}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=False)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    llm = four_bits.llm.model_copy(update={"folder": str(folder), "vocabulary": 32})
    return four_bits.model_copy(update={"llm": llm})


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_rows_behind_the_vocabulary_go_and_the_others_stay_as_published(
    padded: Profile, quantization: str
):
    update = {"quantization": quantization, "dtype": "bfloat16"}
    llm = padded.llm.model_copy(update=update)
    found = load_llm(padded.model_copy(update={"llm": llm}), CPU)
    whole = LlamaForCausalLM.from_pretrained(llm.folder, dtype=torch.bfloat16)
    for tables in ("get_input_embeddings", "get_output_embeddings"):
        kept, published = (getattr(m, tables)().weight for m in (found, whole))
        assert kept.dtype == torch.bfloat16 and not kept.requires_grad
        assert torch.equal(kept, published[:32])
    assert found.config.vocab_size == 32
    assert any(isinstance(m, Linear4bit) for m in found.modules()) == (quantization == "nf4")


@pytest.fixture
def no_collection():
    """Nothing is collected as garbage: what is freed is freed because nobody refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_4_bit_model_is_gone_when_it_is_deleted(padded: Profile, no_collection):
    llm = load_llm(padded, CPU)
    layers = [weakref.ref(m) for m in llm.modules() if isinstance(m, Linear4bit)]
    assert layers
    del llm
    assert not any(layer() for layer in layers)


def test_a_training_leaves_no_model_behind(
    profile: Profile, toy_data: Path, tmp_path: Path, monkeypatch, no_collection
):
    small = shallow(profile, tmp_path)
    small = with_stage(small, 1, batch_size=2)
    monkeypatch.setattr("anytoany_lib.training.finish._validation", lambda *_: {})
    real, made = AnyToAny.from_profile.__func__, []

    def from_profile(cls, *arguments):
        model = real(cls, *arguments)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(AnyToAny, "from_profile", classmethod(from_profile))
    train.train(small, 1, toy_data, tmp_path / "run", max_steps=1)
    assert len(made) == 1 and made[0]() is None
