"""The metrics by name, and several of them over the same texts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tailora.data.values import Record
from tailora.errors import MissingExtraError
from tailora.metrics.bleu import bleu, multi_bleu
from tailora.metrics.chrf import chrf
from tailora.metrics.cider import cider
from tailora.metrics.meteor import jar, meteor
from tailora.metrics.nist import nist
from tailora.metrics.rouge import rouge_l
from tailora.metrics.slots import Rules, slot_errors
from tailora.metrics.statistics import Statistics
from tailora.metrics.ter import ter

MetricName = Literal["bleu", "nist", "meteor", "rouge_l", "cider", "multi_bleu", "ter", "chrf", "slots"]


class Metric(NamedTuple):
    """How a score is shown: its name, and what papers multiply it by."""

    label: str
    scale: float


METRICS: Mapping[str, Metric] = {
    "bleu": Metric("BLEU", 100),
    "nist": Metric("NIST", 1),
    "meteor": Metric("METEOR", 100),
    "rouge_l": Metric("ROUGE-L", 100),
    "cider": Metric("CIDEr", 1),
    "multi_bleu": Metric("multi-BLEU", 100),
    "ter": Metric("TER", 100),
    "chrf": Metric("chrF", 100),
    "slots": Metric("slot errors", 100),
}
_OF_TEXTS: Mapping[str, Callable[[Sequence[str], Sequence[Sequence[str]]], Statistics]] = {
    "bleu": bleu,
    "nist": nist,
    "meteor": meteor,
    "rouge_l": rouge_l,
    "cider": cider,
    "multi_bleu": multi_bleu,
    "ter": ter,
    "chrf": chrf,
}


@dataclass(frozen=True)
class Measured:
    """What several metrics counted on the same texts.

    Attributes:
        statistics: by the metrics' names.
        missing: metrics that could not be computed here, and why.
    """

    statistics: Mapping[str, Statistics]
    missing: Mapping[str, str]


def usual(records: Sequence[Record]) -> tuple[str, ...]:
    """The metrics that the field reports of such records: those of WebNLG and DART for triples, else those of E2E."""
    factual = any(record.facts for record in records)
    triples = any(fact.subject is not None for record in records for fact in record.facts)
    chosen = ("multi_bleu", "meteor", "ter") if triples else ("bleu", "nist", "meteor", "rouge_l", "cider")
    return (*chosen, "slots") if factual else chosen


def unavailable(names: Iterable[str]) -> dict[str, MissingExtraError]:
    """Those of the named metrics that this machine has not the programs for, each with the error that says so."""
    found: dict[str, MissingExtraError] = {}
    for name in set(names) & {"meteor"}:
        try:
            jar()
        except MissingExtraError as error:
            found[name] = error
    return found


def measure(
    records: Sequence[Record], texts: Sequence[str], names: Sequence[str], rules: Rules | None = None
) -> Measured:
    """Score one text for each record.

    Args:
        records: with references; with facts for "slots".
        texts: in their order.
        names: of `METRICS`.
        rules: how texts say values; by default the bundled ones.

    Raises:
        DataError: a record lacks a reference, or the numbers differ.
    """
    references = [record.references for record in records]
    found: dict[str, Statistics] = {}
    missing: dict[str, str] = {}
    with _no_collection():
        for name in names:
            if name == "slots":
                found[name] = slot_errors(records, texts, rules)
                continue
            try:
                found[name] = _OF_TEXTS[name](texts, references)
            except MissingExtraError as error:
                missing[name] = str(error)
    return Measured(found, missing)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's search for cycles: metrics make none, and it would walk millions of n-grams again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
