"""LLaMA's tokenizer as NExT-GPT's published weights need it: SentencePiece, as the slow tokenizer of transformers 4.29 used it.

Later versions of transformers make other ids of the same text (at "###", at blanks beside new tokens), and other ones of
tokenizer.json than of tokenizer.model. Weights go with the ids that they were trained on. So tokenizer.model is read, whatever
lies beside it, and through SentencePiece itself, whatever version of transformers is installed.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import sentencepiece
from jinja2.sandbox import ImmutableSandboxedEnvironment

FILE = "tokenizer.model"


class LegacyTokenizer:
    """The words of a tokenizer.model. Text is read as if a blank came before it, and special tokens in it are plain characters."""

    chat_template = None  # there was none then: the profile has it

    def __init__(self, folder: Path):
        """FileNotFoundError if the folder has no tokenizer.model, ValueError if that is something else."""
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"no {FILE} in {folder}: llm.tokenizer is sentencepiece-legacy, which reads this file (500 kB, in the "
                "repositories of Vicuna and LLaMA) and no tokenizer.json; fetch it, or set llm.tokenizer: auto"
            )
        self._words = sentencepiece.SentencePieceProcessor()
        try:
            self._words.LoadFromSerializedProto(file.read_bytes())
        except RuntimeError as error:
            raise ValueError(
                f"{file} ({file.stat().st_size:,} bytes) is no SentencePiece model, or is cut: fetch it again ({error})"
            ) from error
        self.bos_token_id, self.eos_token_id = self._words.bos_id(), self._words.eos_id()
        if min(self.bos_token_id, self.eos_token_id) < 0:
            raise ValueError(f"{file} has no <s> or no </s>: it is not the one of LLaMA")
        ids = (self.bos_token_id, self.eos_token_id, self._words.unk_id())
        self._names = {id: self._words.id_to_piece(id) for id in ids}
        self.all_special_ids = list(self._names)
        self._special = re.compile(f"({'|'.join(map(re.escape, self._names.values()))})")

    def __len__(self) -> int:
        return self._words.vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Every word with its id."""
        return {self._words.id_to_piece(id): id for id in range(len(self))}

    def encode(self, text: str) -> list[int]:
        """The ids of a text by itself."""
        return self._words.encode(text)

    def encode_joined(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that are read as one, shared out to them: a word on a border belongs to the later text."""
        whole, cuts = self.encode("".join(texts)), [0]
        for end in range(1, len(texts)):
            # A blank at the end is read with the word behind it.
            before = len(self.encode("".join(texts[:end]).rstrip()))
            cuts.append(min(max(cuts[-1], before), len(whole)))
        ends = [*cuts[1:], len(whole)]
        return [whole[start:end] for start, end in zip(cuts, ends, strict=True)]

    def split_special(self, text: str) -> list[str | int]:
        """Text of a template as pieces of text, and ids where it names special tokens."""
        ids = {name: id for id, name in self._names.items()}
        return [ids.get(piece, piece) for piece in self._special.split(text) if piece]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens by their names, half of a character as U+FFFD."""
        known = groupby(ids, self._names.get)
        return "".join(
            name * len(list(run)) if name else self._words.decode(list(run)) for name, run in known
        )

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The names of its special tokens, as a chat template is given them."""
        bos, eos = self._names[self.bos_token_id], self._names[self.eos_token_id]
        return {"bos_token": bos, "eos_token": eos}

    def get_chat_template(self, chat_template: str) -> str:
        """The template that is given: it has none of its own."""
        return chat_template

    def apply_chat_template(
        self, messages: list[dict[str, str]], chat_template: str, **settings: Any
    ) -> str:
        """Messages rendered by a Jinja template, which is given the settings, bos_token and eos_token."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        variables = self.special_tokens_map | settings
        return environment.from_string(chat_template).render(messages=messages, **variables)
