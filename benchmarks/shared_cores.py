"""Train alone and beside a program that keeps one core busy, with the commands' spin count and with OpenMP's own.

    python benchmarks/shared_cores.py --base smollm2-135m --data ../shared/data/e2e/lora_format/train.txt.gz --rounds 2

Every arm is `tailora train` with the same settings, which is stopped after a while. The figure is the median time of an
update after a warm-up. The other program is a loop in Python, with normal priority. Linux only: `GOMP_SPINCOUNT` is a
setting of GNU's OpenMP library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from _processes import ArmError, say
from tailora.core.hardware.machine import describe

SHARED = Path(__file__).resolve().parents[2] / "shared"
OWN = "300000"  # the default of GNU's OpenMP library


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(argv)
    arms = [(spins, busy) for busy in (False, True) for spins in ("1000", OWN)]
    times: dict[tuple[str, bool], list[float]] = {arm: [] for arm in arms}
    for number in range(arguments.rounds):
        for spins, busy in arms:
            times[spins, busy].append(measure(arguments, spins, busy=busy))
            say(f"round {number + 1}: spin count {spins}, {beside(busy)}: {times[spins, busy][-1]:.2f} s an update")
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    table = Table("spin count", "beside", "s/update", "relative to OpenMP's own")
    for (spins, busy), value in medians.items():
        table.add_row(spins, beside(busy), f"{value:.2f}", f"{value / medians[OWN, busy]:.2f}")
    Console(stderr=True).print(table)
    if arguments.json:
        found = [{"spins": int(s), "busy": busy, "seconds": times[s, busy]} for s, busy in arms]
        print(json.dumps({"benchmark": "shared_cores", "machine": describe(), "arms": found}, indent=2))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format" / "train.txt.gz"))
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--warm-up", type=int, default=3, help="number of updates that are not measured")
    parser.add_argument("--seconds", type=float, default=25, help="measured time of an arm")
    parser.add_argument("--limit", type=int, default=600, help="number of records, from the first one on")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args(argv)


def beside(busy: bool) -> str:
    """Name what else runs."""
    return "a busy core" if busy else "nothing"


def measure(arguments: argparse.Namespace, spins: str, *, busy: bool) -> float:
    """Return the median time of an update, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "tailora", "train", f"--output={output}", f"--base={arguments.base}"]
        command += [f"--data={arguments.data}", f"--limit={arguments.limit}", f"--precision={arguments.precision}"]
        command += ["--epochs=100", "--device=cpu"]
        with (Path(folder) / "log").open("w+b") as log:
            environment = os.environ | {"GOMP_SPINCOUNT": spins}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                while len(updates(output)) < arguments.warm_up:
                    if process.poll() is not None:
                        log.seek(0)
                        raise ArmError(log.read().decode(errors="replace")[-2000:])
                    time.sleep(0.2)
                with busy_core() if busy else contextlib.nullcontext():
                    started = len(updates(output)) + 1  # the update that is being computed ran alone in part
                    time.sleep(arguments.seconds)
                    measured = updates(output)[started:]
            finally:
                process.kill()
                process.wait()
    return statistics.median(measured)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10_000))"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def updates(output: Path) -> list[float]:
    """Return the times of a run's updates so far, in seconds."""
    file = output / "metrics.jsonl"
    if not file.exists():
        return []
    lines = file.read_text("utf-8").split("\n")[:-1]  # the last one may be incomplete
    return [json.loads(line)["seconds"] for line in lines if '"seconds"' in line]


if __name__ == "__main__":
    main()
