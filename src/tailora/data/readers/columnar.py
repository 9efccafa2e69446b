"""Parquet and Arrow files, read by pyarrow; Feather files and the files of `datasets` are Arrow."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from tailora.core.errors import DataError
from tailora.data.json_rows import json_lines, on_their_lines

T = TypeVar("T")

FORMATS = ("webnlg-json", "dart", "jsonl", "json", "text")
"""Formats that the rows of these files may have."""

_BUFFER = 1 << 20  # bytes that are read of a column at a time, instead of all of a row group
_BATCH = 10_000  # rows that are converted at a time
_PARQUET, _ARROW = b"PAR1", b"ARROW1"
_INDEX = re.compile(r"__index_level_\d+__")  # pandas' row labels, which have no name
_STREAM = b"\xff\xff\xff\xff"  # a message of Arrow's streaming format, in which `datasets` keeps its files


def is_columnar(path: Path) -> bool:
    """Return whether a file is Parquet or Arrow, by its first bytes; False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_ARROW))
    except OSError:
        return False
    return start.startswith((_PARQUET, _ARROW, _STREAM))


class ColumnarRows:
    """The rows of a Parquet or Arrow file.

    Attributes:
        path: the file.
        notes: none.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def count(self) -> int:
        """Number of rows.

        Raises:
            DataError: see `read`.
        """
        return self._with_file(_row_count)

    def read(self, rows: Sequence[int] | None = None) -> str:
        """Return rows as JSON lines; see `RowSource`.

        Lists, structures and maps become lists and objects. Numbers of single precision have the digits that they have
        in that precision (0.1, not 0.10000000149011612). Dates and times become text, at midnight a date. Numbers of
        classes become the names that `datasets` keeps in its files.

        Raises:
            DataError: pyarrow is not installed, the file cannot be read, has no row, or has a column of bytes.
        """

        def read(file: BinaryIO) -> str:
            batches = _batches(file) if rows is None else _chosen(_batches(file), rows)
            return "".join(json_lines(_with_class_names(rows_of(batch, self.path), batch)) for batch in batches)

        text = self._with_file(read)
        if not text:
            raise DataError("the file has no row", where=self.path, hint="give a file with records")
        return text if rows is None else on_their_lines(text, rows)

    def _with_file(self, call: Callable[[BinaryIO], T]) -> T:
        path = self.path
        try:
            import pyarrow
        except ImportError as error:
            hint = "pip install 'tailora[parquet]', or write the data as CSV or as JSON lines"
            what = "is a Parquet or Arrow file, and pyarrow is not installed"
            raise DataError(what, where=path, hint=hint) from error
        try:
            with path.open("rb") as file:
                return call(file)
        except (pyarrow.ArrowException, OSError, ValueError, LookupError, OverflowError, TypeError) as error:
            what = f"the Parquet or Arrow file cannot be read ({_first_line(error)})"
            raise DataError(what, where=path, hint="fetch or write it again") from error


def _chosen(batches: Iterable[Any], rows: Sequence[int]) -> Iterator[Any]:
    """Yield the wanted rows of record batches, given by their numbers from 0, ascending."""
    at, start = 0, 0
    for batch in batches:
        end = bisect.bisect_left(rows, start + batch.num_rows, at)
        if end > at:
            yield batch.take([row - start for row in rows[at:end]])
        if end == len(rows):
            return
        at, start = end, start + batch.num_rows


def _row_count(file: BinaryIO) -> int:
    from pyarrow import parquet

    start = file.read(len(_PARQUET))
    file.seek(0)
    if start == _PARQUET:
        return int(parquet.read_metadata(file).num_rows)
    return sum(batch.num_rows for batch in _batches(file))


def _batches(file: BinaryIO) -> Iterator[Any]:
    """Yield the record batches of an open file, checked: pyarrow reads memory that is not its own in damaged ones."""
    for batch in _read_batches(file):
        batch.validate(full=True)
        yield batch


def _read_batches(file: BinaryIO) -> Iterator[Any]:
    from pyarrow import ipc, parquet

    start = file.read(len(_ARROW))
    file.seek(0)
    if start.startswith(_PARQUET):
        reader = parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        yield from reader.iter_batches(batch_size=_BATCH)
    elif start.startswith(_ARROW):
        reader = ipc.open_file(file)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from ipc.open_stream(file)


def rows_of(batch: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a record batch as dictionaries.

    Raises:
        DataError: a column holds bytes, or two columns have one name.
    """
    for field in batch.schema:
        if holds_bytes(field.type):
            what = f"the column {field.name!r} holds bytes, not text or numbers"
            raise DataError(what, where=path, hint="remove the column, or write it as text")
    names = [name for name in batch.schema.names if not _INDEX.fullmatch(name)]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"two columns are called {repeated[0]!r}", where=path, hint="rename one")
    columns = [_values(batch.column(name)) for name in names]
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """Return the values of a column as Python objects."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":  # Python's times have microseconds
        column = column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    return [_value(value, kind) for value in column.to_pylist(maps_as_pydicts="strict")]


def _value(value: Any, kind: Any) -> Any:
    """Return a value in which numbers of single and half precision have no more digits than they were written with."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_float32(kind):
        return np.float32(value)
    if types.is_float16(kind):
        return np.float16(value)
    if types.is_dictionary(kind):
        return _value(value, kind.value_type)
    if types.is_map(kind):
        return {key: _value(item, kind.item_type) for key, item in value.items()}
    if types.is_struct(kind):
        return {field.name: _value(value[field.name], field.type) for field in kind}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_value(item, kind.value_type) for item in value]
    return value


def holds_bytes(kind: Any) -> bool:
    """Return whether a type is, or contains, bytes that are not text."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if str(kind) == "binary_view":
        return True
    if types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    return any(holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _with_class_names(rows: Iterator[dict[str, Any]], batch: Any) -> Iterator[dict[str, Any]]:
    """Yield rows in which the numbers of classes are replaced by names, where the file says what they are."""
    try:
        features = json.loads((batch.schema.metadata or {})[b"huggingface"])["info"]["features"]
        classes = {name: own for name, own in features.items() if '"ClassLabel"' in json.dumps(own)}
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):  # not a file that `datasets` wrote
        classes = {}
    if not classes:
        yield from rows
        return
    for row in rows:
        yield row | {name: _class_names(row[name], own) for name, own in classes.items() if name in row}


def _class_names(value: Any, feature: Any) -> Any:
    """Return a value with names for the numbers of classes; -1 means that there is no class."""
    if isinstance(feature, list) or (isinstance(feature, dict) and {"feature", "_type"} <= feature.keys()):
        inner = next(iter(feature), None) if isinstance(feature, list) else feature["feature"]
        if isinstance(value, list):
            return [_class_names(item, inner) for item in value]
        feature = {key: [own] for key, own in inner.items()} if isinstance(inner, dict) else None
    if not isinstance(feature, dict):
        return value
    if feature.get("_type") == "ClassLabel" and isinstance(value, int):
        names = feature.get("names") or ()
        return None if value < 0 else names[value] if value < len(names) else value
    return (
        {key: _class_names(item, feature.get(key)) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__
