"""What the notebooks' figures are drawn from, against independent formulas, and that they show it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from IPython.display import HTML
from IPython.display import Image as PNG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scripts import clip, picture, sound

from anytoany_lib.batches import collate
from anytoany_lib.config import resolve
from anytoany_lib.figures import anatomy, charts, diagrams, display
from anytoany_lib.figures.anatomy import ROLES, Decisions
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.llm import lora_config
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny

TALK = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Film <it>."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Here:"}, {"type": "video", "caption": "a bell"}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> AnyToAny:
    return AnyToAny.from_pretrained(resolve("ckpt/tiny/run"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diagrams come as matplotlib's figures, to look into."""
    for module in (charts, diagrams):
        monkeypatch.setattr(module, "picture", lambda figure: figure)


def batch_of(model: AnyToAny, *talks: list[dict]):
    return collate(
        [model.messages.encode(talk) for talk in talks], lambda *_: torch.zeros(1), None, 1
    )


def test_roles_are_where_the_encoder_put_them(model: AnyToAny):
    encoded = model.messages.encode(TALK)
    short = [{"role": "user", "content": "Hi."}]
    found = anatomy.roles(model.messages, batch_of(model, TALK, short))
    (_, _, medium), (_, _, signal) = encoded.media[0], encoded.signals[0]
    soft, block = model.messages.soft_tokens, len(model.vocabulary.signals["video"])
    wanted = np.full(len(encoded.ids), ROLES.index("text"))
    wanted[medium - 1 : medium + soft + 1] = ROLES.index("wrapper")
    wanted[medium : medium + soft] = ROLES.index("medium")
    wanted[signal : signal + block] = ROLES.index("signal")
    assert (found[0] == wanted).all()
    length = len(model.messages.encode(short).ids)
    assert (found[1] == [ROLES.index("text")] * length + [0] * (len(wanted) - length)).all()


def test_names_of_new_tokens_and_of_line_breaks(model: AnyToAny):
    ids = [
        *model.vocabulary.wrappers,
        *model.vocabulary.signals["audio"][:1],
        *model.messages.text_ids("a\n"),
    ]
    assert anatomy.names_of(model.messages, ids) == ["<Img>", "</Img>", "[AUD0]", "a", "↵"]


def test_cosines_are_those_of_flat_rows():
    one, other = torch.randn(3, 2, 5), torch.randn(4, 2, 5)
    found = anatomy.cosines(one, other)
    wanted = [
        [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for b in other]
        for a in one
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_words_own_embedding_is_nearest_to_it(model: AnyToAny):
    names, vectors = anatomy.word_vectors(model, " bell drum")
    assert names == [" bell", " drum"]
    assert [near.split(",")[0] for near in anatomy.nearest_words(model, vectors)] == [
        "bell 1.00",
        "drum 1.00",
    ]


def test_principal_directions_are_those_of_most_spread():
    rows = torch.zeros(50, 2, 3)
    rows[:, 0, 1], rows[:, 1, 2] = torch.linspace(-9, 9, 50), torch.linspace(-1, 1, 50) ** 2
    mean, directions = anatomy.principal(rows + 5)
    assert torch.allclose(mean, (rows + 5).flatten(1).mean(0))
    assert directions.abs().argmax(0).tolist() == [1, 5]
    _, of_one = anatomy.principal(rows[:1])
    assert of_one.shape == (6, 2) and not of_one[:, 1].any()


def test_parameters_are_counted_by_part(shipped: AnyToAny, model: AnyToAny):
    found, plain = anatomy.parameter_counts(shipped), anatomy.parameter_counts(model)
    config = shipped.causal_lm.config
    sizes = {"q_proj": 576 + 576, "k_proj": 576 + 192, "v_proj": 576 + 192, "o_proj": 576 + 576}
    rank = lora_config(shipped.profile.lora).r
    assert found.pop("LoRA") == config.num_hidden_layers * rank * sum(sizes.values())
    for counts, of in ((found, shipped), (plain, model)):  # one of them may answer by voice
        assert counts.pop("token rows") == len(of.vocabulary.names) * config.hidden_size
    assert found == plain and found["language model"] == 134_515_008


def test_loras_change_is_its_product_beside_the_weight(shipped: AnyToAny, model: AnyToAny):
    names, found = anatomy.lora_changes(shipped)
    assert names == ["q_proj", "k_proj", "v_proj", "o_proj"]
    layer = shipped.causal_lm.get_decoder().layers[7].self_attn.v_proj
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    scale = shipped.profile.lora.alpha / shipped.profile.lora.rank
    assert found[2, 7] == pytest.approx(
        scale * (change.norm() / layer.base_layer.weight.norm()).item(), rel=1e-4
    )
    with pytest.raises(ValueError, match="no LoRA"):
        anatomy.lora_changes(model)


def test_decisions_are_those_that_drew_the_reply(shipped: AnyToAny):
    asked = [{"role": "user", "content": "Draw a red bell."}]
    reply = shipped.chat(asked, 0, Sampling(steps=1))
    found = anatomy.decisions(shipped, [*asked, reply])
    assert found.choices == ["words", *shipped.vocabulary.signals, "stop"]
    np.testing.assert_allclose(found.likely.sum(1), 1, atol=1e-4)
    at = found.tokens.index("[IMG0]")
    assert found.likely[at, found.choices.index("image")] > 0.5 > found.likely[at, 0]
    assert found.likely[-1, -1] > 0.5  # it stopped there
    said = "".join(found.tokens[:at])
    assert (
        said.strip()
        == "".join(p["text"] for p in reply["content"][:1] if p["type"] == "text").strip()
    )
    encoded = shipped.messages.encode(asked, prompt=True)
    first = collate([encoded], lambda *_: None, None, 1)
    inputs = shipped.embed_inputs(first.ids, first.media, first.media_at)
    with torch.no_grad():
        logits = shipped.logits(shipped.hidden_states(inputs, first.mask)[0, -1])
    image = logits.softmax(-1)[shipped.vocabulary.signals["image"][0]].item()
    assert found.likely[0, found.choices.index("image")] == pytest.approx(image, abs=1e-4)


def test_a_strip_of_tokens_underlines_what_is_learnt_and_lets_no_text_act(model: AnyToAny):
    shown, encoded = diagrams.token_strip(model.messages, TALK).data, model.messages.encode(TALK)
    learnt = sum(label != IGNORED for label in encoded.labels)
    assert shown.count(f"solid {charts.TRAINED}") == learnt + 1  # one in the legend
    boxes = len(encoded.ids) + len(ROLES)
    assert shown.count("<span") == boxes
    assert "image 8</span>" in shown and "<it>" not in shown and "&lt;" in shown


def test_a_batch_has_a_dot_for_every_token_that_is_learnt(model: AnyToAny, drawn):
    batch = batch_of(model, TALK, TALK[:1])
    (axis,) = diagrams.batch_map(model.messages, batch).axes
    dots = {tuple(map(int, at)) for at in axis.collections[-1].get_offsets()}
    wanted = {(t, b) for b, t in (batch.labels != IGNORED).nonzero().tolist()}
    assert dots == wanted and f"({len(batch.ids)}, {batch.ids.shape[1]})" in axis.get_title(
        loc="left"
    )


def test_shares_are_coloured_by_who_is_trained(drawn):
    (axis,) = charts.shares({"frozen one": 900, "bridge": 100}, ["bridge"], "parts").axes
    assert [bar.get_width() for bar in axis.patches] == [900, 100]
    assert (
        to_hex(axis.patches[1].get_facecolor())
        == charts.TRAINED
        != to_hex(axis.patches[0].get_facecolor())
    )
    assert "100 (10.00%)" in [text.get_text() for text in axis.texts]


def test_likelihoods_are_stacked_to_one(drawn):
    found = Decisions(
        ["Here", "[IMG0]"], ["words", "image", "stop"], np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1]])
    )
    (axis,) = diagrams.likelihoods(found).axes
    tops = [bar.get_y() + bar.get_height() for bar in axis.patches]
    assert tops == pytest.approx([0.9, 0.2, 1, 0.9, 1, 1])


def test_aims_say_how_well_each_kind_is_hit(drawn):
    wanted = torch.randn(9, 4, 8)
    both = {"image": (wanted, wanted), "audio": (2 * wanted.mean(0) - wanted, wanted)}
    first, second = diagrams.aims(both).axes
    assert "mean cosine 1.00" in first.get_title(loc="left")
    assert "mean cosine -1.00" in second.get_title(loc="left")


def test_a_plan_is_drawn_to_its_peak(drawn):
    phases = {
        "stage 1": {"language model": 2**30, "CUDA": 2**29},
        "chat": {"encoder": 2**30, "image decoder": 2**31},
    }
    (axis,) = charts.planned(phases).axes
    assert [text.get_text().strip() for text in axis.texts] == ["1.50 GiB", "2.00 GiB"]


def test_whiskers_and_marks_stand_where_the_metrics_are(drawn):
    metrics = {
        "matrix": {"text->image": {"n": 4, "thing": 0.5}, "text->text": {"n": 4}},
        "intervals": {"text->image": {"thing": {"low": 0.25, "high": 0.75}}},
        "baselines": {"text->image": {"chance": {"thing": 0.08}, "upper_bound": {"thing": 1.0}}},
    }
    (axis,) = charts.whiskers(metrics, "thing").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["text->image"]
    assert list(axis.lines[0].get_xdata()) == [25, 75]
    marks = [at[0] for mark in axis.collections for at in mark.get_offsets()]
    assert marks == pytest.approx([50, 100, 8])


def test_variants_are_compared_in_the_rates_that_they_have(drawn):
    rates = {"rank 4": {"thing": 0.5, "pitch": None}, "rank 16": {"thing": None, "motion": 1.0}}
    (axis,) = charts.compared(rates, "rates").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["thing", "motion"]
    assert [at[0] for dots in axis.collections for at in dots.get_offsets()] == [0.5, 1.0]


def test_a_frame_marks_each_mediums_own_caption(drawn):
    rows = [("image", "a bell"), ("audio", "a drum")]
    axis = diagrams.similarity(np.eye(2), rows, ["a drum", "a bell"]).axes[0]
    assert [patch.get_xy() for patch in axis.patches] == [(0.5, -0.5), (-0.5, 0.5)]


def test_the_matrix_has_a_map_for_each_rate_and_blanks_where_nothing_was_asked(drawn):
    metrics = {
        "matrix": {"text->image": {"n": 4, "thing": 0.5, "modality": 1.0}},
        "combinations": {"image+audio->text": {"n": 2, "modality": 0.25}},
    }
    thing, modality = charts.matrix(metrics, ["thing", "modality"]).axes
    assert [text.get_text() for text in thing.texts] == ["50"]
    assert {text.get_position(): text.get_text() for text in modality.texts} == {
        (1, 0): "100",
        (0, 4): "25",
    }


def test_curves_grow_in_place_while_a_stage_trains(monkeypatch):
    shown, clock = [], iter(range(0, 100, 3))

    class Place:
        update = staticmethod(shown.append)

    monkeypatch.setattr(display, "display", lambda first, display_id: shown.append(first) or Place)
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    line = {"step": 1, "seconds": 2.0, "tokens_per_second": 30, "learning_rate": 0.1}
    with display.LivePlot("stage 2", every=4) as plot:
        assert [type(one) for one in shown] == [HTML]
        plot(line | {"text": 3.0})
        plot(line | {"step": 2, "text": 2.0})  # too soon after the one before
        assert len(shown) == 2
        plot(line | {"step": 3, "text": 1.0, "image": 0.5})
        assert len(shown) == 3
    assert len(shown) == 4 and all(isinstance(one, PNG) for one in shown[1:])
    left, right = plot._figure(["text", "image"]).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("cross entropy", "distance to the caption")
    assert left.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert right.lines[0].get_xydata().tolist() == [[3, 0.5]]
    assert plot._figure(["text"]).get_suptitle() == "stage 2: step 3, 2 s, 30 tokens/s"


def test_curves_need_no_pace():
    plot = display.LivePlot("by hand")
    plot.lines.append({"step": 7, "text": 0.5})
    assert plot._figure(["text"]).get_suptitle() == "by hand: step 7"


def test_tallies_have_the_most_first(drawn):
    (axis,) = charts.tallies({"few": 1, "many": 9}, "rows").axes
    assert [bar.get_width() for bar in axis.patches] == [9, 1]


FIGURES = {
    "journey": lambda: diagrams.journey({"a row": torch.randn(256), "a matrix": torch.randn(4, 9), "a picture": np.zeros((8, 8, 3), np.uint8)}),
    "heat_maps": lambda: charts.heat_maps({"before": np.eye(3), "after": -np.eye(3)}, list("abc"), list("def")),
    "cloud": lambda: diagrams.cloud(torch.randn(20, 8), ["image"] * 10 + ["other"] * 10, "rows"),
    "sheet": lambda: diagrams.sheet({
        "images": [({"type": "image", "image": picture()}, "red")] * 3,
        "audios": [({"type": "audio", "audio": sound()}, "a tone that goes on and on and on and on")],
        "videos": [({"type": "video", "video": clip()}, "noise")],
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_pictures_whose_labels_do_not_run_out_of_them(name: str, monkeypatch):
    kept: list[Figure] = []
    shown = charts.picture
    for module in (charts, diagrams):
        monkeypatch.setattr(module, "picture", lambda figure: kept.append(figure) or shown(figure))
    assert FIGURES[name]().data.startswith(b"\x89PNG")
    (figure,) = kept
    titles = [axis.get_title() or axis.get_title(loc="left") for axis in figure.axes]
    assert any(titles) and not any(re.search(r"nan", title) for title in titles)
