"""Speech: text is said aloud sentence by sentence (`aloud`, `voices`), recordings are heard as words (`hearing`, `recognisers`).

A text part may have the sound of its words beside it, under "speech": a path, or (samples, rate). The language model reads
the words and nothing else, so speech adds no token and every run can speak. `models` holds a voice and a recogniser, which
the extra `speech` reads; without it all else works.
"""

from anytoany_lib.speech.hearing import Heard
from anytoany_lib.speech.models import Speech, speech_of

__all__ = ["Heard", "Speech", "speech_of"]
