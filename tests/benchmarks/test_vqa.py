"""VQAv2 accuracy: the official rules by hand, and answers as the official evaluation normalises them."""

from __future__ import annotations

import pytest

from anytoany_lib.benchmarks.vqa import normalise_answer, vqa_accuracy, vqa_scores


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The two dogs.", "2 dogs"),
        ("none", "0"),
        ("An apple, a pear", "apple pear"),
        ("isnt", "isn't"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("black/white", "black white"),
        ("black /white", "black white"),
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("1,000", "1000"),  # a comma between digits closes everything up
        ("1,000-2,000", "10002000"),
        ("2.5 p.m.", "2.5 pm"),
        ("8:30", "8:30"),
        ("what?", "what"),
        ("on\tthe\nleft ", "on left"),
        ("?", ""),
    ],
)
def test_normal_forms(text: str, normal: str):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize("agreeing", range(11))
def test_accuracy_averages_over_the_answer_left_out(agreeing: int):
    answers = ["yes"] * agreeing + [f"no {number}" for number in range(10 - agreeing)]
    by_hand = sum(
        min(1, (answers[:left] + answers[left + 1 :]).count("yes") / 3) for left in range(10)
    )
    assert vqa_accuracy("yes", answers) == pytest.approx(by_hand / 10)


def test_published_values_of_one_to_four_agreeing_people():
    # Antol et al. 2015 and the evaluation's page: 0.3, 0.6, 0.9 and then 1.
    for agreeing, accuracy in enumerate((0, 0.3, 0.6, 0.9, 1, 1)):
        answers = ["cat"] * agreeing + [str(number) for number in range(20, 30 - agreeing)]
        assert vqa_accuracy("A cat.", answers) == pytest.approx(accuracy)


def test_unanimous_answers_are_compared_letter_by_letter():
    assert vqa_accuracy("yes", ["yes"] * 10) == 1
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0  # the official evaluation normalises neither
    assert vqa_accuracy("Yes.", ["yes"] * 10, always_normalise=True) == 1
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1


def test_scores_by_answer_type():
    answers = {"1": ["yes"] * 10, "2": ["2"] * 9 + ["two"], "3": ["red"] * 10}
    types = {"1": "yes/no", "2": "number", "3": "other"}
    scores = vqa_scores({"1": "Yes", "2": "two", "3": ""}, answers, types)
    assert scores == pytest.approx(
        {
            "accuracy": 1 / 3,
            "accuracy, all normalised": 2 / 3,
            "accuracy, number": 1,
            "accuracy, other": 0,
            "accuracy, yes/no": 0,
        }
    )


def test_questions_without_answers_are_named():
    with pytest.raises(ValueError, match="q7: no answers"):
        vqa_scores({"q7": "yes"}, {})
    with pytest.raises(ValueError, match="no predictions"):
        vqa_scores({}, {"q7": ["yes"]})
    with pytest.raises(ValueError, match="no answers"):
        vqa_accuracy("yes", [])
