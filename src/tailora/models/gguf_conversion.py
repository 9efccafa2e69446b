"""Conversion of a GGUF into a folder in Hugging Face layout, by transformers and the `gguf` package, exact in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailora.core.errors import ModelError
from tailora.core.files import atomic_folder, write_json
from tailora.models.fingerprint import fingerprint_tensors
from tailora.models.gguf import RECORD, file_sha256
from tailora.models.weights import stored_tensors


def convert(path: Path, target: Path, source: Path, record: Mapping[str, str]) -> None:
    """Read a GGUF and write the folder, with a record of its source.

    Args:
        path: the GGUF, alone in its folder.
        target: the folder to write, whole or not at all.
        source: the user's path of it, for messages.
        record: the part of `gguf.RECORD` about the source; the part about the folder is added.

    Raises:
        ModelError: the file is damaged, or is not a GGUF of an architecture that transformers reads.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("is not a GGUF file", where=source, hint="download it again, or check the path")
    try:
        if unread := _unread(path):
            raise ModelError(
                f"transformers' reader of GGUF ignores {', '.join(unread)}",
                where=source,
                hint="name the folder or hub id of the model that it was made from",
            )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        pre = _tokenizer_rule(path)
    except ModelError:
        raise
    except Exception as error:  # the reader trusts the file: damage shows as whatever its parsing trips over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "download it again, or name the folder or hub id of the model that it was made from"
        raise ModelError(f"cannot be read: {reason}", where=source, hint=hint) from error
    _correct_pre_tokenizer(tokenizer.backend_tokenizer, pre)
    if hasattr(model.config, "quantization_config"):  # the reader leaves it, though the values are plain floats
        del model.config.quantization_config
    with atomic_folder(target) as folder:
        # named_parameters has a tied tensor once, as the file must have it.
        tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {path.name: file_sha256(path) for path in folder.iterdir() if path.suffix != ".safetensors"}
        fingerprint = fingerprint_tensors(stored_tensors(folder))
        write_json(folder / RECORD, {**record, "fingerprint": fingerprint, "files": files})


def _tokenizer_rule(path: Path) -> str | None:
    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def _unread(path: Path) -> list[str]:
    """Settings and tensors of the file that transformers' reader ignores although they affect the outputs."""
    reader = GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    kind = values["general.architecture"]
    settings = {key.removeprefix(f"{kind}."): value for key, value in values.items() if key.startswith(f"{kind}.")}
    head = settings.get("attention.key_length", settings["embedding_length"] // settings["attention.head_count"])
    neutral = {
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scale_linear": 1.0,
        "rope.dimension_count": head,
        "attention.scale": head**-0.5,
        "attention.clamp_kqv": 0.0,
        **dict.fromkeys(("embedding_scale", "residual_scale", "logit_scale"), 1.0),
    }
    ignored = [
        f"{kind}.{name} = {settings[name]}" for name, value in neutral.items() if settings.get(name, value) != value
    ]
    factors = [tensor for tensor in reader.tensors if tensor.name.startswith(("rope_freqs.", "rope_factors_"))]
    return ignored + [tensor.name for tensor in factors if not (tensor.data == 1).all()]


def _correct_pre_tokenizer(tokenizer: Tokenizer, pre: str | None) -> None:
    """Split digits as SmolLM's own tokenizer.json does; the GGUF names the rule and transformers does not read it."""
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
