"""The dimensions of a base model, read from its config.json. No torch.

A graph implements the fields that it knows, and nothing else. Every field of a configuration therefore has to be read,
to have a value that the graph implements, or to have no effect (`config_fields`). A configuration with any other field
is refused; the torch backend runs it as transformers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tailora.core.errors import ModelError
from tailora.engine.config_fields import WITHOUT_EFFECT
from tailora.families import family_of, is_tied

_ON_TORCH = "use --backend torch"
_FETCH = "fetch the model again"

# Fields, each with the values that the graphs implement. A field that is absent or null has transformers' default,
# which is one of them.
_BOTH: Mapping[str, tuple[Any, ...]] = {
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "is_causal": (True,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
}
_GPT2: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # three names of one formula
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
}
_LLAMA: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1,),
}
_GPT2_READ = frozenset({"n_embd", "n_head", "n_layer", "n_positions", "n_inner", "vocab_size", "layer_norm_epsilon"})
_LLAMA_READ = frozenset(
    {
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
        *("rope_theta", "rope_scaling", "rope_parameters"),
    }
)
_READ_OF_BOTH = frozenset({"model_type", "tie_word_embeddings", "quantization_config"})


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a decoder-only network of a family that has a graph.

    Attributes:
        model_type: transformers' name of the family: "gpt2" or "llama".
        layers: number of transformer blocks.
        hidden: width of the residual stream.
        inner: width of the feed-forward layers.
        heads: heads of the queries.
        kv_heads: heads of keys and values; fewer than `heads` where queries share them.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        context: largest number of tokens in a sequence.
        epsilon: constant added to the variance (GPT-2) or the mean square (Llama) in a normalisation.
        rope_theta: base of the rotary frequencies; None where positions are learnt.
        tied: whether the vocabulary projection is the token embedding.
    """

    model_type: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float
    rope_theta: float | None
    tied: bool


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json.

    Raises:
        ModelError: the engine has no graph for the family, or for this variant of it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not family_of(model_type).openvino:
        raise ModelError(f"the engine has no graph for the architecture {model_type!r}", hint=_ON_TORCH)
    fields = _Fields(config)
    return _gpt2(fields) if model_type == "gpt2" else _llama(fields)


@dataclass(frozen=True)
class _Fields:
    """A configuration whose values are checked as they are read."""

    config: Mapping[str, Any]

    def size(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"config.json: {name} is {value!r} instead of a positive integer", hint=_FETCH)
        return value

    def number(self, name: str, default: float) -> float:
        value = self.config.get(name)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ModelError(f"config.json: {name} is {value!r} instead of a positive number", hint=_FETCH)
        return float(value)

    def require(self, wanted: Mapping[str, tuple[Any, ...]], read: frozenset[str]) -> None:
        """Raise unless every field is known and has a value that the graph implements."""
        for name, value in self.config.items():
            # A name that begins with _ is a program's own note, such as the file's origin.
            if value is None or name in read or name in WITHOUT_EFFECT or name.startswith("_"):
                continue
            if name not in wanted:
                raise ModelError(f"config.json: the engine's graph does not know the field {name}", hint=_ON_TORCH)
            if value not in wanted[name]:
                expected = " or ".join(map(repr, wanted[name]))
                what = f"config.json: {name} is {value!r}, and the engine's graph implements {expected}"
                raise ModelError(what, hint=_ON_TORCH)


def _gpt2(fields: _Fields) -> Architecture:
    fields.require({**_BOTH, **_GPT2}, _READ_OF_BOTH | _GPT2_READ)
    hidden, heads = fields.size("n_embd"), fields.size("n_head")
    return Architecture(
        model_type="gpt2",
        layers=fields.size("n_layer"),
        hidden=hidden,
        inner=fields.size("n_inner", 4 * hidden),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=fields.size("vocab_size"),
        context=fields.size("n_positions"),
        epsilon=fields.number("layer_norm_epsilon", 1e-5),
        rope_theta=None,
        tied=is_tied(fields.config),
    )


def _llama(fields: _Fields) -> Architecture:
    fields.require({**_BOTH, **_LLAMA}, _READ_OF_BOTH | _LLAMA_READ)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    return Architecture(
        model_type="llama",
        layers=fields.size("num_hidden_layers"),
        hidden=hidden,
        inner=fields.size("intermediate_size"),
        heads=heads,
        kv_heads=fields.size("num_key_value_heads", heads),
        head_dim=fields.size("head_dim", hidden // heads),
        vocabulary=fields.size("vocab_size"),
        context=fields.size("max_position_embeddings"),
        epsilon=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(fields),
        tied=is_tied(fields.config),
    )


def _rope_theta(fields: _Fields) -> float:
    """The base of unscaled rotary frequencies.

    Scaling has three spellings, all of which transformers reads: `rope_parameters` with a `rope_type`, `rope_scaling`
    with a `rope_type`, and the oldest, `rope_scaling` with a `type`.

    Raises:
        ModelError: the frequencies are scaled in any of them.
    """
    theta = fields.number("rope_theta", 10000.0)
    scaled = {name: fields.config[name] for name in ("rope_parameters", "rope_scaling") if fields.config.get(name)}
    if len(scaled) > 1:
        raise ModelError("config.json has both rope_parameters and rope_scaling", hint=_ON_TORCH)
    for name, rope in scaled.items():
        if not isinstance(rope, dict):
            raise ModelError(f"config.json: {name} is {rope!r} instead of an object", hint=_FETCH)
        implemented = {"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1,)}
        _Fields(rope).require(implemented, frozenset({"rope_theta"}))
        theta = _Fields(rope).number("rope_theta", theta)
    return theta
