"""VQAv2 accuracy: what a reply is worth beside the answers of ten people, by the challenge's own rules.

Rules of the official evaluation (github.com/GT-Vision-Lab/VQA): an answer that three of nine people gave is right, fewer
give thirds, averaged over who of the ten is left out. Where the ten differ, their answers and the reply are normalised
first: punctuation, number words, articles, contractions. Where they agree, the official code compares letter by letter, so
that "Yes" is wrong beside ten times "yes": `vqa_scores` gives the number with everything normalised as well.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

_AGREED = 3  # people whose answer makes a reply right
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_COMMA = re.compile(r"\d,\d")
_POINT = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
# The official table lists each with one of its apostrophes left out.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""
_MENDED = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round


def normalise_answer(text: str) -> str:
    """A reply or answer in the form in which the official evaluation compares them."""
    text = " ".join(re.split(r"[\n\t]", text)).strip()
    plain = text
    closes_up = _DIGITS_COMMA.search(text) is not None
    for sign in _PUNCTUATION:
        beside_blank = f"{sign} " in text or f" {sign}" in text
        plain = plain.replace(sign, "" if closes_up or beside_blank else " ")
    words = [_NUMBERS.get(word, word) for word in _POINT.sub("", plain).lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str], always_normalise: bool = False) -> float:
    """0 to 1: the mean over left-out answers of how many others say the same, three being enough. ValueError without answers.

    `always_normalise` does so where all answers agree too, which the official evaluation does not.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    said, told = prediction.strip(), [answer.strip() for answer in answers]
    if always_normalise or len(set(told)) > 1:
        said, told = normalise_answer(said), [normalise_answer(answer) for answer in told]
    same = told.count(said)
    # Leaving out one of those who agree leaves one fewer; any other leaves them all.
    worth = same * min(1, (same - 1) / _AGREED) + (len(told) - same) * min(1, same / _AGREED)
    return worth / len(told)


def vqa_scores(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    types: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Mean accuracy of the questions in `predictions`: official, with everything normalised, and official by answer type.

    An empty reply is wrong. ValueError that names a question without answers; for no question at all.
    """
    if not predictions:
        raise ValueError("no predictions to score")
    for name in predictions:
        if not answers.get(name):
            raise ValueError(f"{name}: no answers, so it cannot be scored")
    official = {name: vqa_accuracy(said, answers[name]) for name, said in predictions.items()}
    normalised = [vqa_accuracy(said, answers[name], True) for name, said in predictions.items()]
    scores = {
        "accuracy": float(np.mean(list(official.values()))),
        "accuracy, all normalised": float(np.mean(normalised)),
    }
    by_type: dict[str, list[float]] = defaultdict(list)
    for name, accuracy in official.items():
        if kind := (types or {}).get(name):
            by_type[kind].append(accuracy)
    return scores | {f"accuracy, {k}": float(np.mean(by_type[k])) for k in sorted(by_type)}
