"""The model against independent formulas: 4-bit gradients, splicing, losses, LoRA, and what a block of signals reads."""

from __future__ import annotations

from types import SimpleNamespace

import bitsandbytes.functional as bnb
import numpy as np
import psutil
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch.nn import functional as F

from anytoany_lib.batches import collate
from anytoany_lib.config import ProjectionConfig
from anytoany_lib.generation.events import Done, MediaFailed
from anytoany_lib.llm import add_lora, load_llm, unpack
from anytoany_lib.media import media_files
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import InputProjection, OutputProjection, alignment_loss
from anytoany_lib.toyworld import draw
from anytoany_lib.train import total_loss
from anytoany_lib.training.setup import trained_parts

WIDTH = 256


def conversation(*, seed: int = 0, kind: str = "image") -> list[dict]:
    medium = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return [
        {
            "role": "user",
            "content": [{"type": kind, kind: medium}, {"type": "text", "text": "Draw it."}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Here."},
                {"type": "image", "caption": f"caption {seed}"},
            ],
        },
    ]


def target(kind: str, caption: str) -> torch.Tensor:
    return torch.randn(16, 128, generator=torch.Generator().manual_seed(len(caption)))


def test_unpacked_layers_give_the_same_to_the_last_bit_and_only_where_there_is_room(
    four_bits, monkeypatch: pytest.MonkeyPatch
):
    def linear(llm) -> type:
        return type(llm.get_decoder().layers[0].mlp.up_proj)

    llm = load_llm(four_bits, torch.device("cpu"))
    inputs = torch.randn(2, 6, llm.config.hidden_size, dtype=llm.dtype, requires_grad=True)

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        logits = llm(inputs_embeds=inputs).logits
        (gradient,) = torch.autograd.grad(logits.float().square().mean(), inputs)
        return logits, gradient

    packed = read()
    with monkeypatch.context() as scarce:
        scarce.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
        unpack(llm)
    assert linear(llm) is Linear4bit
    unpack(llm)
    assert linear(llm) is torch.nn.Linear
    assert all(map(torch.equal, read(), packed))


def batch_of(model: AnyToAny, conversations: list, left: bool = False):
    encoded = [model.messages.encode(messages) for messages in conversations]
    return encoded, collate(encoded, lambda kind, medium: medium, target, WIDTH, left)


def test_a_4_bit_layer_has_the_gradient_of_its_dequantised_twin_before_and_after_an_evaluation(
    four_bits,
):
    layer = load_llm(four_bits, torch.device("cpu")).get_decoder().layers[0].mlp.up_proj
    weight = bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(torch.bfloat16)
    x = torch.randn(64, weight.shape[1], dtype=torch.bfloat16)

    def gradients() -> list[torch.Tensor]:
        found = []
        for forward in (layer, lambda inputs: F.linear(inputs, weight)):
            inputs = x.clone().requires_grad_()
            forward(inputs).float().square().sum().backward()
            found.append(inputs.grad.float().flatten())
        return found

    for evaluated in (False, True):
        if evaluated:
            with torch.no_grad():
                layer(x)
        quantised, twin = gradients()
        assert F.cosine_similarity(quantised, twin, dim=0) > 0.999
        assert quantised.norm() / twin.norm() == pytest.approx(1, abs=0.02)


def test_splicing_equals_a_plain_loop(model: AnyToAny):
    encoded, batch = batch_of(model, [conversation(seed=1), conversation(seed=2, kind="audio")])
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
    table = model.causal_lm.get_input_embeddings().weight
    first = model.vocabulary.base_size
    for row, one in enumerate(encoded):
        expected = [
            table[token] if token < first else model.token_rows.input[token - first].to(table.dtype)
            for token in one.ids
        ]
        for _, medium, at in one.media:
            soft = model.input_projection.weight @ medium + model.input_projection.bias
            for k, vector in enumerate(soft.reshape(model.messages.soft_tokens, -1)):
                expected[at + k] = vector.to(table.dtype)
        torch.testing.assert_close(
            inputs[row, : len(one.ids)], torch.stack(expected), rtol=0.01, atol=1e-3
        )


def test_the_loss_is_the_textbook_one(model: AnyToAny):
    encoded, batch = batch_of(model, [conversation(seed=1), conversation(seed=22)])
    losses = model(batch)
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
    hidden = model.hidden_states(inputs, batch.mask)
    head = model.causal_lm.get_output_embeddings().weight.float()
    logits = hidden.float() @ torch.cat([head, model.token_rows.input.float()]).T
    text = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    assert losses["text"].item() == pytest.approx(text.item(), rel=0.02)

    norms = []
    for row, one in enumerate(encoded):
        for kind, caption, at in one.signals:
            states = hidden[row, at : at + 4].float()
            rows = torch.tensor(model.vocabulary.signals[kind]) - model.vocabulary.base_size
            made = model.output_projections[kind](states[None], model.token_rows.input[rows][None])[
                0
            ]
            norms += [(made - target(kind, caption)).square().sum(-1).sqrt()]
    assert losses["image"].item() == pytest.approx(torch.cat(norms).mean().item(), rel=1e-4)


def test_padding_on_either_side_changes_nothing(model: AnyToAny):
    long = [*conversation(seed=3), *conversation(seed=4)]
    alone = model(batch_of(model, [conversation(seed=1)])[1])
    short = conversation(seed=1)
    _, padded = batch_of(model, [short, long])
    inputs = model.embed_inputs(padded.ids, padded.media, padded.media_at)
    hidden = model.hidden_states(inputs, padded.mask)
    columns = padded.signals_at["image"][:1, 1:] + torch.arange(4)
    states = hidden[padded.signals_at["image"][:1, :1], columns]
    together = alignment_loss(model.project("image", states), padded.targets["image"][:1])
    assert together.item() == pytest.approx(alone["image"].item(), rel=0.02)


def test_a_batch_without_anything_to_learn_gives_no_loss(model: AnyToAny):
    encoded = [model.messages.encode([{"role": "user", "content": "Hello"}])]
    assert model(collate(encoded, lambda *_: None, target, WIDTH)) == {}


def test_fresh_lora_changes_nothing_and_switched_off_lora_is_the_base(profile, model: AnyToAny):
    ids = torch.tensor([model.messages.text_ids("The capital of France is")])
    before = model.causal_lm(ids).logits
    adapted = add_lora(load_llm(profile), profile.lora).eval()
    torch.testing.assert_close(adapted(ids).logits, before)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(adapted(ids).logits, before, atol=0.5)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(ids).logits, before)


@pytest.mark.parametrize("condition", [(77, 768), (512,), (16, 128)])
def test_an_output_projection_has_the_shape_of_its_condition(condition: tuple[int, ...]):
    projection = OutputProjection(
        32, condition, ProjectionConfig(width=16, layers=1, feed_forward=32)
    )
    assert projection(torch.randn(3, 4, 32), torch.randn(4, 32)).shape == (3, *condition)


def test_the_published_projection_sizes():
    assert sum(p.numel() for p in InputProjection(1024, 4096, 1).parameters()) == 1024 * 4096 + 4096
    keys = OutputProjection(4096, (77, 768), ProjectionConfig()).state_dict()
    assert keys["fc.weight"].shape == (512, 4096)
    assert keys["query_embs"].shape == (1, 77, 512)
    assert keys["model.weight"].shape == (768, 512)
    assert sum(key.startswith("tfm.encoder.layers.3.") for key in keys) == 12
    assert "tfm.decoder.norm.weight" in keys


def test_a_swapped_decoder_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"gives \(77, 768\).*are \(77, 1024\).*anytoany features"):
        alignment_loss(torch.zeros(2, 77, 768), torch.zeros(2, 77, 1024))


def test_checkpointed_activations_give_the_same_gradients(profile):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        stage = profile.stages[3].model_copy(update={"checkpointing": checkpointing})
        model = AnyToAny.from_profile(profile, seed=0)
        trained_parts(model, stage)
        model.train()
        _, batch = batch_of(model, [conversation(seed=1), conversation(seed=2)])
        total_loss(model(batch), stage).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, twice = gradients(False), gradients(True)
    assert plain.keys() == twice.keys() and any("lora_B" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(twice[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_medium_whose_embedding_is_known_is_not_read_again(model: AnyToAny, tmp_path):
    files = []
    for name in ("a.png", "b.png"):
        picture = draw("bell", "red", np.random.default_rng(len(files)))
        files.append(media_files.save_image(tmp_path / name, picture))
    items = [("image", file) for file in files]
    keys = [media_files.content_key(*item) for item in items]
    assert not any(model.knows(key) for key in keys)
    first = model.embed_media(items)
    assert all(model.knows(key) for key in keys) and model.loaded("encoder")
    for file in files:
        file.unlink()
    assert torch.equal(model.embed_media(items[::-1], keys[::-1]), first.flip(0))
    assert model.embed_media([]).shape == (0, WIDTH)


def test_a_reply_is_not_given_without_the_medium_that_could_not_be_made(
    model: AnyToAny, monkeypatch: pytest.MonkeyPatch
):
    def stream(*_):
        yield MediaFailed(0, ValueError("out of paint"))
        yield Done({"role": "assistant", "content": []}, "stop")

    monkeypatch.setattr(model, "stream", stream)
    with pytest.raises(ValueError, match="out of paint"):
        model.chat([{"role": "user", "content": "Draw."}])
