"""`tailora learning-curve`: runs on parts of the data, continued after an interrupt, and a conclusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailora.commands.learning_curve import LearningCurveSettings, run
from tailora.core.errors import SettingsError
from tailora.data import records as record_files

QUICK: dict[str, Any] = {"data": "restaurants", "limit": 40, "valid_limit": 2, "max_steps": 1, "precision": "fp32"}


def settings(output: Path, **more: Any) -> LearningCurveSettings:
    return LearningCurveSettings(**{**QUICK, "output": output, **more})


def test_parts_are_nested_and_the_curve_is_drawn(tmp_path: Path) -> None:
    result = run(settings(tmp_path / "curve", percentages=(12.5, 25, 100), repeats=2))
    assert [(each["records"], each["repeat"]) for each in result["runs"]] == [
        (size, repeat) for size in (5, 10, 40) for repeat in (0, 1)
    ]
    parts = {
        name: {record.facts for record in record_files.read(tmp_path / "curve" / "data" / f"{name}.jsonl")}
        for name in ("5-0", "10-0", "5-1", "40-0", "40-1")
    }
    assert parts["5-0"] < parts["10-0"] < parts["40-0"] == parts["40-1"]
    assert parts["5-1"] != parts["5-0"]
    assert [row["records"] for row in result["expected"]] == [40, 80, 160]
    assert all(row["lowest"] <= row["validation_loss"] <= row["highest"] for row in result["expected"])
    assert result["conclusion"].startswith("Twice the data (80 records) would change the validation loss from about")
    kept = json.loads((tmp_path / "curve" / "learning-curve.json").read_text(encoding="utf-8"))
    assert kept == {name: value for name, value in result.items() if name != "output"}
    assert (tmp_path / "curve" / "learning-curve.svg").stat().st_size > 1000


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished experiment: its folder and its result."""
    folder = tmp_path_factory.mktemp("finished") / "curve"
    return folder, run(settings(folder, percentages=(25, 50, 100)))


def test_finished_runs_are_reused(curve: tuple[Path, dict[str, Any]]) -> None:
    folder, first = curve
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}
    assert stamps
    again = run(settings(folder, percentages=(12.5, 25, 50, 100)))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert again["runs"][1:] == first["runs"]


@pytest.mark.parametrize(("more", "other"), [({"rank": 4}, "settings"), ({"limit": 39}, "data")])
def test_other_settings_or_data_are_refused(
    curve: tuple[Path, dict[str, Any]], more: dict[str, Any], other: str
) -> None:
    with pytest.raises(SettingsError, match=f"contains runs with other {other}; name another folder"):
        run(settings(curve[0], percentages=(25, 50, 100), **more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"percentages": (50, 100)}, "fewer than three different parts"),
        ({"percentages": (0, 50, 100)}, "above 0 and at most 100 per cent"),
        ({"percentages": (50, 100, 120)}, "above 0 and at most 100 per cent"),
        ({"limit": 2}, "2 records are too few for 4 parts"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_wrong_settings(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(settings(tmp_path / "curve", **more))


def test_records_without_validation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"facts": {"name": "A"}, "text": "A ."}) + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="there are no validation records"):
        run(settings(tmp_path / "curve", data=str(path)))


def test_texts_alone(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text("A mug.\nA bowl.\nA jug.\nA cup.\n", encoding="utf-8")
    places = {"data": str(tmp_path / "train.txt"), "valid": str(tmp_path / "valid.txt")}
    result = run(settings(tmp_path / "curve", **places, format="text", percentages=(25, 50, 100)))
    assert [row["records"] for row in result["runs"]] == [1, 2, 4]
