"""The any-to-any model: media spliced into the LLM's input, signals read out of its hidden states.

Axes: B conversations, T tokens, H hidden size, M media in a batch, K soft tokens a medium, D encoder embedding,
S generated media in a batch, N signal tokens of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from anytoany_lib.batches import Batch
from anytoany_lib.checkpoints import publishing
from anytoany_lib.config import Alignment, Dtype, Profile
from anytoany_lib.decoders.denoising import Denoiser, term
from anytoany_lib.llm import (
    TokenRows,
    add_lora,
    check_tokenizer,
    load_llm,
    model_folder,
    replace_vocabulary,
    unpack,
)
from anytoany_lib.losses.words import Reference, word_losses
from anytoany_lib.messages import IGNORED, Message, MessageEncoder, Vocabulary
from anytoany_lib.projections import OutputProjection, alignment_loss
from anytoany_lib.sequence_projections import input_projection_of
from anytoany_lib.system import runs
from anytoany_lib.tokenizer.pieces import Tokenizer

if TYPE_CHECKING:
    from anytoany_lib.decoders.pipelines import Decoder
    from anytoany_lib.encoders.frozen import Encoder
    from anytoany_lib.generation.events import Events
    from anytoany_lib.generation.sampling import Sampling


class AnyToAny(nn.Module):
    """A frozen LLM with trainable bridges to a frozen encoder and frozen decoders.

    Encoder and decoders load on first use and stay; training on cached features never loads them.
    """

    def __init__(self, profile: Profile, llm: PreTrainedModel, tokenizer: Tokenizer):
        from anytoany_lib.generation.media_models import MediaModels

        super().__init__()
        self.profile, self.tokenizer = profile, tokenizer
        self.run: Path | None = None
        self.llm: PreTrainedModel | PeftModel = llm
        hidden = llm.config.get_text_config().hidden_size
        self.vocabulary = Vocabulary.of(llm.get_input_embeddings().weight.shape[0], profile)
        self.messages = MessageEncoder(tokenizer, profile, self.vocabulary)
        self.token_rows = TokenRows(llm, len(self.vocabulary.names))
        self.input_projection = input_projection_of(profile, hidden)
        self.output_projections = nn.ModuleDict(
            {
                kind: OutputProjection(hidden, config.condition, profile.projection)
                for kind, config in profile.decoders.items()
            }
        )
        self.to(self.device)
        self.media_models = MediaModels(profile, self.device)

    @classmethod
    def from_profile(
        cls, profile: Profile, seed: int = 0, device: torch.device | None = None
    ) -> AnyToAny:
        """An untrained model on the profile's LLM; the seed fixes all that is drawn at random."""
        tokenizer = check_tokenizer(profile, model_folder(profile))
        llm = load_llm(profile, device)
        torch.manual_seed(seed)
        return cls(profile, llm, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path,
        device: torch.device | None = None,
        dtype: Dtype | None = None,
        revision: str | None = None,
    ) -> AnyToAny:
        """The model of a run (a path, a URL, or OWNER/NAME on the hub), ready to talk; `dtype` is taken for its profile's llm.dtype.

        FileNotFoundError if there is no run, ValueError if its weights do not fit its profile; see also `publishing.run_folder`.
        """
        run = publishing.run_folder(run, revision)
        profile = runs.profile_of(runs.read_record(run), run)
        if dtype is not None:
            llm = profile.llm.model_copy(update={"dtype": dtype})
            profile = profile.model_copy(update={"llm": llm})
        model = cls.from_profile(profile, device=device)
        unpack(model.llm)
        if (run / runs.ADAPTER).is_dir():
            model.add_lora()
        model.load(run)
        model.run = run
        if model.device.type != "cpu":
            model.cast_for_talking()
        return model.requires_grad_(False).eval()

    def push_to_hub(self, name: str, private: bool | None = None) -> str:
        """Publishes the run that this model was loaded from as OWNER/NAME on the hub; see `publishing.push`."""
        return publishing.push(self.run, name, private)

    @torch.no_grad()
    def cast_for_talking(self) -> None:
        """Casts what every token goes through, LoRA and the rows of the new tokens, to the type that the LLM computes in.

        Training keeps both in float32, and pays for it with two casts a matrix and token.
        """
        self.token_rows.to(self.causal_lm.dtype)
        for name, parameter in self.llm.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(self.causal_lm.dtype)

    def add_lora(self) -> None:
        """Gives the LLM the LoRA matrices of the profile, unless it has them."""
        if self.adapter is None:
            self.llm = add_lora(self.llm, self.profile.lora)

    @property
    def adapter(self) -> PeftModel | None:
        """The LLM with its LoRA matrices, None if it has none."""
        return self.llm if isinstance(self.llm, PeftModel) else None

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The LLM itself, with LoRA in its layers if it has any."""
        return self.llm.get_base_model() if self.adapter is not None else self.llm

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the LLM's layer classes, each layer of which FSDP shards by itself."""
        return self.causal_lm._no_split_modules

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.causal_lm.get_input_embeddings().weight.device

    def bridges(self) -> dict[str, nn.Module]:
        """The modules of its own that are trained, by the names they are saved under."""
        return {
            "input_projection": self.input_projection,
            "output_projections": self.output_projections,
            "token_rows": self.token_rows,
        }

    def load(self, folder: Path, anew: Sequence[str] = (), new_tokens: int = 0) -> None:
        """Loads the trainable weights of a run or checkpoint folder, checking every key but those below a name in `anew`.

        The rows of its last `new_tokens` tokens, which a folder from before them lacks, stay as they are. A run that was imported with an embedding and a head of its own puts them into the LLM.
        """
        runs.read_tensors(folder, self.bridges(), self.adapter, anew, new_tokens)
        if (folder / runs.VOCABULARY).is_file():
            replace_vocabulary(self.causal_lm, folder / runs.VOCABULARY)

    # --- from tokens and media to losses ---

    def embed_inputs(
        self, ids: torch.Tensor, embeddings: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """ids (B, T) with media (M, D) or (M, L, D) at places (M, 2) -> the LLM's input embeddings (B, T, H)."""
        inputs = self.token_rows.embed(ids, self.causal_lm.get_input_embeddings())
        if len(at):
            soft = self.input_projection(embeddings.to(self.device)).to(inputs.dtype)  # (M, K, H)
            columns = at[:, 1:] + torch.arange(soft.shape[1], device=at.device)
            inputs = inputs.index_put((at[:, :1].expand_as(columns), columns), soft)
        return inputs

    def hidden_states(self, inputs: torch.Tensor, mask: torch.Tensor, **cache: Any) -> torch.Tensor:
        """The LLM's last hidden states (B, T, H), after its final norm."""
        output = self.causal_lm.get_decoder()(inputs_embeds=inputs, attention_mask=mask, **cache)
        return output.last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., H) -> float32 logits (..., V + new tokens)."""
        return self.token_rows.logits(hidden, self.causal_lm.get_output_embeddings())

    def signal_embeddings(self, kind: str) -> torch.Tensor:
        """The token rows of a kind's signals (N, H), float32."""
        first = self.vocabulary.signals[kind][0] - self.token_rows.first
        return self.token_rows.input[first : first + len(self.vocabulary.signals[kind])].float()

    def signal_states(self, hidden: torch.Tensor, kind: str, at: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, H) at the blocks of a kind that start at `at` (S, 2) -> (S, N, H)."""
        columns = at[:, 1:] + torch.arange(len(self.vocabulary.signals[kind]), device=at.device)
        return hidden[at[:, :1], columns]

    def project(self, kind: str, states: torch.Tensor) -> torch.Tensor:
        """Hidden states at the signals (S, N, H) -> the decoder's condition (S, *condition), float32."""
        read = states.to(self.device, torch.float32)
        return self.output_projections[kind](read, self.signal_embeddings(kind))

    @property
    def calibrated(self) -> bool:
        """Whether every output projection has measured the hidden states that it reads."""
        return all(projection.calibrated for projection in self.output_projections.values())

    def forward(
        self,
        batch: Batch,
        alignment: Alignment = "l2",
        denoiser: Denoiser | None = None,
        divergence: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch: "text" (cross entropy a supervised token) and one for each kind generated; with a denoiser
        also "image denoising" and so on, for the kinds that it has latents of; with `divergence` how far the answers of its
        plain rows are from the untouched LLM's. `alignment` is the stage's distance of conditions (`projections.alignment_loss`).
        """
        inputs = self.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = self.hidden_states(inputs, batch.mask, use_cache=False)
        losses = {}
        learnt = batch.labels[:, 1:] != IGNORED
        if learnt.any():
            states, words = hidden[:, :-1][learnt], batch.labels[:, 1:][learnt]
            heads = (self.token_rows, self.causal_lm.get_output_embeddings())
            reference = self._untouched(batch, learnt) if divergence else None
            losses = word_losses(states, words, self.logits, heads, len(self.vocabulary), reference)
        for kind, at in batch.signals_at.items():
            projected = self.project(kind, self.signal_states(hidden, kind, at))
            losses[kind] = alignment_loss(projected, batch.targets[kind], alignment)
            if denoiser and kind in batch.latents:
                conditions = projected[batch.latents_of[kind]]
                losses[term(kind)] = denoiser.loss(kind, conditions, batch.latents[kind])
        return losses

    def _untouched(self, batch: Batch, learnt: torch.Tensor) -> Reference | None:
        """The LLM without LoRA where plain rows have something to learn (of B, T - 1), None where none has."""
        held = (learnt & batch.plain[:, None])[learnt]
        if not held.any():
            return None
        ids, mask = batch.ids[batch.plain], batch.mask[batch.plain]
        untouched = self.adapter.disable_adapter if self.adapter is not None else nullcontext
        with torch.no_grad(), untouched():
            inputs = self.token_rows.embed(ids, self.causal_lm.get_input_embeddings())
            hidden = self.hidden_states(inputs, mask, use_cache=False)[:, :-1]
        states, head = hidden[learnt[batch.plain]], self.causal_lm.get_output_embeddings()
        return Reference(held, states, head, untouched)

    # --- media and talk: `generation` does it, which builds on this class and is therefore imported late ---

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, loaded on first use."""
        return self.media_models.encoder

    def decoder(self, kind: str) -> Decoder:
        """The frozen decoder of a kind, loaded into host memory on first use; `render` takes it to the device."""
        return self.media_models.decoder(kind)

    def loaded(self, what: str) -> bool:
        """Whether the "encoder", or the decoder of a kind of medium, has been loaded."""
        return self.media_models.loaded(what)

    def knows(self, key: str | None) -> bool:
        """Whether the embedding of the medium with this content key is at hand."""
        return self.media_models.knows(key)

    def embed_media(
        self, items: Sequence[tuple[str, Any]], keys: Sequence[str] | None = None
    ) -> torch.Tensor:
        """(kind, medium) pairs -> encoder embeddings (M, D), by their content `keys` if they are known; see `MediaModels.embed`."""
        return self.media_models.embed(items, keys)

    def processor(self, conversations: Sequence[Any], add_generation_prompt: bool = False) -> Batch:
        """One conversation or many as the batch that this model takes; see `processing.process`."""
        from anytoany_lib.generation import processing

        return processing.process(self, conversations, add_generation_prompt)

    def render(
        self,
        kind: str,
        conditions: torch.Tensor,
        seeds: Sequence[int],
        *settings: Any,
        **named: Any,
    ) -> list[dict[str, Any]]:
        """Conditions (B, *condition) and a seed each -> B media. Settings and media are those of `Decoder.generate`."""
        return self.media_models.render(kind, conditions, seeds, *settings, **named)

    def make_room(self) -> None:
        """Leaves the device to the language model alone: encoder and decoders come back when they are needed."""
        self.media_models.make_room()

    def stream(
        self, messages: list[Message], seed: int = 0, sampling: Sampling | None = None
    ) -> Events:
        """The reply to a conversation as events; see `replies.stream`."""
        from anytoany_lib.generation import replies

        return replies.stream(self, messages, seed, sampling)

    def chat(
        self, messages: list[Message], seed: int = 0, sampling: Sampling | None = None
    ) -> Message:
        """One assistant message in reply to a conversation; the same seed gives the same message.

        Raises the error of a medium that could not be made.
        """
        from anytoany_lib.generation import replies

        return replies.last_message(self.stream(messages, seed, sampling))
