"""The memory of an update, counted by running it on tensors without values (`torch._subclasses.fake_tensor`).

The run's own network computes its own trees, so that what is kept for the gradient, what is short-lived, and what
gradient checkpointing saves follow from the operations themselves. A tensor counts from the operation that creates it
until nothing refers to it. Buffers within an operation are not seen. Of many equal blocks in a row, three are run, and
the one in the middle counts as often as needed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tailora.core.errors import ModelError
from tailora.models.blocks import blocks_of, keep_blocks
from tailora.training.precision import Context
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, training_mode
from tailora.training.trees.prefix_tree import TreeBatch


@contextmanager
def without_values() -> Iterator[None]:
    """Return a context in which tensors have a shape, a type and a device, but no values and no memory.

    Raises:
        ModelError: something in the context depends on the values of tensors, or PyTorch cannot tell the shape of an
            operation's result.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"its memory cannot be planned without its weights: {reason}") from error


def pass_bytes(model: nn.Module, trees: TreeBatch, settings: TrainSettings, autocast: Context, *, first: bool) -> int:
    """Count the bytes that a pass of an update needs at its peak, in addition to the network and the optimizer.

    They are those of the gradients, of what the forward pass keeps for them, and of everything short-lived.

    Args:
        model: a transformers causal language model whose parameters have no values (`without_values`), in the types
            of the run. Its learning parameters have `requires_grad`. It is shortened.
        trees: the trees of the pass.
        settings: the settings of the run.
        autocast: returns the context that forward passes run in.
        first: whether the pass is the first of its update. Gradients exist before any other.

    Raises:
        ModelError: the model's attention cannot be replaced by attention over trees.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = 0 if first else sum(parameter.numel() * parameter.element_size() for parameter in learning)
    repeated = _shorten(model)
    for parameter in () if first else learning:
        parameter.grad = torch.empty_like(parameter)
    live = _LiveBytes()
    with TreeModel(model, checkpointing=settings.gradient_checkpointing) as network, live:
        _mark_blocks(model, live)
        training_mode(model)
        with autocast():
            loss = network.loss(trees, label_smoothing=settings.label_smoothing)
        loss.backward()
        live.mark(None)
    return before + _peak(live.spans, repeated)


def _shorten(model: nn.Module) -> dict[nn.Module, int]:
    """Remove all but three of many equal blocks in a row; return how many each of those in the middle stands for."""
    blocks, kept, repeated = blocks_of(model), list[nn.Module](), dict[nn.Module, int]()
    for _, group in groupby(blocks, key=_form):
        equal = list(group)
        if len(equal) > 3:
            repeated[equal[1]] = len(equal) - 2
            equal = [*equal[:2], equal[-1]]
        kept += equal
    keep_blocks(model, kept)
    return repeated


def _form(block: nn.Module) -> Any:
    """Return what blocks have in common that need the same memory."""
    return [
        (name, parameter.shape, parameter.dtype, parameter.requires_grad)
        for name, parameter in block.named_parameters()
    ]


class _Span(NamedTuple):
    """The bytes of a part of a pass.

    Attributes:
        block: the block that the part belongs to, if it belongs to one.
        rise: how much its peak is above its start.
        change: how much its end is above its start.
    """

    block: nn.Module | None
    rise: int
    change: int


def _mark_blocks(model: nn.Module, live: _LiveBytes) -> None:
    """Give each block its own spans, one in the forward and one in the backward pass."""

    def before(block: nn.Module, _: Any) -> None:
        live.mark(None)

    def after(block: nn.Module, _: Any, result: Any) -> None:
        live.mark(block)
        states = result[0] if isinstance(result, tuple) else result
        if states.requires_grad:
            states.register_hook(lambda _: live.begin(block))

    for block in blocks_of(model):
        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)


def _peak(spans: list[_Span], repeated: dict[nn.Module, int]) -> int:
    now = peak = 0
    for span in spans:
        times = 1 if span.block is None else repeated.get(span.block, 1)
        peak = max(peak, now + span.rise, now + (times - 1) * span.change + span.rise)
        now += times * span.change
    return peak


class _Count:
    """Bytes at the moment and at their peak.

    Storages keep this object. It does not refer to blocks as `_LiveBytes` does, which would keep storages in turn.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0

    def add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def subtract(self, size: int) -> None:
        self.now -= size


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations create while the mode is on, as long as they live.

    Attributes:
        spans: the parts of the pass so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spans: list[_Span] = []
        self._bytes, self._start = _Count(), 0
        self._block: nn.Module | None = None
        self._known = weakref.WeakKeyDictionary[Any, None]()

    def mark(self, block: nn.Module | None) -> None:
        """End a span, which belongs to a block or, with None, to the one that it began with."""
        owner = self._block if block is None else block
        self.spans.append(_Span(owner, self._bytes.peak - self._start, self._bytes.now - self._start))
        self._start = self._bytes.peak = self._bytes.now
        self._block = None

    def begin(self, block: nn.Module) -> None:
        """End a span and begin one that belongs to a block."""
        self.mark(None)
        self._block = block

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in inputs:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = None
        self._bytes.add(size)
        weakref.finalize(storage, self._bytes.subtract, size)
