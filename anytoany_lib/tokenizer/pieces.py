"""Pieces of a conversation, and how they become tokens: each by itself, or joined as the published weights read them.

A piece is text of the template, text that somebody wrote, or a part that stands for a block of new tokens. Tokenisers read a
text differently when another one stands before it, so which texts are read together is a part of what a model has learnt.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from anytoany_lib.tokenizer.sentencepiece_legacy import LegacyTokenizer

Tokenizer = PreTrainedTokenizerBase | LegacyTokenizer


@dataclass(frozen=True)
class Piece:
    """A stretch of a conversation that is not tokens yet.

    `part` is a medium that is `shown`, or what is to become one, or a text before whose own piece stands that it is said, else None. `written` text is a person's or a model's, not the template's.
    `ends` is true of the template's text behind a reply that is learnt: it begins with the end mark. `begins` is true of the
    first piece of a message.
    """

    text: str = ""
    part: dict[str, Any] | None = None
    shown: bool = False
    written: bool = False
    learnt: bool = False
    ends: bool = False
    begins: bool = False


class Stretch(NamedTuple):
    """The ids of a piece, or of one part of it; those of a piece with a part are for the caller to fill in."""

    piece: Piece
    ids: list[int]
    learnt: bool


class Apart:
    """Every piece is tokenised by itself, by a tokenizer of transformers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_mark: str):
        self._tokenizer = tokenizer
        # Whether special tokens are read as such is a setting of the tokenizer, not of a call: with two threads in it, what a
        # visitor writes would now and then be read as the template's.
        self._one_at_a_time = threading.Lock()
        self.stop = self._ids(end_mark, special=True)
        self.stops = [self.stop]

    def _ids(self, text: str, special: bool) -> list[int]:
        if not text:
            return []
        with self._one_at_a_time:
            how = {"add_special_tokens": False, "split_special_tokens": not special}
            return self._tokenizer(text, **how).input_ids

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that somebody wrote: special tokens in it are read as plain characters."""
        return self._ids(text, special=False)

    def inner_ids(self, text: str) -> list[int]:
        """Ids of text within a sentence."""
        return self.text_ids(f" {text}")

    def write(self, pieces: list[Piece], prompt: bool) -> Iterator[Stretch]:
        """The ids of pieces, in order."""
        for piece in pieces:
            if piece.written:
                yield Stretch(piece, self.text_ids(piece.text), piece.learnt)
                continue
            ids = self._ids(piece.text, special=True)
            # The end mark is found among the ids: a special token may take the blanks beside it.
            stop = len(self.stop) if piece.ends and ids[: len(self.stop)] == self.stop else 0
            yield Stretch(piece, ids[:stop], True)
            yield Stretch(piece, ids[stop:], piece.learnt)


@dataclass
class _Item:
    """A piece or a part of it: text that is joined with its neighbours, or ids as they are (a special token, or none yet)."""

    piece: Piece
    text: str = ""
    ids: list[int] | None = None
    learnt: bool = False
    alone: bool = False  # what comes before it is read without it


class Joined:
    """LLaMA's text as NExT-GPT tokenised it, in training or (`demo`) in its published demo.

    Blanks beside new tokens are dropped. In training the first "### Human: " was read by itself, then up to every reply, then
    every reply with its end mark. So what is learnt and what is not is never read together. The demo reads everything
    between two media together, each time behind a BOS, and nothing behind "Assistant:".
    """

    def __init__(self, tokenizer: LegacyTokenizer, end_mark: str, demo: bool):
        self._tokenizer, self._end_mark, self._demo = tokenizer, end_mark, demo
        # Words come before the end mark, or new tokens, beside which its line break is dropped.
        word = tokenizer.encode("a")
        self.stop = tokenizer.encode(f"a{end_mark}")[len(word) :]
        self.stops = [self.stop, tokenizer.encode(end_mark.lstrip())]

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that somebody wrote: special tokens in it are read as plain characters."""
        return self._tokenizer.encode(text)

    inner_ids = text_ids  # within a sentence: SentencePiece puts the blank there itself

    def write(self, pieces: list[Piece], prompt: bool) -> Iterator[Stretch]:
        """The ids of pieces, in order; of a prompt as the demo has it, if that is wished for."""
        as_demo = self._demo and prompt
        items = [item for piece in pieces for item in self._items(piece)]
        if as_demo:
            items = self._with_bos(items)
            items[-1].text = items[-1].text.rstrip(" ")
        else:
            self._part(items)
        for start, end in _runs(items):
            run = items[start:end]
            if run[0].ids is not None:
                yield from (Stretch(item.piece, item.ids or [], item.learnt) for item in run)
                continue
            ids = self._tokenizer.encode_joined(_trimmed(items, start, end, as_demo))
            for item, of_it in zip(run, ids, strict=True):
                yield Stretch(item.piece, of_it, item.learnt)

    def _items(self, piece: Piece) -> Iterator[_Item]:
        """A piece cut at special tokens, and behind the end mark."""
        if piece.part is not None:
            yield _Item(piece, ids=[], learnt=piece.learnt)
        elif piece.written:
            yield _Item(piece, piece.text, learnt=piece.learnt)
        else:
            rest = piece.text
            if piece.ends and rest.startswith(self._end_mark):
                yield _Item(piece, self._end_mark, learnt=True)
                rest = rest.removeprefix(self._end_mark)
            for text_or_id in self._tokenizer.split_special(rest):
                if isinstance(text_or_id, int):
                    yield _Item(piece, ids=[text_or_id], learnt=piece.learnt)
                else:
                    yield _Item(piece, text_or_id, learnt=piece.learnt)

    def _part(self, items: list[_Item]) -> None:
        """Marks what is read apart from what comes before it, in training."""
        head = next((n for n, item in enumerate(items) if item.piece.begins), len(items))
        for n in range(1, len(items)):
            before, item = items[n - 1], items[n]
            first = n == head and item.piece.part is None
            item.alone = first or before.learnt != item.learnt
            if item.alone and not item.piece.written:
                # The template's own blank: SentencePiece puts one before a text.
                item.text = item.text.lstrip(" ")

    def _with_bos(self, items: list[_Item]) -> list[_Item]:
        """The demo's items: a BOS behind every medium that is shown."""
        with_bos: list[_Item] = []
        for item in items:
            text_behind = item.ids is None and item.text and with_bos and with_bos[-1].piece.shown
            if text_behind:
                with_bos.append(_Item(Piece(), ids=[self._tokenizer.bos_token_id]))
            with_bos.append(item)
        return with_bos


def _runs(items: list[_Item]) -> Iterator[tuple[int, int]]:
    """From where to where items are read together: texts, until one that is read alone; ids one by one."""
    start = 0
    for n in range(1, len(items) + 1):
        ends = n == len(items) or items[n].alone or items[n].ids is not None
        if ends or items[start].ids is not None:
            yield start, n
            start = n


def _trimmed(items: list[_Item], start: int, end: int, demo: bool) -> list[str]:
    """The texts of a run without the blanks beside new tokens; of the demo's without one before a medium that is shown."""
    texts = [item.text for item in items[start:end]]
    before = items[start - 1] if start and not items[start].alone else None
    after = items[end] if end < len(items) and not items[end].alone else None
    if before is not None and before.piece.part is not None:
        texts = _stripped(texts, str.lstrip)
    if after is not None and demo and after.piece.shown:
        texts[-1] = texts[-1].removesuffix(" ")
    elif after is not None and after.piece.part is not None:
        texts = _stripped(texts[::-1], str.rstrip)[::-1]
    return texts


def _stripped(texts: list[str], strip: Callable[[str], str]) -> list[str]:
    """Texts without the blanks that all of them together begin (or, backwards, end) with."""
    for n, text in enumerate(texts):
        texts[n] = strip(text)
        if texts[n]:
            break
    return texts
