"""How well speech is said and heard: word error rates, false alarms on sounds, and times.

    python bench/speech.py [--profile tiny --voices FOLDER --words core-sounds-en.txt.gz --prompts 100]

The profile's voice says SENTENCES, and its recogniser writes down what it hears. The same recogniser hears prompts of a human
voice: `apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en` (CC BY-SA 3.0, 8 kHz) puts them where the options look
by default; without them they are left out. No word may be heard in the toy world's sounds. Results go to bench/results/speech-MACHINE.json.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, machine, verdicts
from tqdm.auto import tqdm

from anytoany_lib.config import Profile
from anytoany_lib.speech.models import Speech, speech_of
from anytoany_lib.speech.word_errors import word_error_rate
from anytoany_lib.toyworld.scenes import THINGS
from anytoany_lib.toyworld.sounds import COUNTED, PITCHES, RATE, samples_of

AT_MOST = {
    "own voice: word error rate": 0.05,
    "human voice: word error rate": 0.05,
    "toy world: share heard as speech": 0.0,
    "own voice: core seconds to say one of speech": 0.2,
}
VOICES = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
WORDS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
SENTENCE = 4  # words: shorter prompts are numbers, letters and fragments to be put together
SENTENCES = """
Draw a red bell. | Show me a small blue bird on the left. | Play the sound of a train. | Film a green drum moving left.
What is the capital of France? | How many times does the bell ring? | What colour is the thing in this picture? | Is it big or small?
Draw what makes this sound, in yellow. | I would love to hear a cat. | The picture shows a big purple phone at the top. | It is a bell that rings three times.
The drum is green and moves to the left. | This is the sound of rain falling on a roof. | Which of the two pictures has a clock in it? | The second one is a bee.
Please make the car orange and put it at the bottom. | No, the first sound is higher than the second. | Yes, both of them show a train. | Can you film a ship that moves up?
The capital of Italy is Rome, and that of Spain is Madrid. | Water boils at one hundred degrees. | The sky is blue because air scatters short waves of light more than long ones.
Boil the egg for seven minutes, then put it into cold water. | Hamlet was written by William Shakespeare around the year sixteen hundred. | There are twelve months in a year.
A spider has eight legs, and an insect has six. | The moon goes around the earth once in about a month. | Plants take in carbon dioxide and give off oxygen.
My favourite season is autumn, when the leaves turn red and gold. | The train to London leaves at half past nine. | Could you read that to me again, a little more slowly?
She bought three loaves of bread and a bottle of milk. | The museum is closed on Mondays. | He walked along the river until it was dark.
Turn left at the second street, and the station is on your right. | The children played in the garden all afternoon. | I forgot my umbrella at the office.
We have been waiting for the bus for twenty minutes. | The old clock on the wall stopped at noon. | Nobody knew where the key was hidden.
A good answer is short and says what was asked. | The doctor told him to rest for a week. | They painted the door green last summer. | It took us four hours to climb the hill.
The meeting begins at ten and ends before lunch. | Fresh snow covered the roofs of the village. | You can pay by card or in cash. | The river is two hundred metres wide here.
The teacher wrote the question on the board. | Our neighbour keeps bees and sells honey. | The lamp is too bright for this room. | Please close the window before you leave.
The ship sailed past the island in the morning. | He has read every book on that shelf. | Coffee keeps me awake at night. | The answer is yes.
"""


def own_voice(speech: Speech) -> dict[str, Any]:
    """The profile's voice, heard by its recogniser."""
    sentences = [one.strip() for one in re.split(r"[|\n]", SENTENCES) if one.strip()]
    sounds, say_seconds = _timed(speech.say, sentences, "said")
    heard, hear_seconds = _timed(lambda sound: speech.hear(sound).text, sounds, "heard")
    seconds = sum(len(samples) / rate for samples, rate in sounds)
    return {
        "sentences": len(sentences),
        "seconds of speech": round(seconds, 1),
        "word error rate": round(word_error_rate(sentences, heard), 4),
        "not heard as speech": sum(not text for text in heard),
        "core seconds to say one of speech": round(say_seconds / seconds, 4),
        "core seconds to hear one of speech": round(hear_seconds / seconds, 4),
        "wrong": _wrong(sentences, heard),
    }


def human_voice(speech: Speech, voices: Path, words: Path, most: int | None) -> dict[str, Any]:
    """Prompts of a telephone exchange, spoken by a person: all of SENTENCE words or more, or `most` drawn from them."""
    prompts = list(prompts_of(voices, words).items())
    random.Random(0).shuffle(prompts)
    paths, said = zip(*prompts[:most], strict=True)
    heard, _ = _timed(lambda path: speech.hear(path).text, paths, "prompts heard")
    return {
        "prompts": len(said),
        "of": len(prompts),
        "words": sum(len(text.split()) for text in said),
        "word error rate": round(word_error_rate(said, heard), 4),
        "not heard as speech": sum(not text for text in heard),
        "wrong": _wrong(said, heard),
    }


def prompts_of(voices: Path, words: Path) -> dict[Path, str]:
    """{file: what is said in it}, of those that say SENTENCE words or more."""
    found = {}
    for line in gzip.decompress(words.read_bytes()).decode().splitlines():
        name, _, text = line.partition(":")
        path = voices / f"{name.strip()}.wav"
        described = re.search(r"[\[(<]", text)  # tones and the like
        if path.is_file() and not described and len(text.split()) >= SENTENCE:
            found[path] = text.strip(" .…")
    return found


def toy_world(speech: Speech, draws: int = 4) -> dict[str, Any]:
    """Sounds in which nobody speaks: each thing, as often and as high as it calls, drawn a few times."""
    alarms, count = [], 0
    for thing in THINGS:
        for times in (1, 2, 3) if thing in COUNTED else (1,):
            for pitch in PITCHES if thing in COUNTED else ("low",):
                for seed in range(draws):
                    samples = samples_of(thing, times, pitch, np.random.default_rng(seed))
                    heard = speech.hear((samples, RATE))
                    count += 1
                    alarms += [f"{thing}: {heard.text}"] if heard.is_speech else []
    return {"sounds": count, "share heard as speech": len(alarms) / count, "heard": alarms}


def _timed(work: Callable[[Any], Any], items: Sequence[Any], what: str) -> tuple[list[Any], float]:
    """What work makes of each item, and the seconds of one core for all but the first, which loads the model, scaled up to all."""
    made, times = [], []
    for item in tqdm(items, what):
        started = time.process_time()
        made.append(work(item))
        times.append(time.process_time() - started)
    return made, sum(times[1:]) * len(times) / max(len(times) - 1, 1)


def _wrong(said: Sequence[str], heard: Sequence[str]) -> dict[str, str]:
    """The texts that were not heard as they were said."""
    return {a: b for a, b in zip(said, heard, strict=True) if word_error_rate([a], [b])}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--voices", type=Path, default=VOICES)
    parser.add_argument("--words", type=Path, default=WORDS)
    parser.add_argument("--prompts", type=int, help="so many of them at most (default: all)")
    options = parser.parse_args()
    profile = Profile.load(options.profile)
    speech = speech_of(profile.speech)
    result: dict[str, Any] = {"machine": machine(), "date": date.today().isoformat()}
    result |= {"profile": profile.name, "toy world": toy_world(speech)}
    result["own voice"] = own_voice(speech)
    if options.voices.is_dir() and options.words.is_file():
        result["human voice"] = human_voice(speech, options.voices, options.words, options.prompts)
    else:
        print(f"the human voice was not measured: {options.voices} or {options.words} is missing")
    keep(result | {"reached": verdicts(result, AT_MOST, {})}, "speech")


if __name__ == "__main__":
    main()
