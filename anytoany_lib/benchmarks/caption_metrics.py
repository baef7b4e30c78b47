"""How near captions are to what people wrote: BLEU, ROUGE-L and CIDEr-D, as COCO's evaluation server counts them.

Captions come as lists of words; `caption_scores` takes texts and does all of it. Results are fractions as computed: papers
print 100 times as much. The numbers equal those of pycocoevalcap 1.2 on the same words, its rounding guards included.

The published numbers are counted on what Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`, in Java) makes of
a caption, less a list of punctuation. `tokenize` does that in Python: Penn Treebank conventions (contractions are two words,
brackets have names, abbreviations keep their point), lower case, no punctuation. It gives the same words as the Java tool for
all but 3 of 92,451 captions that people wrote (docs/REPRODUCE.md); what differs is rare, as "U. Miami".
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from anytoany_lib.benchmarks import java_metrics

Words = Sequence[str]
References = Sequence[Sequence[Words]]  # of every medium what several people wrote
Tokenizer = Callable[[Sequence[str]], list[list[str]]]

ORDERS = 4  # n-grams of one to four words
_NO_CORRECT, _NO_GUESS = 1e-15, 1e-9  # keep BLEU's quotients defined; the reference's values
_ROUGE_BETA = 1.2  # recall counts more than precision
_CIDER_SIGMA = 6.0  # words of difference in length
_CIDER_SCALE = 10.0

_BRACKETS = dict(zip("()[]{}", ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"], strict=True))
_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "—": "--", "–": "--", "€": "$", "£": "#"}
)
# Words that end in a point of their own, beside single letters and what is made of them ("u.s.").
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|st|jr|sr|rev|gen|col|sgt|capt|lt|gov|sen|rep|vs|etc|inc|co|corp|ltd|dept|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mt|ft|ave|blvd|rd"
)
_TOKEN = re.compile(
    rf"""
      https?://\S+ | www\.\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+          # addresses
    | </?[a-z!][^<>\s]*>                                              # mark-up
    | (?:[a-z]\.){{2,}}                                               # u.s., a.m.
    | (?:{_ABBREVIATIONS})\.(?=[\s,]|$) | no\.(?=\s*\d)               # mr., etc., no. 5
    | '(?:\d\ds | em | til | cause | n' )(?!\w)                       # '90s, 'em, rock 'n' roll
    | (?:n't | '(?:s|m|d|re|ve|ll))(?!\w)                             # what a contraction leaves behind
    | [+-]?\d+(?:[.,:/]\d+)+                                          # 2.5, 1,000, 10:30, 1/2
    | (?:o'clock | ma'am)(?!\w)
    | \#[^\W\d]\w*                                                    # a tag
    | (?:\w(?!n't(?!\w)))* \w (?:[-/.](?=\w)(?:\w(?!n't(?!\w)))*\w)*  # words, also joined
    | \.{{2,}} | [!?]+ | --+ | \*+ | \#+ | `` | ''                    # runs that stay together
    | [^\s\w\U00010000-\U0010ffff]                                    # any other sign, but no emoji
    """,
    re.VERBOSE,
)
_PAIRS = (("can", "not"), ("gon", "na"), ("got", "ta"), ("wan", "na"), ("lem", "me"), ("gim", "me"))
_TWO_WORDS = {one + other: (one, other) for one, other in _PAIRS}


def tokenize(caption: str) -> list[str]:
    """A caption's words in order; none of them if it is empty or punctuation alone."""
    words: list[str] = []
    for token in _TOKEN.findall(caption.lower().translate(_PLAIN)):
        if token in _TWO_WORDS:
            words += _TWO_WORDS[token]
        elif token not in java_metrics.PUNCTUATION and token.strip('".'):  # nor any run of points
            words.append(_BRACKETS.get(token, token))
    return words


def tokenize_all(captions: Sequence[str]) -> list[list[str]]:
    """The default tokenizer: `tokenize` of each."""
    return [tokenize(caption) for caption in captions]


def ngrams(words: Words) -> Counter[tuple[str, ...]]:
    """How often each run of one to four words occurs."""
    counts: Counter[tuple[str, ...]] = Counter()
    for order in range(1, ORDERS + 1):
        counts.update(zip(*(words[start:] for start in range(order)), strict=False))
    return counts


def bleu(candidates: Sequence[Words], references: References) -> list[float]:
    """BLEU-1 to BLEU-4 of all captions together (Papineni et al. 2002): precisions, clipped by the references, and brevity.

    The length to reach is that of the reference nearest in length, of two equally near ones the shorter.
    """
    correct, guessed = np.zeros(ORDERS), np.zeros(ORDERS)
    length = length_to_reach = 0
    for candidate, told in zip(candidates, references, strict=True):
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in told:
            allowed |= ngrams(reference)
        for ngram, count in ngrams(candidate).items():
            correct[len(ngram) - 1] += min(count, allowed[ngram])
        guessed += np.maximum(len(candidate) - np.arange(ORDERS), 0)
        length += len(candidate)
        length_to_reach += min((abs(len(r) - len(candidate)), len(r)) for r in told)[1]
    precisions = (correct + _NO_CORRECT) / (guessed + _NO_GUESS)
    ratio = (length + _NO_CORRECT) / (length_to_reach + _NO_GUESS)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    return (brevity * precisions.cumprod() ** (1 / np.arange(1, ORDERS + 1))).tolist()


def common_subsequence(one: Words, other: Words) -> int:
    """The length of the longest common subsequence, by Hyyrö's bit-parallel recurrence (2004).

    A bit for each word of `one` is cleared when the subsequence grows there: one addition a word of `other`.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    everywhere = (1 << len(one)) - 1
    unmatched = everywhere
    for word in other:
        matched = unmatched & places.get(word, 0)
        unmatched = (unmatched + matched | unmatched - matched) & everywhere
    return len(one) - unmatched.bit_count()


def rouge_l(candidates: Sequence[Words], references: References) -> np.ndarray:
    """ROUGE-L of each caption (Lin 2004): F of the longest common subsequence, best precision and best recall."""
    scores = np.zeros(len(candidates))
    for number, (candidate, told) in enumerate(zip(candidates, references, strict=True)):
        common = [common_subsequence(reference, candidate) for reference in told]
        if max(common):
            precision = max(common) / len(candidate)
            recall = max(c / max(len(r), 1) for c, r in zip(common, told, strict=True))
            beta = _ROUGE_BETA**2
            scores[number] = (1 + beta) * precision * recall / (recall + beta * precision)
    return scores


def cider_d(
    candidates: Sequence[Words], references: References, corpus: References | None = None
) -> np.ndarray:
    """CIDEr-D of each caption (Vedantam et al. 2015), 0 to 10: tf-idf cosines to its references, n-grams of four orders.

    Weights are clipped to the reference's, and a Gaussian punishes another length. How rare an n-gram is says `corpus`, the
    references of all media of a test set (default: of these); of one medium alone every n-gram is in every document, and
    all scores are 0.
    """
    corpus = references if corpus is None else corpus
    documents = Counter(ngram for told in corpus for ngram in set().union(*map(ngrams, told)))
    rarest = math.log(len(corpus))
    idf = {ngram: rarest - math.log(count) for ngram, count in documents.items()}
    scores = np.zeros(len(candidates))
    for number, (candidate, told) in enumerate(zip(candidates, references, strict=True)):
        own = _weighted(candidate, idf, rarest)
        like = sum(_likeness(own, _weighted(reference, idf, rarest)) for reference in told)
        scores[number] = _CIDER_SCALE * like / len(told)
    return scores


_Vector = tuple[dict[tuple[str, ...], float], list[float], int]


def _weighted(words: Words, idf: Mapping[tuple[str, ...], float], rarest: float) -> _Vector:
    """tf-idf of a text's n-grams, the norm of each order, and the number of words."""
    weights = {ngram: count * idf.get(ngram, rarest) for ngram, count in ngrams(words).items()}
    squares = [0.0] * ORDERS
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return weights, [math.sqrt(square) for square in squares], len(words)


def _likeness(own: _Vector, reference: _Vector) -> float:
    """The mean over orders of the clipped cosine, less for another length."""
    (weights, norms, length), (others, other_norms, other_length) = own, reference
    products = [0.0] * ORDERS
    for ngram, weight in weights.items():
        if (other := others.get(ngram)) is not None:
            products[len(ngram) - 1] += min(weight, other) * other
    cosines = (p / (a * b) for p, a, b in zip(products, norms, other_norms, strict=True) if a * b)
    return sum(cosines) / ORDERS * math.exp(-((length - other_length) ** 2) / 2 / _CIDER_SIGMA**2)


def caption_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenizer: Tokenizer = tokenize_all,
    java: Sequence[str] = (),
) -> dict[str, float]:
    """All metrics of a test set by name, over the ids in `predictions`; CIDEr-D's rarity is that of all `references`.

    An empty prediction scores 0. `java` names what else to compute of METEOR and SPICE; with SPICE comes SPIDEr, the mean of
    it and CIDEr-D. ValueError for an item without references, for no item at all; see `java_metrics` for its errors.
    """
    if not predictions:
        raise ValueError("no predictions to score")
    for name in predictions:
        if not references.get(name):
            raise ValueError(f"{name}: no reference captions, so it cannot be scored")
    texts = [text for told in references.values() for text in told]
    words = iter(tokenizer([*predictions.values(), *texts]))
    said = [next(words) for _ in predictions]
    by_name = {name: [next(words) for _ in told] for name, told in references.items()}
    told = [by_name[name] for name in predictions]
    scores = {f"BLEU-{n}": score for n, score in enumerate(bleu(said, told), 1)}
    scores["ROUGE-L"] = float(rouge_l(said, told).mean())
    scores["CIDEr-D"] = float(cider_d(said, told, list(by_name.values())).mean())
    scores |= {name: java_metrics.score(name, said, told) for name in java}
    if "SPICE" in scores:
        scores["SPIDEr"] = (scores["SPICE"] + scores["CIDEr-D"]) / 2
    return scores
