"""tailora.loralib beside loralib 0.1.2: the same numbers where that is right, the right ones where it is not."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import loralib as peer
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tailora.loralib as lora
from tailora.core.errors import SettingsError

RANKS = st.integers(0, 3)
MODES = st.booleans()


def same_seed(ours: Any, theirs: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Both libraries' layer, each built from the same random state."""
    torch.manual_seed(7)
    left = ours(*args, **kwargs)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    right = theirs(*args, **kwargs)
    assert torch.equal(after, torch.get_rng_state()), "the constructors draw different numbers of values"
    return left, right


def fill(layer: Any, seed: int = 0) -> Any:
    """Give the branch values: a fresh one adds nothing, which would prove nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    return layer


def assert_same_state(left: Any, right: Any) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)


def assert_same_behaviour(left: Any, right: Any, x: Any) -> None:
    """Initial values, outputs and gradients when training, merged values and outputs, and values after the way back."""
    for name, value in right.state_dict().items():
        assert torch.equal(left.state_dict()[name], value), name
    fill(left), fill(right)
    for mode in (True, False, True):
        left.train(mode), right.train(mode)
        assert left.merged == right.merged
        assert_same_state(left, right)
        outputs = [layer(x) for layer in (left, right)]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
        assert outputs[0].requires_grad == outputs[1].requires_grad
        if not outputs[0].requires_grad:
            continue
        for layer, output in zip((left, right), outputs, strict=True):
            layer.zero_grad()
            output.square().mean().backward()
        for (name, ours), (_, theirs) in zip(left.named_parameters(), right.named_parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)


class TestBesideLoralib:
    @settings(max_examples=15, deadline=None)
    @given(
        n_in=st.integers(1, 6), n_out=st.integers(1, 6), r=RANKS, alpha=st.integers(1, 9), transposed=MODES,
        merge=MODES, bias=MODES,
    )  # fmt: skip
    def test_linear(self, n_in: Any, n_out: Any, r: Any, alpha: Any, transposed: Any, merge: Any, bias: Any) -> None:
        left, right = same_seed(
            lora.Linear, peer.Linear, n_in, n_out, r, alpha, 0.0, transposed, merge, bias=bias
        )  # fmt: skip
        assert_same_behaviour(left, right, torch.randn(2, 3, n_in))

    @settings(max_examples=15, deadline=None)
    @given(
        n_in=st.integers(1, 5), width=st.integers(1, 4), r=RANKS, alpha=st.integers(1, 9),
        enabled=st.lists(st.booleans(), min_size=1, max_size=4).filter(any), transposed=MODES, merge=MODES,
    )  # fmt: skip
    def test_merged_linear(
        self, n_in: Any, width: Any, r: Any, alpha: Any, enabled: Any, transposed: Any, merge: Any
    ) -> None:
        left, right = same_seed(
            lora.MergedLinear, peer.MergedLinear, n_in, width * len(enabled), r, alpha, 0.0, enabled, transposed, merge
        )  # fmt: skip
        assert_same_behaviour(left, right, torch.randn(2, 3, n_in))
        if r:
            assert torch.equal(left.lora_ind, right.lora_ind)
            torch.testing.assert_close(left.merge_AB(), right.merge_AB())
            rows = torch.randn(int(right.lora_ind.sum()), 2)
            assert torch.equal(left.zero_pad(rows), right.zero_pad(rows))

    @settings(max_examples=15, deadline=None)
    @given(entries=st.integers(2, 6), width=st.integers(1, 5), r=RANKS, alpha=st.integers(1, 9), merge=MODES, pad=MODES)
    def test_embedding(self, entries: Any, width: Any, r: Any, alpha: Any, merge: Any, pad: Any) -> None:
        left, right = same_seed(
            lora.Embedding, peer.Embedding, entries, width, r, alpha, merge, padding_idx=0 if pad else None
        )  # fmt: skip
        assert_same_behaviour(left, right, torch.randint(0, entries, (2, 4)))

    @settings(max_examples=15, deadline=None)
    @given(
        groups=st.integers(1, 2), n_in=st.integers(1, 3), n_out=st.integers(1, 3), side=st.integers(1, 3), r=RANKS,
        alpha=st.integers(1, 9), merge=MODES, padding=st.sampled_from(["zeros", "circular"]),
    )  # fmt: skip
    def test_conv2d(
        self, groups: Any, n_in: Any, n_out: Any, side: Any, r: Any, alpha: Any, merge: Any, padding: Any
    ) -> None:
        left, right = same_seed(
            lora.Conv2d, peer.Conv2d, n_in * groups, n_out * groups, side, r, alpha, 0.0, merge,
            groups=groups, padding=1, padding_mode=padding,
        )  # fmt: skip
        assert_same_behaviour(left, right, torch.randn(2, n_in * groups, 5, 4))

    @pytest.mark.parametrize("dimensions", [1, 3])
    def test_point_convolutions_of_other_dimensions(self, dimensions: int) -> None:
        name = f"Conv{dimensions}d"
        left, right = same_seed(getattr(lora, name), getattr(peer, name), 3, 4, 1, r=2, lora_alpha=3)
        assert_same_behaviour(left, right, torch.randn(2, 3, *[4] * dimensions))

    @pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
    def test_marking_and_state_dict(self, bias: str) -> None:
        def build(library: Any) -> Any:
            return nn.Sequential(
                nn.Linear(4, 4), library.Linear(4, 4, r=2), nn.LayerNorm(4), library.MergedLinear(4, 4, r=0)
            )

        models = [build(lora), build(peer)]
        for library, model in zip((lora, peer), models, strict=True):
            library.mark_only_lora_as_trainable(model, bias)
        trainable = [{n for n, p in model.named_parameters() if p.requires_grad} for model in models]
        assert trainable[0] == trainable[1]
        assert "1.lora_A" in trainable[0]
        ours, theirs = (library.lora_state_dict(m, bias) for library, m in zip((lora, peer), models, strict=True))
        assert set(ours) == set(theirs)

    def test_dropout_draws_as_loralib_does(self) -> None:
        for name, args in [("Linear", (6, 5, 2, 4, 0.5)), ("MergedLinear", (6, 4, 2, 4, 0.5, [True, False]))]:
            left, right = same_seed(getattr(lora, name), getattr(peer, name), *args)
            fill(left), fill(right)
            x = torch.randn(3, 6)
            outputs = []
            for layer in (left, right):
                torch.manual_seed(3)
                outputs.append(layer(x))
            torch.testing.assert_close(*outputs)
            assert left.lora_dropout.p == 0.5


LAYERS: dict[str, Any] = {
    "linear": (lambda **kw: lora.Linear(4, 6, r=2, lora_alpha=3, **kw), (3, 4)),
    "linear [in, out]": (lambda **kw: lora.Linear(4, 6, r=2, fan_in_fan_out=True, **kw), (3, 4)),
    "merged": (lambda **kw: lora.MergedLinear(4, 6, r=2, enable_lora=[True, False, True], **kw), (3, 4)),
    "merged [in, out]": (
        lambda **kw: lora.MergedLinear(4, 6, r=2, enable_lora=[False, True], fan_in_fan_out=True, **kw), (3, 4)
    ),
    "embedding": (lambda **kw: lora.Embedding(5, 4, r=2, lora_alpha=3, **kw), None),
    "clipped embedding": (lambda **kw: lora.Embedding(5, 4, r=2, max_norm=1.0, **kw), None),
    "conv1d": (lambda **kw: lora.Conv1d(2, 4, 3, r=2, lora_alpha=3, **kw), (2, 2, 5)),
    "grouped conv1d": (lambda **kw: lora.Conv1d(4, 6, 3, r=2, groups=2, **kw), (2, 4, 5)),
    "conv2d": (lambda **kw: lora.Conv2d(2, 4, 3, r=2, **kw), (2, 2, 5, 4)),
    "oblong conv2d": (lambda **kw: lora.Conv2d(2, 4, (3, 2), r=2, **kw), (2, 2, 5, 4)),
    "conv3d": (lambda **kw: lora.Conv3d(2, 4, 2, r=2, groups=2, **kw), (2, 2, 3, 4, 3)),
}  # fmt: skip


@pytest.fixture(params=LAYERS)
def make(request: pytest.FixtureRequest) -> Any:
    """A builder of one kind of layer with a branch that does something, and an input for it."""
    build, shape = LAYERS[request.param]

    def make_layer(seed: int = 0, **kwargs: Any) -> Any:
        torch.manual_seed(seed)
        return fill(build(**kwargs), seed)

    builder: Any = make_layer
    builder.x = torch.randint(0, 5, (2, 3)) if shape is None else torch.randn(shape)
    return builder


def weight_of(layer: Any) -> Any:
    return layer.conv.weight if isinstance(layer, lora.ConvLoRA) else layer.weight


class TestMerging:
    def test_the_mode_changes_nothing_but_rounding(self, make: Any) -> None:
        layer = make()
        before = layer(make.x)
        assert layer.eval() is layer
        assert layer.merged
        torch.testing.assert_close(layer(make.x), before)

    def test_the_branch_matters(self, make: Any) -> None:
        layer = make()
        before = layer(make.x)
        with torch.no_grad():
            layer.lora_B.zero_(), layer.lora_A.zero_()
        assert not torch.allclose(layer(make.x), before)

    def test_the_way_back_is_exact(self, make: Any) -> None:
        layer = make()
        if isinstance(layer, lora.Embedding):
            layer(make.x)  # clips the rows in place, once, as torch does
        parameter, values = weight_of(layer), weight_of(layer).clone()
        for _ in range(3):
            layer.eval()
            assert not torch.equal(weight_of(layer), values)
            layer.train()
        assert weight_of(layer) is parameter
        assert torch.equal(parameter, values)

    def test_a_branch_changed_while_merged_leaves_no_trace(self, make: Any) -> None:
        layer = make()
        values = weight_of(layer).clone()
        layer.eval()
        fill(layer, seed=9)
        layer.train()
        assert torch.equal(weight_of(layer), values)

    def test_merging_switched_off_while_merged(self, make: Any) -> None:
        layer = make()
        values = weight_of(layer).clone()
        layer.eval()
        layer.merge_weights = False
        layer.train()
        assert not layer.merged
        assert torch.equal(weight_of(layer), values)

    def test_without_merge_weights_nothing_is_merged(self, make: Any) -> None:
        layer = make(merge_weights=False)
        values = weight_of(layer).clone()
        layer.eval()
        assert not layer.merged
        assert torch.equal(weight_of(layer), values)

    @pytest.mark.parametrize("copier", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    def test_copies_of_a_merged_layer_go_their_own_way(self, make: Any, copier: Any) -> None:
        layer = make().eval()
        twin = copier(layer)
        assert torch.equal(twin(make.x), layer(make.x))
        layer.train()
        assert twin.merged
        torch.testing.assert_close(twin.train()(make.x), layer(make.x), rtol=0, atol=0)
        assert weight_of(twin) is not weight_of(layer)

    def test_a_cast_while_merged_reaches_the_pristine_weight(self, make: Any) -> None:
        layer = make().eval().double()
        assert weight_of(layer.train()).dtype == torch.float64

    def test_bf16_is_rounded_once(self) -> None:
        layer = fill(lora.Linear(8, 8, r=4, dtype=torch.bfloat16))
        update = (layer.lora_B.float() @ layer.lora_A.float()) * layer.scaling
        expected = (layer.weight.float() + update).bfloat16()
        assert torch.equal(layer.eval().weight, expected)

    def test_a_tied_head_keeps_the_pristine_weight(self) -> None:
        table = fill(lora.Embedding(5, 4, r=2))
        head = nn.Linear(4, 5, bias=False)
        head.weight = table.weight
        before = head.weight.clone()
        table.eval()
        assert torch.equal(head.weight, before)
        assert table.train().weight is head.weight

    def test_resetting_a_merged_layer(self, make: Any) -> None:
        layer = make().eval()
        layer.reset_parameters()
        fresh = layer(make.x)
        assert torch.equal(layer.train()(make.x), fresh)

    def test_unfreezing_while_merged_is_kept(self, make: Any) -> None:
        layer = make().eval()
        weight_of(layer).requires_grad = True
        assert weight_of(layer.train()).requires_grad


class TestStateDicts:
    @pytest.mark.parametrize("saved_merged", [False, True])
    @pytest.mark.parametrize("loaded_merged", [False, True])
    def test_saved_and_loaded_in_any_mode(self, make: Any, saved_merged: bool, loaded_merged: bool) -> None:
        source = make(seed=1).train(not saved_merged)
        expected, in_training = source(make.x), copy.deepcopy(source).train()(make.x)
        file = io.BytesIO()
        torch.save(nn.Sequential(source).state_dict(), file)
        file.seek(0)
        target = make(seed=2).train(not loaded_merged)
        nn.Sequential(target).load_state_dict(torch.load(file, weights_only=True))
        assert target.merged == loaded_merged
        exact: dict[str, Any] = {"rtol": 0, "atol": 0} if saved_merged == loaded_merged else {}
        torch.testing.assert_close(target(make.x), expected, **exact)
        exact = {"rtol": 0, "atol": 0} if not saved_merged else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(target.train()(make.x), in_training, **exact)

    def test_loading_the_branch_alone_into_a_merged_layer(self, make: Any) -> None:
        source, target = make(seed=1), make(seed=1)
        fill(source, seed=5)
        target.eval().load_state_dict(lora.lora_state_dict(source), strict=False)
        assert target.merged
        torch.testing.assert_close(target(make.x), source.eval()(make.x), rtol=0, atol=0)
        assert torch.equal(target.train()(make.x), source.train()(make.x))

    def test_loading_the_base_into_a_merged_layer(self) -> None:
        base = nn.Linear(4, 6)
        layer = fill(lora.Linear(4, 6, r=2)).eval()
        layer.load_state_dict(base.state_dict(), strict=False)
        x = torch.randn(3, 4)
        torch.testing.assert_close(layer(x), base(x) + x @ layer.lora_A.T @ layer.lora_B.T * layer.scaling)
        assert torch.equal(layer.train().weight, base.weight)

    def test_a_merged_state_dict_serves_a_plain_model(self) -> None:
        layer = fill(lora.Linear(4, 6, r=2)).eval()
        plain = nn.Linear(4, 6)
        plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "lora_" not in k})
        x = torch.randn(3, 4)
        assert torch.equal(plain(x), layer(x))

    def test_a_misshapen_state_dict_is_refused_as_torch_does(self, make: Any) -> None:
        state = make().state_dict()
        state["lora_A"] = torch.zeros(1, 1)
        with pytest.raises(RuntimeError, match="size mismatch for lora_A"):
            make().eval().load_state_dict(state)

    @pytest.mark.parametrize("mode", [True, False])
    def test_the_mode_does_not_change_lora_state_dict(self, make: Any, mode: bool) -> None:
        state = lora.lora_state_dict(make().train(mode), bias="all")
        reference = make()
        assert torch.equal(state["lora_A"], reference.lora_A)
        assert torch.equal(state["lora_B"], reference.lora_B)


class TestCorrections:
    def test_merged_linear_with_nothing_enabled(self) -> None:
        for enabled in ([False], [False, False]):
            layer = lora.MergedLinear(4, 6, r=2, enable_lora=enabled)
            x = torch.randn(2, 4)
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
            assert layer.eval().merged
            assert set(layer.state_dict()) == {"weight", "bias"}

    def test_slices_given_as_numbers(self) -> None:
        layer = lora.MergedLinear(4, 6, r=2, enable_lora=[True, False, True])
        assert layer.enable_lora == [True, False, True]
        assert layer.lora_ind.tolist() == [True, True, False, False, True, True]

    def test_slices_that_do_not_divide_the_outputs(self) -> None:
        with pytest.raises(SettingsError, match="7 outputs cannot be divided into 2 slices"):
            lora.MergedLinear(4, 7, r=2, enable_lora=[True, False])

    def test_transposed_weights_are_contiguous(self) -> None:
        layer = lora.Linear(4, 6, r=2, fan_in_fan_out=True)
        assert layer.weight.shape == (4, 6)
        assert layer.weight.is_contiguous()

    def test_resetting_a_transposed_layer_reads_the_right_fan_in(self) -> None:
        layer = lora.Linear(10_000, 4, fan_in_fan_out=True)
        layer.reset_parameters()
        assert layer.weight.abs().max() <= 1 / math.sqrt(10_000)

    def test_dropout_on_a_convolution(self) -> None:
        layer = fill(lora.Conv2d(2, 3, 3, r=2, lora_dropout=0.5))
        x = torch.randn(1, 2, 6, 6)
        assert not torch.equal(layer(x), layer(x))
        layer.merge_weights = False
        assert torch.equal(layer.eval()(x), layer(x))
        assert torch.equal(layer.conv(x), layer.train().conv(x))

    def test_from_pretrained_keeps_the_given_table(self) -> None:
        table = torch.randn(5, 4)
        layer = lora.Embedding.from_pretrained(table)  # type: ignore[no-untyped-call]
        assert torch.equal(layer.weight, table)
        layer = lora.Embedding(5, 4, r=2, _weight=table)
        assert torch.equal(layer(torch.arange(5)), table)

    def test_biases_of_convolutions_are_theirs(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 1, 1), lora.Conv2d(1, 2, 3, r=1))
        lora.mark_only_lora_as_trainable(model, bias="lora_only")
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable == {"1.lora_A", "1.lora_B", "1.conv.bias"}
        assert set(lora.lora_state_dict(model, bias="lora_only")) == trainable

    def test_a_module_whose_name_holds_lora(self) -> None:
        model = nn.ModuleDict({"lora_block": nn.ModuleDict({"fc": lora.Linear(2, 2, r=1)})})
        state = lora.lora_state_dict(model, bias="lora_only")
        assert "lora_block.fc.bias" in state

    def test_an_unknown_bias_changes_nothing(self) -> None:
        model = lora.Linear(2, 2)
        for function in (lora.mark_only_lora_as_trainable, lora.lora_state_dict):
            with pytest.raises(NotImplementedError, match="not 'some'"):
                function(model, bias="some")
        assert model.weight.requires_grad

    def test_foreign_layers_may_use_the_mixin(self) -> None:
        class Own(nn.Linear, lora.LoRALayer):
            def __init__(self) -> None:
                nn.Linear.__init__(self, 2, 2)
                lora.LoRALayer.__init__(self, r=1, lora_alpha=1, lora_dropout=0.1, merge_weights=False)

        model = nn.Sequential(Own())
        lora.mark_only_lora_as_trainable(model, bias="lora_only")
        assert model[0].bias.requires_grad
        assert not model[0].weight.requires_grad
