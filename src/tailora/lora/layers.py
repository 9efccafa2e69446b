"""Layers that wrap a frozen base layer and add a trainable low-rank branch.

They carry one adapter, for training and exact merging; the engine serves many adapters at once. `train()` and `eval()`
switch only the dropout; a layer never merges by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.adapters.adapter import LayerKind


@dataclass(frozen=True)
class BranchShape:
    """The shape of one branch.

    Attributes:
        rank: inner dimension of its factors.
        scale: the factor before `B A x`, already alpha/rank or alpha/√rank.
        rows: the half-open range of outputs that it writes; None for all.
    """

    rank: int
    scale: float
    rows: tuple[int, int] | None = None


class Branch(nn.Module):
    """One pair of factors.

    Attributes:
        lora_A: [rank, in]; embedding [rank, entries]; convolution [rank, in/groups, *kernel].
        lora_B: [rows, rank]; convolution [rows, rank/groups, 1, …].
        scale: the factor before `B A x`, already alpha/rank or alpha/√rank.
        rows: the half-open range of outputs that B writes, None for all.
    """

    def __init__(self, lora_A: Tensor, lora_B: Tensor, scale: float, rows: tuple[int, int] | None) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(lora_A)
        self.lora_B = nn.Parameter(lora_B)
        self.scale = scale
        self.rows = rows

    def extra_repr(self) -> str:
        """Return rank, scale and rows, for `print(model)`."""
        return f"rank={self.lora_A.shape[0]}, scale={self.scale:g}, rows={self.rows or 'all'}"


class LoraLayer(nn.Module):
    """Base of the four kinds of adapted layers: `y = base(x) + Σ scale · B A dropout(x)`, and DoRA's rescaling.

    A and B are stored in fp32 (fp64 with an fp64 base) and cast to the dtype of the activations. All other attributes
    are those of the base layer, so that code that reads `layer.weight` or `layer.in_features` works unchanged.

    Args:
        base: the layer to adapt; it is not copied, and the caller freezes it.
        branches: one shape for the whole layer, or one for each slice of a fused projection.
        dropout_p: probability of dropping an input of the branch while training.
        dora: learn a magnitude for each output (Liu et al. 2024, arXiv:2402.09353).
        generator: the source of A's initial values, on the CPU.
    """

    kind: ClassVar[LayerKind]

    def __init__(
        self,
        base: nn.Module,
        branches: Sequence[BranchShape],
        *,
        dropout_p: float = 0.0,
        dora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.dropout_p = dropout_p
        weight = self.base_weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        pairs = (self._initial_pair(shape, dtype, generator) for shape in branches)
        self.branches = nn.ModuleList(
            Branch(a.to(weight.device), b.to(weight.device), shape.scale, shape.rows)
            for shape, (a, b) in zip(branches, pairs, strict=True)
        )
        self.magnitude = nn.Parameter(self.weight_norm()) if dora else None
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    @property
    def base_weight(self) -> Tensor:
        """The frozen weight as the base layer stores it."""
        return cast(Tensor, self.base.weight)

    @property
    def pairs(self) -> list[Branch]:
        """The branches, typed."""
        return cast("list[Branch]", list(self.branches))

    @property
    def out_features(self) -> int:
        """Number of outputs; of a convolution, number of output channels."""
        return int(self._output_first(self.base_weight).shape[0])

    def a_shape(self, rank: int) -> tuple[int, ...]:
        """Return the shape of A at a rank."""
        return (rank, *self._output_first(self.base_weight).shape[1:])

    def b_shape(self, rank: int, rows: int) -> tuple[int, ...]:
        """Return the shape of B at a rank, for a number of outputs."""
        return (rows, rank)

    def rank_fault(self, rank: int) -> str | None:
        """Return why this layer cannot have a rank; None if it can."""
        return None

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return all branches as one pair in a dtype: A [R, in…] stacked, B [out, R…] in blocks, with the scales in B.

        R is the sum of the ranks. Gradients reach the branches through both. Only the small factors are cast.
        """
        pairs = self.pairs
        if len(pairs) == 1 and pairs[0].rows is None:
            return pairs[0].lora_A.to(dtype), (pairs[0].lora_B * pairs[0].scale).to(dtype)
        A = torch.cat([pair.lora_A for pair in pairs])
        B, done = [], 0
        for pair in pairs:
            rank = pair.lora_A.shape[0]
            low, high = pair.rows or (0, self.out_features)
            margins = (done, A.shape[0] - done - rank, low, self.out_features - high)
            B.append(F.pad(pair.lora_B * pair.scale, margins))
            done += rank
        return A.to(dtype), torch.stack(B).sum(0).to(dtype)

    def delta(self) -> Tensor:
        """Return `Σ scale · B A` with outputs first: [out, in…], in the branches' dtype."""
        A, B = self.factors(self.pairs[0].lora_A.dtype)
        return (B @ A.flatten(1)).view(self.out_features, *A.shape[1:])

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return the weight of base and branches together as a new tensor, in the base's dtype and layout.

        It is computed in the branches' dtype (fp32) and rounded once at the end.
        """
        delta = self.delta()
        merged = self._output_first(self.base_weight).to(delta.dtype) + delta
        if self.magnitude is not None:
            merged = self._per_output(self.magnitude / self.weight_norm(), merged) * merged
        return self._output_first(merged).to(self.base_weight.dtype).contiguous()

    @torch.no_grad()
    def weight_norm(self) -> Tensor:
        """Return the norm of each row of `W + scale · B A`, [out], without a gradient (DoRA, section 4.3)."""
        delta = self.delta()
        adapted = self._output_first(self.base_weight).to(delta.dtype) + delta
        norm: Tensor = torch.linalg.vector_norm(adapted.flatten(1), dim=1)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted layer's output, in the base layer's dtype."""
        y: Tensor = self.base(x)
        A, B = self.factors(y.dtype)
        if self.magnitude is not None:
            factor_O = self.magnitude / self.weight_norm()
            B = self._per_output(factor_O, B).to(y.dtype) * B
            bias = getattr(self.base, "bias", None)
            unbiased = y if bias is None else y - self._along_outputs(bias, y)
            # The factor stays near 1: its distance from 1 survives a cast to bf16, the factor itself would not.
            y = torch.addcmul(y, unbiased, self._along_outputs((factor_O - 1).to(y.dtype), y))
        return self._add_branch(y, self._compress(x, A.to(y.dtype)), B)

    def _initial_pair(
        self, shape: BranchShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return A, Kaiming-uniform with a=√5, and B, zero, as in the LoRA reference implementation (loralib)."""
        low, high = shape.rows or (0, self.out_features)
        a = torch.empty(self.a_shape(shape.rank), dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        return a, torch.zeros(self.b_shape(shape.rank, high - low), dtype=dtype)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout_p) if self.training and self.dropout_p > 0 else x

    def _output_first(self, weight: Tensor) -> Tensor:
        """Convert a weight from the base's layout to [out, in…] or back; the function is its own inverse."""
        return weight

    def _along_outputs(self, values_O: Tensor, y: Tensor) -> Tensor:
        """Reshape one value per output, [out], so that it broadcasts over the layer's output."""
        return values_O

    def _compress(self, x: Tensor, A: Tensor) -> Tensor:
        raise NotImplementedError

    def _add_branch(self, y: Tensor, z: Tensor, B: Tensor) -> Tensor:
        """Return y + z Bᵀ, computed as one product that accumulates into the base's output."""
        flat = torch.addmm(y.flatten(0, -2) if y.dim() > 1 else y[None], z.reshape(-1, z.shape[-1]), B.t())
        return flat.view(y.shape)

    @staticmethod
    def _per_output(values_O: Tensor, like: Tensor) -> Tensor:
        return values_O.view(-1, *[1] * (like.dim() - 1))


class LoraLinear(LoraLayer):
    """`nn.Linear` with a branch."""

    kind: ClassVar[LayerKind] = "linear"

    def _compress(self, x: Tensor, A: Tensor) -> Tensor:
        return F.linear(self._dropped(x), A)


class LoraConv1D(LoraLinear):
    """GPT-2's Conv1D, a linear layer that stores its weight as [in, out], with a branch."""

    kind = "gpt2_conv1d"

    def _output_first(self, weight: Tensor) -> Tensor:
        return weight.t()


class LoraEmbedding(LoraLayer):
    """`nn.Embedding` with a branch: A [rank, entries] is looked up, B [dim, rank] projects; no dropout on indices."""

    kind = "embedding"

    def _initial_pair(
        self, shape: BranchShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return A, zero, and B, normally distributed, as in the LoRA reference implementation of embeddings."""
        a = torch.zeros(self.a_shape(shape.rank), dtype=dtype)
        return a, torch.empty(self.b_shape(shape.rank, self.out_features), dtype=dtype).normal_(generator=generator)

    def _output_first(self, weight: Tensor) -> Tensor:
        return weight.t()

    def _compress(self, x: Tensor, A: Tensor) -> Tensor:
        base = cast(nn.Embedding, self.base)
        looked_up = F.embedding(x, A.t(), base.padding_idx, scale_grad_by_freq=base.scale_grad_by_freq)
        scale = getattr(base, "embed_scale", None)  # Gemma multiplies what it looks up
        return looked_up if scale is None else looked_up * scale


class LoraConv(LoraLayer):
    """`nn.Conv1d`, `Conv2d` or `Conv3d` with a branch: A convolves as the base does, B is a 1×1 convolution.

    In a grouped convolution, A and B are grouped as well, so that the update has the base's shape and can be merged.
    The rank must then be a multiple of the number of groups.
    """

    kind = "conv"

    @property
    def _conv(self) -> nn.Conv1d:
        return cast(nn.Conv1d, self.base)

    def b_shape(self, rank: int, rows: int) -> tuple[int, ...]:
        """Return the shape of B at a rank, for a number of output channels."""
        return (rows, rank // self._conv.groups, *[1] * len(self._conv.kernel_size))

    def rank_fault(self, rank: int) -> str | None:
        """Return a message unless the rank is a multiple of the number of groups."""
        groups = self._conv.groups
        return f"rank {rank} is not a multiple of the convolution's {groups} groups" if rank % groups else None

    def delta(self) -> Tensor:
        """Return `scale · B A` as a kernel, [out, in/groups, *kernel]."""
        A, B = self.factors(self.pairs[0].lora_A.dtype)
        groups = self._conv.groups
        blocks = B.flatten(1).view(groups, -1, B.shape[1]) @ A.flatten(1).view(groups, B.shape[1], -1)
        return blocks.view(self.base_weight.shape)

    def _along_outputs(self, values_O: Tensor, y: Tensor) -> Tensor:
        return values_O.view(-1, *[1] * len(self._conv.kernel_size))

    def _compress(self, x: Tensor, A: Tensor) -> Tensor:
        z: Tensor = self._conv._conv_forward(self._dropped(x), A, None)
        return z

    def _add_branch(self, y: Tensor, z: Tensor, B: Tensor) -> Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self._conv.kernel_size) - 1]
        return y + convolve(z, B, groups=self._conv.groups)


def dropout(x: Tensor, p: float) -> Tensor:
    """Apply inverted dropout; on a CPU, whose generator is sequential, each random word decides over four values.

    Args:
        x: a tensor of any shape.
        p: probability of dropping a value, on a CPU rounded to a multiple of 2^-16.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p, training=True)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    return x.masked_fill(drawn < round(p * 2**16) - 2**15, 0) * (1 / (1 - p))


LAYERS: dict[LayerKind, type[LoraLayer]] = {
    "linear": LoraLinear,
    "gpt2_conv1d": LoraConv1D,
    "embedding": LoraEmbedding,
    "conv": LoraConv,
}


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a module that can be adapted; None if it cannot.

    Subclasses with another `forward` are excluded. Quantised layers are among them: rounding to 4 or 8 bits would
    remove a merged update. The output projection of `nn.MultiheadAttention` is excluded as well, since its weight is
    used without its `forward`. GPT-2's Conv1D is recognised by its name and attributes, so that transformers need not
    be installed.
    """
    forward = type(module).forward
    if isinstance(module, nn.Linear):
        skipped = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        return "linear" if forward is nn.Linear.forward and not skipped else None
    if isinstance(module, nn.Embedding):
        known = forward is nn.Embedding.forward or hasattr(module, "embed_scale")
        return "embedding" if known and module.max_norm is None and not module.sparse else None
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv" if forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward) else None
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight"):
        return "gpt2_conv1d"
    return None
