"""Measure the accuracy of 8-bit inference, and the time of a training update in each precision.

    python benchmarks/precision.py --adapter runs/e2e --data ../shared/data/e2e/lora_format --split test

The OpenVINO backend reads each record's prompt and first reference, in fp32 (with an fp32 cache) and in int8 (with an
8-bit cache), with the adapter in a slot and, as `int8 merged`, folded into the weights before they are rounded.
`agreement` is the share of positions of these texts at which the most likely next token is that of fp32. `texts` is the
share of records for which greedy decoding writes the same tokens as fp32.

    python benchmarks/precision.py --training --base smollm2-135m --rounds 3

measures the time of a training update for each method and precision, and reports which one `--precision auto` chooses
in each round. The measurement is that of `tailora train`, without its cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailora.core.hardware.devices import choose_device
from tailora.core.hardware.machine import describe
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.engine.backend import Backend, Step
from tailora.engine.decoding import Decoding
from tailora.inference.running import Running
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH = 16
NAME = "adapter"
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "int8": {"precision": "int8"},
    "int8 merged": {"precision": "int8", "merged": True},
}


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.training:
        from _updates import update_times

        base, device = arguments.base or "tiny", choose_device(arguments.device)
        found_times = update_times(base, arguments.data, device, arguments.rounds, arguments.batch_size)
        if arguments.json:
            print(json.dumps({"base": base, "machine": describe(), "methods": found_times}, indent=2))
        return
    adapters = {} if arguments.adapter is None else {NAME: Path(arguments.adapter)}
    setup = resolve_models(arguments.base, adapters)
    records = record_files.read(arguments.data, split=arguments.split)[: arguments.limit]
    first = [dataclasses.replace(record, references=record.references[:1]) for record in records]
    examples, _ = build_examples(first, setup.tokenizer, prompts=setup.prompts(NAME if adapters else None))
    found: dict[str, dict[str, float]] = {}
    exact: tuple[list[np.ndarray], list[tuple[int, ...]]] | None = None
    for way, options in WAYS.items():
        if options.get("merged") and not adapters:
            continue
        running = start_engine(setup, backend="openvino", **options)
        loss, tokens, best = read(running, examples, NAME if adapters else None)
        texts = write(running, examples, NAME if adapters else None, arguments.new_tokens)
        exact = exact or (best, texts)
        same = sum(int((one == other).sum()) for one, other in zip(best, exact[0], strict=True))
        found[way] = {
            "loss": loss / tokens,
            "perplexity": math.exp(loss / tokens),
            "agreement": same / tokens,
            "texts": sum(one == other for one, other in zip(texts, exact[1], strict=True)) / len(texts),
        }
        print(f"{way:<12}", "  ".join(f"{name} {value:.4f}" for name, value in found[way].items()))
    for way in found:
        ratio = found[way]["perplexity"] / found["fp32"]["perplexity"]
        print(f"perplexity of {way} over fp32's: {ratio:.4f}")
    if arguments.json:
        print(json.dumps({"base": setup.base.name, "records": len(records), "ways": found}, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--adapter", help="adapter folder, adapter file or run directory (default: measure the base alone)"
    )
    parser.add_argument("--base", help="base model (default: the base of the adapter)")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=200, help="number of records")
    parser.add_argument("--new-tokens", type=int, default=80, help="largest number of tokens of a greedy text")
    parser.add_argument("--training", action="store_true", help="measure the time of training updates")
    parser.add_argument("--device", default="auto", help="device of training updates")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of training updates")
    parser.add_argument("--batch-size", type=int, default=32, help="number of examples in a training update")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def read(running: Running, examples: Sequence[Example], adapter: str | None) -> tuple[float, int, list[np.ndarray]]:
    """Loss in nats over all completion tokens, how many they are, and the likeliest token at each, by example."""
    backend = running.engine.backend
    slots = backend.adapter_slots.acquire([] if adapter is None or running.built_in else [adapter]) or ()
    loss, tokens, best = 0.0, 0, []
    for start_ in range(0, len(examples), BATCH):
        batch = examples[start_ : start_ + BATCH]
        scores = backend.run(_step(backend, batch, *slots))
        place = 0
        for example in batch:
            targets = np.array(example.completion)
            rows = slice(place, place + len(targets))
            place += len(targets)
            loss += float((scores.log_z[rows] - scores.logits[rows][np.arange(len(targets)), targets]).sum())
            best.append(scores.tokens[rows, 0].copy())
            tokens += len(targets)
    backend.adapter_slots.release(slots)
    return loss, tokens, best


def write(running: Running, examples: Sequence[Example], adapter: str | None, new_tokens: int) -> list[tuple[int, ...]]:
    """Greedy texts of the examples' prompts."""
    prompts = [Prompt(example.prompt, adapter) for example in examples]
    return [made.token_ids for made in generate(running, prompts, Decoding(max_new_tokens=new_tokens))]


def _step(backend: Backend, batch: Sequence[Example], slot: int = -1) -> Step:
    """All tokens of some examples at once; what follows each completion token's predecessor is asked for."""
    rows = [[*example.prompt, *example.completion[:-1]] for example in batch]
    counts = [len(row) for row in rows]
    begins = np.cumsum([0, *counts], dtype=np.int32)
    needed = [-(-count // backend.block_size) for count in counts]
    return Step(
        tokens=np.concatenate(rows).astype(np.int32),
        positions=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        past=np.zeros(len(rows), np.int32),
        begins=begins,
        blocks=np.arange(sum(needed), dtype=np.int32),
        block_begins=np.cumsum([0, *needed], dtype=np.int32),
        slots=np.full((sum(counts), 1), slot, np.int32),
        scales=np.ones((sum(counts), 1), np.float32),
        sampled=np.concatenate(
            [
                np.arange(end - len(example.completion), end, dtype=np.int32)
                for example, end in zip(batch, begins[1:], strict=True)
            ]
        ),
        best=1,
    )


if __name__ == "__main__":
    main()
