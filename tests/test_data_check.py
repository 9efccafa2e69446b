"""What lint says of attributes, and its HTML report."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from tailora.commands.lint import LintSettings, run
from tailora.core.errors import CheckError
from tailora.data.attribute_values import attribute_values
from tailora.data.values import Fact, Record
from tailora.metrics.said_values import said_shares


def record(id: str, text: str, **facts: str) -> Record:
    return Record(id, tuple(Fact(None, name, value) for name, value in facts.items()), (text,))


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_values_that_splits_share() -> None:
    train = [record("1", "", name="Mill", area="Centre"), record("2", "", name="Oak", area="centre")]
    test = [record("1", "", name="Mill", area="west"), record("2", "", name="Elm")]
    values = attribute_values({"train": train, "valid": [], "test": test})
    assert (values["name"].facts, values["name"].values) == (4, 3)
    assert values["name"].known == {"test": 0.5}
    assert (values["area"].values, values["area"].known) == (2, {"test": 0.0})
    forms = [record("1", "", name=unicodedata.normalize(form, "Hồ Tây")) for form in ("NFC", "NFD")]
    names = attribute_values({"train": forms[:1], "test": forms[1:]})["name"]
    assert (names.values, names.known) == (1, {"test": 1.0})


def test_the_share_of_values_that_texts_say() -> None:
    records = [
        record("1", "The Mill is in the west.", name="The Mill", area="west"),
        record("2", "The Oak.", name="The Oak", area="east"),
        Record("3", (Fact(None, "dialogue act", "inform"), Fact(None, "name", "Elm")), ("An elm.", "An ash.")),
        Record("4", (Fact(None, "name", "Ash"),), ()),
    ]
    shares, texts = said_shares(records)
    assert texts == 4
    assert shares == {"name": 0.75, "area": 0.5}
    assert said_shares(records, most=2)[1] == 2


def test_the_report_shows_each_kind_with_examples(tmp_path: Path) -> None:
    long = "The Mill is a friendly old pub by the river that serves cheap Thai food to families"
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"name": f"<b>{n}</b>", "area": "west", "text": f"{long} <{n}>."} for n in range(7)]
    write(folder / "train.jsonl", *rows, {"name": "Elm", "area": "moon", "text": "An elm in the sun."})
    write(folder / "test.jsonl", {"name": "Elm", "area": "moon", "text": "Quite another thing here."})
    page = tmp_path / "report.html"
    with pytest.raises(CheckError) as failed:
        run(LintSettings(data=str(folder), html=page, show=2))
    result = failed.value.result
    assert result["findings"]["near duplicate"] == 6
    assert result["findings"]["leak"] == 1
    assert result["attributes"]["name"] == {
        "facts": 9,
        "values": 8,
        "said": pytest.approx(1 / 9),
        "known": {"test": 1.0},
    }
    html = page.read_text(encoding="utf-8")
    assert html.count("<article ") == 2 + 2 + 1  # near duplicates, unsaid values, and the leak
    assert "<b>0</b>" not in html
    assert "record train: 2; 88% like train: 1" in html
    assert "2 of 6 shown" in html
    assert "test values in train" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_list_of_a_dialogue_act_and_what_it_asks_for_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "viggo.csv"
    acts = [
        '"inform(name[Celeste], genres[platformer, indie])",Celeste is an indie platformer.',
        '"request(esrb[])",Which rating do you like?',
    ]
    path.write_text("mr,ref\n" + "\n".join(acts) + "\n", encoding="utf-8")
    assert run(LintSettings(data=str(path)))["findings"] == {}


def test_many_attributes_are_folded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**{f"slot {n}": f"v{n}" for n in range(30)}, "text": "It has nothing."})
    with pytest.raises(CheckError):
        run(LintSettings(data=str(path), html=tmp_path / "report.html"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    before, _, after = html.partition("<summary>5 more attributes</summary>")
    assert "<td>slot 24</td>" in before
    assert "<td>slot 25</td>" in after


def test_texts_without_facts(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("A pub by the river.\nAn inn.\n", encoding="utf-8")
    result = run(LintSettings(data=str(path), format="text", html=tmp_path / "report.html"))
    assert (result["attributes"], result["texts_searched"]) == ({}, 0)
    assert "Attributes" not in (tmp_path / "report.html").read_text(encoding="utf-8")
