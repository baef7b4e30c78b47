"""Caption metrics: pycocoevalcap's numbers, kept and live, the Java tokenizer's words, and what must not be dropped."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import subprocess
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest

from anytoany_lib.benchmarks import java_metrics
from anytoany_lib.benchmarks.caption_metrics import (
    bleu,
    caption_scores,
    cider_d,
    common_subsequence,
    rouge_l,
    tokenize,
    tokenize_all,
)
from anytoany_lib.benchmarks.java_metrics import JavaMissing

REFERENCE = Path(__file__).parents[1] / "support" / "reference_metrics.json"


def reference_numbers(said: list[list[str]], told: list[list[list[str]]]) -> dict:
    """pycocoevalcap's own numbers of captions given as words; METEOR where there is Java.

    tests/support/reference_metrics.json holds them for its captions and was written with version 1.2:

        python -c "import sys; sys.path[:0] = ['tests', '.']; import test_caption_metrics as t; t.write_reference()"
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {n: [" ".join(words) for words in own] for n, own in enumerate(told)}
    res = {n: [" ".join(words)] for n, words in enumerate(said)}
    numbers = {
        "bleu": Bleu(4).compute_score(gts, res, verbose=0)[0],
        "rouge_l": Rouge().compute_score(gts, res)[1].tolist(),
        "cider_d": [float(score) for score in Cider().compute_score(gts, res)[1]],
    }
    if not java_metrics.missing("METEOR"):
        from pycocoevalcap.meteor.meteor import Meteor

        numbers["meteor"] = Meteor().compute_score(gts, res)[0]
    return numbers


def write_reference() -> None:
    """Computes the numbers of the kept captions anew, and what Java makes of their words."""
    kept = json.loads(REFERENCE.read_text())
    texts = [*kept["captions"], *(text for told in kept["references"] for text in told)]
    kept["tokens"] = [" ".join(words) for words in java_metrics.tokenize(texts)]
    kept["numbers"] = reference_numbers(*_words(kept))
    REFERENCE.write_text(json.dumps(kept, indent=1) + "\n")


def _words(kept: dict) -> tuple[list[list[str]], list[list[list[str]]]]:
    """The kept captions and references as words."""
    return tokenize_all(kept["captions"]), [tokenize_all(told) for told in kept["references"]]


@pytest.fixture(scope="module")
def kept() -> dict:
    """Made-up captions of twenty scenes, five references each, with pycocoevalcap's numbers."""
    return json.loads(REFERENCE.read_text())


def _agree(said: list, told: list, numbers: dict) -> None:
    """All metrics of these words are those of pycocoevalcap."""
    assert bleu(said, told) == pytest.approx(numbers["bleu"], abs=1e-6)
    assert rouge_l(said, told) == pytest.approx(numbers["rouge_l"], abs=1e-6)
    assert cider_d(said, told) == pytest.approx(numbers["cider_d"], abs=1e-6)


def test_the_kept_numbers_of_the_reference_implementation(kept: dict):
    assert len(kept["captions"]) == 20 and {len(told) for told in kept["references"]} == {5}
    _agree(*_words(kept), kept["numbers"])


def test_the_words_are_those_of_the_java_tokenizer(kept: dict):
    texts = [*kept["captions"], *(text for told in kept["references"] for text in told)]
    assert [" ".join(tokenize(text)) for text in texts] == kept["tokens"]


def test_live_against_the_reference_implementation():
    pytest.importorskip("pycocoevalcap")
    rng = random.Random(0)
    words = ["a", "red", "dog", "runs", "in", "the", "park", "b"]
    told = [[rng.choices(words, k=rng.randint(1, 12)) for _ in range(5)] for _ in range(40)]
    said = [rng.choices(words, k=rng.randint(0, 12)) for _ in told]
    _agree(said, told, reference_numbers(said, told))


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's hat; it's \"old\" (very).", "a man 's hat it 's old -lrb- very -rrb-"),
        (
            "They don't, can't and won't cannot go",
            "they do n't ca n't and wo n't can not go",
        ),
        ("Mr. Smith left the U.S. at 10:30 a.m.", "mr. smith left the u.s. at 10:30 a.m."),
        ("a black-and-white photo, 50% off: $5.00!", "a black-and-white photo 50 % off $ 5.00"),
        ("“smart” quotes… it’s – fine", "smart quotes it 's fine"),
        ("wow!! really?! no.", "wow !! really ?! no"),
        ("dogs' toys in the '90s, rock 'n' roll", "dogs toys in the '90s rock 'n' roll"),
        ("a dog 😀 here\nand   there", "a dog here and there"),
        (" . ! ", ""),
        ("", ""),
    ],
)
def test_tokens_by_hand(caption: str, words: str):
    assert " ".join(tokenize(caption)) == words


def test_common_subsequence_against_trying_them_all():
    rng = random.Random(1)
    for _ in range(200):
        one, other = (
            rng.choices("abc", k=rng.randint(0, 7)),
            rng.choices("abc", k=rng.randint(0, 7)),
        )
        both = [
            {picked for size in range(len(text) + 1) for picked in combinations(text, size)}
            for text in (one, other)
        ]
        assert common_subsequence(one, other) == max(map(len, both[0] & both[1]))


def test_bleu_by_hand():
    # Unigrams 3 of 4 (one "the" clipped), bigrams 1 of 3; as long as the nearer of both references.
    scores = bleu([["the", "the", "cat", "sat"]], [[["the", "cat", "sat", "down"], ["cat"]]])
    assert scores[:2] == pytest.approx([3 / 4, math.sqrt(3 / 4 * 2 / 3)])
    assert scores[3] < 1e-2
    short = bleu([["a", "cat"]], [[["a", "cat", "sat", "down"]]])
    assert short[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_perfect_captions_score_full_marks(kept: dict):
    _, told = _words(kept)
    said = [max(own, key=len) for own in told]  # four words at least: a score for every order
    assert bleu(said, told) == pytest.approx([1] * 4, abs=1e-6)
    assert rouge_l(said, told) == pytest.approx([1] * 20)
    assert cider_d(said, [[words] for words in said]) == pytest.approx([10] * 20)


def test_an_empty_prediction_scores_zero_and_counts():
    references = {"1": ["a dog runs in a park"], "2": ["two cats sleep on a bed"]}
    full = {"1": "a dog runs in a park", "2": "two cats sleep on a bed"}
    whole, half = caption_scores(full, references), caption_scores(full | {"2": ""}, references)
    for name in ("ROUGE-L", "CIDEr-D"):
        assert half[name] == pytest.approx(whole[name] / 2)
    assert half["BLEU-1"] == pytest.approx(math.exp(1 - 12 / 6))  # nothing wrong, but half as long
    assert set(caption_scores({"1": "", "2": "."}, references).values()) == {0.0}


def test_rarity_is_that_of_the_whole_test_set(kept: dict):
    said, told = _words(kept)
    assert cider_d(said[:5], told[:5], told) == pytest.approx(cider_d(said, told)[:5])
    assert cider_d(said[:5], told[:5]) != pytest.approx(cider_d(said, told)[:5])
    assert cider_d(said[:1], told[:1]) == [0]  # of one medium nothing is rare


def test_missing_references_are_named():
    with pytest.raises(ValueError, match="cat7: no reference captions"):
        caption_scores({"cat7": "a cat"}, {"dog": ["a dog"]})
    with pytest.raises(ValueError, match="cat7: no reference captions"):
        caption_scores({"cat7": "a cat"}, {"cat7": []})
    with pytest.raises(ValueError, match="no predictions"):
        caption_scores({}, {"dog": ["a dog"]})


def test_what_needs_java_says_what_is_absent(monkeypatch: pytest.MonkeyPatch):
    predictions, references = {"1": "a dog"}, {"1": ["a dog"]}
    monkeypatch.setattr(java_metrics, "_package", lambda: None)
    with pytest.raises(JavaMissing, match=r"METEOR cannot run.*pip install 'anytoany\[metrics\]'"):
        caption_scores(predictions, references, java=("METEOR",))
    with pytest.raises(ValueError, match="unknown metric 'WER'"):
        caption_scores(predictions, references, java=("WER",))


def test_a_machine_without_java_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(java_metrics, "_package", lambda: tmp_path)
    monkeypatch.setattr(java_metrics.shutil, "which", lambda name: None)
    assert "no java on the PATH" in java_metrics.missing("METEOR")
    monkeypatch.setattr(java_metrics.shutil, "which", lambda name: "/usr/bin/java")
    with pytest.raises(JavaMissing, match=r"lacks spice/lib/stanford-corenlp-3.6.0.jar.*downloads"):
        java_metrics.score("SPICE", [["a"]], [[["a"]]])


def test_a_java_that_spice_does_not_run_on_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Spice:
        def compute_score(self, told: dict, said: dict) -> None:
            raise subprocess.CalledProcessError(1, "java")

    monkeypatch.setattr(java_metrics, "_need", lambda name: tmp_path)
    monkeypatch.setattr(
        java_metrics.importlib, "import_module", lambda name: SimpleNamespace(Spice=Spice)
    )
    with pytest.raises(
        JavaMissing, match="SPICE failed in Java, status 1: it runs on Java 8 or 11"
    ):
        java_metrics.score("SPICE", [["a"]], [[["a"]]])


def test_spider_is_the_mean_of_spice_and_cider(monkeypatch: pytest.MonkeyPatch, kept: dict):
    monkeypatch.setattr(java_metrics, "score", lambda name, said, told: 0.25)
    names = [str(number) for number in range(20)]
    references = dict(zip(names, kept["references"], strict=True))
    scores = caption_scores(
        dict(zip(names, kept["captions"], strict=True)), references, java=("SPICE",)
    )
    assert scores["SPIDEr"] == pytest.approx((0.25 + scores["CIDEr-D"]) / 2)


@pytest.mark.skipif(bool(java_metrics.missing("METEOR")), reason=java_metrics.missing("METEOR"))
def test_java_where_there_is_java(kept: dict):
    said, told = _words(kept)
    assert java_metrics.score("METEOR", said, told) == pytest.approx(kept["numbers"]["meteor"])
    texts = kept["captions"]
    assert [" ".join(words) for words in java_metrics.tokenize(texts)] == kept["tokens"][:20]


def test_the_bench_times_every_metric(monkeypatch: pytest.MonkeyPatch):
    folder = REFERENCE.parents[2] / "bench"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("captions", folder / "captions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.drawn(3, seed=1) == module.drawn(3, seed=1) != module.drawn(3, seed=2)
    result = module.measure(30, seed=0)
    assert result["seconds"].keys() == {"all", "tokenize", "BLEU", "ROUGE-L", "CIDEr-D"}
    assert 0 < result["scores"]["BLEU-1"] < 1 and result["seconds"]["all"] < 5
