"""Groups of records that are scored separately: by category, number of facts, and entities seen in training."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

import tailora
from bases import save_adapter, save_base
from tailora.commands.evaluate import EvaluateSettings, run
from tailora.core.errors import DataError
from tailora.data import records as record_files
from tailora.data.reading import ReadingSettings
from tailora.evaluation.groups import groups_of
from tailora.evaluation.parts import TrainingData
from tailora.metrics.suite import measure

TRIPLES = [
    ("Airport", [("Oakham_Airport", "city", "Oakham")], "Oakham Airport serves Oakham ."),
    ("Airport", [("Oakham_Airport", "city", "Ryhall"), ("Ryhall", "country", "England")], "Ryhall is in England ."),
    ("Artist", [("Ada_Byrd", "born", "Oakham")], "Ada Byrd was born in Oakham ."),
    ("Artist", [("Ida_Hill", "born", "Lunna"), ("Lunna", "country", "Scotland")], "Ida Hill is from Lunna ."),
]
TEXTS = ["Oakham Airport serves Oakham .", "Ryhall is there .", "Ada Byrd was born in Oakham .", "no"]


def row(number: int, group: str, triples: Any, text: str) -> str:
    facts = [list(triple) for triple in triples]
    return json.dumps({"id": str(number), "group": group, "facts": facts, "texts": [text]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A test split of triples, and a train split that has the entities of one record, and one of another two."""
    made = tmp_path / "data"
    made.mkdir()
    rows = [row(number, *entry) for number, entry in enumerate(TRIPLES)]
    (made / "test.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    train = row(9, "Airport", [("Oakham", "has", "Oakham_Airport")], "Oakham has Oakham Airport .")
    (made / "train.jsonl").write_text(train + "\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return made


def evaluate(folder: Path, **changes: Any) -> dict[str, Any]:
    place = folder.parent
    values = {
        "input": str(folder),
        "split": "test",
        "output": place / "out",
        "metrics": ("rouge_l", "slots"),
        "draws": 100,
    }
    texts = {} if "systems" in changes else {"texts": place / "texts.txt"}
    return run(EvaluateSettings(**{**values, **texts, **changes}))


def test_groups_have_their_own_scores(folder: Path) -> None:
    result = evaluate(folder)
    groups = result["groups"]
    assert {by: list(own) for by, own in groups.items()} == {
        "category": ["Airport", "Artist"],
        "facts": ["1 fact", "2 facts"],
        "entities": ["all seen", "some seen", "none seen"],
    }
    assert [own["records"] for own in groups["entities"].values()] == [1, 2, 1]
    records = record_files.read(folder, split="test")
    for by, name, numbers in [
        ("category", "Artist", [2, 3]),
        ("facts", "1 fact", [0, 2]),
        ("entities", "some seen", [1, 2]),
    ]:
        own = [records[number] for number in numbers]
        wanted = measure(own, [TEXTS[number] for number in numbers], ["rouge_l"]).statistics["rouge_l"].value
        assert groups[by][name]["scores"]["rouge_l"]["value"] == pytest.approx(wanted)
    out = folder.parent / "out"
    assert json.loads((out / "groups.json").read_text(encoding="utf-8")) == groups
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>By number of facts</h2>" in page
    assert "<td>none seen</td><td>1</td><td>0.0</td>" in page


def test_divisions_are_chosen(folder: Path) -> None:
    assert list(evaluate(folder, by=("facts",))["groups"]) == ["facts"]
    assert "groups" not in evaluate(folder, by=("none",))
    (folder / "train.jsonl").unlink()
    assert list(evaluate(folder)["groups"]) == ["category", "facts"]
    with pytest.raises(DataError, match=r"needs training data.*--train"):
        evaluate(folder, by=("entities",))


def test_the_data_of_an_adapter_s_run(folder: Path) -> None:
    place = folder.parent
    (folder / "train.jsonl").rename(place / "trained.jsonl")
    save_base(place / "base")
    save_adapter(place / "run" / "adapter", str(place / "base"))
    run_record = {"settings": {"data": str(place / "trained.jsonl")}, "account": {"base": str(place / "base")}}
    (place / "run" / "run.json").write_text(json.dumps(run_record), encoding="utf-8")
    ways: dict[str, Any] = {"systems": (str(place / "run"),), "max_new_tokens": 3}
    assert list(evaluate(folder, **ways)["groups"]) == ["category", "facts"]
    result = evaluate(folder, **ways, by=("entities",), metrics=("rouge_l", "parent_c"))
    assert [own["records"] for own in result["groups"]["entities"].values()] == [1, 2, 1]
    assert "|entailment:cooccurrence:1|" in result["all"]["parent_c"]["signature"]
    other = {**run_record, "settings": {"data": "elsewhere.jsonl"}}
    (place / "run" / "run.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(DataError, match=r"elsewhere.jsonl"):
        evaluate(folder, **ways, by=("entities",))


def test_the_groups_of_several_systems(folder: Path) -> None:
    texts = str(folder.parent / "texts.txt")
    alone = evaluate(folder)["groups"]
    result = evaluate(folder, systems=(f"one={texts}", f"two={texts}"))
    assert result["groups"]["one"] == result["groups"]["two"] == alone
    with (folder.parent / "out" / "groups.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 7 * 2
    assert rows[0]["group"] == "Airport"
    page = (folder.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>By category, ROUGE-L</h2>" in page


def test_groups_of_rows_that_are_scored_by_row(tmp_path: Path) -> None:
    path = tmp_path / "grouped.csv"
    path.write_text("name,area,text\nMill,,The Mill .\nOak,old town,The Oak .\nMill,,A Mill .\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("The Mill .\nThe Oak .\nno\n", encoding="utf-8")
    settings = {
        "input": str(path),
        "texts": tmp_path / "texts.txt",
        "output": tmp_path / "out",
        "metrics": ("rouge_l",),
    }
    groups = run(EvaluateSettings(**settings))["groups"]
    assert {name: own["records"] for name, own in groups["facts"].items()} == {"1 fact": 2, "2 facts": 1}
    assert groups["facts"]["1 fact"]["scores"]["rouge_l"]["value"] == pytest.approx(1 / 2)


def test_a_group_for_each_record_is_none(tmp_path: Path) -> None:
    rows = [row(n, f"group {n}", [(f"s{n}", "is", "x")], "It is .") for n in range(40)]
    (tmp_path / "many.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    records = record_files.read(tmp_path / "many.jsonl")
    assert groups_of(records, TrainingData(None, ReadingSettings())) == []


def test_entities_are_seen_in_either_unicode_form(tmp_path: Path) -> None:
    lake = {"train": unicodedata.normalize("NFD", "Hồ_Tây"), "test": unicodedata.normalize("NFC", "Hồ_Tây")}
    for name, subject in lake.items():
        triples = [(subject, "city", "Hanoi"), (name, "is", f"{name} x")]
        lines = "".join(row(number, "Place", [triple], "It is .") + "\n" for number, triple in enumerate(triples))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    records = record_files.read(tmp_path, split="test")
    groups = groups_of(records, TrainingData(str(tmp_path), ReadingSettings()), ["entities"])
    assert [(group.name, list(group.numbers)) for group in groups] == [("all seen", [0]), ("none seen", [1])]


def test_a_dialogue_act_is_neither_a_fact_nor_an_entity(tmp_path: Path) -> None:
    rows = {"train": ["inform(name[Celeste])"], "test": ["inform(name[Celeste])", "inform(name[Doom], esrb[M])"]}
    for split, mrs in rows.items():
        lines = [["mr", "ref"], *([mr, "A game."] for mr in mrs)]
        with (tmp_path / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    records = record_files.read(tmp_path, split="test")
    groups = groups_of(records, TrainingData(str(tmp_path), ReadingSettings()), ["facts", "entities"])
    assert [(group.name, list(group.numbers)) for group in groups] == [
        ("1 fact", [0]),
        ("2 facts", [1]),
        ("all seen", [0]),
        ("none seen", [1]),
    ]


def test_groups_in_python(folder: Path) -> None:
    scores = tailora.evaluate(TEXTS, folder, split="test", metrics="rouge_l", draws=100)
    assert set(scores.groups) == {"category", "facts", "entities"}
    assert set(tailora.evaluate(TEXTS, folder, split="test", metrics="rouge_l", by=[], draws=100).groups) == set()
