"""Adapter folders of mlx-lm, which are only read: `adapters.safetensors` and an `adapter_config.json` unlike PEFT's.

mlx-lm multiplies from the right: its A is [in, rank] and its B [rank, out]. The scale does not depend on the rank.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import draft_file
from tailora.adapters.formats.peft_files import CONFIG_FILE, Number, Rank, read_file
from tailora.adapters.formats.tensors import Tensor, read_safetensors
from tailora.core.errors import AdapterError, SettingsError
from tailora.families import ends_in

WEIGHTS_FILE = "adapters.safetensors"
_EMBEDDINGS = ("embed_tokens", "wte")
_FUSE = "fuse it into its unquantised base with `mlx_lm.fuse`, and name that folder as --base"

logger = logging.getLogger(__name__)


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    rank: Rank
    scale: Annotated[Number, Field(gt=0)]
    dropout: Number = 0.0
    alpha: Number | None = None


class MlxFile(BaseModel):
    """`adapter_config.json` as mlx-lm writes it: the settings of the training."""

    model_config = ConfigDict(extra="ignore", strict=True)

    lora_parameters: _Parameters
    fine_tune_type: str = "lora"
    model: str | None = None


def load(folder: Path) -> Adapter:
    """Read an adapter folder that mlx-lm wrote.

    Raises:
        AdapterError: the folder is damaged, or holds something other than LoRA of linear layers; all problems of the
            tensors are in one message.
    """
    settings = read_file(MlxFile, folder / CONFIG_FILE)
    parameters = settings.lora_parameters
    if settings.fine_tune_type != "lora" or parameters.alpha is not None:  # early versions scale by alpha as well
        named = f"fine_tune_type={settings.fine_tune_type!r}" if parameters.alpha is None else "alpha"
        what = f"Tailora has no equivalent for {named} of mlx-lm"
        raise AdapterError(what, where=folder / CONFIG_FILE, hint=_FUSE)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(read_safetensors(folder / WEIGHTS_FILE).items()):
        module, _, name = key.rpartition(".")
        factors.setdefault(module, {})[name] = tensor
    problems = [] if factors else ["contains no LoRA tensors"]
    problems += [f"{module}: {fault}" for module, pair in factors.items() if (fault := _fault(module, pair))]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise AdapterError("; ".join(problems[:8]) + more, where=folder / WEIGHTS_FILE, hint=_FUSE)
    layers = {module: _layer(pair, parameters.scale) for module, pair in factors.items()}
    try:
        alpha = parameters.scale * parameters.rank
        config = LoraConfig(parameters.rank, alpha, targets=tuple(sorted(layers)), dropout=parameters.dropout)
    except SettingsError as error:
        raise AdapterError(str(error), where=folder / CONFIG_FILE) from error
    logger.warning("%s was not written by Tailora: its base is unknown, so only shapes are checked", folder)
    drafts = draft_file.read(folder)
    return Adapter(config, layers, base_name=settings.model, unknown_base_reported=True, drafts=drafts)


def _fault(module: str, pair: Mapping[str, Tensor]) -> str | None:
    if pair.keys() != {"lora_a", "lora_b"}:
        return f"has {', '.join(sorted(pair))} instead of lora_a and lora_b"
    a, b = pair["lora_a"], pair["lora_b"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        return f"lora_a {list(a.shape)} and lora_b {list(b.shape)} are not the factors of a linear layer"
    if ends_in(module, _EMBEDDINGS):
        return "mlx-lm adapts a tied head along with its embedding"
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "contains values that are not finite"
    return None


def _layer(pair: Mapping[str, Tensor], scale: float) -> LayerAdapter:
    a, b = (np.ascontiguousarray(pair[name].T, np.float32) for name in ("lora_a", "lora_b"))
    return LayerAdapter("linear", (LowRank(a, b, scale),), None, len(b))
