"""Profiles: everything that differs between a laptop run and a full-size one, checked when it is read.

A profile is a YAML file (`anytoany_lib/profiles/NAME.yaml`, or any path). It names the frozen models and where they
come from, the token layout, the projections, and one row for each training stage. Unknown keys are errors. With
`like: NAME` it says only what differs from another one. `profile` reads one, `parts` and `stages` say what may stand in it.
"""

from anytoany_lib.config.checked import Alignment, Dtype, Kind, Part
from anytoany_lib.config.parts import (
    PADDED,
    AddedWeights,
    DecoderConfig,
    EncoderConfig,
    InputProjectionConfig,
    LLMConfig,
    LoraSettings,
    ProjectionConfig,
    Source,
)
from anytoany_lib.config.paths import home, portable, resolve
from anytoany_lib.config.profile import PROFILE_FOLDER, Profile
from anytoany_lib.config.speech import RecogniserConfig, SpeechConfig, VoiceConfig
from anytoany_lib.config.stages import FitConfig, StageConfig
