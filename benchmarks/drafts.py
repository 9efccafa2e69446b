"""Measure what drafts gain: one text alone, 8 and 64 at a time, and other engines with their prompt lookup.

    python benchmarks/drafts.py --adapter runs/e2e --data e2e
    python benchmarks/drafts.py --adapter runs/e2e --data e2e --arms one one_drafts --rounds 1

The first prompts of the test split, greedy texts to their ends. Tailora's arms write `one`, `8` or `64` texts at once,
in int8 on OpenVINO, without drafts and with them (`_drafts`); a text that ends makes room for the next. The adapter's
folder needs its table: `tailora train` writes it, and `tailora draft` makes it. Peers write one text after another with
the merged model: OpenVINO GenAI (int8 weights) without and with its prompt lookup, and llama.cpp's Python binding on
`--gguf`, the merged model in Q8_0. Each arm runs in its own process, the peers in environments that are created under
`--work`. A ratio is formed within a round, and the median over rounds is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _processes import ArmError, print_result, run_arm, run_rounds, run_tailora
from serving import environment
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores
from tailora.data import records
from tailora.engine.decoding import Decoding
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate

HERE = Path(__file__).resolve().parent
OURS = ("one", "one_drafts", "8", "8_drafts", "64", "64_drafts")
PEERS = {"genai": "genai", "genai_lookup": "genai", "llama": "llama", "llama_lookup": "llama"}
RATIOS = {
    "one_drafts_over_one": ("one_drafts", "one"),
    "8_drafts_over_8": ("8_drafts", "8"),
    "64_drafts_over_64": ("64_drafts", "64"),
    "one_drafts_over_genai_lookup": ("one_drafts", "genai_lookup"),
    "one_drafts_over_genai": ("one_drafts", "genai"),
    "one_drafts_over_llama_lookup": ("one_drafts", "llama_lookup"),
    "one_drafts_over_llama": ("one_drafts", "llama"),
}
Result = dict[str, Any]


def main() -> None:
    """Measure all arms in turns, print a table and, with --json, everything."""
    arguments = parse()
    if arguments.arm:
        print_result(lambda: measure_ours(arguments))
        return
    prepare(arguments)
    rounds = run_rounds(arguments.arms, arguments.rounds, lambda arm: measure(arm, arguments))
    summary = summarise(rounds, arguments)
    print_table(summary)
    if arguments.json:
        print(json.dumps(summary, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    everything = [*OURS, *PEERS]
    parser.add_argument("--arms", nargs="+", default=everything, choices=everything, metavar="ARM")
    parser.add_argument("--adapter", required=True, help="folder of the adapter, or run directory")
    parser.add_argument("--base", help="base of the adapter, if it does not name it")
    parser.add_argument("--data", required=True, help="records: a folder of splits, a data set or a file")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--alone", type=int, default=32, help="prompts of the arms that write one text at a time")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--precision", default="int8", choices=["int8", "bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds measured per arm and round")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "tailora-serving"))
    parser.add_argument("--gguf", default="", help="Q8_0 GGUF file of the merged model, for llama.cpp")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--arm", choices=OURS, help=argparse.SUPPRESS)
    return parser.parse_args()


def prompts_of(arguments: argparse.Namespace) -> tuple[list[tuple[int, ...]], list[int]]:
    """The prompts of the first records of the test split, and the tokens that end texts."""
    setup = resolve_models(arguments.base, {"adapter": Path(arguments.adapter)})
    split = "test" if "test" in records.splits(arguments.data) else None
    rows = records.load(arguments.data, split=split, trained=setup.reading).records[: arguments.prompts]
    return setup.prompts("adapter").encode(rows), sorted(setup.ends)


def prepare(arguments: argparse.Namespace) -> None:
    """Lay out what the peers read: prompts and the merged model."""
    if not set(arguments.arms) & set(PEERS):
        return
    prompts, ends = prompts_of(arguments)
    work = Path(arguments.work)
    merged = work / f"merged-{Path(arguments.adapter).resolve().name}"
    if not merged.is_dir():
        base = [f"--base={arguments.base}"] if arguments.base else []
        merge = ["merge", f"--adapter={arguments.adapter}", f"--output={merged}", *base]
        run_tailora(merge, threads=arguments.threads)
    given = {"folder": str(merged), "ends": ends, "prompts": [list(each) for each in prompts[: arguments.alone]]}
    (work / "drafts.json").write_text(json.dumps(given), encoding="utf-8")


def measure(arm: str, arguments: argparse.Namespace) -> Result:
    """Run one arm in a separate process."""
    if arm in OURS:
        names = ("adapter", "data", "prompts", "alone", "new_tokens", "drafts", "precision", "seconds", "threads")
        flags = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        flags += [f"--base={arguments.base}"] if arguments.base else []
        return run_arm(Path(__file__), [f"--arm={arm}", *flags], threads=arguments.threads)
    python = environment(PEERS[arm], Path(arguments.work))
    command = [str(python), str(HERE / "_drafts_peers.py"), arm, str(Path(arguments.work) / "drafts.json")]
    command += [str(each) for each in (arguments.new_tokens, arguments.seconds, arguments.threads)]
    own = {"OMP_NUM_THREADS": str(arguments.threads), "SERVING_WORK": arguments.work, "DRAFTS_GGUF": arguments.gguf}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, encoding="utf-8", check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if done.returncode != 0 or not lines:
        raise ArmError(f"{arm} ended with {done.returncode}:\n" + "\n".join(done.stderr.splitlines()[-12:]))
    result: Result = json.loads(lines[-1])
    return result


def measure_ours(arguments: argparse.Namespace) -> Result:
    """One arm of Tailora's, in this process: a pass to warm up, then passes for a fixed time."""
    count, _, drafts = arguments.arm.partition("_")
    texts = 1 if count == "one" else int(count)
    prompts, _ = prompts_of(arguments)
    setup = resolve_models(arguments.base, {"adapter": Path(arguments.adapter)})
    running = start_engine(
        setup,
        backend="openvino",
        precision=arguments.precision,
        sequences=texts,
        threads=arguments.threads,
        drafts=arguments.drafts if drafts else 0,
    )
    asked = [Prompt(prompt, "adapter") for prompt in prompts[: arguments.alone if texts == 1 else None]]
    decoding = Decoding(max_new_tokens=arguments.new_tokens)
    laps: list[tuple[float, int]] = []
    while len(laps) < 2 or sum(lap[0] for lap in laps[1:]) < arguments.seconds:
        began, before = time.perf_counter(), running.engine.load
        done = generate(running, asked, decoding)
        laps.append((time.perf_counter() - began, sum(each.completion_tokens for each in done)))
        after = running.engine.load
    tokens = laps[-1][1]
    drafted, accepted = after.drafted - before.drafted, after.accepted - before.accepted
    return {
        "seconds": sum(lap[0] for lap in laps[1:]),
        "tokens_per_second": statistics.median(written / took for took, written in laps[1:]),
        "tokens": tokens,
        "tokens_per_step": tokens / (tokens - accepted),  # of a text, whatever is written beside it
        "drafted": drafted,
        "accepted": accepted,
    }


def summarise(rounds: list[dict[str, Result]], arguments: argparse.Namespace) -> Result:
    """Medians of the arms' speeds, and of the ratios formed within each round."""
    summary: Result = {"benchmark": "drafts", "arms": {}, "ratios": {}, "machine": describe()}
    for arm in arguments.arms:
        results = sorted((each[arm] for each in rounds if arm in each), key=lambda each: each["tokens_per_second"])
        if results:
            summary["arms"][arm] = results[len(results) // 2]
    for name, (ours, peer) in RATIOS.items():
        pairs = [(each[ours], each[peer]) for each in rounds if ours in each and peer in each]
        if pairs:
            ratios = [one["tokens_per_second"] / other["tokens_per_second"] for one, other in pairs]
            summary["ratios"][name] = statistics.median(ratios)
    return summary


def print_table(summary: Result) -> None:
    """The arms and the ratios, on standard error."""
    table = Table(title="medians over rounds")
    for heading in ("arm", "tokens/s", "tokens a text and step", "drafted", "accepted"):
        table.add_column(heading)
    for arm, result in summary["arms"].items():
        steps = result.get("tokens_per_step")
        counts = [str(result.get(name, "")) for name in ("drafted", "accepted")]
        table.add_row(arm, f"{result['tokens_per_second']:.1f}", "" if steps is None else f"{steps:.2f}", *counts)
    console = Console(stderr=True)
    console.print(table)
    for name, value in summary["ratios"].items():
        console.print(f"{name} {value:.3g}")


if __name__ == "__main__":
    main()
