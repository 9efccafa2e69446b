"""A GGUF as a folder in Hugging Face layout: transformers reads it with the `gguf` package, values exact in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailora.errors import ModelError
from tailora.files import atomic_folder, write_json
from tailora.models.fingerprint import fingerprint_tensors
from tailora.models.gguf import RECORD, file_sha256
from tailora.models.weights import stored_tensors


def convert(path: Path, target: Path, source: Path, record: Mapping[str, str]) -> None:
    """Read a GGUF and write the folder, with a record of what it was made of.

    Args:
        path: the GGUF, in a folder of its own.
        target: the folder to write, whole or not at all.
        source: where it came from, for messages.
        record: what `gguf.RECORD` says of the file; what was written is added.

    Raises:
        ModelError: the file is damaged, no GGUF, or one of an architecture that transformers does not read.
    """
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
        files = {path.name: file_sha256(path) for path in folder.iterdir() if path.suffix != ".safetensors"}
        fingerprint = fingerprint_tensors(stored_tensors(folder))
        write_json(folder / RECORD, {**record, "fingerprint": fingerprint, "files": files})


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
