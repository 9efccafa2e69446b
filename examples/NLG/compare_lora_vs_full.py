"""LoRA beside full fine-tuning: what each trains and saves, and seconds a step and peak memory as measured here.

Each method is measured in a process of its own, one after the other, so that neither has the other's memory. With
--summary FILE the table goes into a Markdown file together with what `tailora compare` measures on the bundled model,
with scores, which takes some minutes.
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

from tailora.commands import compare
from tailora.core.errors import TrainingError, UserError
from tailora.core.files import write_text
from tailora.core.hardware.memory import peak_rss, rss
from tailora.lora import inject
from tailora.metrics.suite import METRICS
from tailora.reports.comparison import sheet
from tailora.reports.tables import Sheet, as_markdown
from tailora.training import demo

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
    parser.add_argument("--summary", type=Path, help="a Markdown file to write, the runs in comparison/ beside it")
    parser.add_argument("--measure", choices=METHODS, help="measure this method here and print JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, float]:
    imported = rss() or 0
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
        "memory": ((peak_rss() or 0) - imported) / demo.MEGABYTE,
    }


def measure_apart(method: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--measure", method]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise TrainingError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"{method} failed")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


NOTE = "MB = 2^20 bytes; peak memory is the process's resident set less what it held after its imports."
RATES = {
    "lora": [3e-3, 1e-2, 3e-2],
    "full": [1e-3, 3e-3, 1e-2],
    "bitfit": [3e-2, 1e-1, 3e-1],
    "top2": [1e-3, 3e-3, 1e-2],
}


def lines(lora: dict[str, float], full: dict[str, float]) -> list[list[str]]:
    """The head of the table and its rows."""
    accounts = demo.Accounts(base=int(full["trainable"]), adapter=int(lora["trainable"]))
    return [
        ["", "full fine-tuning", "LoRA", "LoRA saves"],
        ["parameters", f"{accounts.base:,}", f"{accounts.total:,}", ""],
        [
            "trainable", f"{accounts.base:,}", f"{accounts.adapter:,} ({accounts.percent:.2f}%)",
            f"{accounts.fewer_percent:.2f}% fewer",
        ],
        ["frozen", "0", f"{accounts.base:,}", ""],
        [
            "trained weights, fp32", f"{accounts.base_megabytes:.2f} MB", f"{accounts.adapter_megabytes:.2f} MB",
            f"{accounts.times_smaller:.2f}× smaller",
        ],
        [
            "measured: a step", f"{full['seconds']:.2f} s", f"{lora['seconds']:.2f} s",
            f"{full['seconds'] / lora['seconds']:.2f}× faster",
        ],
        [
            "measured: peak memory", f"{full['memory']:,.0f} MB", f"{lora['memory']:,.0f} MB",
            f"{100 * (1 - lora['memory'] / full['memory']):.0f}% less",
        ],
    ]  # fmt: skip


def show(lora: dict[str, float], full: dict[str, float]) -> None:
    head, *rows = lines(lora, full)
    table = Table(head[0], *head[1:])
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=100).print(table)
    print(NOTE)


def summarise(lora: dict[str, float], full: dict[str, float], options: argparse.Namespace) -> None:
    """Write both comparisons into a file; the runs of the second lie beside it and are used again."""
    head, *rows = lines(lora, full)
    recipe = {"targets": ["all-linear"], "rank": 16, "alpha": 32, "epochs": 1, "learning_rates": RATES}
    folder = options.summary.absolute().parent / "comparison"
    found = compare.run(compare.CompareSettings(data="restaurants", base="tiny", output=folder, **recipe))
    measured = sheet(found, METRICS)
    model = options.model or "demonstration network"
    about = [
        "Written by `python examples/NLG/compare_lora_vs_full.py --summary EXECUTION_SUMMARY.md` from its own runs.",
        f"First the {model} and {options.max_train_samples} texts of the bundled restaurants; {NOTE} Then the bundled "
        "model on all of the bundled restaurants, their test split scored: a grammar wrote those texts, so that scores "
        "say which method learns them and not how well it would write of others.",
        *measured.about,
    ]
    told = Sheet(
        "Execution summary: LoRA and full fine-tuning", about, [(model.capitalize(), head, rows), *measured.tables]
    )
    write_text(options.summary, as_markdown(told))
    print(f"wrote {options.summary}")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    try:
        if options.measure:
            print(json.dumps(measure(options)))
        else:
            lora, full = (measure_apart(method, arguments) for method in METHODS)
            show(lora, full)
            if options.summary is not None:
                summarise(lora, full, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
