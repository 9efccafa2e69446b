"""Frozen linear layers in 8 bits: weights one scale an output, activations and gradients one scale a row.

Row-wise int8 products forward and for the gradient of the input, and none for that of the weight, which is frozen:
the scheme of SwitchBack (Wortsman et al. 2023, arXiv:2304.13013) in LoRA's case. The products are oneDNN's: four
times as fast as fp32 on a CPU with VNNI instructions, less than twice with AVX2 alone. The adapter's own branch, the
norms, attention and the loss stay in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.core.errors import TrainingError
from tailora.lora.layers import LoraLayer, kind_of
from tailora.training.trees.forward import TreeModel, evaluation
from tailora.training.trees.loss import CHUNK
from tailora.training.trees.prefix_tree import TreeBatch

_ROWS, _SHIFT = CHUNK, 397  # rows the head is given at once, and how far apart they read the noise
_ROUND = 64  # rows of a product are filled up to a multiple of this
_STEPS = 255 * (1 - 2**-15)  # so that a 1 with a draw below 1 added stays below 256 in fp32
_SAMPLE = 128  # rows of inputs to measure
_FINER = 254  # steps into which a step of 8-bit rounding is divided by a second product
_COARSE = 0.012  # error of rounding inputs, relative to them, from which they get a second product
_ZERO = 128  # of the activations: the kernels that are fast take them unsigned


class _Int8Matrix:
    """A matrix [out, in] that rows [rows, in] are multiplied with.

    Without VNNI the products of two neighbours, up to 255 times each weight, are added in 16 bits, where a sum too
    large is cut off. There the weights' scales are such that no sum can be: about a third larger.
    """

    def __init__(self, weight: Tensor) -> None:
        peak = weight.abs().amax(1) if _sums_in_32_bits() else _pair_peak(weight)
        self.scales = (peak.clamp(min=torch.finfo(torch.float32).tiny) / 127).float()
        self.zeros = torch.zeros(len(peak), dtype=torch.int64)
        whole = (weight / self.scales[:, None]).round_().to(torch.int8).contiguous()
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)

    def product(self, rows: Tensor, zero: int, count: int) -> Tensor:
        """The first `count` rows that `_bytes` made, with a zero point, times the matrix: fp32 [count, out]."""
        return _product(rows, zero, self.packed, self.scales, self.zeros)[:count]


def _bytes(rows: Tensor) -> Tensor:
    """fp32 in [0, 256) cut to u8, with further rows of anything up to a multiple of 64.

    oneDNN compiles a kernel for every number of rows it meets and keeps it; so it meets few.
    """
    cut = rows.new_empty(-(-len(rows) // _ROUND) * _ROUND, rows.shape[1], dtype=torch.uint8)
    cut[: len(rows)].copy_(rows)
    return cut


def _pair_peak(weight: Tensor) -> Tensor:
    """The largest magnitude in each row, [out], of a sum of the positive or of the negative among two neighbours.

    At most 127 of it as a step each, two neighbours rounded come to 128 at most, and 255 times that is in 16 bits.
    """
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).view(len(weight), -1, 2)
    return torch.maximum(pairs.clamp(min=0).sum(2).amax(1), -pairs.clamp(max=0).sum(2).amin(1))


def _peak(rows: Tensor) -> Tensor:
    """The largest magnitude of each row, [rows, 1]; never 0."""
    return torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_(min=1e-30)


def _quantise(x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows, times one factor a column, to u8 around 128 as `_bytes` has them, and the scale of each, [rows, 1]."""
    evened = x if factors is None else x * factors
    peak = _peak(evened)
    scaled = torch.mul(x, 127 / peak) if factors is None else evened.mul_(127 / peak)
    # Truncation of a positive number after adding a half rounds it.
    return _bytes(scaled.add_(_ZERO + 0.5)), peak / 127


def _quantise_finely(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """As `_quantise`, with what rounding left over in steps of 1/254 of the first's, around 127, between."""
    evened = x.clone() if factors is None else x * factors
    peak = _peak(evened)
    scaled = evened.mul_(127 / peak).add_(_ZERO + 0.5)
    rows = _bytes(scaled)
    return rows, _bytes(scaled.frac_().mul_(_FINER).add_(0.5)), peak / 127


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Int8Projections) -> Tensor:
        ctx.layers, ctx.shape = layers, x.shape
        flat = x.reshape(-1, x.shape[-1])
        if layers.fine:
            rows, rest, scale = _quantise_finely(flat, layers.factors)
            y = layers.forth.product(rows, _ZERO, len(flat))
            y.add_(layers.forth.product(rest, _FINER // 2, len(flat)), alpha=1 / _FINER)
        else:
            rows, scale = _quantise(flat, layers.factors)
            y = layers.forth.product(rows, _ZERO, len(flat))
        y = y.mul_(scale) if layers.bias is None else torch.addcmul(layers.bias, y, scale, out=y)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat = grad.reshape(-1, grad.shape[-1])
        rows, scale = _quantise(flat)
        return ctx.layers.back.product(rows, _ZERO, len(flat)).mul_(scale).view(ctx.shape), None


class Int8Projections:
    """Frozen linear layers that take the same input, as one product in each direction.

    Args:
        weights: [out, in] of each layer.
        biases: [out] of each layer, or None; kept in fp32.
        inputs: [rows, in], some that they meet. With them, inputs are divided and the weights' columns multiplied by
            one factor each before either is rounded, so that a few large inputs do not drown the others: SmoothQuant
            (Xiao et al. 2023, arXiv:2211.10438) at its α of one half. Both sides are measured by root mean squares,
            every row relative to its peak, since that is what it is rounded by.

    Attributes:
        fine: whether the inputs, rounded even so with an error of more than 1.2%, get a second product for what
            rounding leaves over. Their factors go by α = 0.2, which is easier on the weights.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], inputs: Tensor | None = None
    ) -> None:
        weight = torch.cat([each.detach().float() for each in weights])
        self.sizes = [len(each) for each in weights]
        self.factors: Tensor | None = None
        self.fine = False
        if inputs is not None:
            inputs = inputs.float()
            columns, spread = _spread(weight), _spread(inputs)
            self.factors = (columns / spread).sqrt_()
            self.fine = _rounding_error(inputs * self.factors) > _COARSE
            if self.fine:
                self.factors = columns.pow(0.8) / spread.pow(0.2)
        self.forth = _Int8Matrix(weight if self.factors is None else weight / self.factors)
        self.back = _Int8Matrix(weight.t())
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            parts = zip(biases, self.sizes, strict=True)
            self.bias = torch.cat([torch.zeros(n) if bias is None else bias.detach().float() for bias, n in parts])
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def output(self, number: int, x: Tensor) -> Tensor:
        """One layer's output, […, in] to […, out]. The others' wait for them to be called with the same tensor."""
        if self._input is not x or number not in self._waiting:
            y = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            self._input, self._waiting = x, dict(enumerate(y.split(self.sizes, -1)))
        own = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return own


def _spread(rows: Tensor) -> Tensor:
    """The root mean square of each column, every row relative to its peak."""
    peaks = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
    return (rows / peaks).square_().mean(0).sqrt_().clamp_(min=1e-6)


def _rounding_error(rows: Tensor) -> float:
    """The expected error of rounding rows to 8 bits, relative to their norms: a step is 1/127 of the peak."""
    peaks, means = rows.abs().amax(1), rows.square().mean(1).sqrt()
    return float((peaks / means.clamp(min=torch.finfo(torch.float32).tiny)).median()) / (127 * 12**0.5)


class Int8Linear(nn.Module):
    """A frozen linear layer, GPT-2's Conv1D among them, as one of several that share their product.

    Args:
        projections: the layers that take the same input.
        number: which of them this is.
        shape: of the weight as the base layer stores it.

    Attributes:
        weight: has the shape that the base layer's had, and no values.
    """

    def __init__(self, projections: Int8Projections, number: int, shape: torch.Size) -> None:
        super().__init__()
        self.projections, self.number = projections, number
        self.register_buffer("weight", torch.empty(shape, device="meta"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        return self.projections.output(self.number, x)


class Int8Head:
    """A frozen vocabulary projection in 8 bits; see `loss.FrozenHead`."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        self.mean_row = self.weight.mean(0)
        self._forth = _Int8Matrix(self.weight)
        self._back = _Int8Matrix(self.weight.t())
        self.generator = torch.Generator().manual_seed(0)
        self._noise = torch.rand(weight.shape[0] + (_ROWS + 1) * _SHIFT, generator=self.generator)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `loss.FrozenHead`."""
        rows, scale = _quantise(hidden)
        return self._forth.product(rows, _ZERO, len(hidden)).mul_(scale)

    def back(self, exponentials: Tensor) -> Tensor:
        """See `loss.FrozenHead`.

        Rounded at random: most of a row is far below a 255th of its peak, and rounded to the nearest all of that
        would be lost. Each row reads the same draws from another place on, so that the rows' errors do not add up.
        """
        rows, tokens = exponentials.shape
        assert rows <= _ROWS
        start = int(torch.randint(_SHIFT, (), generator=self.generator))
        noise = self._noise.as_strided((rows, tokens), (_SHIFT, 1), start)
        whole = _bytes(exponentials.mul_(_STEPS).add_(noise))
        return self._back.product(whole, 0, rows).div_(_STEPS)

    def weight_rows(self, tokens: Tensor) -> Tensor:
        """See `loss.FrozenHead`. Rounded as `back` has them: where a token is all but certain, what is left of the
        gradient is the difference of the two, and rounding only one of them would drown it."""
        scales = self._back.scales
        return (self.weight[tokens] / scales).round_().mul_(scales)


def supported() -> bool:
    """Whether this PyTorch and CPU have the products that this module calls."""
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx2_supported())


@cache
def _sums_in_32_bits() -> bool:
    """Whether sums of 8-bit products are exact, as with VNNI instructions, and not cut off at 16 bits.

    Found by a product, not by the CPU's flags: `ONEDNN_MAX_CPU_ISA` may choose other instructions than the best.
    """
    size, largest = 64, 127
    matrix = torch.ops.onednn.qlinear_prepack(torch.full((size, size), largest, dtype=torch.int8), None)
    rows = torch.full((size, size), 255, dtype=torch.uint8)
    product = _product(rows, 0, matrix, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    return bool((product == size * largest * 255).all())


def _product(rows: Tensor, zero: int, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Multiply u8 rows [rows, in] with zero point `zero` by a packed int8 matrix: fp32 [rows, out]."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def require() -> None:
    """Raise where this PyTorch or CPU lacks the products that this module calls.

    Raises:
        TrainingError: on such a machine.
    """
    if not supported():
        raise TrainingError(
            "int8 training needs an x86 CPU with AVX2 instructions", where="precision", hint="use fp32 or bf16"
        )


@torch.no_grad()
def quantise_frozen(model: nn.Module, sample: TreeBatch) -> Int8Head | None:
    """Replace every frozen linear layer, those held by adapters among them, by its 8-bit form.

    GELU's tanh form gives way to its exact form, whose kernel takes a fifth of the time: they differ by less than
    0.0005, a small part of a step of 8-bit rounding.

    Args:
        model: a transformers causal language model with what learns marked by `requires_grad`.
        sample: data to see the size of each layer's inputs on.

    Returns:
        The vocabulary projection in 8 bits, for `forward.TreeModel`; the network keeps its own, whose weight may be
        the embedding's. None, and nothing done to it, where the projection learns, carries an adapter, or has a bias.
    """
    head = cast(Any, model).get_output_embeddings()
    # An adapted head's gradient would be lost in rounding it to the nearest, and DoRA reads its base's weight.
    exact = set(head.modules())
    exact.update(
        layer.base for layer in model.modules() if isinstance(layer, LoraLayer) and layer.magnitude is not None
    )
    frozen = {
        child: (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if child not in exact
        and kind_of(child) in ("linear", "gpt2_conv1d")
        and not any(parameter.requires_grad for parameter in child.parameters())
    }
    for inputs, layers in _inputs(model, frozen, sample):
        rows = [cast(Tensor, c.weight) if kind_of(c) == "linear" else cast(Tensor, c.weight).t() for c in layers]
        biases = [cast("Tensor | None", getattr(child, "bias", None)) for child in layers]
        projections = Int8Projections(rows, biases, inputs)
        for number, child in enumerate(layers):
            module, name = frozen[child]
            setattr(module, name, Int8Linear(projections, number, cast(Tensor, child.weight).shape))
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "none"
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    return Int8Head(head.weight) if plain else None


def _inputs(model: nn.Module, layers: Iterable[nn.Module], sample: TreeBatch) -> list[tuple[Tensor, list[nn.Module]]]:
    """Rows of a batch's inputs, with the layers that take them one after another."""
    found: list[tuple[Tensor, list[nn.Module]]] = []
    previous: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if previous and previous[0] is inputs[0]:
            found[-1][1].append(layer)
        else:
            rows = inputs[0].detach().flatten(0, -2)
            found.append((rows[:: -(-len(rows) // _SAMPLE)].clone(), [layer]))
        previous[:] = inputs[:1]

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with TreeModel(model) as trees, evaluation(model):
            trees.hidden(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return found
