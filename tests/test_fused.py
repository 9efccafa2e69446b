"""Layers in fewer kernels compute what they computed before, and only those that may be replaced are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tailora.training.fused import CompactGELU, FrozenRMSNorm, compact_gelus, fuse


def frozen(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.requires_grad_(False).normal_()
    return layer


def test_gradient_of_the_norm() -> None:
    torch.manual_seed(0)
    norm = FrozenRMSNorm(nn.Parameter(torch.randn(6, dtype=torch.float64), requires_grad=False), 1e-3)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)


@pytest.mark.parametrize("layer", [LlamaRMSNorm(16), T5LayerNorm(16), NewGELUActivation()])
def test_replaced_layers_agree(layer: nn.Module) -> None:
    network = nn.Sequential(frozen(layer))
    x = 3 * torch.randn(5, 16)
    expected, names = network(x), list(network.state_dict())
    fuse(network)
    assert isinstance(network[0], FrozenRMSNorm | nn.GELU)
    torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("fused_as", [torch.float32, torch.bfloat16])
def test_a_norm_in_bf16_is_rounded_once(fused_as: torch.dtype) -> None:
    """Whether it was fused before its weight was narrowed or after: statistics are in fp32."""
    layer: Any = frozen(LlamaRMSNorm(256))
    network = nn.Sequential(layer.to(fused_as))
    fuse(network)
    assert isinstance(network[0], FrozenRMSNorm)
    network.to(torch.bfloat16)
    x = (3 * torch.randn(64, 256)).bfloat16()
    weight = layer.weight.detach().bfloat16().double()
    wide = x.double()
    exact = wide * (wide.square().mean(1, keepdim=True) + layer.variance_epsilon).rsqrt() * weight
    y = network(x)
    assert y.dtype == torch.bfloat16
    # Half a step of bf16 and no more for any number; the scale of a row, their mean, is far closer.
    assert ((y.double() - exact).abs() <= 2**-8 * exact.abs()).all()
    scale = (y.double() * exact).sum(1) / exact.square().sum(1)
    assert (scale - 1).abs().max() < 1e-3


def test_a_norm_follows_the_types_of_the_one_it_replaces() -> None:
    for weight in (torch.float32, torch.bfloat16):
        for given in (torch.float32, torch.bfloat16):
            layer = frozen(LlamaRMSNorm(16)).to(weight)
            network = nn.Sequential(layer)
            fuse(network)
            x = torch.randn(5, 16).to(given)
            assert network(x).dtype == layer(x).dtype
            with torch.autocast("cpu", torch.bfloat16):
                y = network(x)
            assert torch.equal(y, network(x))


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(LlamaRMSNorm(16), id="learns"),
        pytest.param(frozen(GemmaRMSNorm(16)), id="another function"),
        pytest.param(frozen(nn.LayerNorm(16)), id="another norm"),
    ],
)
def test_other_layers_stay(layer: nn.Module) -> None:
    network = nn.Sequential(layer)
    fuse(network)
    assert network[0] is layer


def test_a_norm_that_goes_by_the_same_names_stays() -> None:
    class Shifted(LlamaRMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = super().forward(hidden_states)
            return y + hidden_states

    network = nn.Sequential(frozen(Shifted(16)))
    fuse(network)
    assert isinstance(network[0], Shifted)


class Gated(LlamaRMSNorm):  # type: ignore[misc]
    """The same norm without a gate, as in Mamba 2."""

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        y: torch.Tensor = super().forward(hidden_states)
        return y if gate is None else y * gate


def test_a_norm_that_can_take_a_gate_stays() -> None:
    network = nn.Sequential(frozen(Gated(16)))
    fuse(network)
    assert isinstance(network[0], Gated)


def test_the_gated_norm_of_qwen3_next_stays() -> None:
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    network = nn.Sequential(frozen(module.Qwen3NextRMSNormGated(16)))
    fuse(network)
    assert isinstance(network[0], module.Qwen3NextRMSNormGated)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_compact_gelu_has_the_values_and_nearly_the_gradient_of_gelu(form: str) -> None:
    x = torch.linspace(-6, 6, 1001).requires_grad_()
    network = nn.Sequential(nn.GELU(approximate=form))
    exact = nn.GELU()(x)
    exact.sum().backward()
    expected, x.grad = x.grad, None
    compact_gelus(network)
    assert isinstance(network[0], CompactGELU)
    y = network(x)
    assert torch.equal(y, exact)
    y.sum().backward()
    assert expected is not None
    assert x.grad is not None
    assert (x.grad - expected).abs().max() < 0.005
