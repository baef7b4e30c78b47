"""The one table of modalities: what each kind of medium is called in messages, in tokens and in the encoder.

Numbers that differ by profile (how many signal tokens, the shape a decoder is conditioned on) live in the profile.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """A kind of medium: a row of `MODALITIES`."""

    kind: str
    """The part's "type" in messages, and the key of its medium."""
    signal: str
    """Name of its k-th signal token, with {} for k."""
    sense: str
    """ImageBind's input that takes it."""
    beside: str = ""
    """What a reply's part keeps beside the medium, if anything."""


MODALITIES = {
    "image": Modality("image", "[IMG{}]", "vision"),
    "audio": Modality("audio", "[AUD{}]", "audio", "sampling_rate"),
    "video": Modality("video", "[VID{}]", "vision", "fps"),
}
MEDIA_KINDS = tuple(MODALITIES)
KINDS = ("text", *MEDIA_KINDS)
# Senses of ImageBind that can be shown to a model and are never generated, so they have no signal tokens.
SENSED_KINDS = ("depth", "thermal", "imu")
SHOWN_KINDS = (*MEDIA_KINDS, *SENSED_KINDS)
SPEECH = "speech"  # the sound of a text part's words, kept beside them: the words have tokens, it has none
ALOUD = "aloud"  # true of a reply's text part whose words the model wants said
SAY = "[SAY]"  # the token before such words; it lasts as long as their part

# The order in which 7b_tiva_v0 numbered its new tokens, so that its ids come out as published.
TOKEN_ORDER = ("image", "video", "audio")
