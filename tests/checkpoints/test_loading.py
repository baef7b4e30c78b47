"""What is refused when a language model is loaded: weights, words and templates that do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_nextgpt import small_nextgpt
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.config import Profile, resolve
from anytoany_lib.llm import check_tokenizer, load_llm, load_tokenizer
from anytoany_lib.messages import MessageEncoder, Vocabulary
from anytoany_lib.model import AnyToAny

Tensors = dict[str, torch.Tensor]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": True,
}


def with_llm(profile: Profile, **changes) -> Profile:
    return profile.model_copy(update={"llm": profile.llm.model_copy(update=changes)})


@pytest.fixture(scope="module")
def whole(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random LLaMA with SmolLM2's words, its head tied to its embedding."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(whole: Path, folder: Path, change: Callable[[Tensors], object]) -> str:
    """A copy of the model in `folder`, its weights changed."""
    shutil.copytree(whole, folder / "changed")
    file = folder / "changed" / "model.safetensors"
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    save_file(tensors, file, {"format": "pt"})
    return str(folder / "changed")


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: t for name, t in tensors.items() if "layers.1.mlp" not in name}


def with_a_prefix(tensors: Tensors) -> Tensors:
    return {f"base_model.model.{name}": t for name, t in tensors.items()}


def with_a_layer_more(tensors: Tensors) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(128, 64)


def narrower(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.ones(128, 32)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_layer, "missing model.layers.1.mlp.down_proj.weight"),
        (with_a_prefix, "missing .*surplus|missing .* and [0-9]+ more"),
        (with_a_layer_more, "surplus model.layers.2.mlp.up_proj.weight"),
        (narrower, r"model.layers.0.mlp.up_proj.weight is \(128, 32\) instead of \(128, 64\)"),
    ],
)
def test_weights_of_another_model_are_named(
    profile: Profile, whole: Path, tmp_path: Path, change, said: str, quantization: str
):
    folder = changed(whole, tmp_path, change)
    with pytest.raises(ValueError, match=f"not those of its config.json: .*{said}"):
        load_llm(with_llm(profile, folder=folder, quantization=quantization))


def test_what_published_models_carry_beside_their_weights_is_no_fault(
    profile: Profile, whole: Path, tmp_path: Path
):
    """A head that is tied and stored, and LLaMA's rotary frequencies, which are computed."""

    def more(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    folder = changed(whole, tmp_path, more)
    assert load_llm(with_llm(profile, folder=folder)).config.tie_word_embeddings


def test_more_words_than_rows_are_refused_before_weights_are_read(
    profile: Profile, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "fewer"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    words = config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": words - 100}))
    said = f"knows {words} words, but the embedding has {words - 100} rows"
    with pytest.raises(ValueError, match=said):
        AnyToAny.from_profile(with_llm(profile, folder=str(folder)))
    # Rows that the profile does not count are not there either.
    with pytest.raises(ValueError, match="correct llm.vocabulary"):
        check_tokenizer(with_llm(profile, folder=str(whole), vocabulary=words - 1))
    with pytest.raises(ValueError, match=f"names {words} words, the profile {words + 1}"):
        check_tokenizer(with_llm(profile, folder=str(whole), vocabulary=words + 1))


def test_words_with_numbers_beyond_the_rows_count_although_there_are_few(
    profile: Profile, model: AnyToAny
):
    vocabulary = Vocabulary.of(49152, profile)

    class Holes:
        """A tokenizer whose last word has a number that leaves some out."""

        def __getattr__(self, name: str):
            return getattr(model.tokenizer, name)

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 49152}

    with pytest.raises(ValueError, match="knows 49153 words"):
        MessageEncoder(Holes(), profile, vocabulary)


def test_the_small_files_are_enough_to_check_a_tokenizer(profile: Profile, tmp_path: Path):
    small = small_nextgpt(tmp_path, profile)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert len(check_tokenizer(small)) == small.llm.vocabulary
    elsewhere = with_llm(small, folder="nowhere")
    assert len(check_tokenizer(elsewhere, tmp_path)) == small.llm.vocabulary
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json is no configuration of a language model"):
        check_tokenizer(small)


def test_a_tokenizer_that_is_absent_or_cut_is_named(profile: Profile, whole: Path, tmp_path: Path):
    there = with_llm(profile, folder=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no tokenizer in {tmp_path} .expected tokenizer"):
        load_tokenizer(there)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((whole / "tokenizer.json").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=f"the tokenizer in {tmp_path} cannot be read"):
        load_tokenizer(there)


# --- templates ---


def encoder_with(model: AnyToAny, template: str) -> MessageEncoder:
    profile = with_llm(model.profile, chat_template=template)
    return MessageEncoder(model.tokenizer, profile, model.vocabulary)


TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\nANSWER: {% endif %}"


def test_a_prompt_that_is_not_how_the_learnt_turn_begins_is_refused_with_both(model: AnyToAny):
    template = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK
    with pytest.raises(ValueError, match=r"(?s)The prompt is .*ANSWER: .*learnt .*assistant\\n{}"):
        encoder_with(model, template)


def test_a_prompt_that_differs_in_the_second_turn_alone_is_refused_too(model: AnyToAny):
    ask = ASK.replace("%}<|", "%}{{ 'x' if messages|length > 1 }}<|").replace("ANSWER: ", "")
    with pytest.raises(ValueError, match="has to begin with the prompt"):
        encoder_with(model, "{% for m in messages %}" + TURN + "{% endfor %}" + ask)


def test_what_stands_between_prompt_and_reply_is_learnt_with_it(model: AnyToAny):
    turn = TURN.replace(
        "+ m['content']", "+ ('>> ' if m['role'] == 'assistant' else '') + m['content']"
    )
    ask = ASK.replace("ANSWER: ", "")
    encoder = encoder_with(model, "{% for m in messages %}" + turn + "{% endfor %}" + ask)
    asked = [{"role": "user", "content": "a"}]
    prompt = encoder.encode(asked, prompt=True).ids
    whole = encoder.encode([*asked, {"role": "assistant", "content": "b"}])
    assert whole.ids[: len(prompt)] == prompt
    expected = [*encoder.text_ids(">> "), *encoder.text_ids("b"), *encoder.stop]
    assert whole.labels[len(prompt) : len(prompt) + len(expected)] == expected


def test_replies_that_a_template_shows_in_another_way_later_are_not_learnt_there(model: AnyToAny):
    ask = ASK.replace("ANSWER: ", "(quiet) ")
    turn = TURN.replace(
        "+ m['content']",
        "+ ('(quiet) ' if loop.last and m['role'] == 'assistant' else '') + m['content']",
    )
    encoder = encoder_with(model, "{% for m in messages %}" + turn + "{% endfor %}" + ask)
    drawn = {"role": "assistant", "content": [{"type": "image", "caption": "a bell"}]}
    asked = {"role": "user", "content": "a"}
    encoded = encoder.encode([asked, drawn, asked, drawn])
    signal = encoder.vocabulary.signals["image"][0]
    assert encoded.ids.count(signal) == 2 and encoded.labels.count(signal) == 1
    assert len(encoded.signals) == len(encoded.target_media) == 1
    assert encoded.signals[0][2] == len(encoded.ids) - 1 - encoded.ids[::-1].index(signal)


def test_a_template_with_marks_of_another_model_is_refused(model: AnyToAny):
    turn = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    ask = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    with pytest.raises(ValueError, match=r"writes <\|assistant\|>, <\|end\|>, which the tokenizer"):
        encoder_with(model, turn + ask)
