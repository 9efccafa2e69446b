"""The dimensions of a base model, read from its config.json. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.errors import ModelError

SUPPORTED = ("gpt2", "llama")


@dataclass(frozen=True)
class Architecture:
    """What a decoder-only network of a known family looks like.

    Attributes:
        model_type: transformers' name of the family: "gpt2" or "llama".
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: of queries.
        kv_heads: of keys and values; fewer than `heads` where queries share them.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        context: most tokens a sequence may have.
        epsilon: added to the variance (GPT-2) or mean square (Llama) of a normalisation.
        rope_theta: base of the rotary frequencies; None where positions are learnt.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float
    rope_theta: float | None


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json.

    Raises:
        ModelError: another family, or a variant of these two that the engine's graphs do not have.
    """
    model_type = config.get("model_type")
    if model_type not in SUPPORTED:
        raise ModelError(
            f"the engine has no graph for the architecture {model_type!r}", mend="run it on the torch backend"
        )
    try:
        return _gpt2(config) if model_type == "gpt2" else _llama(config)
    except (KeyError, TypeError) as error:
        raise ModelError(f"config.json lacks or misstates {error}", mend="fetch the model again") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder.

    Raises:
        ModelError: it is missing or broken.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("cannot be read as JSON", where=path, mend="fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError("is not a JSON object", where=path, mend="fetch the model again")
    return config


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    wanted = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    _require(config, wanted | {"n_inner": None})
    hidden, heads = config["n_embd"], config["n_head"]
    return Architecture(
        model_type="gpt2",
        layers=config["n_layer"],
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=config["vocab_size"],
        context=config["n_positions"],
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        rope_theta=None,
    )


def _llama(config: Mapping[str, Any]) -> Architecture:
    _require(config, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False})
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"rotary positions of the kind {rope['rope_type']!r} are not in the engine's graph",
            mend="run it on the torch backend",
        )
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return Architecture(
        model_type="llama",
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        epsilon=config.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta") or config.get("rope_theta") or 10000.0,
    )


def _require(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ModelError(
                f"{name} {config[name]!r} is not in the engine's graph, which has {value!r}",
                mend="run it on the torch backend",
            )
