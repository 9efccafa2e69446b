"""Write texts by Ray Data with two actors, also with one of them killed on the way, beside plain `tailora generate`.

    python benchmarks/ray_texts.py --base smollm2-135m --data restaurants --limit 200

Every arm is a `tailora generate` with the same settings and greedy decoding. The plain one has all threads, and the
actors divide them. The whole time includes the start of Ray and of the engines; writing begins with the first text that
arrives. All arms must write the same rows in the same order. Needs the extra [ray], and Linux to find the actors.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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

from _processes import ArmError, run_rounds
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

PLAIN, RAY, KILLED = "plain", "ray", "ray, one killed"
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(argv)
    rounds = run_rounds((PLAIN, RAY, KILLED), arguments.rounds, lambda arm: measure(arguments, arm), rates)
    summary = summarise(rounds)
    print_table(summary)
    if arguments.json:
        shown = [{arm: {k: v for k, v in one.items() if k != "texts"} for arm, one in each.items()} for each in rounds]
        about = {"benchmark": "ray_texts", "base": arguments.base, "machine": describe()}
        print(json.dumps(about | summary | {"rounds": shown}, indent=2))
    if not summary["equal"]:
        sys.exit("the arms wrote different rows")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--data", default="restaurants")
    parser.add_argument("--split", default="train")
    parser.add_argument("--limit", type=int, default=300, help="number of rows, from the first one on")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--threads", type=int, default=cores(), help="number of threads of all engines together")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace, arm: str) -> Result:
    """Run `tailora generate` once; in the last arm, kill an actor when a quarter of the texts has arrived."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "outputs.jsonl"
        command = [sys.executable, "-m", "tailora", "generate", f"--base={arguments.base}", f"--input={arguments.data}"]
        command += [f"--split={arguments.split}", f"--limit={arguments.limit}", f"--precision={arguments.precision}"]
        command += [f"--max-new-tokens={arguments.max_new_tokens}", f"--batch-size={arguments.batch_size}"]
        command += ["--backend=openvino", "--json", f"--output={output}"]
        if arm != PLAIN:
            cpus = max(1, arguments.threads // arguments.actors)
            command += ["--ray", f"--ray-actors={arguments.actors}", f"--ray-cpus={cpus}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
        began = time.perf_counter()
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
            first = watch(process, output, arguments.limit // 4 if arm == KILLED else None)
            ended = time.perf_counter()
            if process.returncode:
                log.seek(0)
                raise ArmError(log.read().decode(errors="replace")[-2000:])
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        seconds = ended - began
        return {
            "rows": len(rows),
            "seconds": seconds,
            "start_seconds": first - began,
            "rows_per_second": len(rows) / seconds,
            "writing_rows_per_second": len(rows) / (ended - first),
            "texts": [(row.get("id"), row["text"]) for row in rows],
        }


def watch(process: subprocess.Popen[bytes], output: Path, kill_after: int | None) -> float:
    """Wait for the end of a command; return when its first texts had arrived.

    Args:
        process: the command.
        output: the file that it writes.
        kill_after: number of texts after which an actor is killed; None kills none.
    """
    first = None
    while process.poll() is None:
        log = Path(f"{output}.unfinished")
        texts = log.read_bytes().count(b"\n") - 1 if log.exists() else 0
        if texts > 0 and first is None:
            first = time.perf_counter()
        if kill_after is not None and texts >= kill_after:
            os.kill(actors_of(process.pid)[0], signal.SIGKILL)
            kill_after = None
        time.sleep(0.02)
    if kill_after is not None and not process.returncode:
        raise ArmError("the command ended before an actor could be killed; raise --limit")
    return time.perf_counter() if first is None else first


def actors_of(pid: int) -> list[int]:
    """The processes of Ray's actors below a process."""
    parents, actors = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                actors.append(int(folder.name))
        except OSError:  # it has ended
            continue

    def is_below(other: int) -> bool:
        while other and other != pid:
            other = parents.get(other, 0)
        return other == pid

    return sorted(filter(is_below, actors))


def rates(result: Result) -> list[str]:
    """The lines that a result is reported with."""
    return [f"{result['rows_per_second']:.2f} rows/s, {result['seconds']:.1f} s, start {result['start_seconds']:.1f} s"]


def summarise(rounds: Sequence[dict[str, Result]]) -> Result:
    """Medians over rounds, ratios within rounds, and whether all arms of all rounds wrote the same."""
    arms = [arm for arm in (PLAIN, RAY, KILLED) if all(arm in each for each in rounds)]
    keys = ("seconds", "start_seconds", "rows_per_second", "writing_rows_per_second")
    texts = [one["texts"] for each in rounds for one in each.values()]
    return {
        "arms": {arm: {key: statistics.median(each[arm][key] for each in rounds) for key in keys} for arm in arms},
        "ratios": {
            arm: {
                key: statistics.median(each[arm][key] / each[PLAIN][key] for each in rounds)
                for key in ("rows_per_second", "writing_rows_per_second")
            }
            for arm in arms
            if PLAIN in arms
        },
        "killed_actor_seconds": statistics.median(each[KILLED]["seconds"] - each[RAY]["seconds"] for each in rounds)
        if {RAY, KILLED} <= {*arms}
        else None,
        "equal": len(arms) == 3 and all(one == texts[0] for one in texts),
    }


def print_table(summary: Result) -> None:
    """Print the arms, and what the killed actor cost."""
    table = Table("arm", "seconds", "start", "rows/s", "ratio", "rows/s after the start", "ratio", box=None)
    for arm, one in summary["arms"].items():
        ratio = summary["ratios"].get(arm, {})
        cells = [one["seconds"], one["start_seconds"], one["rows_per_second"], ratio.get("rows_per_second", 0.0)]
        cells += [one["writing_rows_per_second"], ratio.get("writing_rows_per_second", 0.0)]
        table.add_row(arm, *(f"{cell:.2f}" for cell in cells))
    console = Console(stderr=True)
    console.print(table)
    if summary["killed_actor_seconds"] is not None:
        console.print(f"the killed actor cost {summary['killed_actor_seconds']:.1f} s")
    console.print(f"order and texts of all arms are {'equal' if summary['equal'] else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
