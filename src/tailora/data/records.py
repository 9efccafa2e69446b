"""Reading of records from a file, a folder of splits, or the name of a data set."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from tailora.core.errors import DataError
from tailora.data import download
from tailora.data.columns import check_columns
from tailora.data.hub_sources import hub_name, named_split, open_hub, usual_splits
from tailora.data.languages import in_language
from tailora.data.readers import columnar, delimited, jsonl, piped, plain_texts, tables, triples
from tailora.data.readers.formats import FORMATS, choose_format
from tailora.data.readers.line_rows import LineRows, line_rows
from tailora.data.row_selection import WHOLE, RowSample, RowSource, RowsRead, Selection, read_selected
from tailora.data.split_names import DATA_SUFFIXES, SPLIT_STEMS, SplitName, split_in_name
from tailora.data.text_files import BYTE_ORDER_MARK, PACKED, read_text
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Fact, Parsed, Record, Reference, Row, gather, records_of_rows

__all__ = [
    "FORMATS",
    "SAMPLES",
    "DataFile",
    "DataWarning",
    "Fact",
    "Record",
    "SplitName",
    "digest",
    "load",
    "locate",
    "read",
    "splits",
]

SAMPLES = Path(__file__).parent / "samples"

TextUse = Literal["required", "optional", "unused"]
"""Whether records need texts: `required` for training and scoring, `optional` for looking at them, `unused` for
writing about them."""

_WHOLE_FORMATS = ("json", "webnlg-json", "webnlg-xml", "dart")  # a row may have several lines
_SHOWN = 5  # rows named in an error
_OTHER_FOLDERS = (
    ("run.json", "the directory of a training run", "give records; use the run with --adapter"),
    ("adapter_config.json", "an adapter", "give records; use the adapter with --adapter"),
    ("scores.json", "the output folder of `tailora evaluate`", "give records"),
    ("config.json", "a model", "give records; use the model with --base"),
)
"""Files by which folders other than data are recognised, what they are, and the hint."""


class DataWarning(UserWarning):
    """Warns of something in a data file that can be read but is probably a mistake."""


@dataclass(frozen=True)
class DataFile:
    """The content of a file.

    Attributes:
        path: the file.
        format: one of `FORMATS`.
        rows: one record for each row of the file, in its order.
        records: rows that differ in their texts only, gathered into one record with several references.
        places: for each row, the index of its record in `records`.
        notes: sentences for the user on probable mistakes, such as columns without a name.
        left_out: number of texts that were left out because annotators marked them as faulty.
        listed: attributes that have a list of values in some row.
        columns_from_training: the rows were read with the columns of an adapter's training.
        selected: which rows were read; None for all.
        roles: of a table, the role of each column that has a name; see `Layout.roles`.
    """

    path: Path
    format: str
    rows: tuple[Record, ...]
    records: tuple[Record, ...]
    places: tuple[int, ...]
    notes: tuple[str, ...]
    left_out: int
    listed: frozenset[str]
    columns_from_training: bool = False
    selected: RowsRead | None = None
    roles: Mapping[str, str] = field(default_factory=dict)


def read(source: str | Path, **options: Any) -> list[Record]:
    """Read the records of a file; with `texts="unused"`, one record for each row.

    Args:
        source: see `load`.
        options: see `load`.

    Warns:
        DataWarning: the file probably contains a mistake.
    """
    data = load(source, **options)
    for note in data.notes:
        warnings.warn(f"{data.path}: {note}", DataWarning, stacklevel=2)
    return list(data.rows if options.get("texts") == "unused" else data.records)


def load(
    source: str | Path,
    *,
    format: str | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    language: str | None = None,
    all_texts: bool = False,
    texts: TextUse = "required",
    trained: TrainedReading | None = None,
    selection: Selection | None = None,
) -> DataFile:
    """Read a file with records.

    Args:
        source: a file (plain or compressed), a folder with a file for each split, or, if no such path exists, the name
            of a bundled sample (`restaurants`), of a known data set (`e2e`, fetched once and kept) or of a data set on
            the hub (`organisation/name`, see `HubName`).
        format: one of `FORMATS`; by default recognised by the content, and by the name where the content is ambiguous.
        columns: column roles, for tables and lists of plain objects; see `readers.tables.parse_rows`.
        split: `train`, `valid` or `test`, of a folder or a name; a single file has no splits.
        language: use only the texts in this language; "all" uses every text, with one record for each language. A
            file with texts in several languages is refused without it, unless the texts are unused.
        all_texts: also use the WebNLG texts that annotators marked as faulty ("toFix", "bad").
        texts: see `TextUse`.
        trained: how the training of the adapter in use read its data: the default for format, columns and language.
        selection: the records or texts that will be used. Of a Parquet or Arrow file, JSON lines, a table or a data set
            of the hub with more than `row_selection.WHOLE` rows, only as many rows are read as they need.

    Raises:
        DataError: with file, line and hint, for anything that cannot be read, and for records without a text where
            texts are required. Nothing is dropped silently.
        SettingsError: the column mapping cannot be read.
    """
    options: dict[str, Any] = {"format": format, "columns": columns, "language": language, "all_texts": all_texts}
    options |= {"texts": texts, "trained": trained}
    rows = _row_source(source, split, format, selection)
    if rows is None or (isinstance(rows, LineRows) and rows.count <= WHOLE):
        path = locate(source, split)
        return parse(read_text(path), path, **options)
    data: DataFile | None = None

    def counts_of(text: str) -> tuple[int, int]:
        nonlocal data
        data = parse(text, rows.path, by_line=isinstance(selection, RowSample), **options)
        return len(data.records), sum(len(record.references) for record in data.records)

    selected = None if selection is None else read_selected(rows, selection, counts_of)
    if data is None:
        counts_of(rows.read())
    assert data is not None, "counts_of reads it"
    return replace(data, notes=(*rows.notes, *data.notes), selected=selected)


def _row_source(
    source: str | Path, split: str | None, format: str | None, selection: Selection | None
) -> RowSource | None:
    """Return the rows of a source that can be read by their numbers; None for a text file that is read as a whole.

    Raises:
        DataError: there is no such source, or its rows cannot have the format.
    """
    if (name := hub_name(source)) is not None:
        _require_columnar(format, Path(str(source)), "a data set of the hub")
        data_set = open_hub(name)
        return data_set.rows(named_split(data_set, split))
    path = locate(source, split)
    if columnar.is_columnar(path):
        _require_columnar(format, path, "a Parquet or Arrow file")
        return columnar.ColumnarRows(path)
    return None if selection is None or format in _WHOLE_FORMATS else line_rows(path)


def parse(
    text: str,
    path: Path,
    *,
    format: str | None = None,
    columns: Mapping[str, Any] | None = None,
    language: str | None = None,
    all_texts: bool = False,
    texts: TextUse = "required",
    trained: TrainedReading | None = None,
    by_line: bool = False,
) -> DataFile:
    """Read records from the text of a file.

    Args:
        text: the file's content.
        path: the file's name, for messages and for its format where the content is ambiguous.
        format: see `load`.
        columns: see `load`.
        language: see `load`.
        all_texts: see `load`.
        texts: see `load`.
        trained: see `load`.
        by_line: rows without an id are called by their lines, since rows between them are not in the text.

    Raises:
        DataError: see `load`.
        SettingsError: see `load`.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    kind = format or choose_format(path, text, columns, trained)
    if kind not in FORMATS:
        raise DataError(f"there is no format {kind!r}", where=path, hint=f"use one of {', '.join(FORMATS)}")
    where = str(path)
    chosen = None if columns is None else check_columns(columns)
    parsed = _parse(kind, text, where, chosen, texts == "required", trained)
    if not parsed.rows:
        raise DataError("contains no records", where=path, hint="give a file with records")
    left_out = 0 if all_texts else sum(text.marked for row in parsed.rows for text in row.texts)
    usable = _usable(parsed.rows, all_texts, texts)
    rows = in_language(usable, where, language, needed=texts != "unused", trained=trained.language if trained else None)
    records = records_of_rows(rows, where, by_line=by_line)
    gathered, places = gather(rows, records)
    return DataFile(
        path,
        kind,
        tuple(records),
        tuple(gathered),
        tuple(places),
        (*parsed.notes, *_renamed(rows, records)),
        left_out,
        frozenset(parsed.listed),
        parsed.columns_from_training,
        roles=parsed.roles,
    )


def _renamed(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """Return notes on ids that occur on rows with different content, if the id column was recognised by its name."""
    pairs = [(row.id, record.id) for row, record in zip(rows, records, strict=True) if row.id_by_name]
    changed = [(own, name) for own, name in pairs if own is not None and own != name]
    if not changed:
        return []
    own, name = changed[0]
    what = "1 row has an id that" if len(changed) == 1 else f"{len(changed):,} rows have ids that"
    return [f"{what} other rows with different content have; they get a number, for example {name!r} for {own!r}"]


def splits(source: str | Path) -> tuple[str, ...]:
    """Return which of the splits train, valid and test `source` has; none for a single file.

    Raises:
        UserError: the data set is not known, or the hub cannot be reached.
    """
    if (name := hub_name(source)) is not None:
        return () if name.split else tuple(usual_splits(open_hub(name)))
    folder = _folder(source)
    return tuple(name for name in SPLIT_STEMS if folder.is_dir() and _split_files(folder)[name])


def locate(source: str | Path, split: str | None = None) -> Path:
    """Return the file of a source and split.

    Raises:
        DataError: there is no such file, or more than one.
    """
    path = _folder(source)
    if not path.is_dir():
        if split is not None and path.exists():
            raise DataError(f"is one file and has no split {split!r}", where=path, hint="leave the split out")
        return path
    if split is None or not splits(path):
        _refuse_folder(path)
    files = next((own for name, own in _split_files(path).items() if name == split), None)
    if files is None:
        raise DataError(f"there is no split {split!r}", where=path, hint=f"use one of {', '.join(SPLIT_STEMS)}")
    if not files:
        expected = f"{split}.jsonl, {split}.csv or the like"
        raise DataError(f"has no file of the split {split!r}", where=path, hint=f"put {expected} there")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"has several files of the split {split!r} ({names})", where=path, hint="name the file itself")
    return files[0]


def digest(source: str | Path, split: str | None = None) -> str | None:
    """Return what identifies the content of a source and split: a SHA-256, or a commit of the hub; None without a file.

    Raises:
        DataError: see `locate`.
    """
    if (name := hub_name(source)) is not None:
        data = open_hub(name)
        return data.digest(named_split(data, split))
    path = locate(source, split)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_columnar(format: str | None, path: Path, what: str) -> None:
    """Raise `DataError` for a format that rows of columns cannot have."""
    if format not in (None, *columnar.FORMATS):
        problem = f"is {what}, to which the format {format} does not apply"
        raise DataError(problem, where=path, hint="leave out --format")


def _refuse_folder(path: Path) -> NoReturn:
    """Raise `DataError` for a folder in place of a file, saying what the folder is."""
    if names := splits(path):
        raise DataError("is a folder of splits", where=path, hint=f"name a split with --split: {', '.join(names)}")
    for file, what, hint in _OTHER_FOLDERS:
        if (path / file).exists():
            raise DataError(f"is {what}, not data", where=path, hint=hint)
    what = "is a folder without data files"
    raise DataError(what, where=path, hint="name the file itself, or put train.csv, valid.csv or test.csv there")


def _parse(
    kind: str,
    text: str,
    where: str,
    columns: Mapping[str, Any] | None,
    needs_text: bool,
    trained: TrainedReading | None,
) -> Parsed:
    if columns is not None and kind not in ("e2e", "jsonl", "json", "csv", "tsv"):
        what = f"a column mapping does not apply to the format {kind}"
        raise DataError(what, where=where, hint="leave out --columns or --format")
    match kind:
        case "piped":
            return piped.parse(text, where, needs_text=needs_text)
        case "webnlg-json":
            return triples.parse_webnlg_json(text, where, plain_numbers=trained is None or trained.plain_values)
        case "webnlg-xml":
            return triples.parse_webnlg_xml(text, where)
        case "dart":
            if text.lstrip().startswith("<"):
                return triples.parse_webnlg_xml(text, where)
            return triples.parse_dart(text, where, plain_numbers=trained is None or trained.plain_values)
        case "text":
            return plain_texts.parse(text, where)
        case "jsonl" | "json":
            return jsonl.parse(text, where, columns, needs_text=needs_text, trained=trained)
        case _:
            delimiter = "\t" if kind == "tsv" and "\t" in delimited.first_line(text) else None
            e2e = kind == "e2e"
            return tables.parse(text, where, columns, delimiter, needs_text=needs_text, e2e=e2e, trained=trained)


def _usable(rows: list[Row], all_texts: bool, texts: TextUse) -> list[Row]:
    """Return the rows without blank texts, and without those that annotators marked as faulty."""
    if texts == "required":
        _refuse_blanks(rows)

    def usable(text: Reference) -> bool:
        return bool(text.text) and (all_texts or not text.marked)

    return [
        row if all(map(usable, row.texts)) else replace(row, texts=tuple(filter(usable, row.texts))) for row in rows
    ]


def _refuse_blanks(rows: Sequence[Row]) -> None:
    """Raise `DataError` for rows without a text, or with one that is blank."""
    blank = [row for row in rows if not row.texts or not all(text.text for text in row.texts)]
    if not blank:
        return
    first, *others = blank
    what = "the text is empty" if first.texts else "the record has no reference text"
    more = ""
    if others:
        shown = ", ".join(row.where.rpartition(":")[2].strip() for row in others[:_SHOWN])
        rest = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
        more = f", as in {len(others):,} other rows ({shown}{rest})"
    hint = "fill it in, or remove the row; only `tailora generate` takes rows without a text"
    raise DataError(f"{what}{more}", where=first.where, hint=hint)


def _folder(source: str | Path) -> Path:
    """Resolve a source: a path that exists, otherwise a bundled sample, otherwise a data set that can be fetched."""
    path = Path(source)
    if path.exists() or not isinstance(source, str):
        return path
    if source in _sample_names():
        return SAMPLES / source
    if source in download.DATA_SETS:
        return download.fetch(source)
    if len(path.parts) == 1 and not path.suffix:
        known = ", ".join([*_sample_names(), *download.DATA_SETS])
        raise DataError(f"there is no file, folder or data set {source!r}", hint=f"give a path, or one of {known}")
    return path


def _sample_names() -> list[str]:
    return sorted(folder.name for folder in SAMPLES.iterdir() if folder.is_dir()) if SAMPLES.is_dir() else []


def _split_files(folder: Path) -> dict[SplitName, list[Path]]:
    """Return the files of each split: those under its most usual stem that has any.

    If no file of the folder has the usual name of any split, those with such a name in theirs are returned.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    usual = {split: _usual_files(files, split) for split in SPLIT_STEMS}
    if any(usual.values()):
        return usual
    return {split: [file for file in files if split_in_name(file.name) == split] for split in SPLIT_STEMS}


def _usual_files(files: Sequence[Path], split: SplitName) -> list[Path]:
    for stem in SPLIT_STEMS[split]:
        names = {stem + suffix + packed for suffix in DATA_SUFFIXES for packed in ("", *PACKED)}
        if own := [file for file in files if file.name.lower() in names]:
            return own
    return []
