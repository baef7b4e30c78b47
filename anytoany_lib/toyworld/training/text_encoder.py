"""Captions of the toy world as conditions for diffusion models: a tokenizer of their own and a text encoder.

`caption_tokenizer` learns a CLIP byte-pair vocabulary from toy captions, so that each of their words is one token.
`train_text_encoder` teaches a small CLIPTextModel what a caption says before any diffusion model is trained, and it
stays frozen after: image, video and every cached target then mean the same embedding. It learns by naming, with
linear heads that are thrown away, the attributes a caption states, at every position from the end token on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from anytoany_lib.toyworld.language import PLACED, TIMES, caption, moving
from anytoany_lib.toyworld.pictures import COLOURS, MOTIONS
from anytoany_lib.toyworld.scenes import PLACES, SIZES, THINGS, random_scene
from anytoany_lib.toyworld.sounds import PITCHES
from anytoany_lib.toyworld.training.pace import Pace, minimise

KINDS = ("image", "video", "audio")
POSITIONS = 16
WIDTH = 128

# What a caption may say: attribute -> {value: the words that say it}.
SAYINGS: dict[str, dict] = {
    "thing": {thing: thing for thing in THINGS},
    "colour": {colour: colour for colour in COLOURS},
    "size": {size: size for size in SIZES},
    "place": {place: PLACED[place] for place in PLACES},
    "motion": {motion: moving(motion) for motion in MOTIONS},
    "count": TIMES,
    "pitch": {pitch: pitch for pitch in PITCHES},
}


def random_captions(count: int, rng: np.random.Generator, held_out: bool = False) -> list[str]:
    """Captions of random scenes, all kinds in turn."""
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    hidden = [held_out and kind != "audio" for kind in kinds]
    return [
        caption(kind, random_scene(kind, rng, held_out=out), rng)
        for kind, out in zip(kinds, hidden, strict=True)
    ]


def stated_attributes(text: str) -> list[int]:
    """What a caption states, one index an attribute of `SAYINGS`; 0 where it states nothing of it."""
    padded = f" {text} "
    found = []
    for words in SAYINGS.values():
        hits = [i for i, phrase in enumerate(words.values(), 1) if f" {phrase} " in padded]
        found.append(hits[0] if hits else 0)
    return found


def caption_tokenizer(seed: int = 0, captions: int = 6000) -> CLIPTokenizer:
    """A CLIP tokenizer (16 positions) whose merges are learnt from toy captions.

    Its vocabulary has CLIP's order: every byte, every byte that ends a word, the merges, start and end of text.
    """
    shell = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = shell.normalizer, shell.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(random_captions(captions, np.random.default_rng(seed)), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=POSITIONS)


def longest(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> tuple[int, str]:
    """Token count, start and end included, of the longest text, and that text."""
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    worst = int(np.argmax(lengths))
    return lengths[worst], texts[worst]


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Padded ids (N, 16), int64."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=POSITIONS,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def new_text_encoder(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPTextModel:
    """An untrained text encoder, 128 wide with two layers."""
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class _Naming(nn.Module):
    """Linear heads that name each attribute from one position's hidden state."""

    def __init__(self):
        super().__init__()
        self.sizes = [len(words) + 1 for words in SAYINGS.values()]
        self.heads = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        return list(self.heads(hidden).split(self.sizes, dim=-1))


def _complete(ids: torch.Tensor, end: int) -> torch.Tensor:
    """Positions (N, 16), bool, that have seen the whole caption: the end token and the padding after it."""
    return (ids == end).cumsum(1) > 0


def train_text_encoder(
    tokenizer: CLIPTokenizer, pace: Pace, seed: int = 0, batch: int = 96
) -> tuple[CLIPTextModel, dict[str, float]]:
    """The trained encoder in eval mode, and how often each attribute is named rightly for new captions.

    The check is on captions of held-out pairs, which the training never reads.
    """
    encoder, rng = new_text_encoder(tokenizer, seed), np.random.default_rng(seed + 1)
    naming = _Naming()
    optimiser = torch.optim.AdamW([*encoder.parameters(), *naming.parameters()], weight_decay=0.01)
    optimiser.param_groups[0]["peak"] = 2e-3

    def next_loss() -> torch.Tensor:
        """How far the attributes named by the next captions are off."""
        texts = random_captions(batch, rng)
        ids, labels = (
            token_ids(tokenizer, texts),
            torch.tensor([stated_attributes(text) for text in texts]),
        )
        whole = _complete(ids, tokenizer.eos_token_id)  # (B, 16)
        named = naming(encoder(ids).last_hidden_state[whole])
        spread = labels[:, None].expand(-1, POSITIONS, -1)[whole]
        losses = (nn.functional.cross_entropy(n, spread[:, i]) for i, n in enumerate(named))
        return sum(losses, torch.zeros(()))

    minimise(next_loss, optimiser, pace, "text encoder")
    encoder.eval().requires_grad_(False)
    return encoder, _named_rightly(tokenizer, encoder, naming, np.random.default_rng(seed + 2))


@torch.no_grad()
def _named_rightly(tokenizer, encoder, naming, rng) -> dict[str, float]:
    texts = random_captions(600, rng, held_out=True)
    ids, labels = (
        token_ids(tokenizer, texts),
        torch.tensor([stated_attributes(text) for text in texts]),
    )
    last = encoder(ids).last_hidden_state[:, -1]
    named = torch.stack([logits.argmax(-1) for logits in naming(last)], dim=1)
    return dict(zip(SAYINGS, (named == labels).float().mean(0).tolist(), strict=True))


@torch.no_grad()
def conditions(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: Sequence[str]
) -> torch.Tensor:
    """Hidden states (N, 16, 128), float32: what the diffusion models are conditioned on."""
    return encoder(token_ids(tokenizer, texts)).last_hidden_state.float()
