"""Three systems' outputs on the E2E test set, scored as the official script scored them."""

import gzip
import json
from pathlib import Path

import pytest

from tailora.data import records
from tailora.metrics.bleu import bleu
from tailora.metrics.cider import cider
from tailora.metrics.nist import nist
from tailora.metrics.rouge import rouge_l

SHARED = Path(__file__).parents[2] / "shared"
OFFICIAL = SHARED / "reference" / "e2e_metrics"
METRICS = {"BLEU": (bleu, 0.0001), "NIST": (nist, 0.0001), "ROUGE_L": (rouge_l, 0.0001), "CIDEr": (cider, 0.0001)}

pytestmark = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the reference outputs in ../shared")


@pytest.mark.parametrize("system", ["tgen-std.run0", "tgen-plus.run1", "sclstm.run0"])
def test_the_official_scores_are_reproduced(system):
    references = [record.references for record in records.read(SHARED / "data" / "e2e", split="test")]
    texts = gzip.decompress((OFFICIAL / f"{system}.txt.gz").read_bytes()).decode("utf-8").splitlines()
    wanted = json.loads((OFFICIAL / "scores.json").read_text(encoding="utf-8"))[system]
    for name, (metric, tolerance) in METRICS.items():
        assert metric(texts, references).value == pytest.approx(wanted[name], abs=tolerance), name
