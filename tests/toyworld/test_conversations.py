"""Conversations: turns that end with what is expected, blanks that are filled, and test authors who are in no training set."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anytoany_lib.toyworld import COLOURS, HELD_OUT_MOTIONS, HELD_OUT_PAIRS, MOTIONS, THINGS, Scene
from anytoany_lib.toyworld.conversations import (
    BEYOND,
    BRIEF_SHARES,
    CELLS,
    SHARES,
    Maker,
    kit,
    synonyms,
)
from anytoany_lib.toyworld.conversations.authors import (
    KIT,
    Marked,
    known_answers,
    plain,
    whole_requests,
    wordings,
)
from anytoany_lib.toyworld.conversations.several import MIXES, has_mirror, mirrored
from anytoany_lib.toyworld.conversations.talks import USUAL_COLOUR, USUAL_MOTION, fit
from anytoany_lib.toyworld.scenes import PLACES, SIZES
from anytoany_lib.toyworld.text_judge import named

TASKS = CELLS | BEYOND
REQUESTS = Path(__file__).parents[3] / "shared/requests/author_a.json"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_makes_alternating_turns_that_end_with_what_is_expected(name: str, split: str):
    for seed in range(40):
        unseen = split == "test" and seed % 4 == 3
        talk = TASKS[name](Maker(np.random.default_rng(seed), split, unseen))
        assert [m["role"] for m in talk.messages] == ["user", "assistant"] * (
            len(talk.messages) // 2
        )
        media = [part for part in talk.messages[-1]["content"] if part["type"] != "text"]
        expected = [part for part in talk.expect if part["kind"] != "text"]
        assert [part["type"] for part in media] == [part["kind"] for part in expected]
        assert [part["caption"] for part in media] == [part["caption"] for part in expected]
        texts = [p["text"] for m in talk.messages for p in m["content"] if p["type"] == "text"]
        assert texts and not re.search(r"\{\w+\}|None", " ".join(texts)), texts


@pytest.mark.parametrize("name", list(TASKS))
def test_no_training_talk_shows_or_makes_a_held_out_pair(name: str):
    pairs = [f"{colour} {thing}" for thing, colour in HELD_OUT_PAIRS]
    moves = [(thing, motion) for thing, motion in HELD_OUT_MOTIONS]
    for seed in range(60):
        for message in TASKS[name](Maker(np.random.default_rng(seed), "train")).messages:
            for part in message["content"]:
                shown = part.get(part["type"])
                if isinstance(shown, Scene):
                    assert (shown.thing, shown.colour) not in HELD_OUT_PAIRS
                    assert (shown.thing, shown.motion) not in HELD_OUT_MOTIONS
                caption = part.get("caption", "")
                assert not any(pair in caption for pair in pairs), caption
                if part["type"] == "video":
                    assert not any(t in caption and caption.endswith(m) for t, m in moves), caption


def test_the_usual_look_of_a_thing_is_no_held_out_pair():
    assert not set(USUAL_COLOUR.items()) & HELD_OUT_PAIRS and set(USUAL_COLOUR) == set(THINGS)
    assert not set(USUAL_MOTION.items()) & HELD_OUT_MOTIONS and set(USUAL_MOTION) == set(THINGS)


def test_an_edit_changes_what_was_asked_and_keeps_the_rest():
    for seed in range(60):
        talk = TASKS["image->image"](Maker(np.random.default_rng(seed), "train"))
        shown = talk.messages[0]["content"][0]["image"].asked()
        part = talk.expect[0]
        assert part["kept"] and {n: part["scene"][n] for n in part["kept"]} == {
            n: shown[n] for n in part["kept"]
        }
        changed = part["scene"].keys() - set(part["kept"])
        assert len(changed) == 1 and all(shown.get(n) != part["scene"][n] for n in changed)


def test_other_words_name_what_the_scene_fixes_and_nothing_else():
    """As far as the judge of texts knows the words: it has most of them, and none for another value."""
    rng = np.random.default_rng(0)
    for kind, scene in (
        ("image", Scene("boat", "purple", size="small", place="top")),
        ("audio", Scene("cat", count=2, pitch="low")),
        ("video", Scene("cat", "red", motion="spinning")),
    ):
        phrases = {synonyms.worded(kind, scene, rng) for _ in range(300)}
        assert len(phrases) > 80
        for phrase in phrases:
            for attribute, value in fit(kind, scene).asked().items():
                if attribute == "count":  # "one bell" is a bell, whatever the judge makes of it
                    continue
                other = named(attribute, phrase) - {value}
                assert not other, (phrase, attribute, other)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("unseen", [False, True])
def test_mixed_pictures_differ_in_colour_and_the_reply_has_the_one_that_is_asked_for(
    split: str, unseen: bool
):
    places = Counter()
    for seed in range(80):
        talk = TASKS["mixed pictures"](Maker(np.random.default_rng(seed), split, unseen))
        first, second = (part["image"] for part in talk.messages[0]["content"][:2])
        wanted = talk.expect[0]["scene"]
        assert first.colour != second.colour
        place = (first.colour, second.colour).index(wanted["colour"])
        assert wanted["thing"] == (second, first)[place].thing
        text = talk.messages[1]["content"][0]["text"]
        assert text.startswith(f"The first is {first.colour}, the second is {second.colour}. Here")
        places[place] += 1
    assert min(places.values()) > 20


def test_wordings_with_first_and_second_exchanged():
    line = "colour of number one, thing of the second, not the first"
    assert mirrored(line) == "colour of number two, thing of the first, not the second"
    assert mirrored(mirrored(line)) == line and has_mirror(line)
    assert not has_mirror("colour of the last one, thing of the first one")
    assert not has_mirror("number one would slay in number twos colour")
    assert not has_mirror("draw it in pink") and not has_mirror("the second, like pic 1")


def test_a_remark_follows_a_medium_and_is_answered_in_words():
    kinds = {r.remark for own in whole_requests("train").values() for r in own if r.remark}
    assert kinds == set(kit()["replies"])
    assert kinds == {r.remark for own in whole_requests("test").values() for r in own if r.remark}
    for seed in range(60):
        talk = TASKS["whole remark"](Maker(np.random.default_rng(seed), "train"))
        made, remark, reply = talk.messages[-3:]
        assert any(part["type"] != "text" for part in made["content"])
        assert [part["type"] for part in remark["content"] + reply["content"]] == ["text"] * 2
        assert talk.expect == [{"kind": "text", "scene": {}}]


# --- authors ---


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{\w+\}|\w+(?:'\w+)?", text.lower()))


def words_apart(one: tuple[str, ...], other: tuple[str, ...], most: int) -> int:
    """Words to add, leave out or exchange between two texts; most + 1 where it is more than that."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    row = list(range(len(other) + 1))
    for number, word in enumerate(one, 1):
        above, row = row, [number]
        for at, word_there in enumerate(other, 1):
            row.append(min(above[at] + 1, row[-1] + 1, above[at - 1] + (word != word_there)))
        if min(row) > most:
            return most + 1
    return row[-1]


def too_near(length: int) -> int:
    """How many words may be exchanged in a sentence of this length for it to be the same request still."""
    return 2 if length >= 5 else 1 if length >= 3 else 0


def written(split: str) -> list[str]:
    """Every wording and whole request of a split's authors but the kit."""
    lines = [
        line
        for author, keys in wordings(split).items()
        if author != KIT
        for own in keys.values()
        for line in own
    ]
    if split == "train":  # which a task mirrors
        mixes = [own[key] for own in wordings(split).values() for key in own if key in MIXES]
        lines += [mirrored(line) for own in mixes for line in own if has_mirror(line)]
    return lines + [r.text for requests in whole_requests(split).values() for r in requests]


def near_pairs(tests: list[str]) -> list[tuple[str, str]]:
    """(test sentence, training sentence) that differ by a word or two at most."""
    of_length: dict[int, list[tuple[tuple[str, ...], set[str], str]]] = {}
    for line in written("train"):
        words = words_of(line)
        of_length.setdefault(len(words), []).append((words, set(words), line))
    found = []
    for line in tests:
        words = words_of(line)
        reach = too_near(len(words))
        for length in range(len(words) - reach, len(words) + reach + 1):
            most = min(reach, too_near(length))
            for other, those, training in of_length.get(length, ()):
                if len(set(words) - those) <= most and words_apart(words, other, most) <= most:
                    found.append((line, training))
    return found


def test_words_apart_counts_words_and_stops_counting():
    assert words_apart(words_of("Draw it now, please"), words_of("draw it please"), 3) == 1
    assert words_apart(words_of("a b c d"), words_of("w x y z"), 2) == 3


def test_no_test_sentence_differs_from_a_training_sentence_in_a_word_or_two():
    assert len(written("test")) > 2000 and not near_pairs(written("test"))


@pytest.mark.skipif(not REQUESTS.is_file(), reason="the unseen author's requests are not here")
def test_no_unseen_author_is_in_the_training_set():
    assert not near_pairs([request["text"] for request in json.loads(REQUESTS.read_text())])


def spelled_out(options: list[str]) -> set[str]:
    """Every sentence that wordings with [alternatives|like these] stand for."""
    sentences = set()
    for wording in options:
        pieces = re.split(r"\[([^\]]*)\]", wording)
        choices = [p.split("|") if n % 2 else [p] for n, p in enumerate(pieces)]
        sentences |= {"".join(chosen) for chosen in itertools.product(*choices)}
    return sentences


def test_no_test_phrasing_of_the_kit_is_a_training_phrasing():
    for name, options in kit().items():
        if isinstance(options, dict) and "test" in options:
            assert not spelled_out(options["train"]) & spelled_out(options["test"]), name


def test_a_voice_is_asked_for_in_hundreds_of_ways_and_refused_too():
    keys = ("by_voice", "say_words", "again_by_voice"), ("in_writing", "write_words")
    for names, most in zip(keys, (400, 100), strict=True):
        assert sum(len(spelled_out(kit()[name]["train"])) for name in names) > most
        assert all(len(kit()[name]["test"]) > 1 for name in names)
    assert not set(kit()["sayings"]["train"]) & set(kit()["sayings"]["test"])
    for shares in (SHARES, BRIEF_SHARES):
        assert 0.025 < shares["aloud"] / sum(shares.values()) < 0.035


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_reply_is_marked_to_be_said_just_where_it_is_expected_to_be(split: str):
    counted = Counter()
    for seed in range(300):
        talk = TASKS["aloud"](Maker(np.random.default_rng(seed), split))
        (wanted,) = {part["aloud"] for part in talk.expect}
        reply = talk.messages[-1]["content"]
        assert [part.get("aloud", False) for part in reply if part["type"] == "text"] == [wanted]
        assert not any(p.get("aloud") for m in talk.messages[::2] for p in m["content"])
        answers = [words for part in talk.expect for words in part["scene"].get("answers", ())]
        assert all(words.lower() in reply[0]["text"].lower() for words in answers)
        sound = any(part["type"] == "audio" for part in reply)
        before = any(p.get("aloud") for m in talk.messages[1:-1:2] for p in m["content"])
        counted.update({("wanted", wanted): 1, ("sound", sound): 1, ("before", before): 1})
        assert not (sound and wanted)
    assert 150 < counted["wanted", True] < 230
    assert counted["sound", True] > 10 and counted["before", True] > 30


def test_whole_requests_name_the_world_and_say_what_they_want():
    known = {
        "thing": THINGS,
        "colour": COLOURS,
        "motion": MOTIONS,
        "size": SIZES,
        "place": PLACES,
        "count": (1, 2, 3),
        "pitch": ("low", "high"),
    }
    for split in ("train", "test"):
        for requests in whole_requests(split).values():
            wishes = [request for request in requests if not (request.plain or request.remark)]
            assert len(wishes) > 200 or len(requests) - len(wishes) > 150
            for request in requests:
                marks = [part for part in request.parts if isinstance(part, Marked)]
                assert all(mark.value in known[mark.attribute] for mark in marks), request
                things = {mark.number for mark in marks if mark.attribute == "thing"}
                if not request.shown:
                    assert {number for _, number in request.reply} <= things, request
                assert "|" not in request.text


def test_plain_talk_has_many_authors_and_the_test_authors_their_own():
    train, test = plain("train"), plain("test")
    assert len(train) > 8 and len(test) > 2
    assert not {q for own in train.values() for q in own} & {
        q for own in test.values() for q in own
    }


def test_questions_with_known_answers_are_in_no_training_set():
    """Nor any that differs in a word or two, which in a fact is another fact as a rule, and often the same sentence."""
    training = [words_of(question) for own in plain("train").values() for question in own]
    assert len(known_answers()) >= 200
    for question, answers in known_answers():
        words = words_of(question)
        assert answers and not any(
            words_apart(words, other, most) <= most
            for other in training
            for most in [min(too_near(len(words)), too_near(len(other)))]
        ), question


def test_alternatives_in_a_wording_are_chosen_and_the_richer_wording_more_often(monkeypatch):
    options = {"train": ["say {thing}", "[tell|name|shout] {thing}[, please|]"], "test": ["x"]}
    monkeypatch.setattr(
        "anytoany_lib.toyworld.conversations.talks.kit", lambda: {"demand": options}
    )
    maker = Maker(np.random.default_rng(0), "train")
    said = Counter(maker.said("demand", thing="bell") for _ in range(800))
    assert set(said) == {
        f"{verb} bell{end}" for verb in ("tell", "name", "shout") for end in ("", ", please")
    } | {"say bell"}
    assert 150 < said["say bell"] < 250


def test_a_request_is_typed_as_people_type_and_a_test_request_as_it_stands():
    text = "Could you draw a purple elephant?"
    maker = Maker(np.random.default_rng(0), "train")
    typed = {maker.typed(text) for _ in range(200)}
    assert {text, text.lower(), text.upper()} <= typed and len(typed) > 20
    assert Maker(np.random.default_rng(0), "test").typed(text) == text
