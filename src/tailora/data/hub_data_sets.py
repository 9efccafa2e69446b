"""Data sets of the Hugging Face hub, read through the hub's own library, `datasets`. It runs no code of a data set."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import datasets.exceptions
import pyarrow
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from tailora.core.errors import DataError, OfflineError
from tailora.core.hub_connection import HUB_DOWN, hub_problem
from tailora.data.hub_names import HubName
from tailora.data.json_rows import json_lines, on_their_lines
from tailora.data.readers import columnar

log = logging.getLogger(__name__)
T = TypeVar("T")
_BUSY = (408, 425, 429)  # HTTP statuses below 500 of a server that cannot answer at the moment
# A lost connection raises an error of the transport of the hub's library, which is requests or httpx by its version.
_TRANSPORT_ERRORS = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)

CONNECT_TIMEOUT = 6.0
"""Seconds to wait for the hub's first answer."""
_CONVERTED = "refs/convert/parquet"
"""Branch in which the hub keeps a data set that it has converted to Parquet."""
_ROWS = 1000  # rows that are converted at a time


class HubDataSet:
    """A data set of the hub, in one configuration and revision.

    Attributes:
        name: as the user wrote it.
        commit: the commit of the hub.
        splits: the names of its splits, as the hub calls them.
    """

    def __init__(self, name: HubName, builder: Any) -> None:
        self.name, self._builder = name, builder
        self.commit = str(builder.hash)
        self.splits = tuple(map(str, builder.info.splits or builder.config.data_files or ()))

    def digest(self, split: str) -> str:
        """Return what identifies the content of a split."""
        return f"{self.name.repository}:{self._builder.config.name}@{self.commit}#{split}"

    def rows(self, split: str) -> HubRows:
        """Return the rows of a split. What the cache does not have is downloaded.

        Raises:
            DataError: the data cannot be read.
            OfflineError: they have to be downloaded, and the download failed.
        """
        data = _translated(self.name, lambda: self._prepared(split))
        return HubRows(Path(f"{self.name.repository}#{split}"), data)

    def _prepared(self, split: str) -> Any:
        self._builder.download_and_prepare()
        return self._builder.as_dataset(split=split)


class HubRows:
    """The rows of a split of a data set.

    Attributes:
        path: the name of the data set and of the split.
        count: number of rows.
        notes: on columns that are left out, which are those of bytes (images, sounds).
    """

    def __init__(self, path: Path, data: Any) -> None:
        kept = [column.name for column in data.data.schema if not columnar.holds_bytes(column.type)]
        left_out = [name for name in data.column_names if name not in kept]
        self.path, self.count = path, len(data)
        self.notes = tuple(f"the column {name!r} holds bytes and is not read" for name in left_out)
        self._data = data.select_columns(kept).with_format("arrow")
        self._classes = {name: feature for name, feature in self._data.features.items() if _has_classes(feature)}

    def read(self, rows: Sequence[int] | None = None) -> str:
        """Return rows as JSON lines; see `RowSource`. Numbers that stand for classes become the names of the classes.

        Raises:
            DataError: there is no row.
        """
        if not self.count:
            raise DataError("the split has no row", where=self.path, hint="choose another split")
        data = self._data if rows is None else self._data.select(rows)
        batches = (batch for table in data.iter(batch_size=_ROWS) for batch in table.combine_chunks().to_batches())
        values = (row for batch in batches for row in columnar.rows_of(batch, self.path))
        text = json_lines(_with_class_names(values, self._classes))
        return text if rows is None else on_their_lines(text, rows)


@functools.lru_cache(maxsize=8)
def open_data_set(name: HubName) -> HubDataSet:
    """Find a data set in the hub, or in the cache of its library if the hub cannot be reached.

    Raises:
        DataError: the hub has no such data set, configuration or revision, asks for its terms to be accepted, or the
            data set is a program.
        OfflineError: the hub cannot be reached, and the cache does not have the data set.
    """
    problem = "its library is set to work offline (HF_HUB_OFFLINE)" if datasets.config.HF_HUB_OFFLINE else None
    problem = problem or hub_problem(constants.ENDPOINT, CONNECT_TIMEOUT)
    if problem is None:
        return HubDataSet(name, _translated(name, lambda: _builder(name)))
    with _offline_library():
        try:
            builder = _builder(name)
        except (ConnectionError, FileNotFoundError) as error:
            what = f"there is no such file or folder, the hub's cache has no such data set, and {problem}"
            hint = "try again with a network, or give the path of a local file"
            raise OfflineError(what, where=name.repository, hint=hint) from error
        except ValueError as error:
            raise _no_configuration(name, error, cached=True) from error
    _require_revision(name, str(builder.hash), problem)
    if not datasets.config.HF_HUB_OFFLINE:
        log.warning("%s: %s; using what the hub's cache has (revision %s)", name.repository, problem, builder.hash)
    return HubDataSet(name, builder)


def _builder(name: HubName) -> Any:
    return datasets.load_dataset_builder(f"hf://datasets/{name.repository}", name.configuration, revision=name.revision)


@contextlib.contextmanager
def _offline_library() -> Iterator[None]:
    """Let `datasets` look into its cache at once, instead of after many attempts at a hub that does not answer."""
    before, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        datasets.logging.set_verbosity(verbosity)


def _require_revision(name: HubName, commit: str, problem: str) -> None:
    """Check that the cached data set is the revision that a name pins: the library takes the latest one in its cache.

    Raises:
        OfflineError: it is another revision, or it is not known which.
    """
    if name.revision in (None, commit):
        return
    folder = repo_folder_name(repo_id=name.repository, repo_type="dataset")
    reference = Path(constants.HF_HUB_CACHE) / folder / "refs" / str(name.revision)
    if not reference.is_file() or reference.read_text(encoding="utf-8").strip() != commit:
        what = f"the hub's cache has another revision ({commit}), and {name.revision} cannot be downloaded: {problem}"
        raise OfflineError(what, where=name.repository, hint="try again with a network, or leave the revision out")


def _translated(name: HubName, call: Callable[[], T]) -> T:
    """Return the result of a call of `datasets`, and raise its errors as ours."""
    page = f"{constants.ENDPOINT}/datasets/{name.repository}"
    try:
        return call()
    except datasets.exceptions.DatasetNotFoundError as error:
        text = str(error)
        if "gated" in text:
            what, hint = "the hub asks for its terms to be accepted", f"accept them at {page} and log in"
            raise DataError(what, where=name.repository, hint=f"{hint} with `hf auth login` (or HF_TOKEN)") from error
        if text.startswith("Revision"):
            what = f"the hub has no revision {name.revision} of it"
            hint = "name a commit, a tag or a branch after the @"
            raise DataError(what, where=name.repository, hint=hint) from error
        what = "there is no such file or folder, and the hub has no such public data set"
        hint = "check the name; for a private data set, log in with `hf auth login` (or HF_TOKEN)"
        raise DataError(what, where=name.repository, hint=hint) from error
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        what = "the data set is a Python script, and Tailora runs no code of the hub"
        hint = f"the hub may have converted it to Parquet: try {name.repository}@{_CONVERTED}"
        raise DataError(what, where=name.repository, hint=hint) from error
    except (
        *(*_TRANSPORT_ERRORS, HfHubHTTPError, ConnectionError, TimeoutError),
        *(datasets.exceptions.DatasetsError, FileNotFoundError, pyarrow.ArrowException, ImportError),
    ) as error:
        raise _unreadable(name, error) from error
    except ValueError as error:
        raise _no_configuration(name, error) from error


def _unreadable(name: HubName, error: Exception) -> DataError | OfflineError:
    """Return the error for data that cannot be downloaded or read."""
    if lost := next(filter(_is_lost_connection, _chain(error)), None):
        what = f"the download failed ({_first_line(lost)})"
        return OfflineError(what, where=name.repository, hint="try again later")
    wrapped = isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None
    what = f"the hub's library cannot read the data set ({_first_line(error.__cause__ if wrapped else error)})"
    return DataError(what, where=name.repository, hint="download its files and give the path of one")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether an error means that the hub did not answer, or could not at the moment."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= HUB_DOWN[0] or status in _BUSY)
    return isinstance(error, (*_TRANSPORT_ERRORS, LocalEntryNotFoundError, ConnectionError, TimeoutError))


def _no_configuration(name: HubName, error: ValueError, *, cached: bool = False) -> DataError | OfflineError:
    """Return the error for a configuration that is missing in a name, or that the data set does not have."""
    owner, has = ("the hub's cache", "the cache has") if cached else ("the data set", "it has")
    text = str(error)
    if "Config name is missing" in text:
        what = "the data set has several configurations"
    elif name.configuration is not None and ("not found" in text or "Couldn't find cache" in text):
        what = f"{owner} has no configuration {name.configuration!r}"
    else:
        return _unreadable(name, error)
    listed = text.partition("[")[2].partition("]")[0].replace("'", "")
    hint = f"write {name.repository}:CONFIGURATION" + (f"; {has} {listed}" if listed else "")
    return DataError(what, where=name.repository, hint=hint)


def _has_classes(feature: Any) -> bool:
    if isinstance(feature, Mapping | list):
        return any(map(_has_classes, feature.values() if isinstance(feature, Mapping) else feature))
    inner = getattr(feature, "feature", None)
    return isinstance(feature, datasets.ClassLabel) or (inner is not None and _has_classes(inner))


def _with_class_names(rows: Iterator[dict[str, Any]], classes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row | {name: _class_names(row[name], feature) for name, feature in classes.items() if name in row}


def _class_names(value: Any, feature: Any) -> Any:
    """Return a value of a column in which class numbers are replaced by names; -1 means that there is no class."""
    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, Mapping):
        return {key: _class_names(item, feature.get(key)) for key, item in value.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return value if inner is None else [_class_names(item, inner) for item in value]


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__
