"""The front of all readers: from a file, a folder of splits or a name to records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.data import download
from tailora.data.readers import jsonl, piped, tables, triples
from tailora.data.text_files import base_suffix, read_text
from tailora.data.values import Fact, Record
from tailora.errors import DataError

__all__ = ["FORMATS", "SAMPLES", "Fact", "Record", "locate", "read", "splits"]

SAMPLES = Path(__file__).parent / "samples"
FORMATS = ("e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "csv", "tsv")

_SPLIT_STEMS = {
    "train": ("train", "trainset", "training"),
    "valid": ("valid", "dev", "devset", "validation", "val"),
    "test": ("test", "testset_w_refs", "testset"),
}
_SUFFIXES = (".jsonl", ".csv", ".tsv", ".json", ".xml", ".txt")


def read(
    source: str | Path,
    *,
    format: str | None = None,  # the word users know
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    good_only: bool = True,
) -> list[Record]:
    """Read records.

    Args:
        source: a file (plain or gzip), a folder that holds a file for each split, or, where no such path exists, the
            name of a bundled sample (`restaurants`) or of a known data set (`e2e`, fetched once and kept).
        format: one of `FORMATS`; by default told from the content and the name. `columns` makes it a table.
        columns: for tables, which column is what: see `readers.tables.parse_table`.
        split: `train`, `valid` or `test`, of a folder or a name; a single file has none.
        good_only: of WebNLG, only the texts that its annotators found good, as in the LoRA paper.

    Raises:
        DataError: with file, line and mend, for anything that cannot be read. Nothing is passed over in silence.
    """
    path = locate(source, split)
    text = read_text(path)
    kind = format or ("csv" if columns is not None else detect(path, text))
    if kind not in FORMATS:
        raise DataError(f"there is no format {kind!r}", where=path, mend=f"use one of {', '.join(FORMATS)}")
    if columns is not None and kind not in ("csv", "tsv"):
        raise DataError(f"a column mapping does not go with the format {kind}", where=path, mend="leave one out")
    records = _parse(kind, text, str(path), columns, good_only)
    if not records:
        raise DataError("holds no record", where=path, mend="give a file with records")
    return records


def splits(source: str | Path) -> tuple[str, ...]:
    """Return the names of the splits that `source` has; none for a single file."""
    folder = _folder(source)
    return tuple(name for name in _SPLIT_STEMS if folder.is_dir() and _split_files(folder, name))


def locate(source: str | Path, split: str | None = None) -> Path:
    """Return the file that `source` and `split` mean; `DataError` where there is none, or more than one."""
    path = _folder(source)
    if not path.is_dir():
        if split is not None and path.exists():
            raise DataError(f"is one file and has no split {split!r}", where=path, mend="leave the split out")
        return path
    if split is None:
        raise DataError(
            "is a folder of splits", where=path, mend=f"name a split: {', '.join(splits(path)) or 'none here'}"
        )
    if split not in _SPLIT_STEMS:
        raise DataError(f"there is no split {split!r}", where=path, mend=f"use one of {', '.join(_SPLIT_STEMS)}")
    files = _split_files(path, split)
    if not files:
        expected = f"{split}.jsonl, {split}.csv or the like"
        raise DataError(f"has no file of the split {split!r}", where=path, mend=f"put {expected} there")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"has several files of the split {split!r} ({names})", where=path, mend="name the file itself")
    return files[0]


def detect(path: Path, text: str) -> str:
    """Tell the format of a file from its content, and from its name where the content leaves it open."""
    start = text.lstrip()
    first_line = start.split("\n", 1)[0].strip()
    suffix = base_suffix(path)
    if start.startswith("<"):
        return "webnlg-xml"
    if start.startswith("["):
        return "dart"
    if start.startswith("{"):
        return "webnlg-json" if suffix != ".jsonl" and _is_webnlg(start) else "jsonl"
    if first_line.lower() in ("mr,ref", "mr", '"mr","ref"'):
        return "e2e"
    if suffix == ".tsv":
        return "tsv"
    if suffix == ".csv":
        return "csv"
    if "||" in first_line:
        return "piped"
    raise DataError("its format cannot be told", where=path, mend=f"name it: one of {', '.join(FORMATS)}")


def _parse(kind: str, text: str, where: str, columns: Mapping[str, Any] | None, good_only: bool) -> list[Record]:
    match kind:
        case "e2e":
            return tables.parse_e2e(text, where)
        case "piped":
            return piped.parse(text, where)
        case "webnlg-json":
            return triples.parse_webnlg_json(text, where, good_only)
        case "webnlg-xml":
            return triples.parse_webnlg_xml(text, where, good_only)
        case "dart":
            return triples.parse_dart(text, where)
        case "jsonl":
            return jsonl.parse(text, where)
        case "tsv":
            return tables.parse_table(text, where, columns, "\t")
        case _:
            return tables.parse_table(text, where, columns)


def _is_webnlg(start: str) -> bool:
    """An object that does not end on its line, or that holds `entries`, is no line of JSON lines."""
    try:
        return "entries" in json.loads(start.split("\n", 1)[0])
    except ValueError:
        return '"entries"' in start[:200]


def _folder(source: str | Path) -> Path:
    """Resolve names: what exists on disk goes first, then bundled samples, then data sets that can be fetched."""
    path = Path(source)
    if path.exists() or not isinstance(source, str):
        return path
    if source in _sample_names():
        return SAMPLES / source
    if source in download.DATA_SETS:
        return download.fetch(source)
    if len(path.parts) == 1 and not path.suffix:
        known = ", ".join([*_sample_names(), *download.DATA_SETS])
        raise DataError(f"there is no file, folder or data set {source!r}", mend=f"give a path, or one of {known}")
    return path


def _sample_names() -> list[str]:
    return sorted(folder.name for folder in SAMPLES.iterdir() if folder.is_dir()) if SAMPLES.is_dir() else []


def _split_files(folder: Path, split: str) -> list[Path]:
    """Return the split's files under its most usual stem that has any."""
    for stem in _SPLIT_STEMS[split]:
        names = [stem + suffix + packed for suffix in _SUFFIXES for packed in ("", ".gz")]
        files = [folder / name for name in names if (folder / name).is_file()]
        if files:
            return files
    return []
