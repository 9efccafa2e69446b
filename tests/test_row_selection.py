"""Large files of which only the needed rows are read, beside the same rows in a small file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tailora.commands.generate import GenerateSettings, read_records
from tailora.commands.lint import LintSettings
from tailora.commands.lint import run as lint
from tailora.core.errors import DataError, SettingsError
from tailora.data import records as record_files
from tailora.data import row_selection
from tailora.data.readers import columnar
from tailora.data.readers.line_rows import LineRows
from tailora.data.row_selection import FirstRecords, RowSample
from tailora.training import run_data
from tailora.training.run import run
from tailora.training.run_report import Watch
from tailora.training.settings import TrainSettings

pa = pytest.importorskip("pyarrow")
from pyarrow import ipc, parquet  # noqa: E402 - after the check that pyarrow is installed

ROWS = [{"name": f"Inn {number}", "n": number % 7, "text": f"Inn {number} has {number % 7}."} for number in range(100)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 20 rows are large."""
    for module in (row_selection, record_files, run_data):
        monkeypatch.setattr(module, "WHOLE", 20)


def write_lines(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write rows in the format of a path's suffix."""
    table = pa.Table.from_pylist(list(rows))
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=33)
    elif path.suffix == ".arrow":
        with ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    elif path.suffix == ".stream":
        with ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    else:
        write_lines(rows, path)
    return path


SUFFIXES = [".parquet", ".arrow", ".stream", ".jsonl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("wanted", [[0], [99], [5, 6, 40, 98], list(range(100))])
def test_rows_stand_on_their_own_lines(suffix: str, wanted: list[int], tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / f"rows{suffix}")
    source = LineRows(path) if suffix == ".jsonl" else columnar.ColumnarRows(path)
    assert source.count == 100
    lines = source.read(wanted).split("\n")
    assert {place: json.loads(line) for place, line in enumerate(lines) if line} == {row: ROWS[row] for row in wanted}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sample_depends_on_the_seed_alone(suffix: str, tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / f"rows{suffix}")
    one, again, other = (record_files.load(path, selection=RowSample(10, seed)) for seed in (0, 0, 1))
    assert one == again
    assert one.records != other.records
    assert len(one.rows) == 10
    assert one.selected is not None
    assert (one.selected.rows, one.selected.count, one.selected.seed) == (10, 100, 0)
    assert one.selected.sentence == "10 of 100 rows are read, drawn at random with seed 0"
    whole = {record.facts: record for record in record_files.load(path).records}
    assert all(whole[record.facts].id == record.id for record in one.records), "ids are the numbers of the rows"
    assert all(whole[record.facts].references == record.references for record in one.records)


def test_every_row_is_as_likely() -> None:
    counts = [0] * 50
    for seed in range(2000):
        for row in RowSample(10, seed).rows(10, 50):
            counts[row] += 1
    assert 330 < min(counts) <= max(counts) < 470  # 400 each, with a standard deviation of 18


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_first_records(suffix: str, tmp_path: Path) -> None:
    rows = [{"name": f"Inn {number // 3}", "text": f"It is {number}."} for number in range(120)]
    path = write(rows, tmp_path / f"rows{suffix}")
    whole = record_files.load(path)
    few = record_files.load(path, selection=FirstRecords(5))
    assert few.selected is not None
    assert few.selected.sentence == "the first 20 of 120 rows are read"
    assert few.records[:5] == whole.records[:5]
    more = record_files.load(path, selection=FirstRecords(25))
    assert more.selected is not None
    assert more.selected.rows == 100  # 25 rows have 9 records
    assert more.records[:25] == whole.records[:25]
    assert record_files.load(path, selection=FirstRecords(60)).selected is None


def test_small_files_are_read_as_a_whole(tmp_path: Path) -> None:
    path = write(ROWS[:20], tmp_path / "rows.parquet")
    assert record_files.load(path, selection=RowSample(5, 0)) == record_files.load(path)


TABLES = {
    "a.csv": 'name,text\r\n{0}"The ""{1}"", an inn",It is {1}.\r\n',
    "b.tsv": "name\ttext\n{0}Inn {1}\tIt is {1}.\n",
    "c.csv": "\ufeffname;text\n{0}Inn {1};It is {1}.\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_tables(name: str, tmp_path: Path) -> None:
    head, end, row = TABLES[name].partition("\n{0}")
    path = tmp_path / name
    lines = [head + end[0], *(row.replace("{1}", str(n)) + ("\n" if n % 10 == 0 else "") for n in range(50))]
    path.write_bytes("".join(lines).encode())
    whole = record_files.load(path)
    sample = record_files.load(path, selection=RowSample(10, 0))
    assert sample.selected is not None
    assert (sample.selected.rows, sample.selected.count, len(sample.records)) == (10, 50, 10)
    assert {record.facts for record in sample.records} <= {record.facts for record in whole.records}
    first = record_files.load(path, selection=FirstRecords(4))
    assert first.records[:4] == whole.records[:4]
    assert len(first.records) == 20
    wrong = path.read_bytes().splitlines(keepends=True)
    wrong[3] = wrong[3].replace(b"It is 1.", b"")
    path.write_bytes(b"".join(wrong))
    with pytest.raises(DataError, match=f"{name}:4: the text is empty"):
        record_files.load(path, selection=FirstRecords(4))


@pytest.mark.parametrize(
    "content",
    [
        'name,text\n"Inn\nOak",It is 1.\n' + "Inn,It is 2.\n" * 40,
        'name\ttext\n5" inn\tIt is 1.\n' + "Inn\tIt is 2.\n" * 40,
        "sep=;\nname;text\n" + "Inn;It is 2.\n" * 40,
        "name,text\r" + "Inn,It is 2.\r" * 40,
    ],
    ids=["line end in a cell", "quotation mark", "separator", "carriage returns"],
)
def test_tables_whose_rows_are_not_lines_are_read_as_a_whole(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    assert record_files.load(path, selection=RowSample(5, 0)) == record_files.load(path)
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert record_files.load(packed, selection=RowSample(5, 0)).records == record_files.load(path).records


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_compressed_files_give_the_same_rows(name: str, suffix: str, tmp_path: Path) -> None:
    plain = write_lines(ROWS, tmp_path / "a.jsonl")
    if name == "a.csv":
        plain = tmp_path / name
        plain.write_text("name,n,text\n" + "".join(f"{r['name']},{r['n']},{r['text']}\n" for r in ROWS), "utf-8")
    packed = tmp_path / (name + suffix)
    packed.write_bytes(PACKERS[suffix](plain.read_bytes()))
    for selection in (RowSample(5, 0), FirstRecords(4)):
        whole, part = (record_files.load(path, selection=selection) for path in (plain, packed))
        assert part.records == whole.records
        assert part.selected == whole.selected is not None


def test_a_broken_compressed_file_is_reported(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(write_lines(ROWS, tmp_path / "a.jsonl").read_bytes())[:-20])
    with pytest.raises(DataError, match="broken gzip"):
        record_files.load(packed, selection=RowSample(5, 0))
    plain = write_lines(ROWS, tmp_path / "b.jsonl.gz")
    with pytest.raises(DataError, match=r"is called \.gz but is not compressed that way"):
        record_files.load(plain, selection=RowSample(5, 0))


def test_a_compressed_file_is_not_unpacked_into_memory(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    row = json.dumps({"name": "Inn", "note": "x" * 1000, "text": "It is an inn."}) + "\n"
    packed.write_bytes(gzip.compress(row.encode() * 20_000))
    tracemalloc.start()
    record_files.load(packed, selection=RowSample(5, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000 < 20_000 * len(row)


def test_more_rows_are_read_where_those_of_a_sample_have_too_few_texts(tmp_path: Path) -> None:
    rows = [
        {**row, "facts": {"name": row["name"]}, "language": "ga" if n % 4 == 0 else "en"} for n, row in enumerate(ROWS)
    ]
    path = write_lines([{key: row[key] for key in ("facts", "language", "text")} for row in rows], tmp_path / "a.jsonl")
    data = record_files.load(path, language="ga", selection=RowSample(20, 0, texts=12))
    assert data.selected is not None
    assert data.selected.rows == 80
    assert 12 <= len(data.records) <= 25


def test_lines_that_are_wrong_are_named_by_their_number(tmp_path: Path) -> None:
    path = write_lines(ROWS, tmp_path / "a.jsonl")
    lines = path.read_bytes().split(b"\n")
    lines[1] = b'{"name": "caf\xe9", "text": "A."}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl:2: byte 0xe9 is not UTF-8"):
        record_files.load(path, selection=FirstRecords(5))
    lines[1] = b'{"name": "x", "text": ""}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl:2: the text is empty"):
        record_files.load(path, selection=FirstRecords(5))


def test_lint_checks_a_sample_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(ROWS, tmp_path / "rows.parquet")
    result = lint(LintSettings(data=str(path), sample=30, allow=("all",), html=tmp_path / "report.html"))
    assert result["records"] == 30
    assert result["rows_read"] == {"all": {"rows": 30, "count": 100}}
    sentence = "30 of 100 rows are read, drawn at random with seed 0"
    assert sentence in capsys.readouterr().err
    assert sentence in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_generate_reads_the_first_rows(tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / "rows.parquet")
    chosen = read_records(GenerateSettings(base="tiny", input=str(path), limit=3))
    assert [record.id for record in chosen] == ["1", "2", "3"]


def train(path: Path, output: Path, watch: Watch | None = None, **settings: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"batch_size": 2, "precision": "fp32", "rank": 1, "save_every": 0, "valid_limit": 2}
    return run(TrainSettings(data=str(path), valid=str(path), output=output, **{**common, **settings}), watch)


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_reads_what_its_updates_take(tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / "rows.parquet")
    result = train(path, tmp_path / "run", max_steps=4, seed=5)
    account = result["account"]
    assert account["rows_read"] == {"rows": 8, "count": 100, "seed": 5}
    assert (account["examples"], result["steps"], result["examples"]) == (8, 4, 8)
    again = train(path, tmp_path / "again", max_steps=4, seed=5)
    assert adapter_of(tmp_path / "run") == adapter_of(tmp_path / "again")
    assert again["account"]["data_fingerprint"] == account["data_fingerprint"]
    assert "rows_read" not in train(path, tmp_path / "whole", max_steps=50)["account"]


def test_a_run_on_a_sample_continues_and_cannot_be_made_longer(tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / "rows.parquet")
    train(path, tmp_path / "whole", max_steps=4, eval_every=2)

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "run", stop, max_steps=4, eval_every=2)
    assert train(path, tmp_path / "run", max_steps=4, eval_every=2)["steps"] == 4
    assert adapter_of(tmp_path / "run") == adapter_of(tmp_path / "whole")
    train(path, tmp_path / "constant", max_steps=2, schedule="constant")
    with pytest.raises(SettingsError, match="other settings or data"):
        train(path, tmp_path / "constant", max_steps=4, schedule="constant")
