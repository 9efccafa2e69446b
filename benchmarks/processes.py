"""Train in one process with all threads, and in several processes with one share of them each, started by torchrun.

    python benchmarks/processes.py --base smollm2-135m --data ../shared/data/e2e/lora_format/train.txt.gz --rounds 2

Every arm is `tailora train` with the same settings and without validation, so all arms compute the same updates. Speed
is measured over the updates after a warm-up, in which kernels are built for each new number of rows. The peak of memory
is the largest sum over the processes of a run of their resident memory, without the pages of files (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _processes import ArmError, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

SHARED = Path(__file__).resolve().parents[2] / "shared"
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(argv)
    arms = [(precision, size) for precision in arguments.precisions for size in (1, arguments.processes)]
    rounds: list[dict[str, Result]] = []
    for number in range(arguments.rounds):
        results = {}
        for precision, size in arms:
            results[f"{precision}, {size}"] = measure(arguments, precision, size)
            rate = results[f"{precision}, {size}"]["examples_per_second"]
            say(f"round {number + 1}: {precision}, {size} processes: {rate:.2f} examples/s")
        rounds.append(results)
    arms_found = {
        f"{precision}, {size}": {
            "processes": size,
            "threads": arguments.threads // size,
            **{
                key: statistics.median(results[f"{precision}, {size}"][key] for results in rounds)
                for key in ("examples_per_second", "peak_bytes", "last_loss")
            },
        }
        for precision, size in arms
    }
    print_table(arms_found)
    if arguments.json:
        about = {"benchmark": "processes", "base": arguments.base, "machine": describe()}
        print(json.dumps(about | {"arms": arms_found, "rounds": rounds}, indent=2))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format" / "train.txt.gz"))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--processes", type=int, default=2, help="number of processes of the second arm")
    parser.add_argument("--threads", type=int, default=cores(), help="number of threads of all processes together")
    parser.add_argument("--updates", type=int, default=10, help="number of updates, the warm-up included")
    parser.add_argument("--warm-up", type=int, default=2, help="number of updates that are not measured")
    parser.add_argument("--limit", type=int, default=400, help="number of records, from the first one on")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace, precision: str, size: int) -> Result:
    """Run `tailora train` once in a number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        several = ["torch.distributed.run", f"--nproc-per-node={size}", "-m"] if size > 1 else []
        command = [sys.executable, "-m", *several, "tailora", "train", f"--output={output}", "--resume=never"]
        command += [f"--base={arguments.base}", f"--data={arguments.data}", f"--limit={arguments.limit}"]
        command += [f"--precision={precision}", f"--max-steps={arguments.updates}", "--device=cpu", "--save-every=60"]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads // size)}
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            peak = watch_memory(process)
            if process.returncode != 0:
                log.seek(0)
                raise ArmError(log.read().decode(errors="replace")[-2000:])
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    updates = [line for line in lines if "loss" in line]
    measured = updates[arguments.warm_up :]
    return {
        "examples_per_second": sum(line["examples"] for line in measured) / sum(line["seconds"] for line in measured),
        "peak_bytes": peak,
        "last_loss": updates[-1]["loss"],
    }


def watch_memory(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return the peak of the memory of those of its family that train, in bytes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(own_memory(pid) for pid in training(process.pid)))
        time.sleep(0.1)
    return peak


def training(parent: int) -> list[int]:
    """Return the processes that train: torchrun's children, or the process itself if it has none."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        return [int(child) for child in children.read_text("ascii").split()] or [parent]
    except OSError:  # it has ended
        return []


def own_memory(pid: int) -> int:
    """Return the bytes of a process's memory that are not pages of files: those, several processes share."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def print_table(arms: dict[str, Result]) -> None:
    """Print the medians, and each arm's ratio to one process in the same precision."""
    table = Table("arm", "processes", "threads each", "examples/s", "of one process", "peak MiB", "last loss")
    for name, arm in arms.items():
        alone = arms[f"{name.partition(',')[0]}, 1"]["examples_per_second"]
        table.add_row(
            name.partition(",")[0],
            str(arm["processes"]),
            str(arm["threads"]),
            f"{arm['examples_per_second']:.2f}",
            f"{arm['examples_per_second'] / alone:.2f}",
            f"{arm['peak_bytes'] / 2**20:.0f}",
            f"{arm['last_loss']:.5f}",
        )
    Console(stderr=True, width=120).print(table)


if __name__ == "__main__":
    main()
