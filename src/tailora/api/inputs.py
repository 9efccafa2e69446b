"""Data of a Python program: paths, dictionaries, data frames, records."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from tailora.core.errors import DataError, UserError
from tailora.core.files import write_text
from tailora.data.json_rows import DOUBLE, json_lines
from tailora.data.readers import jsonl
from tailora.data.reading import ReadingSettings, announce
from tailora.data.records import DataFile, DataWarning, TextUse, parse
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record

Place = str | os.PathLike[str]
"""A file or folder; of an adapter also its run directory, or the `TrainingRun`."""
Row: TypeAlias = Mapping[str, Any] | Record
Source: TypeAlias = str | os.PathLike[str] | Row | Iterable[Row] | Any
"""A file, a folder of splits, the name of a data set, or rows in memory.

Rows are dictionaries, `Record`s, rows of a data frame, a data frame (pandas, polars) or a data set of `datasets`."""

_ROWS = "records"
_SHORT_FLOATS = {"Float16": np.float16, "Float32": np.float32}
"""Types of polars whose floats have fewer digits than those of Python."""


def read_records(
    source: Source, *, split: str | None = None, texts: TextUse = "optional", **options: Any
) -> list[Record]:
    """Read records as `tailora train` and `tailora evaluate` do: rows with equal facts are one record.

    Args:
        source: a file, a folder of splits, the name of a data set, or rows in memory.
        split: "train", "valid" or "test", of a folder or a data set's name.
        texts: "required" refuses rows without a text, "optional" accepts them; "unused" gives one record for each row.
        options: `format`, `columns`, `language` and `all_texts`, as of the commands.

    Returns:
        The records, in order of first appearance.

    Raises:
        DataError: the source cannot be read.
    """
    data = read_data(source, split=split, texts=texts, **options)
    return list(data.rows if texts == "unused" else data.records)


def read_data(
    source: Source,
    *,
    split: str | None = None,
    texts: TextUse = "optional",
    trained: TrainedReading | None = None,
    **options: Any,
) -> DataFile:
    """Read rows and records from what `read_records` accepts, and print warnings to standard error.

    `trained` is how the training of the adapter in use read its data, for what the options leave open.
    """
    reading = ReadingSettings.from_values(options)
    if is_place(source):
        return reading.load(os.fspath(source), split, texts=texts, trained=trained)
    if split is not None:
        raise DataError("rows in memory have no splits", where="split", hint="leave it out")
    text = as_json_lines(source)
    with _rows_named(_ROWS, _ROWS):
        data = parse(text, Path(_ROWS), texts=texts, trained=trained, **reading.reader_options())
    announce(data, texts)
    rows, records = (tuple(_in_memory(record) for record in group) for group in (data.rows, data.records))
    return replace(data, rows=rows, records=records)


def _in_memory(record: Record) -> Record:
    """Name the row in memory, from 0, as the place of a record: `records[2]` for the third line."""
    return replace(record, where=_row_name(record.where, _ROWS, _ROWS))


@contextmanager
def places_of(folder: Path, **sources: Source | None) -> Iterator[dict[str, str]]:
    """Yield the path or name of each source, for settings that name their data; a source that is None has none.

    Rows in memory are first written to a file in `folder`, under a name made of their content: the run directory that
    names the file stays valid, and the same rows are written once. An error about such a file names the row instead.
    """
    with ExitStack() as stack:
        places = {}
        for name, source in sources.items():
            if is_place(source):
                places[name] = os.fspath(source)
            elif source is not None:
                places[name] = _stored(source, folder)
                stack.enter_context(_rows_named(places[name], name))
        yield places


def _stored(source: Source, folder: Path) -> str:
    text = as_json_lines(source)
    path = folder / f"records-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return str(path)


@contextmanager
def _rows_named(place: str, name: str) -> Iterator[None]:
    """Name rows in memory in errors about the file of JSON lines that holds them: `records[2]` for its third line."""
    try:
        yield
    except UserError as error:
        if error.where is not None:
            error.where = _row_name(error.where, place, name)
        raise


def _row_name(where: str, file: str, name: str) -> str:
    """Return a place in which a line of a file of rows in memory is called by its row."""
    match = re.match(rf"{re.escape(file)}:(\d+)", where)
    return where if match is None else f"{name}[{int(match[1]) - 1}]{where[match.end() :]}"


def is_place(source: Source) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether a source names a file or data set, instead of being rows in memory."""
    return isinstance(source, str | os.PathLike)


def is_one_row(source: Source) -> bool:
    """Whether a source is a single row: a dictionary, a `Record`, or the row of a data frame."""
    return isinstance(source, Mapping | Record) or _is_series(source)


def as_json_lines(source: Source) -> str:
    """Rows in memory as the text of a file of JSON lines.

    Raises:
        DataError: the source holds something else than rows, or nothing.
    """
    rows = _rows(source)
    if not rows:
        raise DataError("there are no rows", where="records", hint="give at least one dictionary or Record")
    if all(isinstance(row, Record) for row in rows):
        return jsonl.dump(rows)
    mappings: list[Mapping[Any, Any]] = []
    for number, row in enumerate(rows):
        fields = row.to_dict() if _is_series(row) else row
        if not isinstance(fields, Mapping):
            what = f"is of type {type(row).__name__}"
            raise DataError(what, where=f"records[{number}]", hint="give dictionaries, Records or a data frame")
        mappings.append(fields)
    return json_lines(mappings)


def _rows(source: Any) -> Sequence[Any]:
    if is_one_row(source):
        return [source]
    if hasattr(source, "to_dicts"):  # polars
        return _polars_rows(source)
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        return _pandas_rows(source)
    if isinstance(source, Iterable):
        return list(source)
    hint = "give a path, dictionaries, Records or a data frame"
    raise DataError(f"is of type {type(source).__name__}", where="records", hint=hint)


def _pandas_rows(frame: Any) -> list[dict[Any, Any]]:
    """The rows of a data frame, with dates and short floats as `DataFrame.to_csv` writes them.

    Raises:
        DataError: two columns have one name.
    """
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"two columns are called {name!r}", where="records", hint="rename one")
    columns: dict[Any, list[Any]] = {}
    for name in frame.columns:
        column, kind = frame[name], getattr(frame[name].dtype, "kind", "")
        if kind in ("m", "M") or (kind == "f" and column.dtype.itemsize < DOUBLE):
            column = column.astype(str).astype(object).where(column.notna(), None)
        elif kind == "f" and column.isna().any() and not (column.dropna() % 1).any() and column.notna().any():
            what = f"the column {name!r} has missing values, for which pandas turns whole numbers into floats: 3 is 3.0"
            warnings.warn(f"{what}; convert_dtypes() turns them back", DataWarning, stacklevel=2)
        columns[name] = column.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _polars_rows(frame: Any) -> list[dict[str, Any]]:
    """The rows of a polars data frame, with short floats as it writes them to a file."""
    types = dict(frame.schema)
    return [{name: _with_short_floats(value, types[name]) for name, value in row.items()} for row in frame.to_dicts()]


def _with_short_floats(value: Any, kind: Any) -> Any:
    """Return a value of a polars type, where each float has the digits of its type, in lists and structures too."""
    if isinstance(value, float) and str(kind) in _SHORT_FLOATS:
        return _SHORT_FLOATS[str(kind)](value)
    if isinstance(value, list):
        return [_with_short_floats(item, kind.inner) for item in value]
    if isinstance(value, dict):
        types = {field.name: field.dtype for field in kind.fields}
        return {name: _with_short_floats(item, types[name]) for name, item in value.items()}
    return value


def _is_series(value: Any) -> bool:
    """Whether a value is a row of a pandas data frame."""
    return hasattr(value, "to_dict") and hasattr(value, "index") and not hasattr(value, "columns")
