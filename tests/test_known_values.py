"""Values known from training: what an adapter keeps of them, and texts that say them although a record lacks them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tailora
from tailora.commands import evaluate
from tailora.data import known_values as module
from tailora.data.known_values import joined, known_values, read_known_values
from tailora.data.readers.jsonl import dump
from tailora.data.values import Fact, Record
from tailora.inference.rerank import Search
from tailora.inference.texts import Candidate, generation_from
from tailora.metrics.slot_rules import load_rules, vocabulary_of
from tailora.metrics.slots import slot_error_rate, slot_report


def record(text: str, **facts: Any) -> Record:
    return Record("1", tuple(Fact(None, name, value) for name, value in facts.items()), (text,))


def candidate(text: str) -> Candidate:
    return Candidate(token_ids=(1,), finish_reason="stop", logprobs=(0.0,), text=text)


def ride(name: str, way: str, **facts: Any) -> Record:
    return record(f"{name} goes to {way}", name=name, **facts)


TRAINING = [
    *(
        record(f"Bus {n} goes to Oldbury from the high road.", name=f"Bus {n}", to="Oldbury", level="low")
        for n in range(20)
    ),
    *(
        record(f"Ship {n} goes to Newport.", name=f"Ship {n}", to="Newport", level="high", seats="40")
        for n in range(20)
    ),
]
KNOWN = known_values(TRAINING)


def test_names_are_kept_and_common_words_are_not() -> None:
    assert KNOWN["to"] == ("Oldbury", "Newport")
    assert "level" not in KNOWN, "texts say 'high' about anything, and 'low' has three letters"
    assert "seats" not in KNOWN


def test_the_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [record("", name=f"Town {n:06}") for n in range(2 * module.MOST_VALUES)]
    assert len(known_values(many)["name"]) == module.MOST_VALUES
    monkeypatch.setattr(module, "MOST_CHARACTERS", 30)
    assert sum(map(len, known_values(many)["name"])) <= 30


def test_metadata_is_read_back() -> None:
    meta = json.loads(json.dumps({"known_values": {name: list(values) for name, values in KNOWN.items()}}))
    assert read_known_values(meta) == KNOWN
    assert read_known_values({}) == read_known_values({"known_values": [1]}) == {}
    assert joined([{"a": ("x",)}, {"a": ("x", "y"), "b": ("z",)}]) == {"a": ("x", "y"), "b": ("z",)}


def test_a_leaked_value_is_an_error() -> None:
    rules = load_rules().with_known(KNOWN)
    own = record("", name="Bus 7", to="Newport")
    report = slot_report(own, "Bus 7 goes to Newport and Oldbury.", rules=rules)
    assert report.leaked == (Fact(None, "to", "Oldbury"),)
    assert (report.added, report.missing, report.errors) == ((), (), 1)
    assert [mention.added for mention in report.mentions] == [False, False, True]
    assert slot_report(own, "Bus 7 goes to Oldbury.", rules=rules).errors == 1, "a wrong value is one error"
    assert slot_report(own, "Bus 7 goes to Newport.", rules=rules).leaked == ()
    assert slot_error_rate([own], ["Bus 7 goes to Newport and Oldbury."], rules).leaked == 1
    assert load_rules().name != rules.name


def test_what_belongs_to_the_record_does_not_leak() -> None:
    rules = load_rules().with_known({"country": ("Ireland", "The Mill"), "food": ("Italian",)})
    triple = Record("1", (Fact("Northern Ireland", "capital", "Belfast"),), ())
    assert slot_report(triple, "The capital of Northern Ireland is Belfast.", rules=rules).leaked == ()
    own = Record("1", (Fact("The School", "president", "Ann Li"),), ())
    leader = load_rules().with_known({"leaderTitle": ("President",)})
    assert slot_report(own, "The president of the School is Ann Li.", rules=leader).leaked == ()
    assert slot_report(triple, "Belfast has a mill.", rules=rules).leaked == (), "the article is a part of the name"
    pub = record("", eatType="pub", food="Indian")
    assert slot_report(pub, "An Italian pub.", rules=rules).added == (Fact(None, "food", "Italian"),)
    assert slot_report(pub, "An Italian pub.", rules=rules).leaked == (), "rules describe the value"


def test_candidates_without_leaked_values_come_first() -> None:
    rules = load_rules().with_known(KNOWN)
    own = record("", name="Bus 7")
    texts = ("Bus 7 goes to Oldbury.", "Bus 7 goes.")
    candidates = tuple(candidate(text) for text in texts)
    search = Search(own, vocabulary_of([own], rules), rules)
    search.add(generation_from(candidates, 1))
    assert search.ordered().text == "Bus 7 goes."
    assert search.slot_errors(texts[0]) == ("leaked to: Oldbury",)


def test_an_adapter_keeps_the_values_and_evaluation_counts_what_leaks(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    unique = [replace(record, id=str(number)) for number, record in enumerate(TRAINING)]
    data.write_text(dump(unique), encoding="utf-8")
    tailora.train(data, base="tiny", output=tmp_path / "run", max_steps=1)
    meta = json.loads((tmp_path / "run" / "adapter" / "tailora.json").read_text(encoding="utf-8"))["meta"]
    assert read_known_values(meta) == KNOWN
    own = {"facts": {"name": "Bus 7"}, "text": "Bus 7 goes to Oldbury."}
    (tmp_path / "test.jsonl").write_text(json.dumps(own) + "\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("Bus 7 goes to Oldbury.\n", encoding="utf-8")
    settings: dict[str, Any] = {"input": str(tmp_path / "test.jsonl"), "texts": tmp_path / "texts.txt"}
    settings["metrics"] = ("slots",)
    alone = evaluate.run(evaluate.EvaluateSettings(**settings, output=tmp_path / "alone"))
    named = evaluate.run(evaluate.EvaluateSettings(**settings, output=tmp_path / "named", train=str(data)))
    assert (alone["all"]["slots"]["value"], named["all"]["slots"]["value"]) == (0, 1)
    assert "known" in named["all"]["slots"]["signature"]
    assert 'title="leaked"' in (tmp_path / "named" / "report.html").read_text(encoding="utf-8")
