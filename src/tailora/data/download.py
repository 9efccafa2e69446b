"""Known data sets by name: fetched once from their official address, checked, and kept in the user's cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tailora.core.errors import DataError, OfflineError
from tailora.core.files import atomic_path, cache_folder

_CHUNK = 1 << 16
_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before another attempt at a server that is busy or failing; twice as many each time
_LONGEST_PAUSE = 30.0
_BUSY = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_EARLY, http.HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class DataSet:
    """The address of a data set and the hashes of its files.

    Attributes:
        base_url: address of the folder with its files.
        files: name of each file to the SHA-256 of its content.
        licence: of the data.
    """

    base_url: str
    files: Mapping[str, str]
    licence: str


DATA_SETS: Mapping[str, DataSet] = {
    "e2e": DataSet(
        base_url="https://raw.githubusercontent.com/tuetschek/e2e-dataset/master",
        files={
            "trainset.csv": "1662055d3066959cf8db03e3e8cbed620bd845fd9407c4bc64992d369e02c463",
            "devset.csv": "f07a3bea199e1c93c0640609210ef38a675ac27fd86bea7ff18e438a2581cc00",
            "testset_w_refs.csv": "f7f1966605e35f7ca49c3ef57b6cfdd7e18c6fc2b5a11b95e0e592f680fb0690",
        },
        licence="CC BY-SA 4.0",
    )
}


def fetch(name: str, *, base_url: str | None = None, timeout: float = 20.0) -> Path:
    """Return the folder with a data set's files, fetching those that are not in the cache yet.

    Args:
        name: one of `DATA_SETS`.
        base_url: fetch from here instead of the official address; TAILORA_DATA_URL sets it too.
        timeout: seconds to wait for the network at each step.

    Raises:
        OfflineError: three attempts failed: no connection, a broken one, or a server that is busy or failing.
        DataError: the server does not have the file, or its content is not the official one.
    """
    data_set = DATA_SETS[name]
    base = (base_url or os.environ.get("TAILORA_DATA_URL") or data_set.base_url).rstrip("/")
    folder = cache_folder() / "data" / name
    for file, digest in data_set.files.items():
        target = folder / file
        if not target.is_file() or _sha256(target) != digest:
            _fetch_file(f"{base}/{file}", target, digest, timeout)
    return folder


def _fetch_file(url: str, target: Path, digest: str, timeout: float) -> None:
    """Fetch one file completely or not at all; after a broken connection, the download continues where it stopped."""
    with atomic_path(target) as part:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _append(url, part, timeout)
                break
            except urllib.error.HTTPError as error:
                answer = f"the server responded {error.code} {error.reason}"
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.stat().st_size:
                    part.write_bytes(b"")  # more came than the file has: from the beginning
                    continue
                if not _may_pass(error.code):
                    raise DataError(_failed(target, answer, url), hint=_other_ways(target)) from error
                if attempt == _ATTEMPTS:
                    what = _failed(target, f"{answer} three times", url)
                    raise OfflineError(what, hint=_other_ways(target)) from error
                time.sleep(_pause(error, attempt))
            except ValueError as error:  # of an address that is not one
                hint = "write it with https:// at its beginning, or unset TAILORA_DATA_URL"
                raise DataError(f"is not the address of a file ({error})", where=url, hint=hint) from error
            except (OSError, http.client.HTTPException) as error:
                if _sha256(part) == digest:  # the connection broke after the last byte
                    break
                if attempt == _ATTEMPTS:
                    reason = getattr(error, "reason", None) or error
                    raise OfflineError(_failed(target, str(reason), url), hint=_other_ways(target)) from error
        if _sha256(part) != digest:
            what = _failed(target, "its SHA-256 is not that of the official file", url)
            raise DataError(what, hint=_other_ways(target))


def _may_pass(status: int) -> bool:
    """Return whether a status means that the server is busy or failing, not that the file is missing."""
    return status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY


def _pause(error: urllib.error.HTTPError, attempt: int) -> float:
    """Return the seconds to wait before the next attempt: Retry-After if the server sends it, else growing."""
    asked = error.headers.get("Retry-After", "")
    return min(float(asked) if asked.isdecimal() else _PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)


def _append(url: str, part: Path, timeout: float) -> None:
    """Fetch the missing rest of `part`.

    Raises:
        OSError: the connection broke.
        HTTPException: the connection broke.
    """
    have = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with (
        urllib.request.urlopen(request, timeout=timeout, context=certificates()) as answer,
        part.open("ab") as file,
    ):
        if have and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
        length = answer.headers.get("Content-Length")
        came = 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            came += len(chunk)
        if length is not None and came != int(length):
            raise http.client.IncompleteRead(b"", int(length) - came)


@functools.cache
def certificates() -> ssl.SSLContext:
    """Return the system's certificates, and those of certifi if it is installed: Python may have no others on macOS."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):
        import certifi  # comes with the hub's library

        context.load_verify_locations(certifi.where())
    return context


def _failed(target: Path, why: str, url: str) -> str:
    return f"{target.name} cannot be downloaded: {why} ({url})"


def _other_ways(target: Path) -> str:
    return (
        f"try again later, put {target.name} into {target.parent}, or give the path of a local file; "
        "the bundled samples (restaurants) work without a network"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
