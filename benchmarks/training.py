"""Compare training speed and memory with PEFT: GPT-2 124M on E2E pairs, every arm in its own process.

    python benchmarks/training.py                      # the figures of RESULTS.md, about 15 minutes on two cores
    python benchmarks/training.py --json               # one JSON object on standard output
    python benchmarks/training.py --search             # find PEFT's best batch size and runner on this machine
    python benchmarks/training.py --arms peft_best tailora --rounds 1 --seconds 10

All arms train the same task: GPT-2 124M with random weights, its own dropouts 0, LoRA of rank 4, alpha 32 and dropout
0.1 on `c_attn`, 32 examples per update on average, the loss on the completion with its end-of-text. The prompt is the
LoRA paper's linearisation and end-of-text. The examples of a round are all pairs of the same randomly drawn meaning
representations (MRs) for every arm. An example is a pair of an MR and one reference.

Arms: `peft_fp32` is PEFT in transformers' Trainer with its defaults on a CPU; `peft_bf16` the same with `bf16=True`;
`_8x4` the same two with batches of 8 accumulated four times; `peft_best` is PEFT at its best: fp32 adapters, batches of
similar length, and the type of the base, batch size and runner that `--search` finds fastest on this machine (`--best`;
the default is a bf16 base where the device gains from it, a plain loop, and batches of 8 on a CPU and of 32 on a GPU);
`trl` is TRL's SFTTrainer with PEFT at its best: rows without padding, in which examples do not see each other, and the
head only where a completion is scored; base type, batching and size are those that `--search` finds fastest (`--trl`);
`tailora` is Tailora with `--precision auto`; `tailora_fp32` is Tailora with fp32 products. With `--device cuda` all
arms run on a GPU, and the memory is what PyTorch held there.

Requires `peft` and `accelerate`. TRL is measured where the interpreter of `--trl-python` has it, by default this one;
its environment needs the other packages too. Run nothing else on the machine during the measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _base_type import faster_type
from _processes import print_result, run_arm, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

SHARED = Path(__file__).resolve().parents[2] / "shared"

TARGETS, RANK, ALPHA, DROPOUT = ("c_attn",), 4, 32, 0.1

OURS, OURS_FP32 = "tailora", "tailora_fp32"
LIMIT = "limit"
TYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}  # PyTorch's names, as of the limits
PEERS = ("peft_fp32", "peft_fp32_8x4", "peft_bf16", "peft_bf16_8x4", "peft_best")
TRL = "trl"
CANDIDATES = tuple(
    f"best_{base}_{runner}_{size}"
    for base in ("bf16", "fp32")
    for runner in ("trainer", "loop")
    for size in (8, 16, 32)
)
TRL_CANDIDATES = tuple(
    f"trl_{base}_{batching}_{size}"
    for base in ("bf16", "fp32", "autocast")
    for batching, sizes in (("padded", (8, 32)), ("free", (4, 8, 16, 32)), ("pack", (256, 512, 1024)))
    for size in sizes
)

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.arm:
        print_result(lambda: measure_arm(arguments))
        return
    arguments.best = arguments.best or _best(arguments.device)
    arguments.trl = arguments.trl or _best_trl(arguments.device)
    arms = _arms(arguments)
    summary = summarise(measure_rounds(arguments, arms), arms, arguments)
    print_table(summary)
    if arguments.json:
        print(json.dumps(summary, indent=2))


def _best(device: str) -> str:
    base = faster_type(device)
    return f"best_{base}_loop_{8 if device == 'cpu' else 32}"


def _best_trl(device: str) -> str:
    base = faster_type(device)
    return f"trl_{base}_free_{8 if device == 'cpu' else 32}"


def _arms(arguments: argparse.Namespace) -> list[str]:
    """The arms to measure; without TRL's if its interpreter lacks it."""
    arms: list[str] = [*PEERS[:-1], *CANDIDATES, *TRL_CANDIDATES] if arguments.search else arguments.arms
    theirs = {TRL, *TRL_CANDIDATES} & set(arms)
    if (
        theirs
        and subprocess.run([arguments.trl_python, "-c", "import trl"], capture_output=True, check=False).returncode
    ):
        say(f"{arguments.trl_python} cannot import trl: it is not measured; see --trl-python")
        return [arm for arm in arms if arm not in theirs]
    return arms


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arms = [*PEERS, TRL, OURS, OURS_FP32, *CANDIDATES, *TRL_CANDIDATES]
    parser.add_argument("--arms", nargs="+", default=[*PEERS, TRL, OURS, OURS_FP32], choices=arms, metavar="ARM")
    parser.add_argument("--search", action="store_true", help="measure only the candidates for peft_best and trl")
    parser.add_argument(
        "--best", choices=CANDIDATES, metavar="ARM", help="the candidate used as peft_best: best_BASE_RUNNER_BATCH"
    )
    parser.add_argument(
        "--trl", choices=TRL_CANDIDATES, metavar="ARM", help="the candidate used as trl: trl_BASE_BATCHING_SIZE"
    )
    parser.add_argument(
        "--trl-python", default=sys.executable, help="interpreter of an environment with trl, beside our requirements"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each arm")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds measured per arm and round; at least 2 updates"
    )
    parser.add_argument("--warm-up", type=int, default=1, help="number of updates before the measurement")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round; each round adds one")
    parser.add_argument(
        "--mrs", type=int, default=400, help="number of randomly drawn MRs per round, each with all references"
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "trainset.csv.gz"))
    parser.add_argument(
        "--tokenizer", default=str(SHARED / "models" / "gpt2-tokenizer"), help="folder of the GPT-2 tokenizer"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--arm", choices=[*arms, LIMIT], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure_rounds(arguments: argparse.Namespace, arms: Sequence[str]) -> list[dict[str, Result]]:
    """Let the arms take turns; one result per arm and round, and the machine's limit beside them."""
    rounds = []
    for number in range(arguments.rounds):
        results = {}
        for arm in [LIMIT, *arms]:
            flags = [f"--arm={arm}", f"--seed={arguments.seed + number}"]
            for name in ("best", "trl", "seconds", "warm_up", "mrs", "threads", "data", "tokenizer", "device"):
                flags.append(f"--{name.replace('_', '-')}={getattr(arguments, name)}")
            python = arguments.trl_python if arm in (TRL, *TRL_CANDIDATES) else sys.executable
            results[arm] = run_arm(Path(__file__), flags, threads=arguments.threads, python=python)
            rate = results[arm].get("examples_per_second")
            say(f"round {number + 1}  {arm:<18}" + ("" if rate is None else f"{rate:6.2f} examples/s"))
        rounds.append(results)
    return rounds


def measure_arm(arguments: argparse.Namespace) -> Result:
    """Measure one arm in this process."""
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.arm == LIMIT:
        from _limit import int8_gops, matmul_gflops

        types = {name: getattr(torch, name) for name in ("float32", "bfloat16")}
        measured = {f"{name}_gflops": matmul_gflops(type_, device=arguments.device) for name, type_ in types.items()}
        return measured | ({"int8_gflops": int8_gops()} if arguments.device == "cpu" else {})
    if arguments.arm in (OURS, OURS_FP32):
        measure = measure_ours
    else:
        measure = measure_trl if arguments.arm in (TRL, *TRL_CANDIDATES) else measure_peer
    return measure(arguments) | {"threads": torch.get_num_threads()}


def measure_peer(arguments: argparse.Namespace) -> Result:
    """One of PEFT's arms."""
    import _network
    import _peft
    from _meter import Meter
    from _sample import random_mrs

    meter = Meter(arguments.warm_up, arguments.seconds)
    setup = _peft.Setup.named(arguments.best if arguments.arm == "peft_best" else arguments.arm)
    sample = random_mrs(arguments.data, arguments.tokenizer, count=arguments.mrs, seed=arguments.seed)
    network = _network.random_gpt2().to(arguments.device, setup.base)
    model = _peft.adapt(network, targets=TARGETS, rank=RANK, alpha=ALPHA, dropout=DROPOUT, conv1d=True)
    _peft.count_positions(model, meter)
    order = _peft.grouped if setup.grouped else _peft.shuffled
    batches = order(sample.examples, setup.batch_size, arguments.seed)
    if setup.runner == "loop":
        loss = _peft.measure_loop(model, batches, meter, pad_id=sample.end_of_text)
    else:
        loss = _peft.measure_trainer(model, batches, setup, meter, pad_id=sample.end_of_text, seed=arguments.seed)
    return meter.report(loss=loss, precision=setup.precision)


def measure_trl(arguments: argparse.Namespace) -> Result:
    """One of TRL's arms."""
    import _network
    import _trl
    from _meter import Meter
    from _sample import random_mrs

    meter = Meter(arguments.warm_up, arguments.seconds)
    setup = _trl.Setup.named(arguments.trl if arguments.arm == TRL else arguments.arm)
    examples = random_mrs(arguments.data, arguments.tokenizer, count=arguments.mrs, seed=arguments.seed).examples
    network = _network.random_gpt2().to(arguments.device, setup.base)
    if setup.batching != "padded":
        change = _trl.leaks(network.eval(), *examples[:2])
        assert change < 0.05, f"examples of one row see each other: the states change by {change:.0%}"
        network.train()
    adapter = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": DROPOUT, "target_modules": list(TARGETS)}
    loss = _trl.measure(
        network,
        examples,
        setup,
        meter,
        adapter=adapter | {"fan_in_fan_out": True},
        tokenizer=arguments.tokenizer,
        seed=arguments.seed,
    )
    return meter.report(loss=loss, precision=setup.precision) | {"trl": version("trl")}


def measure_ours(arguments: argparse.Namespace) -> Result:
    """One of Tailora's arms."""
    import torch

    import _network
    import _tailora
    from _meter import Meter
    from _sample import random_mrs

    meter = Meter(arguments.warm_up, arguments.seconds)
    sample = random_mrs(arguments.data, arguments.tokenizer, count=arguments.mrs, seed=arguments.seed)
    network = _network.random_gpt2().to(arguments.device, torch.float32)
    precision = "fp32"
    if arguments.arm != OURS_FP32:
        precision = _tailora.fastest_precision(network, sample.examples, arguments.tokenizer)
    model = _tailora.adapt(network, targets=TARGETS, rank=RANK, alpha=ALPHA, dropout=DROPOUT)
    arithmetic = _tailora.put_into(model, sample.examples, precision)
    loss = _tailora.measure(model, sample, meter, arithmetic, seed=arguments.seed)
    return meter.report(loss=loss, precision=TYPES.get(arithmetic.precision, arithmetic.precision))


def summarise(rounds: list[dict[str, Result]], arms: Sequence[str], arguments: argparse.Namespace) -> Result:
    """Medians over rounds of every arm's figures and of the per-round ratios."""
    limits = {key: median(results[LIMIT][key] for results in rounds) for key in rounds[0][LIMIT]}
    summary: Result = {
        "benchmark": "training",
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "peft_best": arguments.best,
        "trl": arguments.trl,
        "arms": {arm: summarise_arm([results[arm] for results in rounds], limits) for arm in arms},
        "limit": limits,
    }
    for ours, mark in ((OURS, ""), (OURS_FP32, "fp32_")):
        for peer in (arm for arm in arms if arm not in (OURS, OURS_FP32) and ours in arms):
            summary[f"{mark}ratio_vs_{peer}"] = median_ratio(rounds, "examples_per_second", ours, peer)
            memory = "memory_ratio" if peer == "peft_fp32" else f"memory_ratio_vs_{peer}"
            summary[mark + memory] = median_ratio(rounds, "own_bytes", ours, peer)
    machine = describe() | {"threads": arguments.threads, "device": arguments.device}
    machine["packages"]["accelerate"] = version("accelerate")
    return summary | {"machine": machine, "per_round": rounds}


def summarise_arm(results: list[Result], limits: Result) -> Result:
    """An arm's medians, the arithmetic that what it computed needs, and its share of the machine's limit."""
    from _network import training_gflop

    for result in results:
        gflop = training_gflop(result["body_positions"], result["head_positions"])
        result["gflop_per_example"] = gflop / result["examples"]
        result["gflop_per_update"] = gflop / result["updates"]
        result["gflops"] = result["gflop_per_update"] / result["seconds_per_update"]
    summary = {key: median(result[key] for result in results) for key in results[0] if key not in ("precision", "trl")}
    limit = limits[f"{results[0]['precision']}_gflops"]
    return summary | {
        "precision": results[0]["precision"],
        "share_of_limit": summary["gflops"] / limit,
        "examples_per_second_at_limit": limit / summary["gflop_per_example"],
    }


def median_ratio(rounds: list[dict[str, Result]], figure: str, ours: str, peer: str) -> float:
    """Ours over a peer's, in each round; the median."""
    return median(results[ours][figure] / results[peer][figure] for results in rounds)


def median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def print_table(summary: Result) -> None:
    """The summary for people, on standard error."""
    columns = ("arm", "type", "examples/s", "s/update", "peak MiB", "own MiB", "GFLOP/ex.", "of limit", "loss")
    table = Table(*columns, title="medians over rounds; own: less what the imports hold")
    for name, arm in summary["arms"].items():
        table.add_row(
            name,
            arm["precision"],
            f"{arm['examples_per_second']:.2f}",
            f"{arm['seconds_per_update']:.2f}",
            f"{arm['peak_bytes'] / 2**20:.0f}",
            f"{arm['own_bytes'] / 2**20:.0f}",
            f"{arm['gflop_per_example']:.1f}",
            f"{arm['share_of_limit']:.0%}",
            f"{arm['loss']:.2f}",
        )
    console = Console(stderr=True, width=120)
    console.print(table)
    console.print("  ".join(f"{key} {value:.0f}" for key, value in summary["limit"].items()))
    for key, value in summary.items():
        if "ratio" in key:
            console.print(f"{key} {value:.2f}")


if __name__ == "__main__":
    main()
