"""Merged models for llama.cpp and Ollama: a folder with the GGUF file and a Modelfile."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tailora.core.errors import SettingsError
from tailora.core.files import atomic_folder, require_new
from tailora.data.prompts import PromptFormat
from tailora.data.tokenizer import Tokenizer
from tailora.inference.gguf_export import GgufType, write_gguf
from tailora.inference.merged_model import write_merged
from tailora.inference.ollama import modelfile
from tailora.models.catalog import resolve
from tailora.models.config import read_config
from tailora.models.provenance import training_metadata

GGUF, MODELFILE = "model.gguf", "Modelfile"


def write_merged_gguf(
    adapter: Path, output: Path, to: GgufType, *, base: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Merge an adapter, or the run of another method, and write the model for llama.cpp and Ollama.

    Args:
        adapter: an adapter's folder or file, or a run directory.
        output: folder to write; it must not exist, or be empty.
        to: type of the matrices.
        base: base model; None for the one that the adapter names.
        force: accept an adapter that was trained on other weights.

    Returns:
        The folder, the base, and what `gguf_export.write_gguf` returns.

    Raises:
        SettingsError: the output exists, or the prompts cannot be written as a template.
        AdapterError: the adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be loaded, or GGUF cannot express it.
        CheckError: the merged model does not match base + adapter.
        MissingExtraError: the package gguf is not installed.
    """
    require_new(output)
    with tempfile.TemporaryDirectory(prefix="tailora-", ignore_cleanup_errors=True) as scratch:
        merged = Path(scratch) / "merged"
        result = write_merged([adapter], merged, base=base, force=force)
        prompts = PromptFormat.of_meta(training_metadata(merged), Tokenizer.from_folder(merged), merged)
        if not prompts.trained:
            what = "the adapter does not say how its prompts were built, which the Modelfile needs"
            raise SettingsError(what, where=adapter, hint="merge it with `tailora merge`")
        source, context = resolve(base or result["base"]), _context(merged)
        with atomic_folder(output) as folder:
            written = write_gguf(merged, folder / GGUF, to, prompts, source)
            text = modelfile(GGUF, prompts, context=context, licences=_licences(source.folder))
            (folder / MODELFILE).write_text(text, encoding="utf-8")
    return {**written, "output": str(output), "base": result["base"], "files": [GGUF, MODELFILE]}


def _context(folder: Path) -> int:
    config = read_config(folder)
    return int(config.get("max_position_embeddings") or config["n_positions"])


def _licences(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("LICENSE*"))]
