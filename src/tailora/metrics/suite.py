"""All metrics by name, and the measurement of texts with several of them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from tailora.core.errors import MissingExtraError
from tailora.data.values import Record
from tailora.metrics.bleu import bleu, multi_bleu
from tailora.metrics.chrf import chrf, chrf_pp, webnlg_chrf
from tailora.metrics.cider import cider
from tailora.metrics.meteor import jar, meteor, webnlg_meteor
from tailora.metrics.nist import nist
from tailora.metrics.rouge import rouge_l
from tailora.metrics.slot_rules import Rules
from tailora.metrics.slots import slot_errors
from tailora.metrics.statistics import Statistics
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
    "slots": Metric("slot errors", 100),
}


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
# These compare words separated by spaces, with rules or dictionaries of English.
_NEED_SPACES = {
    "meteor": "its stems, synonyms and paraphrases are English",
    "webnlg_meteor": "its stems, synonyms and paraphrases are English",
    "webnlg_ter": "it compares words separated by spaces",
}


@dataclass(frozen=True)
class Measured:
    """The counts of several metrics on the same texts.

    Attributes:
        statistics: by the metrics' names.
        missing: metrics that could not be computed here, and why.
        note: one sentence about the tokenizer if it was chosen by the records' language or by the caller, else "".
    """

    statistics: Mapping[str, Statistics]
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
) -> Measured:
    """Score one text for each record.

    Args:
        records: with references; with facts for "slots".
        texts: in their order.
        names: of `METRICS`.
        rules: how texts say values; by default the bundled ones.
        tokenizer: a name of `tokenizers.NAMES` for all metrics that count tokens. By default, the official scripts'
            own, or sacrebleu's for the language of the records if it has no spaces between words.

    Raises:
        DataError: a record lacks a reference, or the numbers differ.
        MissingExtraError: the package of the tokenizer is not installed.
    """
    references = [record.references for record in records]
    choice = choose([record.language for record in records], references, tokenizer)
    if tokenizer is not None:
        sacrebleu_tokenizer(tokenizer)
    statistics: dict[str, Statistics] = {}
    missing: dict[str, str] = {}
    with _no_collection():
        for name in names:
            if name == "slots":
                statistics[name] = slot_errors(records, texts, rules)
            elif name in _NEED_SPACES and choice.language is not None:
                missing[name] = f"does not apply to {choice.language}: {_NEED_SPACES[name]}"
            elif name in _TOKENISED:
                statistics[name] = _TOKENISED[name](texts, references, tokenizer=choice.name)
            else:
                try:
                    statistics[name] = _OTHERS[name](texts, references)
                except MissingExtraError as error:
                    missing[name] = str(error)
    return Measured(statistics, missing, choice.note)


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
