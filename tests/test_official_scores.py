"""Scores of the official scripts: on texts of our own, and of three systems on the E2E test set."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tailora.data import records
from tailora.metrics.bleu import bleu, multi_bleu
from tailora.metrics.chrf import webnlg_chrf
from tailora.metrics.cider import cider
from tailora.metrics.meteor import meteor, webnlg_meteor
from tailora.metrics.nist import nist
from tailora.metrics.rouge import rouge_l
from tailora.metrics.ter import ter, webnlg_ter

SHARED = Path(__file__).parents[2] / "shared"
OFFICIAL = SHARED / "reference" / "e2e_metrics"
METRICS = {"BLEU": bleu, "NIST": nist, "ROUGE_L": rouge_l, "CIDEr": cider}

SETS = json.loads((Path(__file__).parent / "data" / "official_scores.json").read_text(encoding="utf-8"))["sets"]
CASES = [(name, system) for name, own in SETS.items() for system in own["systems"]]
OF_E2E = {"bleu": bleu, "nist": nist, "rouge_l": rouge_l, "cider": cider}
OTHERS = {"multi_bleu": multi_bleu, "webnlg_ter": webnlg_ter, "webnlg_chrf": webnlg_chrf, "ter": ter}
METEORS = {"meteor": meteor, "webnlg_meteor": webnlg_meteor}
has_meteor = importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


def inputs(name: str, system: Any, metric: Any) -> tuple[Any, ...]:
    """The texts of a system, their references as the script got them, and the official score if there is one."""
    own = SETS[name]["systems"][system]
    references = [SETS[name]["references"][number] for number in own["order"]]
    if len(references) == 1 and metric in ("bleu", "nist", "rouge_l", "cider", "meteor"):
        references = [references[0][:1]]
    if metric == "webnlg_chrf":
        references = [each[:6] for each in references]
    return own["texts"], references, own["scores"].get(metric)


@pytest.mark.parametrize(("name", "system"), CASES)
def test_every_metric_equals_its_script(name: Any, system: Any) -> None:
    for metric, function in {**OF_E2E, **OTHERS}.items():
        texts, references, wanted = inputs(name, system, metric)
        if wanted is not None:
            assert function(texts, references).value == pytest.approx(wanted, abs=6e-5), metric


@pytest.mark.skipif(not has_meteor, reason="needs Java and pycocoevalcap")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "system"), CASES)
def test_meteor_equals_its_script(name: Any, system: Any) -> None:
    for metric, function in METEORS.items():
        texts, references, wanted = inputs(name, system, metric)
        if wanted is not None:
            assert function(texts, references).value == pytest.approx(wanted, abs=6e-5), metric


def test_the_table_has_scores_of_every_metric() -> None:
    counts = [len(own["scores"]) for name in SETS.values() for own in name["systems"].values()]
    assert len(counts) == 88
    assert sum(counts) > 860


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the reference outputs in ../shared")
@pytest.mark.parametrize("system", ["tgen-std.run0", "tgen-plus.run1", "sclstm.run0"])
def test_the_official_scores_are_reproduced(system: str) -> None:
    references = [record.references for record in records.read(SHARED / "data" / "e2e", split="test")]
    texts = gzip.decompress((OFFICIAL / f"{system}.txt.gz").read_bytes()).decode("utf-8").splitlines()
    wanted = json.loads((OFFICIAL / "scores.json").read_text(encoding="utf-8"))[system]
    for name, metric in METRICS.items():
        assert metric(texts, references).value == pytest.approx(wanted[name], abs=1e-4), name
