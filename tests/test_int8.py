"""Frozen layers in 8 bits: close to the exact ones forward and back, and enough to learn with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import gpt2, llama
from tailora.adapters.config import LoraConfig
from tailora.core.errors import SettingsError, TrainingError
from tailora.data.examples import Example
from tailora.lora.inject import attach, extract
from tailora.training import int8
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.loss import FrozenHead, PlainHead, Scored, frozen_head_loss
from tailora.training.trees.prefix_tree import build

needs_avx2 = pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((found - exact).norm() / exact.norm()).detach())


@needs_avx2
@settings(max_examples=25, deadline=None)  # oneDNN compiles a kernel for each shape
@given(st.integers(0, 1000), st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_products_are_those_of_whole_numbers(seed: int, inputs: int, outputs: int, extreme: bool) -> None:
    """On any CPU, without VNNI too, where a scale of its own keeps a sum of 16 bits from being cut off."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    rows = torch.randint(0, 256, (64, inputs), generator=generator)
    if extreme:  # all weights of one size, all rows at the ends of the range
        weight, rows = weight.sign(), 255 * (rows > 127)
    matrix = int8._Int8Matrix(weight)
    whole = (weight / matrix.scales[:, None]).round().double()
    exact = (rows.double() - 128) @ whole.t() * matrix.scales
    torch.testing.assert_close(matrix.product(rows.to(torch.uint8), 128, 64), exact.float(), rtol=1e-5, atol=1e-4)


@needs_avx2
@pytest.mark.parametrize("transposed", [False, True])
def test_layer_is_close_both_ways(transposed: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64), torch.randn(96)
    x, gradient = torch.randn(7, 5, 64, requires_grad=True), torch.randn(7, 5, 96)
    stored = weight.t().contiguous().t() if transposed else weight
    layer = int8.Int8Linear(int8.Int8Projections([stored], [bias]), 0, weight.shape)
    y = layer(x)
    y.backward(gradient)
    assert relative(y, F.linear(x, weight, bias)) < 0.02
    assert x.grad is not None
    assert relative(x.grad, gradient @ weight) < 0.02


@needs_avx2
def test_a_few_large_inputs_do_not_drown_the_others() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64), torch.randn(50, 64)
    x[:, :3] *= 300
    weight[:, :3] /= 300
    exact = F.linear(x, weight)
    plain = int8.Int8Projections([weight], [None])
    evened = int8.Int8Projections([weight], [None], x)
    assert relative(evened.output(0, x), exact) < 0.02 < 0.2 < relative(plain.output(0, x), exact)


@needs_avx2
def test_inputs_that_round_badly_get_a_second_product() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64), torch.randn(50, 64)
    peaked = x.clone()
    peaked[torch.arange(50), torch.randint(64, (50,))] = 60  # another large input in every row: no factor helps
    usual, fine = (int8.Int8Projections([weight], [None], rows) for rows in (x, peaked))
    coarse = int8.Int8Projections([weight], [None])
    assert (usual.fine, fine.fine, coarse.fine) == (False, True, False)
    exact = F.linear(peaked, weight)
    assert relative(fine.output(0, peaked), exact) < 0.7 * relative(coarse.output(0, peaked), exact)


@needs_avx2
def test_layers_of_one_input_share_a_product() -> None:
    torch.manual_seed(0)
    weights, bias = [torch.randn(n, 64) for n in (32, 16, 48)], torch.randn(16)
    shared = int8.Int8Projections(weights, [None, bias, None])
    for _ in range(2):
        x = torch.randn(5, 64, requires_grad=True)
        outputs = [shared.output(number, x) for number in (0, 1, 2)]
        gradients = [torch.randn_like(y) for y in outputs]
        torch.autograd.backward(outputs, gradients)
        assert x.grad is not None
        assert relative(x.grad, sum(g @ w for g, w in zip(gradients, weights, strict=True))) < 0.02  # type: ignore[arg-type]
        for y, weight, b in zip(outputs, weights, (None, bias, None), strict=True):
            assert relative(y, F.linear(x, weight, b)) < 0.02
    other = torch.randn(5, 64)
    assert relative(shared.output(1, other), F.linear(other, weights[1], bias)) < 0.02
    assert relative(shared.output(2, x), F.linear(x, weights[2])) < 0.02


@needs_avx2
def test_head_rounds_without_bias() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5000, 32)
    head = int8.Int8Head(weight)
    exponentials = torch.full((1, 5000), 1 / 2000)  # each far below 1/255, together most of the mass
    exponentials[0, 0] = 1
    mean = torch.stack([head.back(exponentials.clone()) for _ in range(400)]).mean(0)
    assert relative(mean, exponentials @ weight) < 0.1
    hidden = torch.randn(9, 32)
    assert relative(head.logits(hidden), hidden @ weight.t()) < 0.02


@needs_avx2
def test_head_keeps_the_gradient_that_an_all_but_certain_token_leaves() -> None:
    torch.manual_seed(0)
    weight = torch.randn(512, 64)
    tokens = torch.arange(100)
    states = 12 * F.normalize(weight[tokens]) / weight[tokens].norm(dim=1, keepdim=True)
    certain = Scored(tokens, tokens, tokens, torch.ones(100), [(0, 100, slice(0, 100))])
    assert float((states @ weight.t()).softmax(-1).diagonal().median()) > 0.98

    def mean_gradient(head: FrozenHead, draws: int) -> torch.Tensor:
        hidden = states.clone().requires_grad_()
        for _ in range(draws):
            frozen_head_loss(hidden, head, certain).backward()
        assert hidden.grad is not None
        return hidden.grad / draws  # type: ignore[no-any-return]

    assert relative(mean_gradient(int8.Int8Head(weight), 100), mean_gradient(PlainHead(weight), 1)) < 0.2


@needs_avx2
@pytest.mark.parametrize("family", [gpt2, llama])
def test_gradients_of_the_adapter_stay_close(family: object) -> None:
    examples = [Example("1", (1, 2, 3), (4, 5, 6)), Example("1", (1, 2, 3), (4, 7)), Example("2", (8, 2), (9, 10, 11))]
    batch = build(examples)
    found: list[tuple[float, torch.Tensor, str]] = []
    for quantise in (False, True):
        torch.manual_seed(0)
        model = family()  # type: ignore[operator]
        attach(model, LoraConfig(rank=4, targets=("all-linear",)), generator=torch.Generator().manual_seed(0))
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        model.eval()
        head = int8.quantise_frozen(model, batch) if quantise else None
        with TreeModel(model, head=head) as trees:
            loss = trees.loss(batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((loss.item(), gradient, extract(model).content_hash))
    (exact_loss, exact, one), (int8_loss, gradient, other) = found
    assert int8_loss == pytest.approx(exact_loss, rel=0.02)
    assert F.cosine_similarity(gradient, exact, 0) > 0.99
    assert one == other


@needs_avx2
def test_what_reads_its_base_or_backs_into_the_vocabulary_stays_exact() -> None:
    batch = build([Example("1", (1, 2, 3), (4, 5, 6)), Example("2", (8, 2), (9, 10, 11))])
    for config in (LoraConfig(targets=("attention.qv",), dora=True), LoraConfig(targets=("head",))):
        model = llama()
        adapted = [model.get_submodule(path) for path in attach(model, config)]
        assert (int8.quantise_frozen(model, batch) is None) is (config.targets == ("head",))
        assert all(type(layer.base) is torch.nn.Linear for layer in adapted)
        assert any(isinstance(module, int8.Int8Linear) for module in model.modules())
        with TreeModel(model) as trees:
            trees.loss(batch).backward()


def test_wrong_uses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="int8 is available for method lora only"):
        TrainSettings(data="restaurants", method="full", precision="int8")
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    with pytest.raises(TrainingError, match="needs an x86 CPU with AVX2"):
        int8.require()
