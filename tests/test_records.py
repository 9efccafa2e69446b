"""Readers on real files and on broken ones."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora import read_records
from tailora.core.errors import DataError
from tailora.data.readers import jsonl
from tailora.data.records import Fact, Record, load, locate, read, splits
from tailora.data.records import parse as parse_text
from tailora.data.row_selection import FirstRecords
from tailora.data.values import gather, records_of_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")


@needs_shared
@pytest.mark.parametrize("folder", ["e2e", "e2e/lora_format"])
def test_e2e_counts(folder: str) -> None:
    counts = {"train": (4862, 42061), "valid": (547, 4672), "test": (630, 4693)}
    for split, expected in counts.items():
        records = read(SHARED / folder, split=split)
        assert (len(records), sum(len(record.references) for record in records)) == expected


@needs_shared
def test_webnlg_and_dart_counts() -> None:
    path = SHARED / "webnlg_2017" / "dev.json.gz"
    assert sum(len(record.references) for record in read(path)) == 2258
    assert sum(len(record.references) for record in read(path, all_texts=True)) == 2268
    dart = read(SHARED / "dart" / "dart-v1.1.1-full-dev.json.gz")
    assert (len(dart), sum(len(record.references) for record in dart)) == (2768, 6980)


def test_table_and_xml(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("name,colour,text\nCup,,A cup.\nCup,,The cup.\n", encoding="utf-8")
    (record,) = read(table)
    assert record.facts == (Fact(None, "name", "Cup"),)
    assert record.references == ("A cup.", "The cup.")
    xml = tmp_path / "a.xml"
    xml.write_text(
        '<b><entry category="City" eid="1"><modifiedtripleset><mtriple>A | p | B</mtriple></modifiedtripleset>'
        '<lex comment="good">A p B.</lex><lex comment="bad">x</lex></entry></b>',
        encoding="utf-8",
    )
    (record,) = read(xml)
    assert (record.facts, record.references, record.group) == ((Fact("A", "p", "B"),), ("A p B.",), "City")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'mr,ref\n"name[X]",\n', "a.csv:2: the text is empty"),
        ("a.csv", b"mr,ref\nname[X],a,b\n", "a.csv:2: 3 cells where the header has 2"),
        ("a.csv", b"mr,ref\nname,a\n", "a.csv:2: the meaning representation"),
        ("a.csv", b"name,ref\na,b\n", "a.csv:1: there is no column 'text'"),
        ("a.csv", b"mr,ref\nname[X],caf\xe9\n", "a.csv:2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt"', "a.jsonl:2: broken JSON"),
        ("a.jsonl", b'{"prompt": "a", "completion": "\\ud83d"}\n', "a.jsonl:1: broken JSON (an escape spells half"),
        ("a.txt", b"a : b||c\na : b|c\n", "a.txt:2: the line has no ||"),
        ("a.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "a.xml:1: has a document type"),
        ("a.csv.gz", gzip.compress(b"mr,ref\nname[X],a\n", mtime=0)[:-9], "broken gzip"),
        ("a.csv", b"", "the file is empty"),
    ],
)
def test_broken_files_say_file_and_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)
FACTS = st.lists(st.builds(Fact, st.none(), WORDS, WORDS), min_size=1, max_size=4).map(tuple)
TRIPLES = st.lists(st.builds(Fact, WORDS, WORDS, WORDS), min_size=1, max_size=4).map(tuple)
TEXTS = st.lists(WORDS, max_size=3).map(tuple)


@given(st.lists(st.tuples(FACTS | TRIPLES, TEXTS, st.none() | WORDS), min_size=1, max_size=4))
def test_json_lines_of_facts_come_back(rows: Any) -> None:
    records = [Record(f"r{n}", facts, texts, group) for n, (facts, texts, group) in enumerate(rows)]
    assert records_of_rows(jsonl.parse(jsonl.dump(records), "a.jsonl").rows, "a.jsonl") == records


@given(st.lists(st.tuples(WORDS, TEXTS), min_size=1, max_size=4, unique_by=lambda row: row[0]))
def test_json_lines_of_prompts_come_back(rows: Any) -> None:
    records = [Record(f"r{n}", (), texts, None, prompt) for n, (prompt, texts) in enumerate(rows)]
    rows = jsonl.parse(jsonl.dump(records), "a.jsonl").rows
    gathered, _ = gather(rows, records_of_rows(rows, "a.jsonl"))
    assert gathered == records


def test_a_byte_order_mark_in_a_name_is_not_part_of_it() -> None:
    """csv.DictReader leaves it in the first column of a file that it reads as plain UTF-8."""
    plain = read_records([{"name": "Mill", "area": "river"}])
    assert read_records([{"\ufeffname": "Mill", "area": "river"}]) == plain
    nested = read_records([{"facts": {"\ufeffname": "Mill", "area": "river"}, "text": "x"}])
    assert nested[0].facts == plain[0].facts


def test_a_text_is_read_as_its_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,text\nBlue Spice,It is there.\nBlue Spice,There it is.\n", encoding="utf-8")
    assert parse_text(path.read_text(encoding="utf-8"), path) == load(path)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"run.json": "{}", "adapter/adapter_config.json": "{}"}, "is the directory of a training run, not data"),
        ({"adapter_config.json": "{}"}, "is an adapter, not data"),
        ({"config.json": "{}", "model.safetensors": ""}, "is a model, not data"),
        ({"scores.json": "{}", "outputs.jsonl": "{}"}, "is the output folder of `tailora evaluate`, not data"),
        ({"notes.md": "x"}, "is a folder without data files"),
    ],
)
@pytest.mark.parametrize("split", [None, "train"])
def test_folders_that_hold_no_data_say_what_they_are(
    tmp_path: Path, files: dict[str, str], what: str, split: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        read(tmp_path, split=split)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("model.safetensors", b'\x10\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{}}', "is a file of tensors"),
        ("a.gguf", b"GGUF\x03\x00\x00\x00", "is a GGUF model or adapter"),
        ("a.pdf", b"%PDF-1.7\n", "is a PDF document"),
        ("run.json", b'{"settings": {"data": "x"}, "account": {}}', "is the run.json of a training run"),
        ("adapter_config.json", b'{"r": 8, "lora_alpha": 16, "target_modules": []}', "settings file of an adapter"),
        ("config.json", b'{"model_type": "gpt2", "architectures": []}', "settings file of a model"),
        (
            "outputs.jsonl",
            b'{"id": "1", "text": "A.", "finish_reason": "stop", "completion_tokens": 3}\n',
            "contains texts that `tailora generate` wrote",
        ),
    ],
)
def test_files_that_hold_no_records_say_what_they_are(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        read(path)


@pytest.mark.parametrize("other", ["Blue  Door", " Blue Door", "Blue\u00a0Door", "Blue\tDoor"])
def test_white_space_makes_no_other_record_because_prompts_have_single_spaces(other: str, tmp_path: Path) -> None:
    rows = [{"facts": {"name": "Blue Door"}, "text": "One."}, {"facts": {"name": other}, "text": "Two."}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [record.references for record in read(path)] == [("One.", "Two.")]


def test_the_language_of_a_json_record_may_be_called_lang(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"facts": {"a": "b"}, "text": "x", "lang": "en"}\n{"facts": {"a": "b"}, "text": "y", "lang": "ga"}\n'
    )
    with pytest.raises(DataError, match="several languages"):
        load(path)
    assert [record.references for record in load(path, language="ga").records] == [("y",)]


def test_splits_in_longer_names(tmp_path: Path) -> None:
    """Published folders call their files `dart-v1.1.1-full-train.json` or `train-00000-of-00001.parquet`."""
    for name in ("dart-v1.1.1-full-train.json", "dart-v1.1.1-full-dev.json", "notes.txt", "train_and_test.json"):
        (tmp_path / name).write_text('[{"facts": {"name": "Oak"}, "text": "The Oak."}]', encoding="utf-8")
    assert splits(tmp_path) == ("train", "valid")
    assert locate(tmp_path, "valid").name == "dart-v1.1.1-full-dev.json"
    (tmp_path / "dart-v1.1.1-full-dev.xml").write_text("<x/>", encoding="utf-8")
    with pytest.raises(DataError, match="several files of the split 'valid'"):
        locate(tmp_path, "valid")
    (tmp_path / "train.json").write_text('[{"facts": {"name": "Oak"}, "text": "The Oak."}]', encoding="utf-8")
    assert splits(tmp_path) == ("train",), "a folder with usual names has no other splits"


def test_archives_and_pointers_are_one_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "rows.tar.gz", "w:gz") as archive:
        archive.add(__file__, "test.py")
    with pytest.raises(DataError, match="is a tar archive, not a text file; unpack it"):
        read(tmp_path / "rows.tar.gz")
    pointer = tmp_path / "train.csv"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n", encoding="utf-8")
    ways: list[dict[str, Any]] = [{}, {"selection": FirstRecords(5)}]
    for options in ways:
        with pytest.raises(DataError, match=r"is a pointer of Git LFS.*; fetch it with `git lfs pull`"):
            load(pointer, **options)
