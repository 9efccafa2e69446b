"""Time one batch on every backend in every precision, and report which of them `auto` chooses.

    python benchmarks/backends.py --base smollm2-135m --json

The batch is that of `tailora.inference.step_timing`: one step for eight prompts of 32 tokens, then 32 steps that write
one token for each. Every backend and precision of the device is timed in turn. This includes torch, which an engine
does not load only to time it. `chosen` is what `tailora generate` and `tailora serve` run with `auto`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from tailora.core.errors import UserError
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.step_timing import CACHE_TOKENS, batch_milliseconds

WAYS = (("openvino", "int8"), ("openvino", "bf16"), ("openvino", "fp32"), ("torch", "bf16"), ("torch", "fp32"))


def main() -> None:
    """Measure and print."""
    arguments = parse()
    setup = resolve_models(arguments.base, {})
    chosen = start_engine(setup, device=arguments.device, cache_tokens=CACHE_TOKENS)
    found: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for backend, precision in WAYS:
            options: dict[str, Any] = {"backend": backend, "precision": precision, "device": arguments.device}
            try:
                running = start_engine(setup, cache_tokens=CACHE_TOKENS, **options)
            except UserError as error:
                print(f"{precision} on {backend}: {error}")
                continue
            times = found.setdefault(f"{precision} on {backend}", [])
            times.append(batch_milliseconds(running.engine.backend))
    for way, times in sorted(found.items(), key=lambda pair: statistics.median(pair[1])):
        mark = "  chosen" if way == f"{chosen.precision} on {chosen.backend}" else ""
        print(f"{way:<18} {statistics.median(times):8.1f} ms  {times}{mark}")
    if arguments.json:
        print(json.dumps({"chosen": chosen.description, "milliseconds": found}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, wheel or folder of the base model")
    parser.add_argument("--device", default="auto", help="device: cpu, cuda or auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="also print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
