"""Compare LoRA with full fine-tuning: trained parameters, size on disk, and the measured step time and peak memory.

Each method runs in its own process, one after the other, so that the memory figures are independent. --summary FILE
also runs `tailora compare` on the bundled model, which takes some minutes, and writes both results to a Markdown file.
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

import demo_training
from tailora.commands import compare
from tailora.core.errors import TrainingError, UserError
from tailora.core.files import write_text
from tailora.core.hardware.memory import peak_rss, rss
from tailora.lora import inject
from tailora.metrics.suite import METRICS
from tailora.reports.comparison import sheet
from tailora.reports.tables import Sheet, as_markdown

METHODS = ("lora", "full")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num_epochs", type=int, default=1, help="passes over the training texts (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="texts per update (default: %(default)s)")
    parser.add_argument("--lora_dim", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument(
        "--lr",
        type=float,
        default=3e-3,
        help="initial learning rate of LoRA; full fine-tuning uses a tenth of it (default: %(default)s)",
    )
    parser.add_argument(
        "--max_train_samples", type=int, default=50, help="number of training texts (default: %(default)s)"
    )
    parser.add_argument(
        "--model", help="base model: gpt2, smollm2-135m, tiny or a model folder (default: the demonstration network)"
    )
    parser.add_argument(
        "--summary", type=Path, help="Markdown file to write; the runs are kept in comparison/ beside it"
    )
    parser.add_argument("--measure", choices=METHODS, help="measure one method in this process and print JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, float]:
    imported = rss() or 0
    experiment = demo_training.load_experiment(options.model, options.lora_dim)
    network = experiment.network
    base = sum(parameter.numel() for parameter in network.parameters())
    training, _ = demo_training.sample_examples(experiment.tokenizer, train=options.max_train_samples)
    if options.measure == "lora":
        inject.attach(network, experiment.config, generator=torch.Generator().manual_seed(0))
    else:
        network.requires_grad_(True)
    # Full fine-tuning updates every weight and needs smaller steps.
    rate = options.lr if options.measure == "lora" else options.lr / 10
    steps = list(
        demo_training.train_steps(
            network, training, epochs=options.num_epochs, batch_size=options.batch_size, learning_rate=rate
        )
    )
    timed = steps[1:-1] or steps  # the first step allocates buffers, the last batch may be smaller
    return {
        "base": base,
        "trainable": inject.parameter_table(network).trainable,
        "seconds": statistics.median(step.seconds for step in timed),
        "memory": ((peak_rss() or 0) - imported) / demo_training.MEGABYTE,
    }


def measure_in_process(method: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--measure", method]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise TrainingError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"{method} failed")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


NOTE = "MB = 2^20 bytes. Peak memory is the growth of the resident set after the imports."
RATES = {
    "lora": [3e-3, 1e-2, 3e-2],
    "full": [1e-3, 3e-3, 1e-2],
    "bitfit": [3e-2, 1e-1, 3e-1],
    "top2": [1e-3, 3e-3, 1e-2],
}


def lines(lora: dict[str, float], full: dict[str, float]) -> list[list[str]]:
    """The header row of the table, and its rows."""
    counts = demo_training.ParameterCounts(base=int(full["trainable"]), adapter=int(lora["trainable"]))
    return [
        ["", "full fine-tuning", "LoRA", "LoRA saves"],
        ["parameters", f"{counts.base:,}", f"{counts.total:,}", ""],
        [
            "trainable", f"{counts.base:,}", f"{counts.adapter:,} ({counts.percent:.2f}%)",
            f"{counts.fewer_percent:.2f}% fewer",
        ],
        ["frozen", "0", f"{counts.base:,}", ""],
        [
            "trained weights, fp32", f"{counts.base_megabytes:.2f} MB", f"{counts.adapter_megabytes:.2f} MB",
            f"{counts.times_smaller:.2f}× smaller",
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
    """Write both comparisons to a file; the runs of the second are kept in comparison/ and reused by the next call."""
    head, *rows = lines(lora, full)
    recipe = {
        "targets": ["all-linear"],
        "rank": 16,
        "alpha": 32,
        "epochs": 1,
        "methods": list(RATES),
        "learning_rates": RATES,
    }
    folder = options.summary.absolute().parent / "comparison"
    result = compare.run(compare.CompareSettings(data="restaurants", base="tiny", output=folder, **recipe))
    measured = sheet(result, METRICS)
    model = options.model or "demonstration network"
    about = [
        "Written by `python examples/NLG/compare_lora_vs_full.py --summary EXECUTION_SUMMARY.md` from its own runs.",
        f"The first table measures the {model} on {options.max_train_samples} texts of the bundled restaurants. {NOTE}",
        "The other tables measure the bundled model on all bundled restaurants, and score the test split. A grammar "
        "generated these texts: the scores show how well each method learns them, not how well it would write about "
        "other data.",
        *measured.about,
    ]
    summary = Sheet(
        "Execution summary: LoRA and full fine-tuning", about, [(model.capitalize(), head, rows), *measured.tables]
    )
    write_text(options.summary, as_markdown(summary))
    print(f"wrote {options.summary}")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    try:
        if options.measure:
            print(json.dumps(measure(options)))
        else:
            lora, full = (measure_in_process(method, arguments) for method in METHODS)
            show(lora, full)
            if options.summary is not None:
                summarise(lora, full, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
