"""The embedded voice and recogniser themselves. Skipped without the extra `speech` and `anytoany fetch --speech`."""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import numpy as np
import pytest
import soxr
from scripts import QUICK

from anytoany_lib.chat.session import Session
from anytoany_lib.config import SpeechConfig, resolve
from anytoany_lib.evaluation.spoken import as_heard, say
from anytoany_lib.modalities import SPEECH
from anytoany_lib.speech.activity import RATE, WINDOW, stretches
from anytoany_lib.speech.aloud import Spoken
from anytoany_lib.speech.models import Speech, speech_of
from anytoany_lib.speech.recognisers import load_recogniser
from anytoany_lib.speech.word_errors import normalised, word_error_rate
from anytoany_lib.toyworld.scenes import THINGS
from anytoany_lib.toyworld.sounds import samples_of

SENTENCES = ("Draw a red bell.", "What is the capital of France?", "It rings three times.")


@pytest.fixture(scope="module")
def speech() -> Speech:
    found = speech_of(SpeechConfig())
    for what in ("voice", "recogniser"):
        if reason := found.lacks(what):
            pytest.skip(reason)
    return found


def test_the_graph_is_the_one_that_the_package_came_with(speech: Speech):
    voices = json.loads((resources.files("hibari") / "assets" / "voices.json").read_text())
    graph = resolve(SpeechConfig().voice.folder) / "hibari.onnx"
    assert hashlib.sha256(graph.read_bytes()).hexdigest() == voices["heart"]["sha256"]


def test_what_is_said_is_heard_as_it_was_said(speech: Speech):
    heard = [speech.hear(speech.say(sentence)) for sentence in SENTENCES]
    assert all(one.is_speech and one.seconds > 0.5 and one.no_speech < 0.3 for one in heard)
    assert word_error_rate(SENTENCES, [one.text for one in heard]) == 0


def test_the_same_seed_is_the_same_sound(speech: Speech):
    first, again, other = (speech.say("It is a bell.", seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.dtype == np.float32 and np.abs(first).max() <= 1


@pytest.mark.parametrize("thing", THINGS)
def test_no_word_is_heard_in_a_sound_of_the_toy_world(speech: Speech, thing: str):
    for times in (1, 3):
        sound = samples_of(thing, times, "high", np.random.default_rng(times))
        assert not speech.hear((sound, 16_000)).is_speech


def test_silence_and_noise_are_no_speech(speech: Speech):
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    for samples in (np.zeros(2 * RATE, np.float32), noise):
        assert not speech.hear((samples, RATE)).is_speech


def test_long_speech_is_heard_stretch_by_stretch(speech: Speech):
    samples, rate = say(speech, " ".join(SENTENCES * 6))
    whole = soxr.resample(samples, rate, RATE).astype(np.float32)
    found = stretches(whole)
    assert len(whole) > WINDOW * RATE and len(found) > 1
    assert all(len(one) <= 30 * RATE for one in found)
    assert word_error_rate([" ".join(SENTENCES * 6)], [speech.hear((samples, rate)).text]) < 0.05


def test_a_question_is_asked_by_voice_and_answered_by_voice(speech: Speech, model, scripted):
    scripted(["It is Paris. Of course.", "STOP"])
    session = Session(model, sampling=QUICK)
    session.read_replies_aloud(True)
    question = speech.say("What is the capital of France?")
    events = list(session.send([{"type": "audio", "audio": question}]))
    asked, reply = session.messages
    assert normalised(asked["content"][0]["text"]) == "what is the capital of france"
    assert [e.sentence for e in events if isinstance(e, Spoken)] == ["It is Paris.", "Of course."]
    said = speech.hear(reply["content"][0][SPEECH])
    assert normalised(said.text) == "it is paris of course"


def test_a_request_is_asked_in_the_words_that_were_heard(speech: Speech):
    request = [{"role": "user", "content": "Draw a red bell."}]
    (heard,) = as_heard(speech, request)
    assert normalised(heard["content"][0]["text"]) == "draw a red bell"


def test_a_folder_without_its_words_is_refused_and_nothing_is_fetched(speech: Speech, tmp_path):
    config = SpeechConfig().recogniser.model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="no recogniser in .* tokenizer.json"):
        load_recogniser(config)


def test_numbers_and_contractions_count_as_what_they_say(speech: Speech):
    assert word_error_rate(["It's 3 bells!"], ["it is three bells"]) == 0
    assert word_error_rate(["a red and a green bell"], ["a red end a bell"]) == 2 / 6
    with pytest.raises(ValueError, match="expected texts with words in them"):
        word_error_rate(["..."], ["yes"])
