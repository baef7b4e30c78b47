"""lm-evaluation-harness: the language model inside a run, with and without its adapter. What did learning media cost?

    python -m anytoany_lib.harnesses.lm_eval run --model anytoany --model_args run=RUN --tasks hellaswag
    python -m anytoany_lib.harnesses.lm_eval run --model anytoany --model_args run=RUN,adapter=False --tasks hellaswag

Version 0.4.13 looks for models in its own list alone, so that this module is its command line with one model more. Words are
scored among words: the new tokens, which start media, are none of the choices.
"""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from anytoany_lib.gates import templates
from anytoany_lib.llm import model_folder
from anytoany_lib.model import AnyToAny
from anytoany_lib.tokenizer.sentencepiece_legacy import LegacyTokenizer


@register_model("anytoany")
class LanguageModel(HFLM):
    """The language model of a run folder, as lm-evaluation-harness scores those of transformers."""

    def __init__(self, run: str, adapter: bool = True, device: str | None = None, **settings: Any):
        """Loads a run (a path, a URL, or OWNER/NAME on the hub). Without `adapter` its LoRA matrices are off, and the model is as it
        was before training, but for the embedding and head of a run that was imported with its own. `settings` are those of HFLM,
        such as batch_size.
        """
        model = AnyToAny.from_pretrained(run, torch.device(device) if device else None)
        if model.adapter is not None and not adapter:
            model.adapter.base_model.disable_adapter_layers()
        self.messages = model.messages
        tokenizer = model.tokenizer
        if isinstance(tokenizer, LegacyTokenizer):  # HFLM takes those of transformers alone
            tokenizer = str(model_folder(model.profile))
        super().__init__(model.llm, tokenizer=tokenizer, **settings)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages by the profile's chat template, through its gate."""
        messages = self.messages
        return templates.render(
            messages.tokenizer, messages.template, chat_history, add_generation_prompt
        )


if __name__ == "__main__":
    cli_evaluate()
