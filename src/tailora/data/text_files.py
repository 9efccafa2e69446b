"""Text files as users have them: gzip or plain, with or without a byte-order mark, sometimes broken."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from tailora.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: Path, *, blank: bool = False) -> str:
    """Return the text of a UTF-8 file, without its byte-order mark; line ends are left as they are.

    gzip is told by the content, not by the name. Raises `DataError`, with the line where there is one, for a file
    that is missing, unreadable, empty (unless `blank` accepts it), a broken gzip or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=path, mend="check the path") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path, mend="check the path") from error
    if raw.startswith(_GZIP_MAGIC):
        raw = _decompress(raw, path)
    elif path.suffix == ".gz":
        raise DataError("is named .gz but is not gzip", where=path, mend="rename it, or fetch the file again")
    text = _decode(raw, path)
    if not blank and not text.strip():
        raise DataError("the file is empty", where=path, mend="give a file with records")
    return text


def base_suffix(path: Path) -> str:
    """Return the suffix that tells the format, in lower case: `.csv` for `a.csv` and for `a.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _decompress(raw: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"broken gzip ({error})", where=path, mend="fetch or compress the file again") from error


def _decode(raw: bytes, path: Path) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("is UTF-16, not UTF-8", where=path, mend="save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The position is counted after a byte-order mark, which holds no line end: the line is right either way.
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            where=f"{path}:{line}",
            mend="save the file as UTF-8 (it may be Windows-1252 or Latin-1)",
        ) from error
