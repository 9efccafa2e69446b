"""Conversion of a GGUF into a folder in Hugging Face layout, by transformers and the `gguf` package, exact in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailora.core.errors import ModelError
from tailora.core.files import atomic_folder, write_json
from tailora.data.model_files import GENERATION_CONFIG
from tailora.models.fingerprint import fingerprint_tensors
from tailora.models.gguf import RECORD, file_sha256
from tailora.models.gguf_tokenizer import LLAMA3_WORDS, QWEN2_WORDS
from tailora.models.weights import stored_tensors

_HINT = "name the folder or hub id of the model that it was made from"
# llama.cpp's names of the rules that split texts into words, in groups of equal ones; the last group is GPT-2's.
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_QWEN2 = ("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez")
_LLAMA3 = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
_LIKE_LLAMA3 = (*_LLAMA3, "dbrx", "smaug-bpe")
_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "default")
# With these, a word that is a token is that token, and a text begins with a token unless the file says otherwise.
_WHOLE_WORDS = (*_LLAMA3, "tekken")
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SETTINGS = ("model", "pre", "add_bos_token", "bos_token_id", *_ENDS)
_ROTATIONS = ("rope_freqs.", "rope_factors_")


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
        reader = GGUFReader(path)
        _require_model(reader, source)
        settings = _tokenizer_settings(reader)
        unread = [*_unread(reader), *_unknown_rule(settings)]
        if unread:
            raise ModelError(
                f"transformers' reader of GGUF ignores {', '.join(unread)}",
                where=source,
                hint=_HINT,
            )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        _require_all_numbers(reader, model, source)
        _correct_tokenizer(tokenizer.backend_tokenizer, settings)
        ends = list(dict.fromkeys(settings[name] for name in _ENDS if name in settings))
    except ModelError:
        raise
    except Exception as error:  # the reader trusts the file: damage shows as whatever its parsing trips over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"cannot be read: {reason}", where=source, hint=f"download it again, or {_HINT}") from error
    if hasattr(model.config, "quantization_config"):  # the reader leaves it, though the values are plain floats
        del model.config.quantization_config
    with atomic_folder(target) as folder:
        # named_parameters has a tied tensor once, as the file must have it.
        tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if len(ends) > 1:  # config.json has the first
            write_json(folder / GENERATION_CONFIG, {"eos_token_id": ends})
        files = {path.name: file_sha256(path) for path in folder.iterdir() if path.suffix != ".safetensors"}
        fingerprint = fingerprint_tensors(stored_tensors(folder))
        write_json(folder / RECORD, {**record, "fingerprint": fingerprint, "files": files})


def _require_model(reader: GGUFReader, source: Path) -> None:
    """Refuse an adapter, and a part of a model that is divided into several files."""
    kind, parts = reader.get_field("general.type"), reader.get_field("split.count")
    if kind is not None and kind.contents() == "adapter":
        hint = "read it with `tailora convert --to peft`, and name its base with --base"
        raise ModelError("is an adapter, not a base model", where=source, hint=hint)
    if parts is not None and parts.contents() > 1:
        what = f"is one of the {parts.contents()} files of a model"
        raise ModelError(what, where=source, hint="join them with llama.cpp's program `llama-gguf-split`")


def _tokenizer_settings(reader: GGUFReader) -> dict[str, Any]:
    fields = {name: reader.get_field(f"tokenizer.ggml.{name}") for name in _SETTINGS}
    return {name: field.contents() for name, field in fields.items() if field is not None}


def _unknown_rule(settings: Mapping[str, Any]) -> list[str]:
    """The rule of a byte-level BPE by which texts are split into words, if transformers would use that of GPT-2."""
    pre = settings.get("pre")
    known = (*_DIGITS, *_QWEN2, *_LIKE_LLAMA3, *_GPT2)
    if settings.get("model") != "gpt2" or pre is None or pre in known or pre in _rules_of_transformers():
        return []
    return [f"tokenizer.ggml.pre = {pre}"]


def _rules_of_transformers() -> Mapping[str, str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # of earlier versions
        return {}
    rules: Mapping[str, str] = GGUF_PRE_TOKENIZER_SPLITS
    return rules


def _require_all_numbers(reader: GGUFReader, model: Any, source: Path) -> None:
    """Check that the reader has skipped no tensor: the network has as many numbers as the file."""
    weights = [tensor for tensor in reader.tensors if not tensor.name.startswith(_ROTATIONS)]
    sizes = {tensor.name: int(tensor.n_elements) for tensor in weights if "attn_rot_embd" not in tensor.name}
    stored = sum(sizes.values())
    own = sum(parameter.numel() for parameter in model.parameters())
    if own not in (stored, stored - sizes.get("output.weight", 0)):  # a tied head may be there twice
        what = f"the network that transformers builds from it has {own:,} numbers, and the file {stored:,}"
        raise ModelError(what, where=source, hint=_HINT)


def _unread(reader: GGUFReader) -> list[str]:
    """Settings and tensors of the file that transformers' reader ignores although they affect the outputs."""
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
    factors = [tensor for tensor in reader.tensors if tensor.name.startswith(_ROTATIONS)]
    return ignored + [tensor.name for tensor in factors if not (tensor.data == 1).all()]


def _correct_tokenizer(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Let a byte-level BPE split, merge and begin texts as the rule does that the file names.

    transformers knows only some of the rules, and of those only how they split texts.
    """
    pre = settings.get("pre")
    if settings.get("model") != "gpt2" or pre is None:
        return
    if pre in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif pre in _QWEN2 or pre in _LIKE_LLAMA3:
        words = Regex(QWEN2_WORDS if pre in _QWEN2 else LLAMA3_WORDS)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), byte_level])
    if pre in _WHOLE_WORDS:
        model: Any = tokenizer.model
        model.ignore_merges = True
        tokenizer.model = model
        bos = settings.get("bos_token_id")
        name = None if bos is None or "add_bos_token" in settings else tokenizer.id_to_token(bos)
        if name is not None:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=[name, "$A"], pair=[name, "$A", name, "$B:1"], special_tokens=[(name, bos)]
            )
