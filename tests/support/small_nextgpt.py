"""Profile nextgpt-7b with every width small: a random LLaMA, and a tokenizer.model of LLaMA's kind.

Its words are learnt from this repository's documents, with byte fallback and without normalisation.
"""

from __future__ import annotations

from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anytoany_lib.config import Profile

REPOSITORY = Path(__file__).resolve().parents[2]
HIDDEN, LAYERS, HEADS, WORDS = 64, 2, 4, 1200
RANK, ALPHA = 4, 8


def write_words(folder: Path) -> Path:
    """Writes folder/tokenizer.model with `WORDS` words, "###" in one piece among them as in LLaMA's; returns the folder."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    spoken = "### Human: Show me a bell.\n### Assistant: Here is a bell.\n" * 200
    sentences = (text + spoken).splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=WORDS,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        max_sentence_length=100_000,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    return folder


def small_nextgpt(folder: Path, tiny: Profile) -> Profile:
    """The profile; its LLaMA in `folder` has one row too many, as Vicuna v0 has, and encoder and decoders are those of `tiny`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 1,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_words(folder)
    settings = Profile.load("nextgpt-7b").model_dump()
    settings["llm"] |= {"folder": str(folder), "vocabulary": WORDS, "quantization": "none"}
    settings["encoder"] |= {"folder": tiny.encoder.folder, "embedding": 256}
    for kind, decoder in tiny.decoders.items():
        settings["decoders"][kind] |= {
            "folder": decoder.folder,
            "condition": decoder.condition,
            "options": decoder.options,
        }
    settings["projection"] |= {"width": 32, "heads": 4, "layers": 2, "feed_forward": 64}
    settings["lora"] |= {"rank": RANK, "alpha": ALPHA}
    return Profile.parse(settings, "test")
