"""Parquet, Arrow and Feather files, as pyarrow and pandas write them, beside the same rows as JSON lines."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tailora.core.errors import DataError
from tailora.data.readers.columnar import ColumnarRows
from tailora.data.records import Fact, load, read, splits

pa = pytest.importorskip("pyarrow")
from pyarrow import feather, ipc, parquet  # noqa: E402 - after the check that pyarrow is installed


def write_stream(table: Any, path: Path) -> None:
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_file(table: Any, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "parquet": lambda table, path: parquet.write_table(table, path, row_group_size=2),
    "parquet-zstd": lambda table, path: parquet.write_table(table, path, compression="zstd"),
    "arrow-file": write_file,
    "arrow-stream": write_stream,
    "feather": lambda table, path: feather.write_feather(table, str(path), compression="zstd"),
}
FLAT = [
    {"name": "Blue Door", "food": "Thai", "text": "Blue Door cooks Thai."},
    {"name": "The Oak", "food": None, "text": "The Oak – a café."},
    {"name": "Quán Ngon", "food": "Việt Nam", "text": "Quán Ngon nấu món Việt Nam."},
]
NESTED = [
    {"facts": [["Cork", "country", "Ireland"]], "texts": ["Cork is in Ireland.", "Ireland has Cork."]},
    {"facts": [["Cork", "river", "Lee"], ["Lee", "length", "90"]], "texts": ["The Lee runs through Cork."]},
]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("suffix", [".parquet", ".data"])
def test_every_kind_of_file_is_read_like_json_lines(writer: str, suffix: str, tmp_path: Path) -> None:
    path, lines = tmp_path / f"rows{suffix}", tmp_path / "rows.jsonl"
    WRITERS[writer](pa.Table.from_pylist(FLAT), path)
    lines.write_text("".join(json.dumps(row) + "\n" for row in FLAT), encoding="utf-8")
    assert read(path) == read(lines)


@pytest.mark.parametrize("writer", WRITERS)
def test_lists_and_structures(writer: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "rows", tmp_path / "rows.jsonl"
    WRITERS[writer](pa.Table.from_pylist(NESTED), path)
    lines.write_text("".join(json.dumps(row) + "\n" for row in NESTED), encoding="utf-8")
    assert read(path) == read(lines)


def test_a_structure_without_a_value_makes_no_fact(tmp_path: Path) -> None:
    rows = [{"facts": {"name": "Mug", "colour": "red"}, "text": "a"}, {"facts": {"name": "Bowl"}, "text": "b"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet")[1].facts == (Fact(None, "name", "Bowl"),)


def test_maps_are_objects(tmp_path: Path) -> None:
    facts = pa.array([[("name", "Mug"), ("colour", "red")]], pa.map_(pa.string(), pa.string()))
    parquet.write_table(pa.table({"facts": facts, "text": ["A red mug."]}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet")[0].facts == (Fact(None, "name", "Mug"), Fact(None, "colour", "red"))


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([0.1], pa.float16()), "0.1"),
        (pa.array([0.1]), "0.1"),
        (pa.array([3], pa.int8()), "3"),
        (pa.array([2**63], pa.uint64()), str(2**63)),
        (pa.array([True]), "yes"),
        (pa.array([decimal.Decimal("12.50")]), "12.50"),
        (pa.array([datetime.date(2026, 3, 1)]), "2026-03-01"),
        (pa.array([datetime.datetime(2026, 3, 1, 9, 30)]), "2026-03-01 09:30:00"),
        (pa.array([datetime.datetime(2026, 3, 1)]), "2026-03-01"),
        (pa.array([1772357400123456789], pa.timestamp("ns")), "2026-03-01 09:30:00.123456"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array(["a"], pa.string_view()), "a"),
    ],
    ids=lambda own: str(own.type) if isinstance(own, pa.Array) else own,
)
def test_types_of_values(array: Any, value: str, tmp_path: Path) -> None:
    table = pa.table({"name": ["Mug"], "value": array, "text": ["A mug."]})
    write_file(table, tmp_path / "rows.arrow")
    assert read(tmp_path / "rows.arrow")[0].facts[1] == Fact(None, "value", value)


def test_lists_of_short_floats(tmp_path: Path) -> None:
    table = pa.table({"sizes": pa.array([[0.1, 0.2]], pa.list_(pa.float32())), "text": ["Two sizes."]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert [fact.value for fact in read(tmp_path / "rows.parquet")[0].facts] == ["0.1", "0.2"]


@pytest.mark.parametrize("index", [None, pd.Index([7])], ids=["rows by number", "rows by label"])
@pytest.mark.parametrize("form", ["parquet", "feather"])
def test_a_data_frame_as_pandas_writes_it(form: str, index: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"mr": ["name[Mug], colour[red]"], "ref": ["A red mug."]}, index=index)
    if form == "parquet":
        frame.to_parquet(tmp_path / "rows")
    else:
        frame.to_feather(tmp_path / "rows")
    (record,) = read(tmp_path / "rows")
    assert record.facts == (Fact(None, "name", "Mug"), Fact(None, "colour", "red"))
    assert record.references == ("A red mug.",)


def test_splits_of_a_folder(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        parquet.write_table(pa.Table.from_pylist(FLAT), tmp_path / f"{name}.parquet")
    assert splits(tmp_path) == ("train", "valid")
    assert len(read(tmp_path, split="valid")) == len(FLAT)


def test_an_error_names_the_row(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist([*FLAT, {"name": "Mill", "text": ""}]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet:4: the text is empty"):
        load(tmp_path / "rows.parquet")


@pytest.mark.parametrize("start", [b"PAR1", b"ARROW1\x00\x00", b"\xff\xff\xff\xff\x10\x00\x00\x00"])
def test_a_broken_file(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(start + b"broken" * 20)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "rows")


def test_a_file_without_rows(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(FLAT).slice(0, 0), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="no row"):
        load(tmp_path / "rows.parquet")


def test_bytes_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([{"bytes": b"\x00", "path": "a"}]), "text": ["A picture."]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="'image' holds bytes"):
        load(tmp_path / "rows.parquet")
    write_file(pa.table({"image": pa.array([b"x"], pa.binary_view()), "text": ["A picture."]}), tmp_path / "rows.arrow")
    with pytest.raises(DataError, match="'image' holds bytes"):
        load(tmp_path / "rows.arrow")


def test_a_format_of_text_files_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(FLAT), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="leave out --format"):
        load(tmp_path / "rows.parquet", format="csv")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.Table.from_pylist(FLAT), tmp_path / "rows.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'tailora\[parquet\]'"):
        load(tmp_path / "rows.parquet")


@pytest.mark.parametrize("writer", WRITERS)
def test_numbers_of_classes_become_their_names(writer: str, tmp_path: Path) -> None:
    """As the data set itself is read from the hub; the form of the features is that of `datasets`."""
    label = {"names": ["pub", "café"], "_type": "ClassLabel"}
    features = {
        "kind": label,
        "tags": {"feature": label, "_type": "List"},
        "old": [label],
        "part": {"own": label},
        "many": {"feature": {"own": label}, "_type": "Sequence"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    rows = [
        {"kind": 1, "tags": [0, 1], "old": [1], "part": {"own": 0}, "many": {"own": [1]}, "text": "A."},
        {"kind": -1, "tags": [], "old": None, "part": {"own": None}, "many": {"own": []}, "text": "B."},
    ]
    kept = {"huggingface": json.dumps({"info": {"features": features}})}
    path = tmp_path / "rows"
    WRITERS[writer](pa.Table.from_pylist(rows).replace_schema_metadata(kept), path)
    first, second = map(json.loads, ColumnarRows(path).read().splitlines())
    assert first == {
        "kind": "café",
        "tags": ["pub", "café"],
        "old": ["café"],
        "part": {"own": "pub"},
        "many": {"own": ["café"]},
        "text": "A.",
    }
    assert (second["kind"], second["tags"], second["part"]) == (None, [], {"own": None})
    for broken in (
        "",
        "{}",
        "[1]",
        '{"info": {"features": [1]}}',
        json.dumps({"info": {"features": {"kind": {"_type": "ClassLabel"}}}}),
    ):
        WRITERS[writer](pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": broken}), path)
        assert json.loads(ColumnarRows(path).read().splitlines()[0])["kind"] == 1
