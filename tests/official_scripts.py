"""The authors' scripts of PARENT and of GEM's diversity scores, run from checkouts of their repositories.

`TAILORA_OFFICIAL_SCRIPTS` names a folder with `table_text_eval.py` (google-research/language, language/table_text_eval)
and with GEM-metrics' `ngrams.py`, `msttr.py` and `metric.py` (GEM-benchmark/GEM-metrics, gem_metrics) as the package
`gem_metrics`, with an empty `__init__.py`. They need NLTK; what else they import takes no part in the scores.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import sys
import types
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tailora.data.values import Record
from tailora.metrics.tokenizers import sacrebleu_tokenizer


def folder() -> Path:
    """The folder of the scripts; a test that needs it is skipped without it."""
    named = os.environ.get("TAILORA_OFFICIAL_SCRIPTS")
    if not named:
        pytest.skip("TAILORA_OFFICIAL_SCRIPTS does not name a folder with the authors' scripts")
    if importlib.util.find_spec("nltk") is None:
        pytest.skip("GEM's metrics need NLTK")
    return Path(named)


def table_text_eval(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the authors of PARENT; its flags and its file system are not used."""
    path = folder() / "table_text_eval.py"
    flags = types.SimpleNamespace(FLAGS=None, **dict.fromkeys(("DEFINE_string", "DEFINE_float"), lambda *_: None))
    monkeypatch.setitem(sys.modules, "absl", types.SimpleNamespace(app=None, flags=flags))
    monkeypatch.setitem(sys.modules, "absl.app", types.ModuleType("app"))
    monkeypatch.setitem(sys.modules, "absl.flags", flags)
    moves = types.SimpleNamespace(range=range, zip=zip)
    monkeypatch.setitem(sys.modules, "six", types.SimpleNamespace(moves=moves))
    monkeypatch.setitem(sys.modules, "six.moves", moves)
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["tensorflow.compat"].__dict__["v1"] = sys.modules["tensorflow.compat.v1"]
    spec = importlib.util.spec_from_file_location("table_text_eval", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables_of(records: Sequence[Record], tokenizer: str) -> list[Any]:
    """The tables of records as the script holds them, with tokens of a tokenizer."""
    cut = sacrebleu_tokenizer(tokenizer)

    def entry(fact: Any) -> Any:
        attribute = fact.attribute.lower().split()
        value = list(cut(fact.value.replace("_", " ")))
        return (
            [attribute, value]
            if fact.subject is None
            else [list(cut(fact.subject.replace("_", " "))), attribute, value]
        )

    return [[entry(fact) for fact in record.facts] for record in records]


def parent_of(
    script: Any,
    records: Sequence[Record],
    texts: Sequence[str],
    tokenizer: str,
    training: Sequence[Record] | None = None,
) -> list[float]:
    """PARENT's F of each text by the authors' script, with its word overlap model or, with training data, the other."""
    cut = sacrebleu_tokenizer(tokenizer)
    predictions = [list(cut(text)) for text in texts]
    references = [[list(cut(text)) for text in record.references] for record in records]
    options: dict[str, Any] = {"lambda_weight": None}
    if training is not None:
        options["entailment_fn"] = script.cooccur_probability_fn(_counts(training, tokenizer))
    *_, scores = script.parent(predictions, references, tables_of(records, tokenizer), **options)
    return list(scores)


def _counts(training: Sequence[Record], tokenizer: str) -> Counter[str]:
    """Counts as the README of the script describes them, each token once for each text."""
    cut = sacrebleu_tokenizer(tokenizer)
    counts: Counter[str] = Counter()
    for record, table in zip(training, tables_of(training, tokenizer), strict=True):
        known = {token for entry in table for token in itertools.chain(*(entry[:-2] + entry[-1:]))}
        known |= {"_".join(entry[-2]) for entry in table}
        for text in record.references:
            words = set(cut(text))
            counts.update(known)
            counts.update(f"{token}|||{word}" for token in known for word in words)
    return counts


def diversity_of(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], tokenizer: str) -> dict[str, float]:
    """distinct-1 to 3 and MSTTR-100 by GEM's metrics, on tokens of a tokenizer."""
    monkeypatch.syspath_prepend(str(folder()))
    monkeypatch.setitem(sys.modules, "gem_metrics.texts", _Texts("gem_metrics.texts"))
    monkeypatch.setitem(sys.modules, "logzero", types.SimpleNamespace(logger=None))
    statistics = importlib.import_module("gem_metrics.ngrams").NGramStats()
    segments = importlib.import_module("gem_metrics.msttr").MSTTR(window_size=100)
    cut = sacrebleu_tokenizer(tokenizer)
    tokens = [list(cut(text)) for text in texts]
    predictions = types.SimpleNamespace(list_tokenized_lower=tokens, list_tokenized_lower_nopunct=tokens)
    counted = statistics.compute({}, predictions)
    found = {f"distinct_{order}": float(counted[f"distinct-{order}"]) for order in (1, 2, 3)}
    return {**found, "msttr": float(segments._MSTTR(tokens, 100)["msttr_value"])}


class _Texts(types.ModuleType):
    """The names that GEM's metrics import for annotations."""

    Predictions = References = Sources = object
