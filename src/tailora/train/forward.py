"""A transformers causal language model as the trainer runs it: trees in, summed loss out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from tailora.data.prefix_tree import TreeBatch
from tailora.errors import ModelError
from tailora.hardware import keep_freed_memory
from tailora.train import tree_attention
from tailora.train.loss import FrozenHead, PlainHead, frozen_head_loss, general_head_loss, scored
from tailora.train.tree_attention import tree_masks


class TreeModel:
    """Runs a model on batches of trees, as a context manager that gives it its own attention back at the end.

    Args:
        model: a transformers causal language model, its trainable parameters marked by `requires_grad`.
        head: the vocabulary projection to score with where it does not learn; by default the model's own.

    Raises:
        ModelError: if the model has no plain vocabulary projection over its body.
    """

    def __init__(self, model: nn.Module, *, head: FrozenHead | None = None) -> None:
        self.model = cast(Any, model)
        self.body = cast(nn.Module, self.model.base_model)
        projection = self.model.get_output_embeddings()
        if projection is None or self.body is model:
            raise ModelError(
                "this is no causal language model with a vocabulary projection", where=type(model).__name__
            )
        self.projection = cast(nn.Module, projection)
        self._frozen = head
        self._attention: str | None = None

    def __enter__(self) -> Self:
        fuse_activations(self.body)
        fuse_norms(self.body)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._attention = self.model.config._attn_implementation
        self.model.set_attn_implementation(tree_attention.NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.model.set_attn_implementation(self._attention)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters lie."""
        return next(self.body.parameters()).device

    def hidden(self, batch: TreeBatch) -> Tensor:
        """The states of all nodes after the last normalisation, [N, width]."""
        device, dtype = self.device, cast(torch.dtype, self.model.dtype)
        states = self.body(
            input_ids=torch.from_numpy(batch.tokens).to(device)[None],
            position_ids=torch.from_numpy(batch.positions).to(device)[None],
            tree=tree_masks(batch, dtype, device),
            use_cache=False,
        ).last_hidden_state
        return cast(Tensor, states[0])

    def loss(self, batch: TreeBatch, *, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over completion tokens, in nats; divide by `batch.completion_tokens` for the mean."""
        hidden = self.hidden(batch)
        targets = scored(batch, hidden.device)
        head = self._frozen_head()
        if head is None:
            return general_head_loss(hidden, self.projection, targets, label_smoothing)
        return frozen_head_loss(hidden, head, targets, label_smoothing)

    def _frozen_head(self) -> FrozenHead | None:
        """A head that neither learns nor carries an adapter, or None."""
        head = self.projection
        if self._frozen is None and type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()):
            self._frozen = PlainHead(head.weight, head.bias)
        return self._frozen


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) · weight, the weight frozen: half the passes over memory that the operations one by one take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = x * inverse
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, inverse, weight = ctx.saved_tensors
        slope = grad * weight
        along = torch.linalg.vecdot(slope, normal)[..., None].div_(-normal.shape[-1])
        return torch.addcmul(slope, normal, along).mul_(inverse), None, None


class FrozenRMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467) that does not learn.

    Args:
        weight: [width].
        eps: added to the mean square.
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] to the same."""
        return cast(Tensor, _RMSNorm.apply(x, self.weight, self.eps))  # type: ignore[no-untyped-call]


def fuse_norms(network: nn.Module) -> None:
    """Put `FrozenRMSNorm` where it computes what a frozen norm of the network does, in full precision on a CPU."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            weight, eps = getattr(child, "weight", None), getattr(child, "variance_epsilon", None)
            if not isinstance(weight, nn.Parameter) or not isinstance(eps, float) or weight.requires_grad:
                continue
            if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
                norm = FrozenRMSNorm(weight, eps)
                row = torch.linspace(-1, 2, len(weight), dtype=weight.dtype)
                # Some families' norms add 1 to the weight, or go by the same names and do something else.
                if torch.allclose(norm(row), child(row), rtol=1e-5, atol=1e-7):
                    setattr(module, name, norm)


def fuse_activations(network: nn.Module) -> None:
    """Put PyTorch's one-kernel GELU where transformers writes GPT-2's tanh form out in seven, each of which keeps its
    result for the gradient. The function is the same."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; the mode that was, after."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
