"""The optimizer of a run (AdamW, with LoRA+ if asked for), and its learning rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tailora.lora.layers import LoraEmbedding
from tailora.training.methods import learning_parameters
from tailora.training.settings import Schedule, TrainSettings

LORA_PLUS_EMBEDDING_RATE = 1e-6
"""Learning rate of adapted embeddings with LoRA+; it is PEFT's default."""


def adamw(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over the learning parameters of a network.

    Each group of parameters has its own peak learning rate under `peak`. Vectors, such as biases and norms, do not
    decay. With `lora_plus_ratio`, the groups are those of LoRA+ (Hayou et al. 2024, arXiv:2402.12354).

    Args:
        model: the network; `requires_grad` says what is trained.
        settings: the settings of the run.
    """
    if settings.method == "lora" and settings.lora_plus_ratio is not None:
        groups = _lora_plus(model, settings, settings.lora_plus_ratio)
    else:
        peak = settings.peak_learning_rate
        learning = list(learning_parameters(model).values())
        groups = [
            {"params": [p for p in learning if p.dim() > 1], "weight_decay": settings.weight_decay, "peak": peak},
            {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0, "peak": peak},
        ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, foreach=foreach_on(groups[0]["params"][0].device))


def foreach_on(device: torch.device) -> bool | None:
    """Return whether PyTorch computes many tensors at once on a device; None leaves it to PyTorch.

    On a CPU it does so only if asked, and on an Apple GPU it refuses if asked.
    """
    return True if device.type in ("cpu", "cuda") else None


def _lora_plus(model: nn.Module, settings: TrainSettings, ratio: float) -> list[dict[str, Any]]:
    """Return the groups of LoRA+ as `peft.optimizers.create_loraplus_optimizer` forms them.

    B, DoRA's magnitudes and trained biases learn at the raised rate. All but the biases decay.
    """
    rate, decay = settings.peak_learning_rate, settings.weight_decay
    embeddings = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, LoraEmbedding)
        for parameter in layer.branches.parameters()
    }
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay, "peak": rate},
        {"params": [], "weight_decay": decay, "peak": LORA_PLUS_EMBEDDING_RATE},
        {"params": [], "weight_decay": decay, "peak": rate * ratio},
        {"params": [], "weight_decay": 0.0, "peak": rate * ratio},
    ]
    slow, embedding, fast, biases = groups
    for name, parameter in learning_parameters(model).items():
        part = name.rpartition(".")[2]
        if id(parameter) in embeddings:
            group = embedding
        elif part == "lora_A":
            group = slow
        else:
            group = fast if part in ("lora_B", "magnitude") else biases
        group["params"].append(parameter)
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int, steps: int) -> float:
    """Set the learning rate of every group for an update; return that of the run's peak learning rate.

    Args:
        optimizer: from `adamw`.
        settings: the settings of the run.
        step: the update, from 0.
        steps: number of updates of the run.
    """

    def rate(peak: float) -> float:
        warmup_steps, schedule = settings.warmup_steps, settings.schedule
        return learning_rate(step, steps, peak=peak, warmup_steps=warmup_steps, schedule=schedule)

    for group in optimizer.param_groups:
        group["lr"] = rate(group["peak"])
    return rate(settings.peak_learning_rate)


def learning_rate(step: int, steps: int, *, peak: float, warmup_steps: int, schedule: Schedule) -> float:
    """Return the learning rate of an update: a linear warm-up to the peak, then the schedule.

    Args:
        step: the update, from 0.
        steps: number of updates of the run.
        peak: the learning rate at the end of the warm-up.
        warmup_steps: number of updates of the warm-up, shortened to a tenth of the run.
        schedule: linear or cosine decay to 0, or constant.
    """
    warmup = min(warmup_steps, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    return peak
