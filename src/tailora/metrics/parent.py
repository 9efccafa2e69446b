"""PARENT (Dhingra et al. 2019, arXiv:1906.01081): n-grams of a text against references and against the facts.

An n-gram that no reference has counts as far as the facts entail it, and n-grams of a reference that the facts do not
entail need not be said. Defaults are those of the authors' script, `table_text_eval.py` of google-research/language:
n-grams of orders 1 to 4, smoothing by 0.00001, and the weight of the two kinds of recall by how much of the facts each
reference says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailora.core.errors import DataError
from tailora.data.values import Fact, Record
from tailora.metrics.ngrams import Ngram, ngrams
from tailora.metrics.rouge import common_length
from tailora.metrics.statistics import Statistics, check_texts, mean, signature
from tailora.metrics.tokenizers import Tokenizer, sacrebleu_tokenizer

_ORDERS = 4
_SMOOTHING = 1e-5


def parent(records: Sequence[Record], texts: Sequence[str], *, tokenizer: str | None = None) -> Statistics:
    """Return the mean over texts of PARENT's F with the word overlap model of entailment; 0 to 1.

    The probability that the facts entail an n-gram is the share of its words that are in a value or a subject.

    Args:
        records: with references and facts.
        texts: one for each record.
        tokenizer: None for sacrebleu's 13a, or a name of `tokenizers.NAMES`; texts and facts are lower-cased. "none"
            cuts at spaces, as the authors' script does. Underscores of facts count as spaces.

    Raises:
        DataError: see `check_texts`; or a record has no facts.
        MissingExtraError: the tokenizer's package is not installed.
    """
    return _parent("PARENT", "overlap", records, texts, tokenizer, _overlap)


def parent_c(
    records: Sequence[Record],
    texts: Sequence[str],
    training: Sequence[Record],
    *,
    tokenizer: str | None = None,
) -> Statistics:
    """Return the mean over texts of PARENT's F with the co-occurrence model of entailment (PARENT-C); 0 to 1.

    For a word outside the facts, the probability of entailment is the largest share, over the words and attributes of
    the facts, of the training texts with that word or attribute in their facts that say the word. For an n-gram it is
    the geometric mean over its words.

    Args:
        records: see `parent`, as are texts, tokenizer and errors.
        texts: one for each record.
        training: records with references, in which facts and words of texts are counted.
        tokenizer: see `parent`.
    """
    cut = sacrebleu_tokenizer(tokenizer or "13a")
    seen = Cooccurrence.of(training, cut)
    name = f"cooccurrence:{len(training)}"
    return _parent("PARENT-C", name, records, texts, tokenizer, seen.probabilities)


class _Entailed(NamedTuple):
    """How the facts of a record entail n-grams.

    Attributes:
        word: from a word to the probability that the facts entail it.
        ngram: from the probabilities of the words of an n-gram to its own.
    """

    word: Callable[[str], float]
    ngram: Callable[[Sequence[float]], float]


class _Entry(NamedTuple):
    """A fact as tokens: the attribute as one token, the words of its value, or of its subject and its value."""

    attribute: str
    words: tuple[str, ...]


def _parent(
    name: str,
    model: str,
    records: Sequence[Record],
    texts: Sequence[str],
    tokenizer: str | None,
    entailment: Callable[[Sequence[_Entry]], _Entailed],
) -> Statistics:
    references = [record.references for record in records]
    check_texts(texts, references)
    cut = sacrebleu_tokenizer(tokenizer or "13a")
    rows = []
    for record, text in zip(records, texts, strict=True):
        entries = _entries(record.stated, cut)
        if not entries:
            raise DataError(
                f"PARENT needs facts, and record {record.id!r} has none", hint="leave it out of the metrics"
            )
        rows.append((_score(cut(text), [cut(own) for own in record.references], entries, entailment(entries)), 1.0))
    settings = f"tok:{tokenizer or '13a'}|case:lc|n:{_ORDERS}|entailment:{model}|lambda:auto|smooth:{_SMOOTHING:g}"
    return Statistics(name, signature(settings, references), np.array(rows, np.float64), mean)


def _entries(facts: Sequence[Fact], cut: Tokenizer) -> list[_Entry]:
    """Return the facts as tokens; a fact without any word says nothing."""
    entries = []
    for fact in facts:
        own = cut((fact.subject or "").replace("_", " ")) + cut(fact.value.replace("_", " "))
        if own:
            entries.append(_Entry("_".join(fact.attribute.lower().split()), own))
    return entries


def _overlap(entries: Sequence[_Entry]) -> _Entailed:
    known = {word for entry in entries for word in entry.words}
    return _Entailed(lambda word: float(word in known), lambda words: sum(words) / len(words))


@dataclass(frozen=True)
class Cooccurrence:
    """In how many training texts a token of the facts occurs, alone and together with a word of the text.

    Attributes:
        numbers: tokens to their numbers.
        alone: [tokens], texts whose record has the token in its facts.
        pairs: tokens of facts times the number of tokens, plus words of texts, in ascending order.
        together: [pairs], texts with both.
    """

    numbers: dict[str, int]
    alone: NDArray[np.int64]
    pairs: NDArray[np.int64]
    together: NDArray[np.int64]

    @classmethod
    def of(cls, training: Sequence[Record], cut: Tokenizer) -> Cooccurrence:
        """Count the training texts; a token counts once in each."""
        numbers: dict[str, int] = {}

        def numbered(tokens: set[str]) -> NDArray[np.int64]:
            return np.array([numbers.setdefault(token, len(numbers)) for token in sorted(tokens)], np.int64)

        examples = [
            (numbered(_known(_entries(record.stated, cut))), numbered(set(cut(text))))
            for record in training
            for text in record.references
        ]
        factual = np.concatenate([facts for facts, _ in examples]) if examples else np.zeros(0, np.int64)
        coded = [(facts[:, None] * len(numbers) + words).ravel() for facts, words in examples]
        pairs, together = np.unique(np.concatenate(coded) if coded else factual, return_counts=True)
        return cls(numbers, np.bincount(factual, minlength=len(numbers)), pairs, together)

    def probabilities(self, entries: Sequence[_Entry]) -> _Entailed:
        """Return how the facts of a record entail n-grams."""
        known = _known(entries)
        facts = np.array(sorted(self.numbers[token] for token in known if token in self.numbers), np.int64)
        facts = facts[self.alone[facts] > 0]

        def word(token: str) -> float:
            if token in known:
                return 1.0
            number = self.numbers.get(token)
            if number is None or not len(facts):
                return 0.0
            wanted = facts * len(self.numbers) + number
            places = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
            counts = np.where(self.pairs[places] == wanted, self.together[places], 0)
            return float((counts / self.alone[facts]).max())

        return _Entailed(word, lambda words: math.prod(words) ** (1 / len(words)))


def _known(entries: Sequence[_Entry]) -> set[str]:
    return {token for entry in entries for token in (entry.attribute, *entry.words)}


def _score(
    text: tuple[str, ...], references: Sequence[tuple[str, ...]], entries: Sequence[_Entry], entailed: _Entailed
) -> float:
    """Return the F of the reference that gives the best one."""
    words = {word: entailed.word(word) for word in {*text, *(word for own in references for word in own)}}
    weights: dict[Ngram, float] = {}

    def weight(ngram: Ngram) -> float:
        if ngram not in weights:
            weights[ngram] = entailed.ngram([words[word] for word in ngram])
        return weights[ngram]

    said = _mentioned(entries, text) or _SMOOTHING
    best = 0.0
    for reference in references:
        pairs = list(zip(ngrams(text)[:_ORDERS], ngrams(reference)[:_ORDERS], strict=True))
        precision = _mean_of_orders([_precision(ours, theirs, weight) for ours, theirs in pairs])
        recall = _mean_of_orders([_recall(ours, theirs, weight) for ours, theirs in pairs]) or _SMOOTHING
        share = 1 - _mentioned(entries, reference)
        both = recall ** (1 - share) * said**share
        best = max(best, 2 * precision * both / (precision + both + 1e-8))
    return best


def _mentioned(entries: Sequence[_Entry], text: tuple[str, ...]) -> float:
    """Return the mean share of an entry's words that the text has, in their order."""
    return sum(common_length(entry.words, text) / len(entry.words) for entry in entries) / len(entries)


def _precision(ours: Counter[Ngram], theirs: Counter[Ngram], weight: Callable[[Ngram], float]) -> float:
    total = sum(ours.values())
    right = 0.0
    for ngram, count in ours.items():
        shared = min(1.0, theirs.get(ngram, 0) / count)
        right += count * (shared + (1 - shared) * weight(ngram) if shared < 1 else 1.0)
    return right / total if total else 0.0


def _recall(ours: Counter[Ngram], theirs: Counter[Ngram], weight: Callable[[Ngram], float]) -> float:
    wanted = [(count * weight(ngram), min(1.0, ours.get(ngram, 0) / count)) for ngram, count in theirs.items()]
    total = sum(weighed for weighed, _ in wanted)
    return sum(weighed * share for weighed, share in wanted) / total if total else 1.0


def _mean_of_orders(values: Sequence[float]) -> float:
    """Return the geometric mean; only orders above the first are smoothed."""
    first, *others = values
    smoothed = [first, *(value or _SMOOTHING for value in others)]
    return math.exp(math.fsum(math.log(value) for value in smoothed) / len(smoothed)) if first else 0.0
