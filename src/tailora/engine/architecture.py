"""The description of a base model that its graph is built from, read from its config.json. No torch.

A graph implements the fields that it knows, and nothing else. Every field of a configuration therefore has to be read,
to have a value that the graph implements, or to have no effect (`config_fields`). A configuration with any other field
is refused; the torch backend runs it as transformers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tailora.core.errors import ModelError
from tailora.engine.config_fields import GRAPH_FIELDS, WITHOUT_EFFECT
from tailora.families import Part, family_of, is_tied

_ON_TORCH = "use --backend torch"
_FETCH = "fetch the model again"
_WINDOW, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Architecture:
    """A decoder-only network of a family that has a graph.

    Attributes:
        model_type: transformers' name of the family.
        layers: number of transformer blocks.
        hidden: width of the residual stream.
        inner: width of the feed-forward layers.
        heads: heads of the queries.
        kv_heads: heads of keys and values; fewer than `heads` where queries share them.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        context: largest number of tokens in a sequence.
        epsilon: constant added to the variance (GPT-2) or the mean square (all others) in a normalisation.
        tied: whether the vocabulary projection is the token embedding.
        attention_scale: factor of the products of queries and keys.
        rope_thetas: base of the rotary frequencies, block by block; empty where positions are learnt.
        windows: number of tokens that a token attends to, itself included, block by block; 0 for all.
        biased: the projections of attention that have a bias.
        head_norms: whether each head of the queries and keys is normalised.
        output_norms: whether a block normalises what attention and the feed-forward layers return.
        norm_offset: what is added to the stored weight of a normalisation.
        embedding_scale: factor of the token embeddings.
        activation: the function between the feed-forward layers.
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
    tied: bool
    attention_scale: float
    rope_thetas: tuple[float, ...] = ()
    windows: tuple[int, ...] = ()
    biased: frozenset[Part] = frozenset()
    head_norms: bool = False
    output_norms: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    activation: Literal["silu", "gelu"] = "silu"


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json.

    Raises:
        ModelError: the engine has no graph for the family, or for this variant of it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not family_of(model_type).openvino:
        raise ModelError(f"the engine has no graph for the architecture {model_type!r}", hint=_ON_TORCH)
    fields, known = _Fields(config), GRAPH_FIELDS[model_type]
    fields.require(known.implemented, known.read)
    return _gpt2(fields) if model_type == "gpt2" else _rotary(model_type, fields)


@dataclass(frozen=True)
class _Fields:
    """A configuration whose values are checked as they are read.

    A field that is absent has transformers' default. Where that is not the same for all families that share a reader,
    or not the same as that of null, the field has to be there.
    """

    config: Mapping[str, Any]

    def size(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ModelError(f"config.json: {name} is {value!r} instead of a positive integer", hint=_FETCH)
        return value

    def number(self, name: str, default: float | None = None) -> float:
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
    hidden, heads, layers = fields.size("n_embd"), fields.size("n_head"), fields.size("n_layer")
    return Architecture(
        model_type="gpt2",
        layers=layers,
        hidden=hidden,
        inner=fields.size("n_inner", 4 * hidden),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=fields.size("vocab_size"),
        context=fields.size("n_positions"),
        epsilon=fields.number("layer_norm_epsilon", 1e-5),
        tied=is_tied(fields.config),
        attention_scale=(hidden // heads) ** -0.5,
        windows=(0,) * layers,
        biased=frozenset(("q", "k", "v", "o")),
        activation="gelu",
    )


def _rotary(model_type: str, fields: _Fields) -> Architecture:
    """Read the configuration of a family with rotary positions."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    is_gemma = model_type == "gemma3_text"
    head_dim = fields.size("head_dim", None if model_type in ("qwen3", "gemma3_text") else hidden // heads)
    kinds = _attention_kinds(model_type, fields)
    thetas = _gemma_thetas(fields) if is_gemma else dict.fromkeys((_WINDOW, _FULL), _rope_theta(fields))
    return Architecture(
        model_type=model_type,
        layers=len(kinds),
        hidden=hidden,
        inner=fields.size("intermediate_size"),
        heads=heads,
        kv_heads=fields.size("num_key_value_heads", heads if model_type == "llama" else None),
        head_dim=head_dim,
        vocabulary=fields.size("vocab_size"),
        context=fields.size("max_position_embeddings"),
        epsilon=fields.number("rms_norm_eps", 1e-6),
        tied=is_tied(fields.config),
        attention_scale=(fields.number("query_pre_attn_scalar") if is_gemma else head_dim) ** -0.5,
        rope_thetas=tuple(thetas[kind] for kind in kinds),
        windows=tuple(fields.size("sliding_window") if kind == _WINDOW else 0 for kind in kinds),
        biased=_biased(model_type, fields),
        head_norms=model_type in ("qwen3", "gemma3_text"),
        output_norms=is_gemma,
        norm_offset=1.0 if is_gemma else 0.0,
        embedding_scale=hidden**0.5 if is_gemma else 1.0,
        activation="gelu" if is_gemma else "silu",
    )


def _biased(model_type: str, fields: _Fields) -> frozenset[Part]:
    if model_type == "qwen2":
        return frozenset(("q", "k", "v"))
    return frozenset(("q", "k", "v", "o") if fields.config.get("attention_bias") else ())


def _attention_kinds(model_type: str, fields: _Fields) -> list[str]:
    """Return which blocks attend to a window and which to all tokens.

    Raises:
        ModelError: a block does neither, or the list does not fit the rest of the configuration.
    """
    layers = fields.size("num_hidden_layers")
    uses_window = model_type == "gemma3_text" or bool(fields.config.get("use_sliding_window"))
    kinds = fields.config.get("layer_types")
    if kinds is None:
        kinds = [_FULL] * layers
        if model_type == "gemma3_text":
            pattern = fields.size("sliding_window_pattern", 6)
            kinds = [_WINDOW if (block + 1) % pattern else _FULL for block in range(layers)]
        elif uses_window:
            first = fields.size("max_window_layers", least=0)
            kinds = [_WINDOW if block >= first else _FULL for block in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ModelError(f"config.json: layer_types is not a list of {layers} entries", hint=_FETCH)
    for kind in kinds:
        if kind not in (_WINDOW, _FULL) or (kind == _WINDOW and not uses_window):
            hint = f"the engine's graph implements {_WINDOW!r} only where use_sliding_window is true"
            what = f"config.json: layer_types contains {kind!r}"
            raise ModelError(f"{what}, and {hint}" if kind == _WINDOW else what, hint=_ON_TORCH)
    return kinds


def _gemma_thetas(fields: _Fields) -> dict[str, float]:
    """Return the bases of the rotary frequencies of Gemma's two kinds of attention.

    transformers before version 5 has them in `rope_theta` and `rope_local_base_freq`.
    """
    by_kind = fields.config.get("rope_parameters")
    if by_kind is None:
        return {_FULL: _rope_theta(fields, 1e6), _WINDOW: fields.number("rope_local_base_freq", 1e4)}
    if not isinstance(by_kind, dict) or by_kind.keys() != {_WINDOW, _FULL}:
        raise ModelError("config.json: rope_parameters does not describe the two kinds of attention", hint=_ON_TORCH)
    for name in ("rope_theta", "rope_local_base_freq", "rope_scaling"):
        if fields.config.get(name) is not None:
            raise ModelError(f"config.json has both rope_parameters and {name}", hint=_ON_TORCH)
    defaults = {_FULL: 1e6, _WINDOW: 1e4}
    return {kind: _rope_theta(_Fields({"rope_parameters": by_kind[kind]}), base) for kind, base in defaults.items()}


def _rope_theta(fields: _Fields, default: float = 1e4) -> float:
    """The base of unscaled rotary frequencies.

    Scaling has three spellings, all of which transformers reads: `rope_parameters` with a `rope_type`, `rope_scaling`
    with a `rope_type`, and the oldest, `rope_scaling` with a `type`.

    Raises:
        ModelError: the frequencies are scaled in any of them.
    """
    theta = fields.number("rope_theta", default)
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
