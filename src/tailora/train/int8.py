"""Frozen linear layers in 8 bits: weights one scale an output, activations and gradients one scale a row.

Row-wise int8 products forward and for the gradient of the input, and none for that of the weight, which is frozen:
the scheme of SwitchBack (Wortsman et al. 2023, arXiv:2304.13013) in LoRA's case. The products are oneDNN's on a CPU
with VNNI instructions, four times as fast as fp32 there; the adapter's own branch, the norms, attention and the loss
stay in fp32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from tailora.errors import TrainingError
from tailora.lora.layers import kind_of
from tailora.train.loss import CHUNK

_ROWS, _SHIFT = CHUNK, 397  # rows the head is given at once, and how far apart they read the noise
_STEPS = 255 * (1 - 2**-15)  # so that a 1 with a draw below 1 added stays below 256 in fp32
_ZERO = 128  # of the activations: the kernels that are fast take them unsigned


class _Int8Matrix:
    """A matrix [out, in] that rows [rows, in] are multiplied with."""

    def __init__(self, weight: Tensor) -> None:
        peak = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny)
        self.scales = (peak / 127).float()
        self.zeros = torch.zeros(len(peak), dtype=torch.int64)
        whole = (weight / self.scales[:, None]).round_().to(torch.int8).contiguous()
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)

    def product(self, rows: Tensor, zero: int) -> Tensor:
        """u8 [rows, in] with a zero point, to fp32 [rows, out]."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, zero, self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out


def _quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to u8 around 128, and the scale of each, [rows, 1]."""
    peak = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True)).clamp_(min=1e-30)
    # Truncation of a positive number after adding a half rounds it.
    return torch.mul(x, 127 / peak).add_(_ZERO + 0.5).to(torch.uint8), peak / 127


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8Linear) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        rows, scale = _quantise(x.reshape(-1, x.shape[-1]))
        y = layer.forth.product(rows, _ZERO)
        y = y.mul_(scale) if layer.bias is None else torch.addcmul(layer.bias, y, scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale = _quantise(grad.reshape(-1, grad.shape[-1]))
        return ctx.layer.back.product(rows, _ZERO).mul_(scale).view(ctx.shape), None


class Int8Linear(nn.Module):
    """A frozen linear layer, GPT-2's Conv1D among them, whose weight is kept in 8 bits for each direction.

    Args:
        weight: [out, in].
        bias: [out], kept in fp32.
        shape: of the weight as the base layer stores it.

    Attributes:
        weight: has the shape that the base layer's had, and no values.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
        super().__init__()
        self.forth = _Int8Matrix(weight.detach())
        self.back = _Int8Matrix(weight.detach().t())
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)
        self.register_buffer("weight", torch.empty(shape, device="meta"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] to [..., out]."""
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y


class Int8Head:
    """A frozen vocabulary projection in 8 bits; see `loss.FrozenHead`."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        self.mean_row = self.weight.mean(0)
        self._forth = _Int8Matrix(self.weight)
        self._back = _Int8Matrix(self.weight.t())
        self._generator = torch.Generator().manual_seed(0)
        self._noise = torch.rand(weight.shape[0] + (_ROWS + 1) * _SHIFT, generator=self._generator)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `loss.FrozenHead`."""
        rows, scale = _quantise(hidden)
        return self._forth.product(rows, _ZERO).mul_(scale)

    def back(self, exponentials: Tensor) -> Tensor:
        """See `loss.FrozenHead`.

        Rounded at random: most of a row is far below a 255th of its peak, and rounded to the nearest all of that
        would be lost. Each row reads the same draws from another place on, so that the rows' errors do not add up.
        """
        rows, tokens = exponentials.shape
        assert rows <= _ROWS
        start = int(torch.randint(_SHIFT, (), generator=self._generator))
        noise = self._noise.as_strided((rows, tokens), (_SHIFT, 1), start)
        whole = exponentials.mul_(_STEPS).add_(noise).to(torch.uint8)
        return self._back.product(whole, 0).div_(_STEPS)

    def weight_rows(self, tokens: Tensor) -> Tensor:
        """See `loss.FrozenHead`."""
        return self.weight[tokens]


def require() -> None:
    """Raise where this PyTorch or CPU lacks the products that this module calls.

    Raises:
        TrainingError: on such a machine.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):  # type: ignore[no-untyped-call]
        raise TrainingError(
            "int8 training needs an x86 CPU with VNNI instructions", where="precision", mend="use fp32 or bf16"
        )


@torch.no_grad()
def quantise_frozen(model: nn.Module) -> Int8Head | None:
    """Replace every frozen linear layer, those held by adapters among them, by its 8-bit form.

    Args:
        model: a transformers causal language model with what learns marked by `requires_grad`.

    Returns:
        The vocabulary projection in 8 bits, for `forward.TreeModel`; the network keeps its own, whose weight may be
        the embedding's. None where the projection learns, carries an adapter, or has a bias.
    """
    head = cast(Any, model).get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            kind = kind_of(child)
            if child is head or kind not in ("linear", "gpt2_conv1d"):
                continue
            weight = cast(Tensor, child.weight)
            bias = cast("Tensor | None", getattr(child, "bias", None))
            if not any(parameter.requires_grad for parameter in child.parameters()):
                setattr(module, name, Int8Linear(weight if kind == "linear" else weight.t(), bias, weight.shape))
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    return Int8Head(head.weight) if plain else None
