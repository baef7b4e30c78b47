"""The published checkpoint: names and shapes at full size, values at small size, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_nextgpt import ALPHA, HIDDEN, LAYERS, RANK, WORDS, small_nextgpt
from torch import nn
from transformers import LlamaForCausalLM

from anytoany_lib.checkpoints.nextgpt import export_nextgpt, import_nextgpt, published_shapes
from anytoany_lib.config import Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.train import train


def test_full_size_has_the_published_names_and_shapes():
    shapes = published_shapes(Profile.load("nextgpt-7b"), 4096, 32, 32000)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 396_045_568
    assert shapes["llama_proj.weight"] == (4096, 1024)
    assert shapes["llama_model.base_model.model.model.embed_tokens.weight"] == (32038, 4096)
    assert shapes["llama_model.base_model.model.lm_head.weight"] == (32038, 4096)
    lora = "llama_model.base_model.model.model.layers.31.self_attn.o_proj.lora_B.default.weight"
    assert shapes[lora] == (4096, 32)
    assert shapes["gen_text_hidden_fcs.0.query_embs"] == (1, 77, 512)
    assert shapes["gen_text_hidden_fcs_video.0.model.weight"] == (1024, 512)
    assert shapes["gen_text_hidden_fcs_audio.0.query_embs"] == (1, 1, 512)
    assert shapes["gen_text_hidden_fcs.0.tfm.decoder.layers.3.multihead_attn.in_proj_weight"] == (
        1536,
        512,
    )


def test_the_first_stages_have_no_lora_and_one_side_each():
    profile = Profile.load("nextgpt-7b")
    first, second = (published_shapes(profile, 4096, 32, 32000, stage) for stage in (1, 2))
    assert set(first) == {
        "llama_proj.weight",
        "llama_proj.bias",
        "llama_model.model.embed_tokens.weight",
        "llama_model.lm_head.weight",
    }
    assert not any(name.startswith("llama_proj") for name in second)
    assert sum(name.startswith("gen_text_hidden_fcs_video.0.") for name in second) > 100


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> Profile:
    return small_nextgpt(tmp_path_factory.mktemp("llama"), profile)


@pytest.fixture(scope="module")
def published(small: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published form with random values."""
    torch.manual_seed(1)
    shapes = published_shapes(small, HIDDEN, LAYERS, WORDS)
    tensors = {name: (0.2 * torch.randn(shape)).half() for name, shape in shapes.items()}
    file = tmp_path_factory.mktemp("published") / "pytorch_model.pt"
    torch.save(tensors, file)
    return file


@pytest.fixture(scope="module")
def imported(small: Profile, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_nextgpt(published, small, tmp_path_factory.mktemp("runs") / "imported")


def published_embeddings(
    small: Profile, tensors: dict, ids: torch.Tensor, medium: torch.Tensor, kind: str
) -> torch.Tensor:
    """What the published code computes for ids (1, T) that end with a kind's signals, with a medium put at place 2.

    Written anew from the formula, on transformers' LLaMA with LoRA added into its weights and torch's Transformer.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    llama = LlamaForCausalLM.from_pretrained(small.llm.folder)
    llama.resize_token_embeddings(WORDS + 38)
    prefix = "llama_model.base_model.model."
    state = llama.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = tensors[prefix + name]
    for layer in range(LAYERS):
        for target in ("q_proj", "k_proj", "v_proj", "o_proj"):
            name = f"model.layers.{layer}.self_attn.{target}"
            a, b = (tensors[f"{prefix}{name}.lora_{side}.default.weight"] for side in "AB")
            state[f"{name}.weight"] = state[f"{name}.weight"] + b @ a * ALPHA / RANK
    llama.load_state_dict(state)
    inputs = llama.get_input_embeddings()(ids)
    shown = nn.functional.linear(medium, tensors["llama_proj.weight"], tensors["llama_proj.bias"])
    inputs = torch.cat([inputs[:, :2], shown[:, None], inputs[:, 3:]], dim=1)
    hidden = llama(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
    count = small.decoders[kind].signals
    suffix = {"image": "", "video": "_video", "audio": "_audio"}[kind]
    part = {
        name.removeprefix(f"gen_text_hidden_fcs{suffix}.0."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"gen_text_hidden_fcs{suffix}.0.")
    }
    tfm = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, norm_first=True, batch_first=True)
    tfm.load_state_dict(
        {k.removeprefix("tfm."): v for k, v in part.items() if k.startswith("tfm.")}
    )
    read = hidden[:, -count:] + llama.get_input_embeddings()(ids[:, -count:])
    read = nn.functional.linear(read, part["fc.weight"], part["fc.bias"])
    decoded = tfm.eval()(read, part["query_embs"])
    return nn.functional.linear(decoded, part["model.weight"], part["model.bias"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_an_imported_run_computes_what_the_published_code_does(
    small: Profile, published: Path, imported: Path, kind: str
):
    model = AnyToAny.from_pretrained(imported)
    signals = list(model.vocabulary.signals[kind])
    opening, closing = model.vocabulary.wrappers
    ids = torch.tensor([[5, opening, opening, closing, 17, 23, 99, *signals]])
    medium = torch.randn(1, 256, generator=torch.Generator().manual_seed(2))
    inputs = model.embed_inputs(ids, medium, torch.tensor([[0, 2]]))
    hidden = model.hidden_states(inputs, torch.ones_like(ids), use_cache=False)
    ours = model.project(kind, hidden[:, -len(signals) :])
    theirs = published_embeddings(small, torch.load(published), ids, medium, kind)
    assert ours.shape[1:] == small.decoders[kind].condition
    assert torch.allclose(ours.flatten(), theirs.flatten(), atol=1e-4)


def test_projections_may_have_more_layers_than_the_language_model(small: Profile, tmp_path: Path):
    deep = small.model_copy(
        update={"projection": small.projection.model_copy(update={"layers": LAYERS + 2})}
    )
    shapes = published_shapes(deep, HIDDEN, LAYERS, WORDS)
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "deep.pt")
    assert import_nextgpt(tmp_path / "deep.pt", deep, tmp_path / "run").is_dir()


def test_export_gives_the_published_file_back(published: Path, imported: Path, tmp_path: Path):
    again = torch.load(export_nextgpt(imported, tmp_path / "again.pt"))
    original = torch.load(published)
    assert again.keys() == original.keys()
    assert all(torch.equal(again[name], original[name]) for name in original)


def test_export_folds_the_standardisation_into_the_projection(
    imported: Path, small: Profile, published: Path, tmp_path: Path
):
    run = tmp_path / "run"
    runs.halve(imported, run)
    tensors = load_file(run / runs.TENSORS)
    generator = torch.Generator().manual_seed(3)
    for kind in small.decoders:
        tensors[f"output_projections.{kind}.state_mean"] = torch.randn(HIDDEN, generator=generator)
        scale = 0.5 + torch.rand(HIDDEN, generator=generator)
        tensors[f"output_projections.{kind}.state_scale"] = scale
    save_file(tensors, run / runs.TENSORS)
    back = import_nextgpt(export_nextgpt(run, tmp_path / "out.pt"), small, tmp_path / "back")
    states = torch.randn(1, 4, HIDDEN, generator=generator)
    with torch.no_grad():
        raw, standardised, unchanged = (
            AnyToAny.from_pretrained(folder).project("image", states)
            for folder in (back, run, imported)
        )
    rounding, effect = (raw - standardised).abs().max(), (unchanged - standardised).abs().max()
    assert rounding < 0.1 * effect


def test_an_imported_run_says_where_it_is_from(imported: Path, small: Profile):
    record = json.loads((imported / runs.RECORD).read_text())
    assert record["stage"] == 3 and record["imported"]["file"] == "pytorch_model.pt"
    model = AnyToAny.from_pretrained(imported)
    assert len(model.vocabulary) == WORDS + 38
    assert model.causal_lm.get_input_embeddings().weight.shape == (WORDS, HIDDEN)
    assert not any(projection.calibrated for projection in model.output_projections.values())


def changed(published: Path, folder: Path, change) -> Path:
    tensors = torch.load(published)
    change(tensors)
    torch.save(tensors, folder / "changed.pt")
    return folder / "changed.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("llama_proj.bias"), "missing llama_proj.bias"),
        (lambda t: t.update({"extra.weight": torch.ones(1)}), "surplus extra.weight"),
        (
            lambda t: t.update({"llama_proj.weight": torch.ones(HIDDEN, 512)}),
            r"llama_proj.weight is \(64, 512\) instead of \(64, 256\)",
        ),
        (
            lambda t: t.update(
                {k: v[:-4] for k, v in t.items() if "embed_tokens" in k or "lm_head" in k}
            ),
            "has a vocabulary of 1234, the profile 1200 words and 38 new tokens",
        ),
        (lambda t: t.update({"note": "hello"}), "expected a flat dictionary of tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    published: Path, small: Profile, tmp_path: Path, change, message: str
):
    with pytest.raises(ValueError, match=message):
        import_nextgpt(changed(published, tmp_path, change), small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Dangerous:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickled_code_and_cut_files_are_refused(
    published: Path, small: Profile, tmp_path: Path, capsys: pytest.CaptureFixture
):
    torch.save({"llama_proj.weight": Dangerous()}, tmp_path / "code.pt")
    (tmp_path / "cut.pt").write_bytes(published.read_bytes()[:100_000])
    for name in ("code.pt", "cut.pt"):
        with pytest.raises(ValueError, match=f"{name}.*it is cut, or holds more than tensors"):
            import_nextgpt(tmp_path / name, small, tmp_path / "run")
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="nowhere.pt: expected the pytorch_model.pt"):
        import_nextgpt(tmp_path / "nowhere.pt", small, tmp_path / "run")


def test_a_profile_with_another_computation_is_refused(published: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="tiny shows a medium as 8 tokens.*use nextgpt-7b"):
        import_nextgpt(published, Profile.load("tiny"), tmp_path / "run")


def test_a_profile_that_reads_other_tokens_is_refused(
    small: Profile, published: Path, tmp_path: Path
):
    llm = small.llm.model_copy(update={"tokenizer": "auto"})
    other = small.model_copy(update={"llm": llm})
    with pytest.raises(
        ValueError, match="other tokens than they were trained on.*sentencepiece-legacy"
    ):
        import_nextgpt(published, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_new_rows_are_the_last_ones_of_the_published_tables(
    small: Profile, published: Path, imported: Path, tmp_path: Path
):
    """Rows 32000 to 32037 at full size: those of <Img>, </Img>, [IMG0], ..."""
    theirs = torch.load(published)["llama_model.base_model.model.model.embed_tokens.weight"]
    model = AnyToAny.from_pretrained(imported)
    for name, number in (("<Img>", 0), ("[IMG0]", 2), ("[VID0]", 6), ("[AUD7]", 37)):
        assert model.vocabulary.names[number] == name
        row = model.token_rows.input[number]
        assert torch.equal(row, theirs[WORDS + number].float())
    back = torch.load(export_nextgpt(imported, tmp_path / "back.pt"))
    assert torch.equal(back["llama_model.base_model.model.model.embed_tokens.weight"], theirs)


def test_training_goes_on_from_an_imported_run(
    small: Profile, imported: Path, toy_data: Path, tmp_path: Path
):
    """The features of the tiny profile fit: encoder and decoders are its own."""
    stage = small.stages[3].model_copy(update={"batch_size": 2})
    profile = small.model_copy(update={"stages": {3: stage}})
    run = train(profile, 3, toy_data, tmp_path / "run", imported, max_steps=2)
    before, after = (load_file(folder / runs.VOCABULARY) for folder in (imported, run))
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = load_file(run / runs.TENSORS)
    assert not torch.equal(
        trained["token_rows.input"], load_file(imported / runs.TENSORS)["token_rows.input"]
    )
    assert not trained["output_projections.image.state_mean"].any()
    AnyToAny.from_pretrained(run)


def test_stage_files_follow_each_other(published: Path, small: Profile, tmp_path: Path):
    torch.manual_seed(4)
    folders = {}
    for stage, init in ((1, None), (2, 1)):
        shapes = published_shapes(small, HIDDEN, LAYERS, WORDS, stage)
        file = tmp_path / f"stage{stage}.pt"
        torch.save({name: torch.randn(shape).half() for name, shape in shapes.items()}, file)
        before = folders.get(init)
        folders[stage] = import_nextgpt(file, small, tmp_path / f"run{stage}", before)
    first, second = (load_file(folders[stage] / runs.TENSORS) for stage in (1, 2))
    assert torch.equal(first["input_projection.weight"], second["input_projection.weight"])
    assert not torch.equal(
        first["output_projections.image.fc.weight"], second["output_projections.image.fc.weight"]
    )
    assert not (folders[2] / runs.ADAPTER).exists()
    AnyToAny.from_pretrained(folders[2])
