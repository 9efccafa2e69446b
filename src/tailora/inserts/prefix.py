"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): keys and values that every token attends to, in every layer.

The prefix is trained directly, as PEFT does with `prefix_projection=False`. Tokens have the positions after it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tailora.core.errors import ModelError
from tailora.models.blocks import owner_of_blocks

NAME = "tailora_prefix"
"""The name of the prefix among a network's modules."""


class Prefix(nn.Module):
    """The keys and values of P virtual tokens.

    Args:
        values: [P, 2 · layers, heads, width], in which layer n has its keys at 2n and its values at 2n + 1. PEFT has
            the same numbers as one row for each virtual token.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(values)

    def __len__(self) -> int:
        """Number of virtual tokens."""
        return len(self.embedding)

    def cache(self, rows: int = 1) -> DynamicCache:
        """Return a cache that contains the prefix only, for a number of sequences."""
        cache = DynamicCache()
        cache.layers = [_PrefixLayer(keys, values) for keys, values in self.pairs(rows)]
        return cache

    def pairs(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of each layer, [rows, heads, P, width]."""
        layers = self.embedding.permute(1, 2, 0, 3)[:, None].expand(-1, rows, -1, -1, -1).unbind()
        return list(zip(layers[::2], layers[1::2], strict=True))


class _PrefixLayer(DynamicLayer):  # type: ignore[misc] # untyped in transformers
    """A layer of a cache that stays as it is, so that a block can be computed again for its gradient."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the prefix and what follows it, in the dtype of the latter."""
        keys, values = self.keys.to(key_states.dtype), self.values.to(value_states.dtype)
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)


def insert_prefix(model: nn.Module, tokens: int, *, generator: torch.Generator | None = None) -> Prefix:
    """Insert a prefix into a network, in place. Its own parameters stay as they are.

    The prefix starts as the keys and values of random tokens. Li and Liang found that this trains better than random
    numbers (section 7.4).

    Args:
        model: a transformers causal language model.
        tokens: number of virtual tokens.
        generator: draws the tokens; None takes the first ones of the vocabulary.

    Raises:
        ModelError: the architecture has no keys and values of one shape in every layer.
    """
    network = cast(Any, model)
    vocabulary, device = network.get_input_embeddings().weight.shape[0], next(model.parameters()).device
    ids = torch.arange(tokens) % vocabulary
    if generator is not None:
        ids = torch.randint(vocabulary, (tokens,), generator=generator)
    prefix = Prefix(_states(network, ids.to(device)))
    model.add_module(NAME, prefix)
    body = owner_of_blocks(model)  # OPT's head calls it past its base model
    body.register_forward_pre_hook(partial(_prepend, prefix), with_kwargs=True)
    return prefix


def prefix_of(model: nn.Module) -> Prefix | None:
    """Return the prefix of a network; None if it has none."""
    prefix = model._modules.get(NAME)
    return prefix if isinstance(prefix, Prefix) else None


def room_beside(tokens: int, config: Any, limit: int | None) -> int | None:
    """Return how many tokens a sequence can have beside a prefix; None if there is no limit.

    A layer with a window stops seeing the prefix of a longer sequence.

    Args:
        tokens: number of virtual tokens; 0 for no prefix.
        config: configuration of the network.
        limit: largest length without a prefix; None for no limit.
    """
    limits = [value for value in (limit, window_of(config) if tokens else None) if value is not None]
    return min(limits) - tokens if limits else None


def window_of(config: Any) -> int | None:
    """Return the number of tokens that the layers with a sliding window attend to; None without such layers."""
    return next(iter(windows_of(config)), None)


def windows_of(config: Any) -> tuple[int, ...]:
    """Return the numbers of tokens that the layers with a sliding window attend to, layer by layer."""
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    count = config.num_hidden_layers if kinds is None and window else (kinds or []).count("sliding_attention")
    return (window,) * count if window else ()


def _states(network: Any, ids: Tensor) -> Tensor:
    """Return the keys and values of a sequence as `Prefix` has them."""
    with torch.no_grad():
        cache = getattr(network(input_ids=ids[None], use_cache=True), "past_key_values", None)
    parts = [part for layer in getattr(cache, "layers", ()) for part in (layer.keys, layer.values)]
    known = [isinstance(part, Tensor) and part.shape == parts[0].shape and part.dim() == 4 for part in parts]
    if len(parts) != 2 * network.config.num_hidden_layers or not all(known) or parts[0].shape[2] != len(ids):
        raise ModelError(
            "does not keep keys and values of one shape in every layer, which a prefix consists of",
            where=type(network).__name__,
            hint="use another method",
        )
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    return torch.stack([part[0].to(dtype) for part in parts]).permute(2, 0, 1, 3).contiguous()


def _prepend(
    prefix: Prefix, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let a forward pass without a cache begin after the prefix; a caller with its own cache prepends it there."""
    if kwargs.get("past_key_values") is not None:
        return args, kwargs
    tokens = kwargs.get("input_ids")
    tokens = args[0] if tokens is None else tokens
    changes: dict[str, Any] = {"past_key_values": prefix.cache(len(tokens))}
    if (mask := kwargs.get("attention_mask")) is not None:
        changes["attention_mask"] = torch.cat([mask.new_ones(len(mask), len(prefix)), mask], 1)
    if (positions := kwargs.get("position_ids")) is not None:
        changes["position_ids"] = positions + len(prefix)
    return args, {**kwargs, **changes}
