"""A transformers causal language model for training: trees in, summed loss out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tailora.core.errors import ModelError
from tailora.core.hardware.memory import keep_freed_memory
from tailora.data.examples import Example
from tailora.inserts.prefix import prefix_of
from tailora.lora.layers import LoraLayer
from tailora.models.blocks import blocks_of
from tailora.models.load import quiet_transformers
from tailora.training.fused import fuse
from tailora.training.sharded import computed
from tailora.training.trees import attention as tree_attention
from tailora.training.trees.attention import tree_masks
from tailora.training.trees.loss import (
    FrozenHead,
    LogitsForm,
    PlainHead,
    frozen_head_loss,
    general_head_loss,
    scored,
)
from tailora.training.trees.prefix_tree import TreeBatch, build

GPU_ROWS = 128
"""On a GPU, rows are padded to a multiple of this, since every new number of rows triggers kernel selection."""


class TreeModel:
    """A context manager in which a model runs on batches of trees; the model's own attention is restored at the end.

    Args:
        model: a transformers causal language model whose learning parameters have `requires_grad`.
        head: a frozen vocabulary projection to score with; by default the model's own.
        checkpointing: keep only the inputs of the blocks for the gradient, and compute each block again.

    Attributes:
        windows: the windows, in tokens, of the layers that attended to trees in the last forward pass; None for layers
            without one.

    Raises:
        ModelError: the model has no plain vocabulary projection, or, on entering, its attention cannot be replaced.
    """

    def __init__(self, model: nn.Module, *, head: FrozenHead | None = None, checkpointing: bool = False) -> None:
        self.model, self._checkpointing = cast(Any, model), checkpointing
        self.body = cast(nn.Module, self.model.base_model)
        projection = self.model.get_output_embeddings()
        if projection is None or self.body is model:
            raise ModelError("is not a causal language model with a vocabulary projection", where=type(model).__name__)
        self.projection = cast(nn.Module, projection)
        self._frozen, self._form = head, LogitsForm.of(self.model.config)
        self._attention: str | None = None
        self.windows: tuple[int | None, ...] = ()

    def __enter__(self) -> Self:
        self._attention = self.model.config._attn_implementation
        if not self._takes(tree_attention.NAME):
            raise ModelError(
                f"the architecture {self.model.config.model_type!r} has its own attention, which cannot be "
                "replaced by attention over prefix trees",
                where=type(self.model).__name__,
                hint="train another base model",
            )
        fuse(self.body)
        if self._checkpointing:
            for block in blocks_of(self.model):
                block.forward = partial(_checkpointed, block.forward)
        if self.device.type == "cpu":
            keep_freed_memory()
        return self

    def _takes(self, attention: str) -> bool:
        """Set the attention; return whether the architecture supports that, which transformers only logs."""
        try:
            with quiet_transformers():
                self.model.set_attn_implementation(attention)
        except ValueError:
            return False
        return bool(self.model.config._attn_implementation == attention)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._checkpointing:
            for block in blocks_of(self.model):
                del block.forward  # the class has its own
        self._takes(cast(str, self._attention))

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return next(self.body.parameters()).device

    def hidden(self, batch: TreeBatch) -> Tensor:
        """Return the states of all nodes after the last normalisation, [N, width]."""
        device, dtype = self.device, cast(torch.dtype, self.model.dtype)
        nodes, prefix = len(batch), prefix_of(self.model)
        rows = nodes if device.type == "cpu" else -(-nodes // GPU_ROWS) * GPU_ROWS
        masks = tree_masks(batch, dtype, device, rows=rows, prefix=0 if prefix is None else len(prefix))
        states = self.body(
            input_ids=_filled(batch.tokens, rows, device)[None],
            position_ids=_filled(batch.positions, rows, device)[None],
            tree=masks,
            use_cache=False,
        ).last_hidden_state
        self.windows = tuple(masks.windows)
        return cast(Tensor, states[0, :nodes])

    def loss(self, batch: TreeBatch, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss summed over completion tokens, in nats; divide by `batch.completion_tokens` for the mean."""
        return computed(self.model, lambda: self._loss(batch, label_smoothing))

    def _loss(self, batch: TreeBatch, label_smoothing: float) -> Tensor:
        hidden = self.hidden(batch) * self._form.factor
        targets = scored(batch, hidden.device)
        head = self._frozen_head()
        if head is None:
            return general_head_loss(hidden, lambda x: self._form(self.projection(x)), targets, label_smoothing)
        return frozen_head_loss(hidden, head, targets, label_smoothing)

    def _frozen_head(self) -> FrozenHead | None:
        """Return the head if it neither learns nor carries an adapter and its logits are not capped; otherwise None."""
        head = self.projection
        if self._form.cap:
            return None
        if self._frozen is None and type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()):
            self._frozen = PlainHead(head.weight, head.bias)
        return self._frozen


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Run a block; where a gradient will be needed, keep its inputs only. Dropout draws the same numbers again."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)


def _filled(values: np.ndarray, rows: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.pad(values, (0, rows - len(values)))).to(device)


def passes(batch: Sequence[Example], most_nodes: int) -> Iterator[TreeBatch]:
    """Yield the trees of a batch, divided until each has at most `most_nodes` nodes or a single example."""
    trees = build(batch)
    if len(trees) <= most_nodes or len(batch) == 1:
        yield trees
    else:
        middle = len(batch) // 2
        yield from passes(batch[:middle], most_nodes)
        yield from passes(batch[middle:], most_nodes)


def training_mode(model: nn.Module) -> None:
    """Turn on the adapter's dropout, and keep the base in evaluation mode: its own dropout is off in every method.

    Trees compute a shared prefix once, and attention over them has no dropout. With only some of its dropout on, a
    base would train under conditions that match neither its configuration nor evaluation.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.training = True  # the layer's own flag: its base stays in eval mode


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients inside the context, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
