"""Frozen linear layers in int8: one scale per output for weights, one per row for activations and gradients.

The forward pass and the gradient of the input are int8 products. The weight is frozen and needs no gradient. This is
SwitchBack (Wortsman et al. 2023, arXiv:2304.13013) applied to LoRA. oneDNN computes the products: four times as fast
as fp32 on a CPU with VNNI instructions, less than twice as fast with AVX2 alone. The adapter's branch, the norms,
attention and the loss stay in fp32.
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
from tailora.training.fused import compact_gelus
from tailora.training.trees.forward import TreeModel, evaluation
from tailora.training.trees.loss import CHUNK, LogitsForm
from tailora.training.trees.prefix_tree import TreeBatch

_ROWS, _SHIFT = CHUNK, 397  # maximum number of rows in one call of the head; offset between their noise
_ROUND = 64  # the number of rows of a product is padded to a multiple of this
_SLICE = 1 << 20  # weights rounded at a time: their copies in fp32 take megabytes, and a whole vocabulary's hundreds
_STEPS = 255 * (1 - 2**-15)  # so that 1 plus a random number below 1 stays below 256 in fp32
_SAMPLE = 128  # number of input rows to measure
_FINER = 254  # a second product divides each step of 8-bit rounding into this many
_COARSE = 0.012  # relative rounding error of inputs above which they get a second product
_ZERO = 128  # zero point of the activations: the fast kernels take them unsigned


class _Int8Matrix:
    """An int8 matrix [out, in] by which rows [rows, in] are multiplied.

    Without VNNI, the products of two neighbouring inputs, up to 255 times each weight, are added in 16 bits, and the
    sum saturates. The weights' scales are then about a third larger, so that no sum can saturate.
    """

    def __init__(self, weight: Tensor) -> None:
        whole = torch.empty(weight.shape, dtype=torch.int8)
        self.scales = torch.empty(len(weight))
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        size = max(1, _SLICE // weight.shape[1])
        for rows, scales, rounded in zip(weight.split(size), self.scales.split(size), whole.split(size), strict=True):
            peak = rows.abs().amax(1) if _sums_in_32_bits() else _pair_peak(rows)
            scales.copy_(peak.clamp(min=torch.finfo(torch.float32).tiny) / 127)
            rounded.copy_((rows / scales[:, None]).round_())
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)

    def product(self, rows: Tensor, zero: int, count: int) -> Tensor:
        """Multiply the first `count` rows from `_bytes`, with a zero point, by the matrix: fp32 [count, out]."""
        return _product(rows, zero, self.packed, self.scales, self.zeros)[:count]


def _bytes(rows: Tensor) -> Tensor:
    """Truncate fp32 rows in [0, 256) to uint8, and pad them with arbitrary rows to a multiple of 64.

    oneDNN compiles and keeps a kernel for every number of rows; padding keeps the number of kernels small.
    """
    cut = rows.new_empty(-(-len(rows) // _ROUND) * _ROUND, rows.shape[1], dtype=torch.uint8)
    cut[: len(rows)].copy_(rows)
    return cut


def _pair_peak(weight: Tensor) -> Tensor:
    """Return the largest magnitude of two neighbours' sum in each row, [out], counting values of one sign only.

    With this peak at 127 steps, two rounded neighbours sum to at most 128, and 255 times that fits in 16 bits.
    """
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).view(len(weight), -1, 2)
    return torch.maximum(pairs.clamp(min=0).sum(2).amax(1), -pairs.clamp(max=0).sum(2).amin(1))


def _peak(rows: Tensor) -> Tensor:
    """Return the largest magnitude of each row, [rows, 1]; never 0."""
    return torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_(min=1e-30)


def _quantise(x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multiply rows by one factor per column; return them as uint8 around 128 (see `_bytes`), and scales [rows, 1]."""
    evened = x if factors is None else x * factors
    peak = _peak(evened)
    scaled = torch.mul(x, 127 / peak) if factors is None else evened.mul_(127 / peak)
    # Truncation of a positive number after adding a half rounds it.
    return _bytes(scaled.add_(_ZERO + 0.5)), peak / 127


def _quantise_finely(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows as `_quantise` does, their rounding errors in 1/254 of a step, around 127, and the scales."""
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
    """Frozen linear layers with the same input, computed as one product in each direction.

    Args:
        weights: [out, in] of each layer.
        biases: [out] of each layer, or None; kept in fp32.
        inputs: [rows, in], a sample of the inputs. If present, the inputs are divided, and the weights' columns
            multiplied, by one factor per column before rounding, so that a few large inputs do not drown the others:
            SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) with α = 0.5. Both sides are measured by the root mean
            square of rows relative to their peaks, since the peak sets the rounding step.

    Attributes:
        fine: whether the inputs get a second product for their rounding errors, because these exceed 1.2% in spite of
            the factors. The factors then use α = 0.2, which rounds the weights less coarsely.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], inputs: Tensor | None = None
    ) -> None:
        weight = torch.cat([layer_weight.detach().float() for layer_weight in weights])
        self.sizes = [len(layer_weight) for layer_weight in weights]
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
        """Return one layer's output, […, in] to […, out]; keep the others' until they get the same tensor."""
        if len(self.sizes) == 1:  # a split into one part would copy the whole gradient
            return cast(Tensor, _Product.apply(x, self))  # type: ignore[no-untyped-call]
        if self._input is not x or number not in self._waiting:
            y = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            self._input, self._waiting = x, dict(enumerate(y.split(self.sizes, -1)))
        own = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return own


def _spread(rows: Tensor) -> Tensor:
    """Return the root mean square of each column, [in], with every row relative to its peak."""
    peaks = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
    return (rows / peaks).square_().mean(0).sqrt_().clamp_(min=1e-6)


def _rounding_error(rows: Tensor) -> float:
    """Return the expected error of rounding rows to 8 bits, relative to their norms; a step is 1/127 of the peak."""
    peaks, means = rows.abs().amax(1), rows.square().mean(1).sqrt()
    return float((peaks / means.clamp(min=torch.finfo(torch.float32).tiny)).median()) / (127 * 12**0.5)


class Int8Linear(nn.Module):
    """A frozen linear layer (or GPT-2's Conv1D) that shares one product with the layers of the same input.

    Args:
        projections: the layers with this input.
        number: index of this layer among them.
        shape: shape of the weight as the base layer stores it.

    Attributes:
        weight: a meta tensor: the shape of the base layer's weight without values.
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
        self._places: Tensor | None = None
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

        Rounding is stochastic: most values of a row are far below 1/255 of its peak, and rounding to nearest would
        make all of them 0. Each row reads the same random numbers at another offset, so that the errors of different
        rows do not add up.
        """
        rows, tokens = exponentials.shape
        assert rows <= _ROWS
        start = int(torch.randint(_SHIFT, (), generator=self.generator))
        noise = self._noise.as_strided((rows, tokens), (_SHIFT, 1), start)
        whole = _bytes(exponentials.mul_(_STEPS).add_(noise))
        return self._back.product(whole, 0, rows).div_(_STEPS)

    def weight_rows(self, tokens: Tensor) -> Tensor:
        """See `loss.FrozenHead`.

        The rows are rounded as in `back`: where a token is almost certain, the gradient is a small difference of the
        two, and rounding only one of them would swamp it.
        """
        scales = self._back.scales
        places = tokens if self._places is None else self._places[tokens]
        return (self.weight[places] / scales).round_().mul_(scales)

    def keep_rows(self, rows: Tensor, places: Tensor) -> None:
        """Keep only some rows of the weight in fp32, of which `weight_rows` takes all that it is asked for.

        Args:
            rows: [rows, width].
            places: [vocabulary] the row of each token; arbitrary for tokens without one.
        """
        self.weight, self._places = rows, places


def supported() -> bool:
    """Return whether this PyTorch and this CPU have the products that this module calls."""
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx2_supported())


@cache
def _sums_in_32_bits() -> bool:
    """Return whether sums of 8-bit products are exact, as with VNNI instructions, instead of saturating at 16 bits.

    The answer comes from a product, not from the CPU's flags: `ONEDNN_MAX_CPU_ISA` may select older instructions.
    """
    size, largest = 64, 127
    matrix = torch.ops.onednn.qlinear_prepack(torch.full((size, size), largest, dtype=torch.int8), None)
    rows = torch.full((size, size), 255, dtype=torch.uint8)
    product = _product(rows, 0, matrix, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    return bool((product == size * largest * 255).all())


def _product(rows: Tensor, zero: int, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Multiply uint8 rows [rows, in] with zero point `zero` by a packed int8 matrix: fp32 [rows, out]."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def require() -> None:
    """Check that this PyTorch and this CPU have the products that this module calls.

    Raises:
        TrainingError: they do not.
    """
    if not supported():
        raise TrainingError(
            "int8 training needs an x86 CPU with AVX2 instructions", where="precision", hint="use fp32 or bf16"
        )


@torch.no_grad()
def quantise_frozen(model: nn.Module, sample: TreeBatch) -> Int8Head | None:
    """Replace every frozen linear layer, including those inside adapted layers, by its 8-bit form, and GELUs by
    `fused.CompactGELU`.

    Args:
        model: a transformers causal language model whose learning parameters have `requires_grad`.
        sample: trees on which the inputs of each layer are measured.

    Returns:
        The vocabulary projection in 8 bits, for `forward.TreeModel`; the network keeps its own, whose weight may be
        the embedding's. None if the projection has no 8-bit form (see `convertible_head`).
    """
    frozen = convertible(model)
    for inputs, layers in _inputs(model, frozen, sample):
        rows = [cast(Tensor, c.weight) if kind_of(c) == "linear" else cast(Tensor, c.weight).t() for c in layers]
        biases = [cast("Tensor | None", getattr(child, "bias", None)) for child in layers]
        projections = Int8Projections(rows, biases, inputs)
        for number, child in enumerate(layers):
            module, name = frozen[child]
            setattr(module, name, Int8Linear(projections, number, cast(Tensor, child.weight).shape))
    compact_gelus(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:  # a view of the file, which would keep all of it in memory
            parameter.data = parameter.data.clone()
    head = convertible_head(model)
    return None if head is None else Int8Head(head.weight)


def convertible(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, str]]:
    """Return the layers that `quantise_frozen` replaces, each with the module that holds it and its name there."""
    # Rounding to nearest would lose the gradient of an adapted head, and DoRA reads the weight of its base.
    exact = set(cast(Any, model).get_output_embeddings().modules())
    exact.update(
        layer.base for layer in model.modules() if isinstance(layer, LoraLayer) and layer.magnitude is not None
    )
    return {
        child: (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if child not in exact
        and kind_of(child) in ("linear", "gpt2_conv1d")
        and not any(parameter.requires_grad for parameter in child.parameters())
    }


def convertible_head(model: nn.Module) -> nn.Linear | None:
    """Return the vocabulary projection if it has an 8-bit form.

    It neither learns nor has an adapter or a bias, and the architecture does not cap its logits.
    """
    head = cast(Any, model).get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    return head if plain and not LogitsForm.of(cast(Any, model).config).cap else None


def _inputs(model: nn.Module, layers: Iterable[nn.Module], sample: TreeBatch) -> list[tuple[Tensor, list[nn.Module]]]:
    """Return rows of a batch's inputs, [rows, in], each with the layers that take that input one after another."""
    groups: list[tuple[Tensor, list[nn.Module]]] = []
    previous: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if previous and previous[0] is inputs[0]:
            groups[-1][1].append(layer)
        else:
            rows = inputs[0].detach().flatten(0, -2)
            groups.append((rows[:: -(-len(rows) // _SAMPLE)].clone(), [layer]))
        previous[:] = inputs[:1]

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with TreeModel(model) as trees, evaluation(model):
            trees.hidden(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return groups
