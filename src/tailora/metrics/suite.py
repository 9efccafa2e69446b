"""All metrics by name, and the measurement of texts with several of them."""

from __future__ import annotations

import contextlib
import gc
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, Protocol

from tailora.core.errors import MissingExtraError
from tailora.data.values import Record
from tailora.metrics.bleu import bleu, multi_bleu
from tailora.metrics.chrf import chrf, chrf_pp, webnlg_chrf
from tailora.metrics.cider import cider
from tailora.metrics.copied import copied
from tailora.metrics.diversity import Diversity, distinct, msttr
from tailora.metrics.meteor import jar, meteor, webnlg_meteor
from tailora.metrics.nist import nist
from tailora.metrics.parent import parent, parent_c
from tailora.metrics.rouge import rouge_l
from tailora.metrics.slot_rules import Rules
from tailora.metrics.slots import slot_errors
from tailora.metrics.statistics import Measurement, Statistics
from tailora.metrics.ter import ter, webnlg_ter
from tailora.metrics.tokenizers import choose, sacrebleu_tokenizer

MetricName = Literal[
    "bleu",
    "nist",
    "meteor",
    "rouge_l",
    "cider",
    "multi_bleu",
    "webnlg_meteor",
    "webnlg_ter",
    "webnlg_chrf",
    "ter",
    "chrf",
    "chrf_pp",
    "parent",
    "parent_c",
    "copied",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "msttr",
    "slots",
]


class Metric(NamedTuple):
    """How a score is shown: its label, and the factor by which papers multiply it."""

    label: str
    scale: float


METRICS: Mapping[str, Metric] = {
    "bleu": Metric("BLEU", 100),
    "nist": Metric("NIST", 1),
    "meteor": Metric("METEOR", 100),
    "rouge_l": Metric("ROUGE-L", 100),
    "cider": Metric("CIDEr", 1),
    "multi_bleu": Metric("multi-BLEU", 100),
    "webnlg_meteor": Metric("METEOR, WebNLG", 100),
    "webnlg_ter": Metric("TER, WebNLG", 100),
    "webnlg_chrf": Metric("chrF++, WebNLG", 100),
    "ter": Metric("TER", 100),
    "chrf": Metric("chrF", 100),
    "chrf_pp": Metric("chrF++", 100),
    "parent": Metric("PARENT", 100),
    "parent_c": Metric("PARENT-C", 100),
    "copied": Metric("values copied", 100),
    "distinct_1": Metric("distinct-1", 100),
    "distinct_2": Metric("distinct-2", 100),
    "distinct_3": Metric("distinct-3", 100),
    "msttr": Metric("MSTTR", 100),
    "slots": Metric("slot errors", 100),
}
_COMPOSED = "Decomposed letters (Unicode's NFD) were composed (NFC) before texts and references were compared."
NEED_FACTS = frozenset({"parent", "parent_c", "copied", "slots"})
"""Metrics that compare texts with the facts of their records."""


class _Tokenised(Protocol):
    def __call__(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None
    ) -> Statistics: ...


_TOKENISED: Mapping[str, _Tokenised] = {
    "bleu": bleu,
    "nist": nist,
    "rouge_l": rouge_l,
    "cider": cider,
    "multi_bleu": multi_bleu,
    "ter": ter,
}
_OTHERS: Mapping[str, Callable[[Sequence[str], Sequence[Sequence[str]]], Statistics]] = {
    "meteor": meteor,
    "webnlg_meteor": webnlg_meteor,
    "webnlg_ter": webnlg_ter,
    "webnlg_chrf": webnlg_chrf,
    "chrf": chrf,
    "chrf_pp": chrf_pp,
}
_DIVERSITY: Mapping[str, Callable[..., Diversity]] = {
    "distinct_1": partial(distinct, order=1),
    "distinct_2": partial(distinct, order=2),
    "distinct_3": partial(distinct, order=3),
    "msttr": msttr,
}
_ENGLISH = frozenset(("meteor", "webnlg_meteor"))
# These compare words separated by spaces, with rules or dictionaries of English.
_NEED_SPACES = {
    "meteor": "its stems, synonyms and paraphrases are English",
    "webnlg_meteor": "its stems, synonyms and paraphrases are English",
    "webnlg_ter": "it compares words separated by spaces",
}


@dataclass(frozen=True)
class Measured:
    """What several metrics measured on the same texts.

    Attributes:
        statistics: by the metrics' names.
        missing: metrics that could not be computed here, and why.
        note: sentences about the tokenizer, if it was chosen by the records' language or by the caller, about letters
            that were composed, and about METEOR for other languages than English; else "".
    """

    statistics: Mapping[str, Measurement]
    missing: Mapping[str, str]
    note: str = ""


def usual(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the metrics that papers report for such records: those of WebNLG and DART for triples, otherwise E2E's."""
    factual = any(record.facts for record in records)
    triples = any(fact.subject is not None for record in records for fact in record.facts)
    of_triples = ("multi_bleu", "webnlg_meteor", "webnlg_ter")
    chosen = of_triples if triples else ("bleu", "nist", "meteor", "rouge_l", "cider")
    return (*chosen, "slots") if factual else chosen


def unavailable(names: Iterable[str]) -> dict[str, MissingExtraError]:
    """Return those of the metrics whose programs are not installed, each with its error."""
    missing: dict[str, MissingExtraError] = {}
    for name in set(names) & {"meteor", "webnlg_meteor"}:
        try:
            jar()
        except MissingExtraError as error:
            missing[name] = error
    return missing


def measure(
    records: Sequence[Record],
    texts: Sequence[str],
    names: Sequence[str],
    rules: Rules | None = None,
    tokenizer: str | None = None,
    training: Sequence[Record] | None = None,
) -> Measured:
    """Score one text for each record.

    Composed and decomposed letters (Unicode's NFC and NFD), which look the same, are compared as composed ones.

    Args:
        records: with references; with facts for the metrics of `NEED_FACTS`.
        texts: in their order.
        names: of `METRICS`.
        rules: how texts say values; by default the bundled ones.
        tokenizer: a name of `tokenizers.NAMES` for all metrics that count tokens. By default, the official scripts'
            own, or sacrebleu's for the language of the records if it has no spaces between words.
        training: records that the system was trained on, for "parent_c".

    Raises:
        DataError: a record lacks a reference or facts, or the numbers differ.
        MissingExtraError: the package of the tokenizer is not installed.
    """
    before = [*texts, *(text for record in records for text in record.references)]
    note = "" if all(unicodedata.is_normalized("NFC", text) for text in before) else _COMPOSED
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    records = [_composed(record) for record in records]
    training = None if training is None else [_composed(record) for record in training]
    references = [record.references for record in records]
    choice = choose([record.language for record in records], references, tokenizer)
    if tokenizer is not None:
        sacrebleu_tokenizer(tokenizer)
    statistics: dict[str, Measurement] = {}
    missing: dict[str, str] = {}
    with _no_collection():
        for name in names:
            if name == "parent_c" and training is None:
                missing[name] = "needs training data; name it with --train"
            elif name in _NEED_SPACES and choice.language is not None:
                missing[name] = f"does not apply to {choice.language}: {_NEED_SPACES[name]}"
            elif name in NEED_FACTS:
                statistics[name] = _of_facts(name, records, texts, rules, choice.name, training or ())
            elif name in _DIVERSITY:
                statistics[name] = _DIVERSITY[name](texts, tokenizer=choice.name)
            elif name in _TOKENISED:
                statistics[name] = _TOKENISED[name](texts, references, tokenizer=choice.name)
            else:
                try:
                    statistics[name] = _OTHERS[name](texts, references)
                except MissingExtraError as error:
                    missing[name] = str(error)
    english = _english_note([record.language for record in records]) if statistics.keys() & _ENGLISH else ""
    return Measured(statistics, missing, " ".join(filter(None, (choice.note, note, english))))


def _english_note(languages: Sequence[str | None]) -> str:
    """Return a sentence on METEOR if most records name another language than English, otherwise ""."""
    language = Counter(languages).most_common(1)[0][0]
    if language is None or re.match(r"en(?:g|glish)?(?![^\W_])", language.strip(), re.IGNORECASE):
        return ""
    return f"METEOR compares English stems, synonyms and paraphrases, and most records are in {language!r}."


def _of_facts(
    name: str,
    records: Sequence[Record],
    texts: Sequence[str],
    rules: Rules | None,
    tokenizer: str | None,
    training: Sequence[Record],
) -> Statistics:
    if name == "slots":
        return slot_errors(records, texts, rules)
    if name == "copied":
        return copied(records, texts)
    if name == "parent":
        return parent(records, texts, tokenizer=tokenizer)
    return parent_c(records, texts, training, tokenizer=tokenizer)


def _composed(record: Record) -> Record:
    """Return a record with composed letters (Unicode's NFC)."""
    parts = [*record.references, *(part for fact in record.facts for part in (fact.subject or "", fact.value))]
    if all(unicodedata.is_normalized("NFC", part) for part in parts):
        return record
    facts = tuple(
        replace(
            fact,
            subject=None if fact.subject is None else unicodedata.normalize("NFC", fact.subject),
            value=unicodedata.normalize("NFC", fact.value),
        )
        for fact in record.facts
    )
    references = tuple(unicodedata.normalize("NFC", text) for text in record.references)
    return replace(record, facts=facts, references=references)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's cyclic garbage collection: metrics make no cycles, and it would scan millions of n-grams."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
