"""Compare settings of training at equal CPU time: validation loss and BLEU of each candidate.

    python benchmarks/recipes.py --base smollm2-135m --train e2e/trainset.csv.gz --dev e2e/devset.csv.gz
    python benchmarks/recipes.py … --minutes 10 --only qv all-linear --json recipes.json

Every candidate is trained in its own process with one thread until it has used its minutes of CPU time. A short run
first measures the CPU time of an update, so that the schedule of the learning rate ends with the budget. CPU time does
not depend on what else the machine does. Loading, validation and saving are not counted.

A drawn sample of the dev records then gives two figures, both with the fp32 weights of the base: the mean loss per
completion token without label smoothing, and BLEU of greedy texts. Differences are those from the first candidate, with
95% intervals from 1,000 bootstrap samples of the records. Results are kept in `--work`, so that the same command
continues after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from _processes import print_result, run_arm, say
from tailora.core.files import write_json
from tailora.core.hardware.machine import describe

if TYPE_CHECKING:
    from tailora.training.settings import TrainSettings

Result = dict[str, Any]
SMOOTH = {"label_smoothing": 0.1}
ALL = {"targets": ["all-linear"], **SMOOTH}
CANDIDATES: dict[str, Result] = {
    "qv": {"targets": ["attention.qv"], "learning_rate": 1e-3},
    "attention": {"targets": ["attention"], "learning_rate": 2e-3, **SMOOTH},
    "all-linear-low": {**ALL, "learning_rate": 1e-3},
    "all-linear": {**ALL, "learning_rate": 2e-3},
    "all-linear-high": {**ALL, "learning_rate": 4e-3},
    "unsmoothed": {"targets": ["all-linear"], "learning_rate": 2e-3},
    "rank-16": {**ALL, "learning_rate": 2e-3, "rank": 16, "alpha": 32},
    "cosine": {**ALL, "learning_rate": 2e-3, "schedule": "cosine"},
    "shuffled": {**ALL, "learning_rate": 2e-3, "group_size": 1},
    "batch-16": {**ALL, "learning_rate": 2e-3, "batch_size": 16},
}
CALIBRATION = (2, 8)
"""Updates between which the CPU time of an update is measured."""
DRAWS, SEED = 1000, 12345


def main() -> None:
    """Train and measure the candidates, and print a table."""
    arguments = parse()
    if arguments.candidate:
        print_result(lambda: measure(arguments, arguments.candidate))
        return
    results = {name: kept(arguments, name) for name in arguments.only or CANDIDATES}
    summary = summarise(arguments, results)
    print_table(summary)
    if arguments.json:
        write_json(arguments.json, summary)


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--train", required=True, help="records to train on")
    parser.add_argument("--dev", required=True, help="records of which the sample is drawn")
    parser.add_argument("--minutes", type=float, default=5, help="CPU time of a candidate's updates")
    parser.add_argument("--records", type=int, default=100, help="number of dev records in the sample")
    parser.add_argument("--precision", default="int8", help="precision of training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial adapter and of the order of examples")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, help="candidates; differences are from the first one")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="folder for runs and results")
    parser.add_argument("--json", type=Path, help="file for the summary")
    parser.add_argument("--candidate", choices=CANDIDATES, help=argparse.SUPPRESS)
    return parser.parse_args()


def kept(arguments: argparse.Namespace, name: str) -> Result:
    """Return the result of a candidate, measured in its own process unless an earlier start did."""
    fields = ("base", "train", "dev", "minutes", "records", "precision", "seed")
    values = {field: str(getattr(arguments, field)) for field in fields}
    job = json.dumps([values, CANDIDATES[name]], sort_keys=True)
    path = Path(arguments.work) / f"{name}-{hashlib.sha256(job.encode()).hexdigest()[:8]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = [f"--{field}={value}" for field, value in values.items()]
        flags += [f"--candidate={name}", f"--work={path.with_suffix('')}"]
        write_json(path, run_arm(Path(__file__), flags, threads=1))
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    loss = sum(result["losses"]) / sum(result["tokens"])
    say(f"{name}: {result['steps']} updates in {result['cpu_seconds']:.0f} s of CPU time, validation loss {loss:.4f}")
    return result


def measure(arguments: argparse.Namespace, name: str) -> Result:
    """Train a candidate for its time, and measure what it has learnt."""
    from tailora.training.settings import TrainSettings

    work = Path(arguments.work)
    shutil.rmtree(work, ignore_errors=True)  # of a start that was interrupted
    sample = sample_file(arguments)
    chosen = {
        "data": arguments.train,
        "valid": str(sample),
        "base": arguments.base,
        "precision": arguments.precision,
        "seed": arguments.seed,
        **CANDIDATES[name],
    }
    trial = {"valid_limit": 1, "max_steps": CALIBRATION[1], "eval_every": CALIBRATION[0], "output": str(work / "trial")}
    times = cpu_times(TrainSettings.from_values({**chosen, **trial}))
    first, last = CALIBRATION
    an_update = (times[last] - times[first]) / (last - first)
    steps = max(1, round(60 * arguments.minutes / an_update))
    say(f"{name}: {an_update:.2f} s of CPU time an update, {steps} updates")
    run = {"max_steps": steps, "eval_every": steps, "output": str(work / "run"), "epochs": 100}
    settings = TrainSettings.from_values({**chosen, **run})
    times = cpu_times(settings)
    spent = times[steps] - times[0]
    folder = work / "run" / "adapter"
    return {"steps": steps, "cpu_seconds": spent, **losses(settings, folder), "texts": texts(settings, folder)}


def sample_file(arguments: argparse.Namespace) -> Path:
    """Write a random sample of the dev records as JSON lines, and return its path."""
    from tailora.data.readers import jsonl
    from tailora.data.records import read

    records = read(arguments.dev)
    drawn = random.Random(0).sample(records, min(arguments.records, len(records)))
    path = Path(arguments.work) / "sample.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(jsonl.dump(drawn), encoding="utf-8")
    return path


def cpu_times(settings: TrainSettings) -> dict[int, float]:
    """Train; return the CPU time of this process in seconds after each validation, by number of updates."""
    from tailora.training.run import run

    times = {}

    def note(step: int, _: float) -> None:
        times[step] = time.process_time()

    run(settings, note)
    return times


def losses(settings: TrainSettings, adapter: Path) -> Result:
    """Return the summed loss and the number of completion tokens of each dev record, with fp32 weights."""
    import torch

    from tailora.adapters import formats
    from tailora.data.records import read
    from tailora.lora.inject import attach
    from tailora.models.load import load_base
    from tailora.training.run_data import examples_of
    from tailora.training.shared_passes import mean_loss
    from tailora.training.trees.forward import TreeModel

    base, trained = load_base(settings.base, dtype=torch.float32), formats.load(adapter)
    attach(base.model, trained.config, trained, model_type=base.model_type)
    sums, tokens = [], []
    with TreeModel(base.model) as trees:
        for record in read(str(settings.valid)):
            examples = examples_of([record], base, settings, Console(quiet=True))
            tokens.append(sum(len(example.learnt) for example in examples))
            sums.append(mean_loss(trees, examples, settings) * tokens[-1])
    return {"losses": sums, "tokens": tokens}


def texts(settings: TrainSettings, adapter: Path) -> list[str]:
    """Return a greedy text for each dev record, with fp32 weights."""
    import tailora

    with tailora.load(settings.base, adapter, precision="fp32") as model:
        return [str(text) for text in model.generate(str(settings.valid))]


def summarise(arguments: argparse.Namespace, results: dict[str, Result]) -> Result:
    """Return the figures of all candidates, and their differences from the first one."""
    from tailora.data.records import read

    name = next(iter(results))
    sample = next(Path(arguments.work).glob(f"{name}-*/sample.jsonl"))
    references = [record.references for record in read(sample)]
    rows = {name: figures(result, results[next(iter(results))], references) for name, result in results.items()}
    options = {name: str(value) for name, value in vars(arguments).items() if name not in ("json", "candidate", "only")}
    settings = {name: CANDIDATES[name] for name in results}
    return {"benchmark": "recipes", **options, "settings": settings, "candidates": rows, "machine": describe()}


def figures(result: Result, first: Result, references: Sequence[Sequence[str]]) -> Result:
    """Return a candidate's loss and BLEU, with intervals and differences from the first candidate."""
    from tailora.metrics.bleu import bleu
    from tailora.metrics.statistics import compare, interval

    drawn = np.random.default_rng(SEED).multinomial(len(references), [1 / len(references)] * len(references), DRAWS)
    own, other = (drawn_losses(one, drawn) for one in (result, first))
    scored, before = (bleu(one["texts"], references) for one in (result, first))
    score, difference = interval(scored, draws=DRAWS), compare(scored, before, draws=DRAWS)
    return {
        "updates": result["steps"],
        "cpu_seconds": result["cpu_seconds"],
        "validation_loss": sum(result["losses"]) / sum(result["tokens"]),
        "loss_interval": quantiles(own),
        "loss_difference_interval": quantiles(own - other),
        "bleu": 100 * score.value,
        "bleu_interval": [100 * score.low, 100 * score.high],
        "bleu_difference": 100 * difference.value,
        "bleu_difference_interval": [100 * difference.low, 100 * difference.high],
    }


def drawn_losses(result: Result, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """[draws], the mean loss per token of each bootstrap sample; `drawn` is [draws, records]."""
    return np.asarray((drawn @ np.array(result["losses"])) / (drawn @ np.array(result["tokens"])))


def quantiles(values: NDArray[np.float64]) -> list[float]:
    """Return the ends of the 95% interval."""
    return [float(value) for value in np.quantile(values, [0.025, 0.975])]


def print_table(summary: Result) -> None:
    """Print the figures for people, on standard error."""
    table = Table(title=f"{summary['minutes']} minutes of CPU time each")
    for heading in ("candidate", "updates", "loss", "difference", "BLEU", "difference"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for name, row in summary["candidates"].items():
        low, high = row["loss_difference_interval"]
        least, most = row["bleu_difference_interval"]
        loss, bleu = f"{row['validation_loss']:.4f}", f"{row['bleu']:.1f}"
        table.add_row(
            name, str(row["updates"]), loss, f"{low:+.4f} to {high:+.4f}", bleu, f"{least:+.1f} to {most:+.1f}"
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
