"""Latency of a forward pass and of a decoding step with each method's parts in the network, as in the LoRA paper.

    python benchmarks/latency.py --rounds 20

The network is GPT-2 M's architecture (355M parameters) in fp32 at random weights, run by transformers. Its own
parameters are shared by all arms. `base` is also what a merged LoRA adapter and full, bitfit and top2 runs are. The
sizes are those of tables 1 and 3 of Hu et al. 2021 (arXiv:2106.09685). A round measures every arm once, after a pass to
warm up; ratios are computed within a round.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from _processes import say
from tailora.adapters.config import LoraConfig
from tailora.core.hardware.machine import describe
from tailora.inserts.attachment import attach_new
from tailora.inserts.prefix import prefix_of
from tailora.lora.inject import attach, parameter_table

SHAPES = {"pass of 1 × 128": (1, 128, 0), "step of 1 after 128": (1, 1, 128), "step of 16 after 128": (16, 1, 128)}
"""Batch, new tokens and cached tokens of each measurement."""


def main() -> None:
    """Measure, print a table, and with --json print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds")
    parser.add_argument("--layers", type=int, default=24, help="number of blocks, fewer to try the script")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    arguments = parser.parse_args()
    with torch.inference_mode(False):
        arms = make_arms(arguments.layers)
    rounds = [measure(arms) for _ in range(arguments.rounds)]
    result = {
        "benchmark": "latency",
        "trainable": {name: parameter_table(model).trainable for name, model in arms.items()},
        "milliseconds": {shape: {name: _spread([1e3 * r[shape][name] for r in rounds]) for name in arms}
                         for shape in SHAPES},
        "ratios": {shape: {name: _spread([r[shape][name] / r[shape]["base"] for r in rounds]) for name in arms}
                   for shape in SHAPES},
        "rounds": arguments.rounds,
        "machine": describe(),
    }  # fmt: skip
    for shape in SHAPES:
        say(shape)
        for name in arms:
            took, ratio = result["milliseconds"][shape][name], result["ratios"][shape][name]
            say(
                f"  {name:16} {took['median']:8.1f} ms ± {took['deviation']:.1f} "
                f"({100 * (ratio['median'] - 1):+.1f}%, from {100 * (ratio['lowest'] - 1):+.1f}% "
                f"to {100 * (ratio['highest'] - 1):+.1f}%)"
            )
    if arguments.json:
        print(json.dumps(result))


def make_arms(layers: int) -> dict[str, Any]:
    """Return a network for each method. They share the parameters of the base."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=layers, n_head=16)).eval()
    shared = {id(parameter): parameter for parameter in base.parameters()}
    parts: dict[str, Callable[[Any], object]] = {
        "base": lambda model: model.requires_grad_(False),
        "lora, not merged": lambda model: attach(model, LoraConfig(rank=4, alpha=32.0, targets=("attention.qv",))),
        "adapter-l 6": lambda model: attach_new(model, "adapter-l", 6, model_type="gpt2"),
        "adapter-l 224": lambda model: attach_new(model, "adapter-l", 224, model_type="gpt2"),
        "adapter-h 112": lambda model: attach_new(model, "adapter-h", 112, model_type="gpt2"),
        "prefix 7": lambda model: attach_new(model, "prefix", 7, model_type="gpt2"),
    }
    arms = {name: copy.deepcopy(base, dict(shared)) for name in parts}
    for name, model in arms.items():
        parts[name](model)
        model.eval()
    return arms


def measure(arms: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the seconds of each shape and arm, the better of two passes after one to warm up."""
    seconds: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for shape, (batch, new, cached) in SHAPES.items():
            ids = torch.randint(50_000, (batch, new), generator=torch.Generator().manual_seed(0))
            seconds[shape] = {}
            for name, model in arms.items():
                laps = [_seconds(model, ids, cached) for _ in range(3)]
                seconds[shape][name] = min(laps[1:])
    return seconds


def _seconds(model: Any, ids: torch.Tensor, cached: int) -> float:
    options = {} if cached == 0 else {"past_key_values": _cache(model, len(ids), cached)}
    began = time.perf_counter()
    model(input_ids=ids, use_cache=cached > 0, logits_to_keep=1, **options)
    return time.perf_counter() - began


def _cache(model: Any, batch: int, tokens: int) -> DynamicCache:
    """Return a cache of zeros as a text of some tokens leaves it, the prefix included."""
    prefix = prefix_of(model)
    length, config = tokens + (0 if prefix is None else len(prefix)), model.config
    cache = DynamicCache()
    for layer in range(config.n_layer):
        states = torch.zeros(batch, config.n_head, length, config.n_embd // config.n_head)
        cache.update(states, states.clone(), layer)
    return cache


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        "lowest": min(values),
        "highest": max(values),
    }


if __name__ == "__main__":
    main()
