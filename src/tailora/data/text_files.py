"""Reading of text files: compressed or plain, in UTF-8 or UTF-16."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from tailora.core.errors import DataError, unreadable

PACKED = (".gz", ".bz2", ".xz")
"""Suffixes of the compressed files that can be read."""

_UNPACKERS: Mapping[bytes, tuple[str, Callable[[bytes], bytes], Callable[[Path], AbstractContextManager[Any]]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress, gzip.GzipFile),
    b"BZh": ("bzip2", bz2.decompress, bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress, lzma.LZMAFile),
}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
"""What reading a broken compressed file raises."""
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save the sheet as CSV UTF-8"),
    b"PAR1": ("a Parquet file", "write it as text, CSV or JSON lines"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it, or compress it with gzip"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"%PDF": ("a PDF document", "give the data as CSV or as JSON lines"),
    b"version https://git-lfs": (
        "a pointer of Git LFS, which holds the place of a file",
        "fetch it with `git lfs pull`",
    ),
    b"GGUF": ("a GGUF model or adapter", "give a file of records"),
}
_SAFETENSORS = re.compile(rb"[\s\S]{8}\{\s*\"")  # the length of the header as 8 bytes, then the header, a JSON object
# The marks of UTF-32 come first: the little-endian one begins as that of UTF-16 does.
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BYTE_ORDER_MARK = "\ufeff"
"""The mark that programs which do not know it leave at the beginning of a text, and so of its first column's name."""
_SAVE = "save the file as UTF-8 (in Excel: CSV UTF-8)"


def read_text(path: Path, *, blank: bool = False) -> str:
    """Return the text of a file, without its byte-order mark; line ends are kept.

    gzip, bzip2 and xz are recognised by the content, not by the name. The text is UTF-8, or UTF-16 or UTF-32 with a
    byte-order mark.

    Raises:
        DataError: the file is missing, unreadable, empty (unless `blank` accepts it), broken, of a kind that is not
            text, or in another encoding; with the line where there is one.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(unreadable(error), where=path, hint="check the path") from error
    text = _decode(_unpack(raw, path), path)
    if not blank and not text.strip():
        raise DataError("the file is empty", where=path, hint="give a file with records")
    return text


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked while it is read if its content is compressed.

    Raises:
        DataError: also while the file is read: it is broken, or called as if it was compressed.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(max(map(len, _UNPACKERS)))
    name, opened = next(((n, o) for magic, (n, _, o) in _UNPACKERS.items() if raw.startswith(magic)), (None, None))
    if opened is None:
        _unpack(raw, path)  # reports a name that is wrong
        with path.open("rb") as file:
            yield file
        return
    try:
        with opened(path) as file:
            yield file
    except BROKEN as error:
        raise DataError(f"broken {name} ({error})", where=path, hint="fetch or compress it again") from error


def has_bom(path: Path) -> bool:
    """Return whether a file is UTF-8 with a byte order mark, by which Excel recognises it."""
    return _unpack(path.read_bytes(), path).startswith(codecs.BOM_UTF8)


def packed(text: str, path: Path, *, bom: bool = False) -> bytes:
    """Return a text as the bytes of a file: UTF-8, compressed if the file's name says so (`PACKED`)."""
    content, suffix = text.encode("utf-8-sig" if bom else "utf-8"), path.suffix.lower()
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    packers: Mapping[str, Callable[[bytes], bytes]] = {".bz2": bz2.compress, ".xz": lzma.compress}
    return packers[suffix](content) if suffix in packers else content


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, ended by \\n, \\r\\n or, where there is no \\n at all, by \\r.

    `splitlines` would also split a text at a U+2028 or a form feed within it.
    """
    return [line.removesuffix("\r") for line in text.split("\n")] if "\n" in text else text.split("\r")


def base_suffix(path: Path) -> str:
    """Return the suffix that hints at the format, in lower case: `.csv` for `a.csv` and for `a.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _unpack(raw: bytes, path: Path) -> bytes:
    for magic, (name, unpack, _) in _UNPACKERS.items():
        if raw.startswith(magic):
            try:
                return unpack(raw)
            except BROKEN as error:
                raise DataError(f"broken {name} ({error})", where=path, hint="fetch or compress it again") from error
    for magic, (what, hint) in _FOREIGN.items():
        if raw.startswith(magic):
            raise DataError(f"is {what}, not a text file", where=path, hint=hint)
    if _SAFETENSORS.match(raw) and b"\x00" in raw[:8]:
        raise DataError("is a file of tensors (safetensors)", where=path, hint="give a file of records")
    suffix = path.suffix.lower()
    if suffix in PACKED:
        what = f"is called {suffix} but is not compressed that way"
        raise DataError(what, where=path, hint="rename it, or fetch the file again")
    return raw


def _decode(raw: bytes, path: Path) -> str:
    for mark, encoding in _WIDE_MARKS.items():
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                what = f"is {encoding.upper()} by its byte-order mark, but cannot be decoded as such ({error.reason})"
                raise DataError(what, where=path, hint=_SAVE) from error
    if raw[257:262] == b"ustar":
        raise DataError("is a tar archive, not a text file", where=path, hint="unpack it")
    if b"\x00" in raw[:4096]:
        what = "contains zero bytes: it is UTF-16 without a byte-order mark, or not a text file"
        raise DataError(what, where=path, hint=_SAVE)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The position is counted after a byte-order mark, which holds no line end: the line is right either way.
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            where=f"{path}:{line}",
            hint=f"{_SAVE}; it may be Windows-1252, Windows-1258 (Vietnamese) or Latin-1",
        ) from error
