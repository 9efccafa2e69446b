"""One process of `test_distributed`: gradients and validation losses shared out, beside those of one process alone.

The first process writes a JSON object to a file: by case, the largest difference of a gradient relative to the largest
gradient, and the relative differences of the losses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailora.core.hardware.processor import cores
from tailora.training import int8
from tailora.training.distributed import SINGLE, Processes, joined
from tailora.training.learner import Learner
from tailora.training.precision import Arithmetic, apply
from tailora.training.settings import TrainSettings
from tailora.training.sharded import is_sharded, reshard, shard, whole
from tailora.training.shared_passes import mean_loss
from tailora.training.trees.forward import blocks_of, training_mode
from tailora.training.trees.prefix_tree import build
from training_cases import EXAMPLES, METHODS, prepared, settings_of

FAMILY = "gpt2"
BATCHES = {
    "uneven": EXAMPLES,
    "one prompt": EXAMPLES[:4],  # its tree is divided
    "one example": EXAMPLES[:1],  # all other processes have none
}
SETTINGS: dict[str, dict[str, Any]] = {
    "one pass": {},
    "accumulated": {"tokens_per_pass": 6},
    "checkpointed": {"gradient_checkpointing": True},
    "smoothed": {"label_smoothing": 0.1, "tokens_per_pass": 9},
}


def measure(
    model: nn.Module, settings: TrainSettings, arithmetic: Arithmetic, processes: Processes, batch: list[Any]
) -> tuple[dict[str, torch.Tensor], float, float]:
    """The gradients of a batch by name, its loss, and its loss as validation data."""
    learner = Learner(model, settings, arithmetic, processes)
    with learner.trees:
        validation = mean_loss(learner.trees, batch, settings, processes)
        reshard(model)
        training_mode(model)
        loss, interrupts = learner.compute_gradients(batch)
    assert not interrupts
    gradients = {name: whole(p.grad).clone() for name, p in learner.learning.items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients, loss, validation


def difference(one: tuple[Any, float, float], other: tuple[Any, float, float]) -> list[float]:
    (gradients, *losses), (others, *other_losses) = one, other
    assert gradients.keys() == others.keys()
    largest = max(float(gradient.abs().max()) for gradient in others.values())
    far = max(float((gradients[name] - others[name]).abs().max()) for name in others)
    return [far / largest, *(abs(a - b) / b for a, b in zip(losses, other_losses, strict=True))]


def exact_cases(processes: Processes) -> dict[str, list[float]]:
    """Every method in float64."""
    found = {}
    arithmetic = Arithmetic("fp32")
    for method in METHODS:
        models = [prepared(FAMILY, settings_of(method)).double() for _ in range(2)]
        if method == "full":
            shard(models[0], blocks_of(models[0]))
            assert is_sharded(models[0])
        for name, changes in SETTINGS.items():
            for kind, batch in BATCHES.items():
                settings = settings_of(method, **changes)
                shared = measure(models[0], settings, arithmetic, processes, list(batch))
                alone = measure(models[1], settings, arithmetic, SINGLE, list(batch))
                found[f"{method}, {name}, {kind}"] = difference(shared, alone)
    return found


def rounded_cases(processes: Processes) -> dict[str, list[float]]:
    """The precisions that round products."""
    found = {}
    for precision in ("bf16", *(["int8"] if int8.supported() else [])):
        settings = settings_of("lora", precision=precision)
        measured = []
        for group in (processes, SINGLE):
            model = prepared(FAMILY, settings)
            arithmetic = apply(model, precision, settings, build(EXAMPLES))
            measured.append(measure(model, settings, arithmetic, group, list(EXAMPLES)))
        found[precision] = difference(*measured)
    return found


def main(file: Path) -> None:
    torch.set_num_threads(max(1, cores() // 4))
    with joined("cpu") as processes:
        found = exact_cases(processes) | rounded_cases(processes)
        everywhere = processes.from_all(found)
        assert all(other.keys() == found.keys() for other in everywhere)
        worst = {case: [max(values) for values in zip(*(o[case] for o in everywhere), strict=True)] for case in found}
        if processes.is_first:
            file.write_text(json.dumps(worst), encoding="utf-8")
