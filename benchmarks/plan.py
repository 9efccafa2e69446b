"""What `tailora plan` says about memory and time, beside runs of `tailora train` with the same settings.

    python benchmarks/plan.py --smollm2 smollm2-135m --networks smollm2 gpt2 gpt2-medium gpt2-large --methods lora full

GPT-2's architectures have random weights and the tokenizer of the bundled model, since only their shapes matter. Each
plan and each run is a process. The memory of a run is the peak of its resident memory, and its time that of its
updates. Other load on the machine disturbs times, not memory: `--only-memory` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from _processes import run_tailora, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores
from tailora.models.catalog import TINY_FOLDER

SHARED = Path(__file__).resolve().parents[2] / "shared"
SHAPES = {"gpt2": (768, 12, 12), "gpt2-medium": (1024, 24, 16), "gpt2-large": (1280, 36, 20), "gpt2-xl": (1600, 48, 25)}
"""Width, blocks and heads of GPT-2 (Radford et al. 2019, table 2)."""
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Plan, run, print."""
    arguments = parse(argv)
    results = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for network in arguments.networks:
            base = arguments.smollm2 if network == "smollm2" else random_base(network, Path(work))
            for flags in arms(arguments):
                results.append({"network": network, **measure(arguments, base, flags, Path(work))})
                say(json.dumps(results[-1]))
            shutil.rmtree(Path(work) / network, ignore_errors=True)
    print_table(results, times=not arguments.only_memory)
    if arguments.json:
        print(json.dumps({"benchmark": "plan", "machine": describe(), "arms": results}, indent=2))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=["smollm2", *SHAPES], default=["smollm2", "gpt2"])
    parser.add_argument("--smollm2", default="smollm2-135m", help="name or path of SmolLM2 135M")
    parser.add_argument("--methods", nargs="+", default=["lora", "full"])
    parser.add_argument("--precisions", nargs="+", default=["fp32"], help="int8 is for lora only")
    parser.add_argument("--checkpointing", action="store_true", help="add runs with gradient checkpointing")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "trainset.csv.gz"))
    parser.add_argument("--limit", type=int, default=30, help="number of records, from the first one on")
    parser.add_argument("--updates", type=int, help="largest number of updates; by default one epoch")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--work", type=Path, help="folder for the networks; by default the system's")
    parser.add_argument("--only-memory", action="store_true", help="do not compare times")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args(argv)


def arms(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the flags of each run."""
    for method in arguments.methods:
        for precision in arguments.precisions:
            if precision == "int8" and method != "lora":
                continue
            yield [f"--method={method}", f"--precision={precision}"]
            if arguments.checkpointing:
                yield [f"--method={method}", f"--precision={precision}", "--gradient-checkpointing"]


def random_base(network: str, work: Path) -> str:
    """Write a network of GPT-2's architecture with random weights; return its folder."""
    width, blocks, heads = SHAPES[network]
    torch.manual_seed(0)
    config = GPT2Config(n_embd=width, n_layer=blocks, n_head=heads, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(work / network)
    for file in TINY_FOLDER.glob("tokenizer*"):
        shutil.copy(file, work / network)
    return str(work / network)


def measure(arguments: argparse.Namespace, base: str, flags: list[str], work: Path) -> Result:
    """Plan a run, and run it; return both, in bytes and seconds."""
    common = [f"--base={base}", f"--data={arguments.data}", f"--limit={arguments.limit}", "--epochs=1", *flags]
    if arguments.updates is not None:
        common.append(f"--max-steps={arguments.updates}")
    estimate = run_tailora(["plan", *common], threads=arguments.threads)["estimate"]
    output = work / "run"
    ran = run_tailora(["train", f"--output={output}", "--resume=never", *common], threads=arguments.threads)
    shutil.rmtree(output)
    return {
        "flags": " ".join(flags),
        "planned_bytes": estimate["peak_memory_bytes"],
        "peak_bytes": ran["peak_memory_bytes"],
        "planned_seconds": estimate["seconds"],
        "seconds": ran["seconds"],
        "updates": ran["steps"],
    }


def print_table(results: Sequence[Result], *, times: bool) -> None:
    """Print plans beside measurements, and how far they are apart."""
    table = Table("network", "flags", box=None)
    columns = ["planned GiB", "measured GiB", "difference"]
    columns += ["planned s", "measured s", "difference"] if times else []
    for name in columns:
        table.add_column(name, justify="right")
    for result in results:
        planned, measured = result["planned_bytes"], result["peak_bytes"]
        row = [f"{planned / 2**30:.2f}", f"{measured / 2**30:.2f}", f"{planned / measured - 1:+.0%}"]
        if times:
            planned, measured = result["planned_seconds"], result["seconds"]
            row += [f"{planned:.1f}", f"{measured:.1f}", f"{planned / measured - 1:+.0%}"]
        table.add_row(result["network"], result["flags"], *row)
    Console(stderr=True, width=160).print(table)


if __name__ == "__main__":
    main()
