"""Every training method with settings of its own, and a few texts, for tests that go through all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from networks import network, stir
from tailora.data.examples import Example
from tailora.training.methods import prepare
from tailora.training.settings import TrainSettings

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targets": ("attention", "mlp")},
    "rslora": {"targets": ("all-linear",), "rslora": True},
    "dora": {"targets": ("attention",), "dora": True},
    "lora and biases": {"targets": ("attention",), "bias": "all"},
    "lora on the head": {"targets": ("attention", "head")},
    "full": {"method": "full"},
    "bitfit": {"method": "bitfit"},
    "top2": {"method": "top2"},
    "adapter-h": {"method": "adapter-h", "bottleneck": 6},
    "adapter-l": {"method": "adapter-l", "bottleneck": 6},
    "prefix": {"method": "prefix", "prefix_tokens": 3},
}
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
    return model  # type: ignore[no-any-return]
