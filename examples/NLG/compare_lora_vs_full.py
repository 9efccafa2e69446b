"""LoRA beside full fine-tuning: what each trains and saves, and seconds a step and peak memory as measured here.

Each method is measured in a process of its own, one after the other, so that neither has the other's memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tailora import hardware
from tailora.errors import TrainingError, UserError
from tailora.lora import inject
from tailora.train import demo

METHODS = ("lora", "full")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_epochs", type=int, default=1, help="times each text is seen (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="texts per update (default: %(default)s)")
    parser.add_argument("--lora_dim", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="LoRA's learning rate (default: %(default)s)")
    parser.add_argument("--max_train_samples", type=int, default=50, help="training texts (default: %(default)s)")
    parser.add_argument(
        "--model", help="gpt2, smollm2-135m, tiny or a model folder (default: the demonstration network)"
    )
    parser.add_argument("--measure", choices=METHODS, help="measure this method here and print JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, float]:
    imported = hardware.rss() or 0
    subject = demo.subject(options.model, options.lora_dim)
    network = subject.network
    base = sum(parameter.numel() for parameter in network.parameters())
    training, _ = demo.sample_examples(subject.tokenizer, train=options.max_train_samples)
    if options.measure == "lora":
        inject.attach(network, subject.config, generator=torch.Generator().manual_seed(0))
    else:
        network.requires_grad_(True)
    rate = options.lr if options.measure == "lora" else options.lr / 10  # every weight moves: smaller steps do
    steps = list(
        demo.train_steps(
            network, training, epochs=options.num_epochs, batch_size=options.batch_size, learning_rate=rate
        )
    )
    timed = steps[1:-1] or steps  # the first step makes buffers, the last batch may be smaller
    return {
        "base": base,
        "trainable": inject.parameter_table(network).trainable,
        "seconds": statistics.median(step.seconds for step in timed),
        "memory": ((hardware.peak_rss() or 0) - imported) / demo.MEGABYTE,
    }


def measure_apart(method: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--measure", method]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise TrainingError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"{method} failed")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(lora: dict[str, float], full: dict[str, float]) -> None:
    accounts = demo.Accounts(base=int(full["trainable"]), adapter=int(lora["trainable"]))
    table = Table("", "full fine-tuning", "LoRA", "LoRA saves")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("parameters", f"{accounts.base:,}", f"{accounts.total:,}", "")
    table.add_row(
        "trainable", f"{accounts.base:,}", f"{accounts.adapter:,} ({accounts.percent:.2f}%)",
        f"{accounts.fewer_percent:.2f}% fewer",
    )  # fmt: skip
    table.add_row("frozen", "0", f"{accounts.base:,}", "")
    table.add_row(
        "trained weights, fp32", f"{accounts.base_megabytes:.2f} MB", f"{accounts.adapter_megabytes:.2f} MB",
        f"{accounts.times_smaller:.2f}× smaller",
    )  # fmt: skip
    table.add_row(
        "measured: a step", f"{full['seconds']:.2f} s", f"{lora['seconds']:.2f} s",
        f"{full['seconds'] / lora['seconds']:.2f}× faster",
    )  # fmt: skip
    table.add_row(
        "measured: peak memory", f"{full['memory']:,.0f} MB", f"{lora['memory']:,.0f} MB",
        f"{100 * (1 - lora['memory'] / full['memory']):.0f}% less",
    )  # fmt: skip
    Console(width=100).print(table)
    print("MB = 2^20 bytes; peak memory is the process's resident set less what it held after its imports.")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    try:
        if options.measure:
            print(json.dumps(measure(options)))
        else:
            show(*(measure_apart(method, arguments) for method in METHODS))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
