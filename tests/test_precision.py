"""Every method, family and precision, forced: losses and gradients are those of transformers' own forward pass.

Where numbers are rounded, trees and sequences round at different places. The measure is then the error of each against
the same computation in fp32. Both are draws from the same distribution, so that of trees is at most twice that of the
plain forward pass, and a fixed share more.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import network, stir
from tailora.core.errors import SettingsError, TrainingError
from tailora.data.examples import Example
from tailora.lora.layers import LoraLayer
from tailora.training import int8, precision
from tailora.training.methods import prepare
from tailora.training.precision import NOISE, Arithmetic, Choice, apply, available, choose, device_for, fastest, measure
from tailora.training.settings import TrainSettings
from tailora.training.trees import forward
from tailora.training.trees.attention import masks_side_by_side
from tailora.training.trees.forward import TreeModel, evaluation, training_mode
from tailora.training.trees.prefix_tree import build

FAMILIES = (
    *("gpt2", "llama", "mistral", "smollm3", "olmo2", "granite", "qwen2", "qwen3", "gemma", "gemma3_text"),
    *("phi3", "opt", "gpt_neox"),
)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targets": ("attention", "mlp")},
    "rslora": {"targets": ("all-linear",), "rslora": True},
    "dora": {"targets": ("attention",), "dora": True},
    "lora and biases": {"targets": ("attention",), "bias": "all"},
    "lora on the head": {"targets": ("attention", "head")},
    "full": {"method": "full"},
    "bitfit": {"method": "bitfit"},
    "top2": {"method": "top2"},
}
PRECISIONS = ("fp32", "bf16", "int8")
WITHOUT_BIASES = ("llama", "mistral", "smollm3", "olmo2", "granite", "qwen3", "gemma", "gemma3_text", "phi3")
EXAMPLES = [
    *(Example("1", (1, 2, 3), (4, 5, *end, 6, 0)) for end in ((), (7,), (7, 8), (9, 9, 9))),
    *(Example("2", (8, 2, 11, 12, 13), (*start, 14, 15, 0)) for start in ((4,), (16, 17))),
    Example("3", (3, 21), (5, 22, 22, 0)),
]


def settings_of(method: str, **more: Any) -> TrainSettings:
    return TrainSettings(**({"data": "restaurants", "rank": 4, "alpha": 8} | METHODS[method] | more))


def prepared(family: str, settings: TrainSettings) -> nn.Module:
    """A network with what learns marked, moved away from where training starts."""
    torch.manual_seed(0)
    model = network(family)
    base: Any = SimpleNamespace(model=model, model_type=family, name=family)
    prepare(base, settings)
    stir(model, size=0.05)
    return model


def measured(model: nn.Module, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [p.grad.flatten().float().clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return loss.item(), torch.cat(grads)


def plain(model: nn.Module, way: Arithmetic) -> tuple[float, torch.Tensor]:
    """Loss and gradients of every sequence by itself, padded on the right, through the model's own forward pass."""
    longest = max(map(len, EXAMPLES))
    tokens = torch.zeros(len(EXAMPLES), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    for row, example in enumerate(EXAMPLES):
        tokens[row, : len(example)] = torch.tensor(example.prompt + example.completion)
        labels[row, len(example.prompt) : len(example)] = torch.tensor(example.completion)
    mask = (torch.arange(longest) < torch.tensor([[len(e)] for e in EXAMPLES])).long()
    with way.autocast():
        logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return measured(model, loss)


def on_trees(model: nn.Module, way: Arithmetic) -> tuple[float, torch.Tensor]:
    with TreeModel(model, head=way.head) as trees, way.autocast():
        loss = trees.loss(build(EXAMPLES))
    return measured(model, loss)


def cases() -> Iterator[tuple[str, str, str, str]]:
    for family in FAMILIES:
        for method, values in METHODS.items():
            if method == "bitfit" and family in WITHOUT_BIASES:
                continue
            for name in PRECISIONS if "method" not in values else ("fp32", "bf16"):
                yield family, method, name, "one by one"
                if family in ("gpt2", "llama", "gemma3_text"):
                    yield family, method, name, "side by side"


@pytest.mark.parametrize(("family", "method", "name", "layout"), list(cases()))
def test_losses_and_gradients_are_those_of_the_plain_forward_pass(
    family: str, method: str, name: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "int8" and not int8.supported():
        pytest.skip("this CPU has no AVX2 instructions")
    if layout == "side by side":  # padded to common sizes, as on a GPU
        filled = forward._filled
        monkeypatch.setattr(forward, "_filled", lambda values, _, device: filled(values, 128, device))
        monkeypatch.setattr(forward, "tree_masks", lambda *given, rows: masks_side_by_side(*given, rows=128))
    settings = settings_of(method)
    model = prepared(family, settings)
    exact_loss, exact = plain(model, Arithmetic("fp32"))
    way = apply(model, name, settings, build(EXAMPLES))
    plain_loss, plain_slopes = plain(model, way)
    loss, slopes = on_trees(model, way)
    if name == "fp32":
        assert loss == pytest.approx(plain_loss, rel=1e-5)
        assert (slopes - plain_slopes).norm() <= 1e-4 * plain_slopes.norm()
        return
    # In int8 the trees' vocabulary projection is rounded too, which the model's own is not.
    share = {"bf16": 0.005, "int8": 0.02}[name]
    tokens = sum(len(example.completion) for example in EXAMPLES)
    assert abs(loss - exact_loss) <= 2 * abs(plain_loss - exact_loss) + 0.02 * tokens
    assert (slopes - exact).norm() <= 2 * (plain_slopes - exact).norm() + share * exact.norm()


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_base_without_biases_has_nothing_to_learn_for_bitfit(family: str) -> None:
    with pytest.raises(TrainingError, match="has no parameter for the method bitfit"):
        prepared(family, settings_of("bitfit"))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("method", ["lora", "full", "top2"])
def test_the_dropouts_of_the_base_are_off_in_every_method(family: str, method: str) -> None:
    model = prepared(family, settings_of(method))
    losses = []
    with TreeModel(model) as trees:
        with evaluation(model):
            losses.append(trees.loss(build(EXAMPLES)).item())
        training_mode(model)
        for seed in range(2):
            torch.manual_seed(seed)
            losses.append(trees.loss(build(EXAMPLES)).item())
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_the_dropout_of_the_adapter_is_on_while_training_and_only_then(family: str) -> None:
    model = prepared(family, settings_of("lora", dropout=0.3))
    training_mode(model)
    with TreeModel(model) as trees:

        def loss(seed: int) -> float:
            torch.manual_seed(seed)
            return trees.loss(build(EXAMPLES)).item()

        assert loss(0) == loss(0) != loss(1)
        with evaluation(model):
            assert loss(0) == loss(1)
        assert loss(0) != loss(1)  # the mode is what it was before the evaluation
    assert all(m.training for m in model.modules() if isinstance(m, LoraLayer))


class Timed:
    """Stands in for `measure`: counts its calls and gives the times that it was made with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.seconds, self.calls = seconds, 0
        monkeypatch.setattr(precision, "measure", self)

    def __call__(self, *_: Any) -> dict[str, float]:
        self.calls += 1
        return self.seconds


def chosen(method: str = "lora", operations: float = 1e13, model: nn.Module | None = None, **more: Any) -> Choice:
    settings = settings_of(method, **more)
    return choose(model or prepared("llama", settings), EXAMPLES, settings, "cpu", operations)


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"fp32": 1.0, "bf16": 2.0, "int8": 3.0}, "fp32"),
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.7}, "bf16"),
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.4}, "int8"),
        ({"fp32": 1.0, "bf16": 0.99, "int8": 0.97}, "fp32"),  # no more than the noise
        ({"fp32": 2.0, "bf16": 0.41, "int8": 0.4}, "bf16"),
        ({"fp32": 1.0, "tf32": 0.6, "bf16": 0.6}, "tf32"),
        ({"int8": 0.4}, "int8"),
    ],
)
def test_the_fastest_is_taken_and_the_most_exact_of_equals(seconds: dict[str, float], taken: str) -> None:
    assert fastest(seconds) == taken
    assert seconds[taken] <= NOISE * min(seconds.values())


def test_auto_takes_what_the_times_say_and_times_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, fp32=1.0, bf16=0.5, int8=0.7)
    first, second = chosen(), chosen()
    assert (first.precision, first.reason, dict(first.seconds)) == ("bf16", "timed", timed.seconds)
    assert (second.precision, second.reason, dict(second.seconds)) == ("bf16", "timed by an earlier run", timed.seconds)
    assert timed.calls == 1
    assert str(first) == "bf16 (timed: an update takes fp32 1000 ms, bf16 500 ms, int8 700 ms)"


@pytest.mark.parametrize(
    ("method", "change"),
    [("full", {}), ("dora", {}), ("lora", {"rank": 2}), ("lora", {"dropout": 0.1}), ("lora", {"batch_size": 8})],
)
def test_another_method_has_times_of_its_own(
    monkeypatch: pytest.MonkeyPatch, method: str, change: dict[str, Any]
) -> None:
    timed = Timed(monkeypatch, fp32=1.0, bf16=0.5)
    chosen()
    chosen(method, **change)
    assert timed.calls == 2


@pytest.mark.parametrize("change", ["threads", "model", "texts"])
def test_another_model_or_size_has_times_of_its_own(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    timed = Timed(monkeypatch, fp32=1.0, bf16=0.5)
    settings = settings_of("lora")
    choose(prepared("llama", settings), EXAMPLES, settings, "cpu", 1e13)
    texts = [*EXAMPLES, Example("9", tuple(range(1, 50)), (3, 0))] if change == "texts" else EXAMPLES
    model = prepared("mistral" if change == "model" else "llama", settings)
    with monkeypatch.context() as patched:
        if change == "threads":
            patched.setattr(torch, "get_num_threads", lambda: 1000)
        choose(model, texts, settings, "cpu", 1e13)
    assert timed.calls == 2


def test_nothing_is_timed_where_it_is_not_asked_for_or_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, fp32=1.0, bf16=0.5)
    assert chosen(operations=1e9) == Choice("fp32", "too short a run to time others")
    for name in PRECISIONS:
        assert chosen(precision=name) == Choice(name, "as set")
    monkeypatch.setattr(precision, "available", lambda *_: ("fp32",))
    assert chosen() == Choice("fp32", "the only one here")
    assert timed.calls == 0


@pytest.mark.parametrize("kept", [{}, {"fp32": "soon"}, {"fp64": 1.0}, {"fp32": -1}, [1.0], None])
def test_times_that_cannot_be_used_are_measured_again(
    kept: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed = Timed(monkeypatch, fp32=1.0, bf16=0.5)
    chosen()
    (path,) = (cache / "precision").iterdir()
    sound = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(sound), "result": kept}), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert chosen().precision == "bf16"
    assert timed.calls == 2
    assert f"{path}: this file of the cache cannot be used" in caplog.text
    assert path.read_text(encoding="utf-8") == sound


def test_the_probe_leaves_everything_as_it_was() -> None:
    """Parameters, modules, modes and random numbers, to the last bit: what follows learns the same without it."""
    for family, method in (("gpt2", "lora"), ("llama", "dora"), ("llama", "full"), ("gpt2", "bitfit")):
        settings = settings_of(method, dropout=0.2)
        model = prepared(family, settings)
        training_mode(model)
        names, modes = dict(model.named_modules()), {m: m.training for m in model.modules()}
        before = {name: (p, p.data_ptr(), p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
        attention = model.config._attn_implementation
        torch.manual_seed(5)
        state = torch.get_rng_state()
        seconds = measure(model, EXAMPLES, settings, "cpu")
        assert torch.equal(torch.get_rng_state(), state)
        assert set(seconds) <= set(available(settings.method, "cpu"))
        assert dict(model.named_modules()) == names
        assert {m: m.training for m in model.modules()} == modes
        assert model.config._attn_implementation == attention
        for name, parameter in model.named_parameters():
            same, place, dtype, values = before[name]
            assert (parameter is same, parameter.data_ptr(), parameter.dtype) == (True, place, dtype)
            assert torch.equal(parameter, values)
            assert parameter.grad is None


def test_a_precision_far_slower_than_another_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def seconds(_: TreeModel, way: Arithmetic, trees: Any, device: str) -> float:
        asked.append((way.precision, trees.examples))
        return 1.0 if way.precision == "fp32" else 5.0

    monkeypatch.setattr(precision, "_pass_seconds", seconds)
    settings = settings_of("full")
    assert measure(prepared("llama", settings), EXAMPLES, settings, "cpu") == {"fp32": 1.0}
    assert [count for name, count in asked if name == "bf16"] == [1, 1]


def test_a_precision_that_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("full")
    model = prepared("llama", settings)
    full: set[str] = {"fp32"}

    def seconds(_: TreeModel, way: Arithmetic, *__: Any) -> float:
        if way.precision in full:
            raise torch.OutOfMemoryError("as on a GPU")
        return 1.0

    monkeypatch.setattr(precision, "_pass_seconds", seconds)
    assert measure(model, EXAMPLES, settings, "cpu") == {"bf16": 1.0}
    full.add("bf16")
    with pytest.raises(torch.OutOfMemoryError):
        measure(model, EXAMPLES, settings, "cpu")


def test_tf32_is_on_during_the_run_and_off_after_it() -> None:
    way = apply(prepared("llama", settings_of("lora")), "tf32", settings_of("lora"), build(EXAMPLES))
    before = torch.get_float32_matmul_precision()
    with contextlib.suppress(ZeroDivisionError), way.products():
        assert torch.get_float32_matmul_precision() == "high"
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before


def test_int8_means_the_cpu_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(int8, "supported", lambda: True)
    assert device_for(settings_of("lora", precision="int8")) == "cpu"
    assert device_for(settings_of("lora", precision="bf16")) == "cuda"
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(SettingsError, match="int8 is for frozen weights on a CPU; use --method lora and --device"):
            settings_of("lora", precision="int8", device=device)
    for method in ("full", "bitfit", "top2"):
        with pytest.raises(SettingsError, match="int8 is for frozen weights on a CPU"):
            settings_of(method, precision="int8")
    with pytest.raises(SettingsError, match="tf32 is a precision of NVIDIA GPUs; use fp32"):
        device_for(settings_of("lora", precision="tf32", device="cpu"))


def test_int8_without_its_instructions_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "supported", lambda: False)
    with pytest.raises(TrainingError, match="int8 training needs an x86 CPU with AVX2"):
        device_for(settings_of("lora", precision="int8"))
    assert "int8" not in available("lora", "cpu")


@pytest.mark.parametrize(("capability", "names"), [((8, 0), ("fp32", "tf32", "bf16")), ((7, 5), ("fp32",))])
def test_what_a_gpu_offers(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert available("lora", "cuda:1") == names
