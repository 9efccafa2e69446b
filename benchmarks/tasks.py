"""Serve several tasks from one base: texts of each, the time to switch between adapters, and the disk space.

    python benchmarks/tasks.py --base smollm2-135m --task e2e=runs/e2e,e2e/lora_format --task dart=runs/dart,dart

A task is NAME=ADAPTER,DATA. Switching is measured in two ways: the time to copy an adapter from memory into a slot (the
extra cost of the first request after a pause), and the time of a one-token request that uses another adapter than the
previous request, compared with one that uses the same adapter, both with every adapter in a slot. The disk space is
compared with a full model for each task, each of the size of the base on disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from _processes import say
from tailora.adapters import formats
from tailora.core.hardware.machine import describe
from tailora.data import records
from tailora.engine.decoding import Decoding
from tailora.inference.running import Running
from tailora.inference.setup import Setup, resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate


def main() -> None:
    """Measure, tell, and with --json print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--task", action="append", required=True, metavar="NAME=ADAPTER,DATA")
    parser.add_argument("--split", default="test", help="split of the data")
    parser.add_argument("--texts", type=int, default=3, help="number of texts printed for each task")
    parser.add_argument("--times", type=int, default=30, help="number of measurements of each way of switching")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    arguments = parser.parse_args()
    tasks = {name: rest.rsplit(",", 1) for name, _, rest in (task.partition("=") for task in arguments.task)}
    setup = resolve_models(arguments.base, {name: Path(adapter) for name, (adapter, _) in tasks.items()})
    running = start_engine(setup, precision="int8")
    prompts = {name: _prompts(setup, name, data, arguments) for name, (_, data) in tasks.items()}
    mixed = [prompt for each in prompts.values() for prompt in each]
    texts = [made.text for made in generate(running, mixed, Decoding(max_new_tokens=80))]
    for prompt, text in zip(mixed, texts, strict=True):
        say(f"{prompt.adapter}: {text}")
    full = sum(file.stat().st_size for file in setup.base.folder.glob("*.safetensors"))
    places = {name: formats.adapter_place(Path(adapter)) for name, (adapter, _) in tasks.items()}
    sizes = {name: (place / "adapter_model.safetensors").stat().st_size for name, place in places.items()}
    result: dict[str, Any] = {
        "benchmark": "tasks",
        "texts": [[prompt.adapter, text] for prompt, text in zip(mixed, texts, strict=True)],
        **_switching(setup, running, [each[0] for each in prompts.values()], arguments.times),
        "adapter_bytes": sizes,
        "base_bytes": full,
        "one_base_with_adapters_bytes": full + sum(sizes.values()),
        "full_models_bytes": full * len(tasks),
        "machine": describe(),
    }
    result["disk_ratio"] = result["one_base_with_adapters_bytes"] / result["full_models_bytes"]
    for name in ("fill_slot_seconds", "same_adapter_seconds", "other_adapter_seconds", "switch_seconds", "disk_ratio"):
        say(f"{name} {result[name]:.5f}")
    say(f"adapters {sizes}, base {full}")
    if arguments.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))


def _prompts(setup: Setup, name: str, data: str, arguments: argparse.Namespace) -> list[Prompt]:
    rows = records.read(data, split=arguments.split)
    rows = rows[:: max(1, len(rows) // arguments.texts)][: arguments.texts]
    return [Prompt(tokens, name) for tokens in setup.prompts(name).encode(rows)]


def _switching(setup: Setup, running: Running, prompts: list[Prompt], times: int) -> dict[str, float]:
    """Medians of the ways to switch."""
    adapter_slots = running.engine.backend.adapter_slots
    fills = []
    for _ in range(times):
        for name, adapter in setup.lora.items():
            adapter_slots.unregister(name)  # so that it is in no slot
            adapter_slots.register(name, adapter)
            began = time.perf_counter()
            slots = adapter_slots.acquire([name])
            fills.append(time.perf_counter() - began)
            adapter_slots.release(slots or ())
    one = Decoding(max_new_tokens=1)
    same: list[float] = []
    other: list[float] = []
    for number in range(times):
        prompt = prompts[number % len(prompts)]._replace(tokens=prompts[0].tokens)  # one length, so that times compare
        generate(running, [prompt], one)
        for ways, asked in ((same, prompt.adapter), (other, prompts[(number + 1) % len(prompts)].adapter)):
            began = time.perf_counter()
            generate(running, [Prompt(prompt.tokens, asked)], one)
            ways.append(time.perf_counter() - began)
    return {
        "fill_slot_seconds": statistics.median(fills),
        "same_adapter_seconds": statistics.median(same),
        "other_adapter_seconds": statistics.median(other),
        "switch_seconds": statistics.median(b - a for a, b in zip(same, other, strict=True)),
    }


if __name__ == "__main__":
    main()
