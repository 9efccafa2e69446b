"""Slot errors on texts that the script of tuetschek/e2e-cleaning has counted, and agreement with its cleaned data."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tailora.data.records import load
from tailora.metrics.slots import slot_error_rate

SHARED = Path(__file__).parents[2] / "shared"
E2E, CLEANED, OUTPUTS = SHARED / "data/e2e", SHARED / "data/e2e_cleaned", SHARED / "reference/e2e_metrics"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "cleaning.py"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not E2E.is_dir(), reason="needs the E2E data beside the project")]


@pytest.mark.parametrize(
    ("system", "official"), [("tgen-std.run0", 0.0379), ("tgen-plus.run1", 0.0273), ("sclstm.run0", 0.3035)]
)
def test_errors_of_systems_equal_those_of_the_script(system: str, official: float) -> None:
    records = load(E2E / "testset_w_refs.csv.gz").records
    texts = gzip.decompress((OUTPUTS / f"{system}.txt.gz").read_bytes()).decode().splitlines()
    assert slot_error_rate(records, texts).value == pytest.approx(official, abs=0.0005)


@pytest.mark.parametrize(
    ("path", "official"),
    [(E2E / "devset.csv.gz", 0.1142), (E2E / "testset_w_refs.csv.gz", 0.1149), (CLEANED / "test-fixed.csv.gz", 0.0)],
)
def test_errors_of_people_are_those_of_the_script_within_three_tenths(path: Path, official: float) -> None:
    rows = load(path).rows
    assert slot_error_rate(rows, [row.references[0] for row in rows]).value == pytest.approx(official, abs=0.003)


@pytest.mark.parametrize(("original", "published"), [("devset", "devel-fixed.no-ol"), ("testset_w_refs", "test-fixed")])
def test_cleaning_agrees_with_the_published_data(original: str, published: str) -> None:
    spec: Any = importlib.util.spec_from_file_location("cleaning", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result, _ = module.agreement(E2E / f"{original}.csv.gz", CLEANED / f"{published}.csv.gz")
    assert result["agreeing"] > 0.96
