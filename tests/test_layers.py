from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from tailora.lora.layers import (
    LAYERS,
    BranchShape,
    LoraConv,
    LoraConv1D,
    LoraEmbedding,
    LoraLayer,
    LoraLinear,
    dropout,
    kind_of,
)


class ScaledEmbedding(nn.Embedding):
    """Gemma's: what is looked up is multiplied."""

    embed_scale = torch.tensor(3.0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * self.embed_scale


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(9))


def indices(*shape: int) -> torch.Tensor:
    return torch.randint(1, 7, shape, generator=generator(9))


CASES: dict[str, Any] = {
    "linear": (lambda: nn.Linear(5, 6), lambda: inputs(2, 3, 5)),
    "linear without bias": (lambda: nn.Linear(5, 6, bias=False), lambda: inputs(3, 5)),
    "linear on one vector": (lambda: nn.Linear(5, 6), lambda: inputs(5)),
    "square Conv1D": (lambda: Conv1D(6, 6), lambda: inputs(2, 3, 6)),
    "Conv1D": (lambda: Conv1D(6, 5), lambda: inputs(2, 3, 5)),
    "embedding": (lambda: nn.Embedding(7, 6), lambda: indices(2, 3)),
    "scaled embedding": (lambda: ScaledEmbedding(7, 6), lambda: indices(2, 3)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), lambda: inputs(2, 4, 7)),
    "conv2d, dilated, circular": (
        lambda: nn.Conv2d(4, 6, (3, 2), padding=2, dilation=2, padding_mode="circular"),
        lambda: inputs(2, 4, 7, 8),
    ),
    "conv2d, unbatched": (lambda: nn.Conv2d(4, 6, 3), lambda: inputs(4, 7, 8)),
    "conv3d, strided": (lambda: nn.Conv3d(2, 6, 2, stride=2), lambda: inputs(2, 2, 4, 5, 6)),
    "grouped conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, padding="same"), lambda: inputs(2, 4, 7)),
}


def wrapped(base: nn.Module, *shapes: BranchShape, dropout_p: float = 0.0, dora: bool = False) -> LoraLayer:
    kind = kind_of(base)
    assert kind is not None
    layer = LAYERS[kind](base, shapes, dropout_p=dropout_p, dora=dora, generator=generator())
    with torch.no_grad():
        for parameter in (*layer.branches.parameters(), *([layer.magnitude] if dora else [])):
            assert parameter is not None
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)) * 0.3)
    return layer


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_merged_weight_computes_the_same(case: str, dora: bool) -> None:
    make, x = CASES[case]
    torch.manual_seed(0)
    base = make()
    plain = base(x())
    layer = wrapped(base, BranchShape(4, 0.7), dora=dora)
    expected = layer(x())
    assert (expected - plain).abs().max() > 1e-2
    base.weight = nn.Parameter(layer.merged_weight())
    torch.testing.assert_close(base(x()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 9), lambda: Conv1D(9, 5)])
def test_slices_write_their_rows_only(make: Any) -> None:
    base = make()
    x = inputs(2, 5)
    plain = base(x)
    layer = wrapped(base, BranchShape(2, 0.5, (0, 3)), BranchShape(3, 2.0, (6, 9)))
    change = layer(x) - plain
    q, v = layer.pairs
    torch.testing.assert_close(change[:, :3], 0.5 * x @ q.lora_A.T @ q.lora_B.T, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(change[:, 6:], 2.0 * x @ v.lora_A.T @ v.lora_B.T, atol=1e-6, rtol=1e-5)
    assert not change[:, 3:6].any()
    base.weight = nn.Parameter(layer.merged_weight())
    torch.testing.assert_close(base(x), plain + change, atol=1e-6, rtol=1e-5)


@given(
    low=st.integers(0, 5), size=st.integers(1, 3), rank=st.integers(1, 4), scale=st.floats(0.01, 8), dora=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_gradients_are_those_of_the_dense_formula(low: int, size: int, rank: int, scale: float, dora: bool) -> None:
    base = nn.Linear(5, 9).double()
    layer = wrapped(base, BranchShape(rank, scale, (low, low + size)), BranchShape(2, 1.5), dora=dora)
    x = inputs(3, 5).double()
    first, second = layer.pairs
    scattered = torch.zeros(9, rank, dtype=torch.float64)
    scattered[low : low + size] = 1
    weight = base.weight + 1.5 * second.lora_B @ second.lora_A
    placed = torch.nn.functional.pad(first.lora_B, (0, 0, low, 9 - low - size)) * scattered
    weight = weight + scale * placed @ first.lora_A
    if dora:
        assert layer.magnitude is not None
        weight = layer.magnitude[:, None] / weight.norm(dim=1, keepdim=True).detach() * weight
    expected = torch.nn.functional.linear(x, weight, base.bias)
    parameters = [p for p in layer.parameters() if p is not base.weight and p is not base.bias]
    wanted = torch.autograd.grad(expected.square().sum(), parameters)
    torch.testing.assert_close(layer(x), expected, atol=1e-10, rtol=1e-10)
    for mine, theirs in zip(torch.autograd.grad(layer(x).square().sum(), parameters), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_branch_adds_nothing(case: str) -> None:
    make, x = CASES[case]
    base = make()
    kind = kind_of(base)
    assert kind is not None
    layer = LAYERS[kind](base, [BranchShape(4, 2.0)], generator=generator())
    assert torch.equal(layer(x()), base(x()))


def test_initial_values_are_the_reference_implementations() -> None:
    linear = LoraLinear(nn.Linear(300, 7), [BranchShape(40, 1.0)], generator=generator())
    a = linear.pairs[0].lora_A.detach()
    bound = 1 / math.sqrt(300)
    assert 0.98 * bound < a.abs().max() <= bound
    assert abs(float(a.std()) - bound / math.sqrt(3)) < 0.02 * bound
    assert not linear.pairs[0].lora_B.any()
    embedding = LoraEmbedding(nn.Embedding(9, 300), [BranchShape(40, 1.0)], generator=generator())
    assert not embedding.pairs[0].lora_A.any()
    assert abs(float(embedding.pairs[0].lora_B.detach().std()) - 1) < 0.02
    again = LoraLinear(nn.Linear(300, 7), [BranchShape(40, 1.0)], generator=generator())
    assert torch.equal(a, again.pairs[0].lora_A)
    other = LoraLinear(nn.Linear(300, 7), [BranchShape(40, 1.0)], generator=generator(1))
    assert not torch.equal(a, other.pairs[0].lora_A)


def test_dropout_is_on_the_branch_while_training_only() -> None:
    base = nn.Linear(64, 6)
    layer = wrapped(base, BranchShape(4, 1.0), dropout_p=0.5)
    x = inputs(400, 64)
    assert layer.training
    torch.manual_seed(0)
    noisy = layer(x) - base(x)
    kept = torch.nn.functional.dropout(x, 0.5)  # another draw; only the mean can be compared
    assert not torch.equal(noisy, layer(x) - base(x))
    layer.eval()
    exact = layer(x) - base(x)
    assert torch.equal(exact, layer(x) - base(x))
    pair = layer.pairs[0]
    spread = (kept @ pair.lora_A.T @ pair.lora_B.T - exact).std()
    assert (noisy - exact).mean(0).abs().max() < 5 * spread / math.sqrt(len(x))


def test_train_and_eval_never_touch_the_weight() -> None:
    base = nn.Linear(5, 6)
    layer = wrapped(base, BranchShape(2, 1.0))
    before, pointer = base.weight.clone(), base.weight.data_ptr()
    for mode in (False, True, True, False):
        layer.train(mode)
    assert torch.equal(base.weight, before)
    assert base.weight.data_ptr() == pointer


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bf16_base_keeps_its_dtype_and_fp32_factors_learn(case: str, dora: bool) -> None:
    make, x = CASES[case]
    base = make().bfloat16().requires_grad_(False)
    values = x()
    layer = wrapped(base, BranchShape(4, 0.7), dora=dora)
    y = layer(values.bfloat16() if values.is_floating_point() else values)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    learnt = [p for p in layer.parameters() if p.requires_grad]
    assert learnt
    assert {p.dtype for p in learnt} == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in learnt)
    assert base.weight.grad is None
    assert layer.merged_weight().dtype == torch.bfloat16


def test_dora_starts_at_the_base_and_sees_small_changes_of_magnitude_in_bf16() -> None:
    base = nn.Linear(64, 6).bfloat16()
    layer = LoraLinear(base, [BranchShape(4, 1.0)], dora=True, generator=generator())
    x = inputs(200, 64).bfloat16()
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        assert layer.magnitude is not None
        layer.magnitude.mul_(1.003)  # lost if 1.003 itself were rounded to bf16
    ratio = (layer(x).float().abs().sum() / base(x).float().abs().sum()).item()
    assert 1.001 < ratio < 1.005


def test_the_base_layers_attributes_are_found() -> None:
    layer = wrapped(nn.Linear(5, 6), BranchShape(2, 1.0))
    assert layer.in_features == 5
    assert layer.weight is layer.base.weight
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = layer.no_such_thing
    assert "rank=2, scale=1, rows=all" in repr(layer)


def test_ranks_of_grouped_convolutions() -> None:
    layer = LoraConv(nn.Conv1d(4, 6, 3, groups=2), ())
    assert layer.rank_fault(4) is None
    assert layer.rank_fault(3) == "rank 3 is not a multiple of the convolution's 2 groups"


class Quantised(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).round()


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Linear(2, 2), "linear"),
        (Conv1D(2, 2), "gpt2_conv1d"),
        (nn.Embedding(2, 2), "embedding"),
        (nn.Conv2d(2, 2, 1), "conv"),
        (Quantised(2, 2), None),
        (nn.MultiheadAttention(2, 1).out_proj, None),
        (nn.ConvTranspose1d(2, 2, 1), None),
        (nn.Embedding(2, 2, max_norm=1.0), None),
        (nn.LayerNorm(2), None),
    ],
)
def test_what_can_be_adapted(module: nn.Module, kind: str | None) -> None:
    assert kind_of(module) == kind
    if kind:
        assert LAYERS[kind].kind == kind
        assert issubclass(LAYERS[kind], LoraLayer)


def test_conv1d_is_a_linear_layer_stored_the_other_way_round() -> None:
    conv1d, linear = Conv1D(6, 6), nn.Linear(6, 6)
    with torch.no_grad():
        linear.weight.copy_(conv1d.weight.T)
        linear.bias.copy_(conv1d.bias)
    one, other = (wrapped(base, BranchShape(3, 0.9), dora=True) for base in (conv1d, linear))
    assert isinstance(one, LoraConv1D)
    torch.testing.assert_close(one(inputs(4, 6)), other(inputs(4, 6)))
    torch.testing.assert_close(one.merged_weight(), other.merged_weight().T)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1001, 301), p)
    assert float((dropped == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert float(dropped.max()) == pytest.approx(1 / (1 - p))
