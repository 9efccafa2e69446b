"""The PyTorch backend: any causal language model of transformers, on any device.

It is simple rather than fast: a step gathers the cached keys and values of its sequences from their blocks into one
batch, and copies the new ones back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from tailora.engine.adapter_slots import GROUPED, AdapterSlots, LayerStack, SlotFactors
from tailora.engine.backend import Step, StepScores
from tailora.families import ends_in
from tailora.inserts.prefix import prefix_of, room_beside
from tailora.lora.layers import kind_of
from tailora.models.config import context_of
from tailora.models.load import Base

BLOCK = 32  # tokens of a block


class TorchBackend:
    """See `backend.Backend`.

    Args:
        base: the model, with an adapter attached or merged if all requests use it.
        cache_tokens: capacity of the cache in tokens; every sequence rounds up to blocks of 32.
        slots: number of adapters that a step can mix; 0 for the base as it is.
        rank: largest rank of an adapter in a layer.
        layers: the linear layers and token embeddings that can be adapted, by the ends of their module paths
            (`families.ends_in`).
        grouped: see `adapter_slots.AdapterSlots`.
    """

    def __init__(
        self,
        base: Base,
        *,
        cache_tokens: int = 16384,
        slots: int = 0,
        rank: int = 16,
        layers: tuple[str, ...] = (),
        grouped: int = GROUPED,
    ) -> None:
        self._model = base.model.eval()
        embedding = self._model.get_input_embeddings().weight
        self._device = embedding.device
        self.vocabulary = int(embedding.shape[0])
        self._prefix = prefix_of(self._model)
        self._before = 0 if self._prefix is None else len(self._prefix)  # virtual tokens before every sequence
        self.context = room_beside(self._before, self._model.config, context_of(self._model.config)) or cache_tokens
        self.block_size, self.blocks = BLOCK, -(-cache_tokens // BLOCK)
        chosen = {path: layer for path, layer in self._model.named_modules() if slots and _ends(path, layer, layers)}
        stacks = [LayerStack.single(path, *_widths(layer)) for path, layer in chosen.items()]
        self.adapter_slots = AdapterSlots(
            stacks, slots=slots, rank=rank, grouped=grouped, base_fingerprint=base.fingerprint
        )
        width = self.adapter_slots.groups * self.adapter_slots.grouped
        self._owners = torch.arange(width, device=self._device).repeat_interleave(rank)
        self._own: Tensor | None = None  # [S, C, G · W] of the step that is running
        self._scales: Tensor | None = None  # [S, C, G · W]
        for path, layer in chosen.items():
            layer.register_forward_hook(self._branch(self.adapter_slots.factors[path]))
        self._caches: list[tuple[Tensor, Tensor]] = []

    def run(self, step: Step) -> StepScores:
        """See `backend.Backend`."""
        with torch.inference_mode():
            places = self._side_by_side(step)
            if len(places) == 1:
                return self._run(step)
            results = [(own, self._run(_part(step, own))) for own in places]
        of_row = np.searchsorted(step.begins, step.sampled, side="right") - 1  # the sequence of each row of logits
        order = np.argsort(np.concatenate([np.flatnonzero(np.isin(of_row, own)) for own, _ in results]), kind="stable")
        parts = [scores for _, scores in results]
        logits, tokens, log_z = (
            np.concatenate([getattr(part, name) for part in parts])[order] for name in ("logits", "tokens", "log_z")
        )
        return StepScores(logits, tokens, log_z)

    def copy_blocks(self, pairs: Iterable[tuple[int, int]]) -> None:
        """See `backend.Backend`."""
        with torch.inference_mode():
            for source, target in pairs:
                for part in itertools.chain.from_iterable(self._caches):
                    part[target] = part[source]

    def plain_logits(self, tokens: list[int]) -> np.ndarray:
        """Return the logits [tokens, vocabulary] after each token of a sequence, without cache and adapters."""
        shape = 1, len(tokens)
        self._own = torch.zeros(*shape, len(self._owners), dtype=torch.bool, device=self._device)
        self._scales = torch.zeros(*shape, len(self._owners), device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=torch.tensor([tokens], device=self._device), use_cache=False).logits[0]
        values: np.ndarray = logits.float().cpu().numpy()
        return values

    def _side_by_side(self, step: Step) -> list[np.ndarray]:
        """Divide the sequences of a step into batches whose rows are not longer than the context.

        The length of a row is the longest past plus the largest number of new tokens, which may belong to two
        sequences. Some architectures have position tables that end with the context.
        """
        counts = np.diff(step.begins)
        every = np.arange(len(counts))
        if step.past.max() + counts.max() <= self.context:
            return [every]
        writing = every[counts == 1]
        return [group for group in (writing, *every[counts > 1][:, None]) if len(group)]

    def _run(self, step: Step) -> StepScores:
        counts = np.diff(step.begins)
        sequences, most, past = len(counts), int(counts.max()), int(step.past.max())
        rows = np.repeat(np.arange(sequences), counts)
        columns = np.arange(len(step.tokens)) - step.begins[rows]
        tokens_SC = np.zeros((sequences, most), np.int64)
        positions_SC = np.zeros((sequences, most), np.int64)
        tokens_SC[rows, columns], positions_SC[rows, columns] = step.tokens, step.positions
        # Cached tokens are directly to the left of the new ones, so that the order is that of the positions.
        seen = np.arange(past + most) - past
        mask_ST = (seen >= -step.past[:, None]) & (seen < counts[:, None])
        mask_ST = np.pad(mask_ST, ((0, 0), (self._before, 0)), constant_values=True)
        self._choose(step, rows, columns, (sequences, most))
        output = self._model(
            input_ids=self._there(tokens_SC),
            attention_mask=self._there(mask_ST.astype(np.int64)),
            position_ids=self._there(positions_SC + self._before),
            past_key_values=self._gathered(step, past),
            use_cache=True,
        )
        self._keep(step, output.past_key_values, self._before + past, rows, columns)
        logits_KV = output.logits[self._there(rows[step.sampled]), self._there(columns[step.sampled])].float()
        best = logits_KV.topk(min(step.best, self.vocabulary)).indices
        log_z = logits_KV.logsumexp(-1)
        return StepScores(logits_KV.cpu().numpy(), best.int().cpu().numpy(), log_z.cpu().numpy())

    def _there(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _choose(self, step: Step, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        """Set the columns that each token keeps in the branches, and their factors."""
        if not self.adapter_slots.slots:
            return
        adapters = step.slots.shape[1]
        slots_SCA = np.full((*shape, adapters), -1, np.int64)
        scales_SCA = np.zeros((*shape, adapters), np.float32)
        slots_SCA[rows, columns], scales_SCA[rows, columns] = step.slots, step.scales
        owned = self._there(slots_SCA)[..., None] == self._owners
        self._own = owned.any(2)
        self._scales = torch.where(owned, self._there(scales_SCA)[..., None], 0.0).sum(2)

    def _branch(self, factors: SlotFactors) -> Any:
        a, b = torch.from_numpy(factors.a).flatten(0, 1), torch.from_numpy(factors.b)

        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            assert self._own is not None
            assert self._scales is not None
            tokens = self._own.shape[:2]  # OPT's feed-forward layers get them in one flat row
            if kind_of(layer) == "embedding":
                low = F.embedding(inputs[0], a.to(self._device).t()) * self._scales
                factor = getattr(layer, "embed_scale", None)  # Gemma multiplies what it looks up
                low = low if factor is None else low * factor
            else:
                low = inputs[0].float().reshape(*tokens, -1) @ a.to(self._device).t() * self._scales
            # Selected, not multiplied by 0: an overflow in another slot's columns must not become NaN here.
            own = torch.where(self._own, low, 0.0)
            added = torch.einsum("scgw,gwo->sco", own.reshape(*own.shape[:-1], len(b), -1), b.to(self._device))
            return output + added.to(output.dtype).reshape(output.shape)

        return add

    def _gathered(self, step: Step, past: int) -> DynamicCache:
        """Return the cached keys and values of the step's sequences, [S, heads, past, width], padded at the left.

        A prefix comes before them.
        """
        cache = DynamicCache()
        if self._prefix is not None:
            dtype = self._model.dtype
            for layer, (keys, values) in enumerate(self._prefix.pairs(len(step.past))):
                cache.update(keys.to(dtype), values.to(dtype), layer)
        if past == 0:
            return cache
        sequences = len(step.past)
        # Padding comes from the block that nobody writes: attention multiplies it by 0, which leaves NaN as it is.
        blocks = np.full((sequences, past), self.blocks, np.int64)
        places = np.zeros((sequences, past), np.int64)
        for number in range(sequences):
            count = int(step.past[number])
            own = step.blocks[step.block_begins[number] : step.block_begins[number + 1]]
            at = np.arange(count)
            blocks[number, past - count :], places[number, past - count :] = own[at // BLOCK], at % BLOCK
        where = self._there(blocks), self._there(places)
        for layer, (keys, values) in enumerate(self._caches):
            # [S, past, heads, width]
            cache.update(keys[where].transpose(1, 2), values[where].transpose(1, 2), layer)
        return cache

    def _keep(self, step: Step, cache: Any, past: int, rows: np.ndarray, columns: np.ndarray) -> None:
        """Copy the new keys and values, which come after `past` others, to their blocks."""
        places = step.past[rows] + columns
        blocks = step.blocks[step.block_begins[rows] + places // BLOCK]
        where = self._there(blocks.astype(np.int64)), self._there(places % BLOCK)
        source = self._there(rows), self._there(columns)
        for number, layer in enumerate(cache.layers):
            parts = layer.keys[:, :, past:], layer.values[:, :, past:]
            if number == len(self._caches):
                self._caches.append(
                    tuple(part.new_zeros(self.blocks + 1, BLOCK, part.shape[1], part.shape[3]) for part in parts)
                )
            for kept, part in zip(self._caches[number], parts, strict=True):
                kept[where] = part.transpose(1, 2)[source]


def _part(step: Step, own: np.ndarray) -> Step:
    """Return the part of a step with some of its sequences, in their order."""
    counts, block_counts = np.diff(step.begins), np.diff(step.block_begins)
    tokens = np.concatenate([np.arange(step.begins[number], step.begins[number + 1]) for number in own])
    blocks = [step.blocks[step.block_begins[number] : step.block_begins[number + 1]] for number in own]
    return Step(
        tokens=step.tokens[tokens],
        positions=step.positions[tokens],
        past=step.past[own],
        begins=np.cumsum([0, *counts[own]], dtype=np.int32),
        blocks=np.concatenate(blocks),
        block_begins=np.cumsum([0, *block_counts[own]], dtype=np.int32),
        slots=step.slots[tokens],
        scales=step.scales[tokens],
        sampled=np.flatnonzero(np.isin(tokens, step.sampled)).astype(np.int32),
        best=step.best,
    )


def _ends(path: str, layer: nn.Module, layers: tuple[str, ...]) -> bool:
    return ends_in(path, layers) and kind_of(layer) in ("linear", "gpt2_conv1d", "embedding")


def _widths(layer: nn.Module) -> tuple[int, int]:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    first, second = weight.shape
    return (second, first) if kind_of(layer) == "linear" else (first, second)
