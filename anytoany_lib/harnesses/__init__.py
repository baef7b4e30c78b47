"""Other people's harnesses: a run as a model of `lmms_eval`, and the language model inside it as one of `lm_eval`.

Each needs the extra of its name. Begin in docs/REPRODUCE.md, which has the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def lmms_eval_manifest() -> ModelManifest:
    """What lmms-eval reads at the entry point `lmms_eval.models`: the model "anytoany", loaded when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    module = f"{__name__}.lmms_eval"
    return ModelManifest(
        "anytoany",
        simple_class_path=f"{module}.SimpleAnyToAny",
        chat_class_path=f"{module}.ChatAnyToAny",
    )
