"""A run's language model as others load it: plain transformers, and a GGUF file read back by transformers' own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from small_runs import SHIPPED, small_llama_run
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from anytoany_lib.config import Profile
from anytoany_lib.export import command, gguf_file, merging
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import write_json

PROMPTS = ["What is the capital of France?", "Draw a red bell.", "12 + 34?  And   naïve\n日本 🙂"]
NONE = torch.zeros(0, 256), torch.zeros(0, 2, dtype=torch.long)


def _ids(model: AnyToAny, prompt: str) -> torch.Tensor:
    return torch.tensor([model.messages.encode([{"role": "user", "content": prompt}], True).ids])


@torch.no_grad()
def _logits(model: AnyToAny, ids: torch.Tensor) -> torch.Tensor:
    """The run's own logits (1, T, V + new tokens)."""
    mask = torch.ones_like(ids)
    return model.logits(model.hidden_states(model.embed_inputs(ids, *NONE), mask, use_cache=False))


def _loaded(folder: Path, **file: str):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **file).eval()
    return model, AutoTokenizer.from_pretrained(folder, **file)


def _prompt(tokenizer, text: str) -> torch.Tensor:
    turns = [{"role": "user", "content": text}]
    settings = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    return tokenizer.apply_chat_template(turns, **settings).input_ids


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def small(four_bits: Profile, request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in 4 bits on a small llama, whose embedding has more rows than its tokenizer has words."""
    return small_llama_run(tmp_path_factory.mktemp("small"), four_bits, request.param)


def test_the_shipped_run_gives_the_same_logits_by_plain_transformers(tmp_path: Path):
    out = merging.write_merged(SHIPPED, tmp_path / "merged", torch.float32)
    plain, tokenizer = _loaded(out)
    model = AnyToAny.from_pretrained(SHIPPED, dtype="float32")
    for prompt in PROMPTS:
        ids = _ids(model, prompt)
        assert _prompt(tokenizer, prompt).tolist() == ids.tolist()
        with torch.no_grad():
            found = plain(ids).logits
        assert (found - _logits(model, ids)).abs().max() < 1e-3
    names = model.vocabulary.names
    first = model.vocabulary.base_size
    assert tokenizer.convert_tokens_to_ids(list(names)) == [*range(first, first + len(names))]
    drawn = plain.generate(_prompt(tokenizer, PROMPTS[1]), max_new_tokens=24, do_sample=False)
    assert "[IMG0]" in tokenizer.decode(drawn[0])
    assert [plain.generation_config.eos_token_id] == model.messages.stop


def test_names_and_shapes_are_those_of_the_plain_architecture(small: Path, tmp_path: Path):
    """For loaders like that of vLLM, which read the configuration and the tensors by their names, and run no code of ours."""
    out = merging.write_merged(small, tmp_path / "merged", torch.bfloat16)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "bfloat16"
    assert not {"quantization_config", "auto_map"} & config.keys()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out))
    found = load_file(out / "model.safetensors")
    expected = dict(plain.named_parameters())  # a tied head once
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert not [path.name for path in out.iterdir() if path.suffix in (".py", ".bin", ".pt")]


def test_new_tokens_are_rows_behind_the_words(small: Path, tmp_path: Path):
    out = merging.write_merged(small, tmp_path / "merged", torch.float32)
    plain, tokenizer = _loaded(out)
    model = AnyToAny.from_pretrained(small, dtype="float32")
    words, first = len(model.tokenizer), model.vocabulary.base_size
    at = tokenizer.convert_tokens_to_ids(list(model.vocabulary.names))
    assert at == [*range(words, words + len(at))] and first == words + 50
    ids = _ids(model, PROMPTS[0])
    shown = torch.cat([ids, torch.tensor([[first, first + 2]])], dim=1)
    own = _logits(model, shown)
    with torch.no_grad():
        found = plain(torch.cat([ids, torch.tensor([[at[0], at[2]]])], dim=1)).logits
    assert own.abs().max() > 1
    torch.testing.assert_close(found[..., :words], own[..., :words], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[..., at], own[..., first:], rtol=1e-4, atol=1e-4)
    said = (out / "README.md").read_text()
    assert "cannot see, hear or draw" in said and "small \\`run\\`" in said


def test_layers_that_stayed_in_4_bits_are_merged_alike(small: Path, monkeypatch):
    expected = merging.merged(small).llm.state_dict()
    monkeypatch.setattr("anytoany_lib.model.unpack", lambda llm: None)  # as where memory is short
    found = merging.merged(small).llm.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_a_gguf_file_is_read_back_with_the_same_words(small: Path, tmp_path: Path, capsys):
    merging.write_merged(small, tmp_path / "merged", torch.float32)
    command.main(["--gguf", str(small), str(tmp_path / "g" / "a.gguf"), "--dtype", "float32"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "g" / "a.gguf")
    plain, tokenizer = _loaded(tmp_path / "merged")
    again, words = _loaded(tmp_path / "g", gguf_file="a.gguf")
    for prompt in PROMPTS:
        ids = _prompt(tokenizer, prompt)
        assert _prompt(words, prompt).tolist() == ids.tolist()
        expected, found = (
            one.generate(ids, max_new_tokens=12, do_sample=False) for one in (plain, again)
        )
        assert found.tolist() == expected.tolist()
    at = tokenizer.convert_tokens_to_ids("[VID3]")
    assert words("a[VID3]", add_special_tokens=False).input_ids[-1] == at
    said, modelfile = (tmp_path / "g" / "Modelfile").read_text().split("FROM ", 1)
    fields = GGUFReader(tmp_path / "g" / "a.gguf").fields
    description = fields["general.description"].contents()
    assert " ".join(said.replace("# ", "").split()) == description
    assert "cannot see, hear or draw" in description and "[IMG0] to [AUD3] ask" in description
    assert description.endswith("[SAY] says that the words behind it are to be said aloud.")
    assert fields["general.license"].contents() == "Apache-2.0"
    assert modelfile == (
        './a.gguf\nTEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\nPARAMETER stop "<|im_end|>"\n'
    )
    halved = gguf_file.write_gguf(small, tmp_path / "h.gguf", torch.float16)
    assert halved.stat().st_size < 0.6 * (tmp_path / "g" / "a.gguf").stat().st_size


def test_what_is_not_written_is_said(small: Path, tmp_path: Path):
    with pytest.raises(FileExistsError, match="there already.*name another"):
        merging.write_merged(small, small, torch.float32)
    for out, dtype in (("a.bin", torch.float16), ("a.gguf", torch.bfloat16)):
        with pytest.raises(ValueError, match=r"ends in .gguf, of numbers in float32, float16"):
            gguf_file.write_gguf(small, tmp_path / out, dtype)
    with pytest.raises(FileNotFoundError, match="no run in"):
        merging.write_merged(tmp_path / "none", tmp_path / "out", torch.float32)
    for change in ({"model_type": "qwen2"}, {"rope_parameters": {"rope_type": "yarn"}}):
        config = AutoConfig.for_model("llama")
        vars(config).update(change)
        config.model_type = change.get("model_type", "llama")
        with pytest.raises(ValueError, match="is written of llama models.*use --merge"):
            gguf_file._check(config, tmp_path)
    for steps in ({"type": "Metaspace"}, None, {"type": "Sequence", "pretokenizers": []}):
        with pytest.raises(ValueError, match="byte-level BPE of GPT-2"):
            gguf_file._pre_tokenizer({"pre_tokenizer": steps, "model": {"type": "BPE"}})
    assert list(tmp_path.iterdir()) == []


def test_ways_to_split_have_the_names_of_llama_cpp():
    split = {"type": "Split", "pattern": {"Regex": GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"]}}
    bytes_ = {"type": "ByteLevel", "use_regex": False}
    digits = {"type": "Digits", "individual_digits": True}
    for name, steps in {
        "gpt-2": [{"type": "ByteLevel", "use_regex": True}],
        "smollm": [digits, bytes_ | {"use_regex": True}],
        "llama-bpe": [split, bytes_],
    }.items():
        sequence = {"type": "Sequence", "pretokenizers": steps}
        found = gguf_file._pre_tokenizer({"pre_tokenizer": sequence, "model": {"type": "BPE"}})
        assert found == name


def test_a_template_that_is_more_than_texts_around_messages_is_none_of_ollamas(small: Path):
    made = merging.merged(small)
    assert "<|im_start|>" in str(gguf_file._template(made))
    for template in (
        "{% for m in messages %}{{ m.role | upper if loop.last else m.role }}{{ m.content }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% for m in messages[1:] %}{{ m.content }}{% endfor %}",
        '{% for m in messages %}"""{{ m.content }}{% endfor %}',
    ):
        llm = made.profile.llm.model_copy(update={"chat_template": template})
        other = made._replace(profile=made.profile.model_copy(update={"llm": llm}))
        assert gguf_file._template(other) is None


def test_a_token_that_is_a_word_already_is_refused(small: Path, tmp_path: Path):
    record = json.loads((small / runs.RECORD).read_text())
    record["profile"]["wrappers"] = ["the", "</Img>"]
    for file in small.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / runs.RECORD).unlink()
    write_json(tmp_path / runs.RECORD, record)
    with pytest.raises(ValueError, match="knows the as a word of its own"):
        merging.merged(tmp_path)


def test_the_command_wants_one_kind(capsys):
    for line in (["--merge", "a"], ["--merge", "a", "b", "--gguf", "a", "b"], ["--private"], []):
        with pytest.raises(SystemExit):
            command.main(line)
    with pytest.raises(SystemExit):
        command.main(["--merge", "a", "b", "--private"])
    assert "--private goes with --push" in capsys.readouterr().err
