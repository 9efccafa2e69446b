"""The optimizer of a run (AdamW), and its learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from tailora.training.settings import Schedule


def adamw(parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); vectors, such as biases and norms, do not decay."""
    learning = list(parameters)
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, foreach=True)


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
