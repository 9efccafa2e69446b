"""Compare the validation loss of training on groups of records with that of free shuffling.

    python benchmarks/learning.py                                # smollm2-135m, 6,000 E2E examples, one epoch
    python benchmarks/learning.py --base FOLDER --json           # one JSON object on standard output
    python benchmarks/learning.py --learning-rates 1e-3 5e-4 --seeds 1 2 3

Both sides train LoRA on the attention projections of the same base, on the same examples, for the same number of
updates of 32 examples on average, with the same schedule (linear warm-up, linear decay), clipping and AdamW. The peer
is PEFT in a plain loop that shuffles pairs freely. Tailora keeps the references of a record together, which its trees
need; it runs once in fp32 and once with the frozen weights in 8 bits. Each side trains in its own process and saves its
adapter. The same function then measures every adapter: PEFT loads it onto the fp32 base, and the validation loss is the
mean over the completion tokens of the first 160 dev records, in nats, end-of-text included.

Takes about an hour on two cores for each learning rate and seed. Requires `peft`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _base_type import faster_type
from _processes import print_result, run_arm, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

SHARED = Path(__file__).resolve().parents[2] / "shared"
E2E = SHARED / "data" / "e2e"

UPDATE = 32
DATA_SEED = 0
LAST = 20
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")

PEER, OURS, OURS_INT8, EVALUATE = "peft", "tailora", "tailora_int8", "evaluate"
SIDES = (PEER, OURS, OURS_INT8)

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.part:
        print_result(lambda: PARTS[arguments.part](arguments))
        return
    arguments.peer_base = arguments.peer_base or faster_type()
    summary = compare(arguments)
    print_table(summary)
    if arguments.json:
        print(json.dumps(summary, indent=2))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name or folder of a base model of the Llama family")
    parser.add_argument("--data", default=str(E2E / "trainset.csv.gz"))
    parser.add_argument("--validation", default=str(E2E / "devset.csv.gz"))
    parser.add_argument("--validation-records", type=int, default=160, help="use the first N validation records")
    parser.add_argument(
        "--examples", type=int, default=6000, help="number of training examples, the same for both sides"
    )
    parser.add_argument("--updates", type=int, help="number of updates (default: one epoch)")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1], help="seeds of the initial adapters and the order of examples"
    )
    parser.add_argument("--warm-up", type=int, default=20, help="number of updates of warm-up")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of LoRA")
    parser.add_argument(
        "--group-size",
        type=int,
        help="largest number of texts of a record in an update of Tailora (default: that of the library)",
    )
    parser.add_argument(
        "--peer-base",
        choices=["bf16", "fp32"],
        help="type of the peer's base (default: the faster one on this machine)",
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=SIDES, metavar="SIDE", help="sides to train: peft, ours"
    )
    parser.add_argument("--part", choices=[*SIDES, EVALUATE], help=argparse.SUPPRESS)
    parser.add_argument("--adapter", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace) -> Result:
    """Train both sides at every learning rate and seed, and measure what each has learned."""
    before = run_part(arguments, EVALUATE)["validation_loss"]
    say(f"validation loss before training {before:.4f}")
    runs = []
    for learning_rate in arguments.learning_rates:
        for seed in arguments.seeds:
            sides = {side: learn(arguments, side, learning_rate, seed) for side in arguments.sides}
            ratios = {
                f"ratio_{side}": sides[side]["validation_loss"] / sides[PEER]["validation_loss"]
                for side in arguments.sides
                if side != PEER and PEER in sides
            }
            runs.append({"learning_rate": learning_rate, "seed": seed, **sides, **ratios})
    figures = {side: statistics.median(run[side]["validation_loss"] for run in runs) for side in arguments.sides}
    ratios = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key.startswith("ratio_")}
    return {
        "benchmark": "learning",
        "base": arguments.base,
        "examples": arguments.examples,
        "updates": updates_of(arguments),
        "peer_base": arguments.peer_base,
        "validation_loss_before": before,
        "validation_loss": figures,
        **ratios,
        "runs": runs,
        "machine": describe() | {"threads": arguments.threads},
    }


def learn(arguments: argparse.Namespace, side: str, learning_rate: float, seed: int) -> Result:
    """Train one side in its own process, and measure its adapter in another."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = str(Path(folder) / "adapter")
        trained = run_part(arguments, side, adapter=adapter, learning_rates=learning_rate, seeds=seed)
        measured = run_part(arguments, EVALUATE, adapter=adapter)
    losses = trained["training_losses"]
    end = sum(losses[-LAST:]) / len(losses[-LAST:])
    say(
        f"{side:<12} learning rate {learning_rate:g} seed {seed}: {len(losses)} updates in {trained['seconds']:.0f} s, "
        f"training loss at the end {end:.4f}, validation loss {measured['validation_loss']:.4f}"
    )
    return {"training_loss_end": end, **measured, **trained}


def run_part(arguments: argparse.Namespace, part: str, **changes: object) -> Result:
    """Run this script for one part of the comparison, with some flags changed."""
    names = ("base", "data", "validation", "validation_records", "examples", "warm_up", "rank", "alpha", "dropout")
    values = {name: getattr(arguments, name) for name in (*names, "peer_base", "threads")}
    values |= {"part": part, "updates": updates_of(arguments)} | changes
    if arguments.group_size:
        values["group_size"] = arguments.group_size
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return run_arm(Path(__file__), flags, threads=arguments.threads)


def updates_of(arguments: argparse.Namespace) -> int:
    """How many updates both sides make."""
    return int(arguments.updates or arguments.examples // UPDATE)


def schedule(arguments: argparse.Namespace) -> Callable[[int], float]:
    """The learning rate of update 0, 1, …: a straight line up over the warm-up, then straight down towards 0."""
    (peak,) = arguments.learning_rates
    warm_up, updates = arguments.warm_up, arguments.updates
    return lambda number: peak * min((number + 1) / max(1, warm_up), (updates - number) / max(1, updates - warm_up))


def train_peer(arguments: argparse.Namespace) -> Result:
    """PEFT, pairs shuffled freely."""
    import itertools

    import torch

    import _peft
    from _meter import Losses
    from _sample import fixed_set
    from tailora.models.load import load_base

    torch.set_num_threads(arguments.threads)
    (seed,) = arguments.seeds
    torch.manual_seed(seed)
    base = load_base(arguments.base, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.peer_base])
    sample = fixed_set(arguments.data, base.tokenizer, count=arguments.examples, seed=DATA_SEED)
    model = _peft.adapt(
        base.model, targets=TARGETS, rank=arguments.rank, alpha=arguments.alpha, dropout=arguments.dropout, conv1d=False
    )
    epochs = (_peft.shuffled(sample.examples, UPDATE, seed + number) for number in itertools.count())
    updates = (_peft.split_by_length(batch, 8) for epoch in epochs for batch in epoch)
    losses = Losses(arguments.updates)
    _peft.run_loop(
        model, updates, pad_id=sample.end_of_text, learning_rate=schedule(arguments), after_update=losses.add
    )
    model.save_pretrained(arguments.adapter)
    return losses.report()


def train_ours(arguments: argparse.Namespace) -> Result:
    """Tailora, the references of a record kept together."""
    import torch

    import _tailora
    from _meter import Losses
    from _sample import fixed_set
    from tailora.models.load import load_base

    torch.set_num_threads(arguments.threads)
    (seed,) = arguments.seeds
    base = load_base(arguments.base, dtype=torch.float32)
    sample = fixed_set(arguments.data, base.tokenizer, count=arguments.examples, seed=DATA_SEED)
    model = _tailora.adapt(
        base.model, targets=TARGETS, rank=arguments.rank, alpha=arguments.alpha, dropout=arguments.dropout, seed=seed
    )
    losses = Losses(arguments.updates)
    arithmetic = _tailora.put_into(model, sample.examples, "int8" if arguments.part == OURS_INT8 else "fp32")
    _tailora.run(
        model,
        sample.examples,
        arithmetic,
        learning_rate=schedule(arguments),
        seed=seed,
        after_update=losses.add,
        group_size=arguments.group_size,
    )
    _tailora.save(model, Path(arguments.adapter))
    return losses.report()


def evaluate(arguments: argparse.Namespace) -> Result:
    """The validation loss of an adapter, whoever trained it, or of the bare base."""
    import torch
    from peft import PeftModel

    import _peft
    from _sample import encode, records_of
    from tailora.models.load import load_base

    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.base, dtype=torch.float32)
    model = base.model if arguments.adapter is None else PeftModel.from_pretrained(base.model, arguments.adapter)
    records = records_of(arguments.validation, split="valid")[: arguments.validation_records]
    sample = encode(records, base.tokenizer, form="arrow")
    return {"validation_loss": _peft.mean_loss(model, sample.examples, pad_id=sample.end_of_text)}


PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    PEER: train_peer,
    OURS: train_ours,
    OURS_INT8: train_ours,
    EVALUATE: evaluate,
}


def print_table(summary: Result) -> None:
    """The summary for people, on standard error."""
    columns = ("learning rate", "seed", "side", "updates", "seconds", f"training, last {LAST}", "validation", "ratio")
    table = Table(*columns, title=f"loss in nats per completion token; before {summary['validation_loss_before']:.4f}")
    for run in summary["runs"]:
        for side in (side for side in SIDES if side in run):
            table.add_row(
                f"{run['learning_rate']:g}",
                str(run["seed"]),
                side,
                str(len(run[side]["training_losses"])),
                f"{run[side]['seconds']:.0f}",
                f"{run[side]['training_loss_end']:.4f}",
                f"{run[side]['validation_loss']:.4f}",
                f"{run[f'ratio_{side}']:.4f}" if f"ratio_{side}" in run else "",
            )
    console = Console(stderr=True, width=120)
    console.print(table)
    for key in (key for key in summary if key.startswith("ratio_")):
        console.print(f"{key} {summary[key]:.4f}")


if __name__ == "__main__":
    main()
