"""Measure throughput and latency of the HTTP server with 1 to 128 clients and eight adapters, and of other servers.

    python benchmarks/serving_http.py --base smollm2-135m                  # Tailora, its engine in process, all peers
    python benchmarks/serving_http.py --arms ours in_process --clients 32  # some arms

Clients are a closed loop (`_http_client.py`): each requests 32 greedy tokens after one of 64 E2E test prompts, given as
token ids, streamed, end-of-text ignored, and sends its next request as soon as it has them. Request n uses adapter n
mod 8 (rank 16, random values, on the queries and values). A token counts when its event arrives. `ours` is `tailora
serve` in int8; `in_process` sends the same requests to the same engine without HTTP, 32 at once. Each peer runs its own
server with its defaults (prefix cache on, as in Tailora): `vllm` (vLLM's CPU build, the same adapters, bf16),
`vllm_fp32`, and `llama` (llama-cpp-python's server, Q8_0), which writes one request after the other and loads at most
one adapter: it runs without adapters and may end its texts early. The servers run one after the other in each round.
The CPU seconds of the client are reported, because both sides share the cores.

(A module named http.py would hide Python's own module from every script of this folder.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _http_client import drive
from _processes import ArmError, print_result, run_arm, run_rounds
from _requests import prepare
from serving import SHARED, environment
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

ARMS = ("ours", "in_process", "vllm", "vllm_fp32", "llama")
ADAPTERS, NEW_TOKENS = 8, 32
LLAMA_SERVER = ["fastapi", "uvicorn", "sse-starlette", "starlette-context", "pydantic-settings"]
Result = dict[str, Any]


def main() -> None:
    """Measure all arms in turns, print a table and, with --json, everything."""
    arguments = parse()
    if arguments.arm:
        print_result(lambda: measure_in_process(arguments))
        return
    folder = Path(arguments.work) / Path(arguments.base).name
    given = prepare(folder, arguments.base, arguments.data, prompts=64, adapters=ADAPTERS)
    rounds = run_rounds(
        arguments.arms, arguments.rounds, lambda arm: measure(arm, given, folder, arguments), rates_by_clients
    )
    summary = summarise(rounds, arguments)
    print_table(summary)
    if arguments.json:
        print(json.dumps(summary, indent=2))


def rates_by_clients(result: Result) -> list[str]:
    """Return a line for each number of clients."""
    return [f"{level['clients']:4} at once {level['tokens_per_second']:9.1f} tokens/s" for level in result["levels"]]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, metavar="ARM")
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format" / "test.txt.gz"))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds measured for each number of clients")
    parser.add_argument("--warm", type=float, default=3.0, help="seconds of warm-up before each measurement")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--gguf", default="", help="Q8_0 GGUF file of the base, for the arm llama")
    parser.add_argument(
        "--work",
        default=str(Path(tempfile.gettempdir()) / "tailora-serving"),
        help="folder for environments and models that the script creates",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--arm", choices=["in_process"], help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arm: str, given: dict[str, Any], folder: Path, arguments: argparse.Namespace) -> Result:
    """One arm at every number of clients, on a server started for it."""
    if arm == "in_process":
        flags = [f"--{name}={getattr(arguments, name)}" for name in ("base", "seconds", "warm", "threads")]
        return run_arm(Path(__file__), ["--arm=in_process", f"--work={folder}", *flags], threads=arguments.threads)
    port = free_port()
    address = f"127.0.0.1:{port}"
    bodies = [
        {
            "model": "base" if arm == "llama" else f"a{number % ADAPTERS}",
            "prompt": given["texts"][number] if arm == "llama" else prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 0,
            "stream": True,
            **({} if arm == "llama" else {"ignore_eos": True}),
        }
        for number, prompt in enumerate(given["prompts"])
    ]
    began = time.perf_counter()
    with _server(arm, given, port, arguments) as process:
        wait_for(address, "/ready" if arm == "ours" else "/v1/models", process)
        result: Result = {"start_seconds": time.perf_counter() - began, "levels": []}
        drive(address, bodies, clients=4, seconds=2.0, warm=arguments.warm)
        for clients in arguments.clients:
            look = (lambda: _engine_counts(address)) if arm == "ours" else None
            level = drive(address, bodies, clients=clients, seconds=arguments.seconds, warm=arguments.warm, look=look)
            if looked := level.pop("looked"):
                (tokens, busy), (later_tokens, later_busy) = looked
                level["tokens_per_busy_second"] = (later_tokens - tokens) / (later_busy - busy)
            result["levels"].append(level)
            time.sleep(1.0)  # what the clients left is cancelled
    return result


def measure_in_process(arguments: argparse.Namespace) -> Result:
    """Our engine behind its worker, 32 requests at once, each followed by the next."""
    import itertools
    import threading

    from tailora.engine.decoding import Decoding
    from tailora.engine.engine import Event
    from tailora.engine.requests import Request, mixture_of
    from tailora.engine.worker import Worker
    from tailora.inference.setup import resolve_models
    from tailora.inference.start import start_engine

    given = json.loads((Path(arguments.work) / "requests.json").read_text(encoding="utf-8"))
    setup = resolve_models(arguments.base, {f"a{n}": Path(path) for n, path in enumerate(given["adapters"])})
    running = start_engine(setup, precision="int8", sequences=32)
    decoding = Decoding(max_new_tokens=NEW_TOKENS, ignore_end=True)
    requests = itertools.cycle(
        [Request(tuple(prompt), decoding, mixture_of(f"a{n % ADAPTERS}")) for n, prompt in enumerate(given["prompts"])]
    )
    over = threading.Event()
    with Worker(running.engine) as worker:

        def ask() -> None:
            def sink(item: Event | BaseException | None) -> None:
                if item is None and not over.is_set():
                    ask()

            worker.begin(next(requests), sink)

        for _ in range(32):
            ask()
        time.sleep(arguments.warm)
        before = worker.stats
        time.sleep(arguments.seconds)
        after = worker.stats
        over.set()
    tokens = after.tokens - before.tokens
    level = {
        "clients": 32,
        "tokens_per_second": tokens / arguments.seconds,
        "tokens_per_busy_second": tokens / (after.busy_seconds - before.busy_seconds),
    }
    return {"levels": [level]}


@contextlib.contextmanager
def _server(
    arm: str, given: dict[str, Any], port: int, arguments: argparse.Namespace
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own; its words go to a file in the working folder."""
    work, told = Path(arguments.work), {"OMP_NUM_THREADS": str(arguments.threads)}
    adapters = [f"a{number}={path}" for number, path in enumerate(given["adapters"])]
    if arm == "ours":
        command = [sys.executable, "-m", "tailora", "serve", "--base", arguments.base, "--precision", "int8"]
        command += [flag for adapter in adapters for flag in ("--adapter", adapter)]
    elif arm == "llama":
        python = environment("llama", work)
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", *LLAMA_SERVER], check=True)
        command = [str(python), "-m", "llama_cpp.server", "--model", arguments.gguf, "--n_ctx", "512"]
        command += ["--n_threads", str(arguments.threads), "--n_threads_batch", str(arguments.threads)]
        command += ["--model_alias", "base", "--interrupt_requests", "False"]
    else:
        python = environment("vllm", work)
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", given["folder"], "--enable-lora"]
        command += ["--max-loras", str(ADAPTERS), "--max-lora-rank", "16", "--lora-modules", *adapters]
        command += ["--max-model-len", "512", "--max-num-seqs", "64"]
        command += ["--dtype", "float32" if arm == "vllm_fp32" else "bfloat16"]
        told |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = work / f"server-{arm}.log"
    with log.open("wb") as file:
        command += ["--port", str(port)]
        process = subprocess.Popen(command, env=os.environ | told, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):  # vLLM's engine is a process of its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(address: str, path: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ArmError(f"the server ended with {process.returncode}; see server-*.log in the working folder")
        try:
            urllib.request.urlopen(f"http://{address}{path}", timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise ArmError("the server was not ready within ten minutes")


def _engine_counts(address: str) -> tuple[float, float]:
    """Tokens written and seconds spent by our engine, as its server tells Prometheus."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("tailora_engine_")}
    return found["tailora_engine_tokens_total"], found["tailora_engine_busy_seconds_total"]


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def summarise(rounds: Sequence[dict[str, Result]], arguments: argparse.Namespace) -> Result:
    """The median round of each arm and number of clients, and medians of ratios formed within each round."""
    summary: Result = {"benchmark": "serving_http", "base": arguments.base, "arms": {}, "ratios": {}}
    levels = [
        {(arm, level["clients"]): level for arm, result in each.items() for level in result["levels"]}
        for each in rounds
    ]
    for arm in arguments.arms:
        for clients in arguments.clients:
            found = [each[arm, clients] for each in levels if (arm, clients) in each]
            if found:
                middle = sorted(found, key=lambda level: level["tokens_per_second"])[len(found) // 2]
                summary["arms"].setdefault(arm, []).append(middle)
    for each in rounds:
        for arm, result in each.items():
            summary.setdefault("start_seconds", {}).setdefault(arm, []).append(result.get("start_seconds"))
    for peer in [arm for arm in arguments.arms if arm not in ("ours", "in_process")]:
        for clients in arguments.clients:
            pairs = [
                (e["ours", clients], e[peer, clients]) for e in levels if {("ours", clients), (peer, clients)} <= set(e)
            ]
            values = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs if b["tokens_per_second"]]
            if values:
                summary["ratios"][f"ours_over_{peer}_{clients}"] = statistics.median(values)
    owner = [
        e["ours", 32]["tokens_per_busy_second"] / e["in_process", 32]["tokens_per_busy_second"]
        for e in levels
        if {("ours", 32), ("in_process", 32)} <= set(e)
    ]
    if owner:
        summary["ratios"]["owner_thread_over_in_process_32"] = statistics.median(owner)
    return {**summary, "machine": describe()}


def print_table(summary: Result) -> None:
    """The arms and the ratios, on standard error."""
    table = Table(title=f"{summary['base']}, {ADAPTERS} adapters: medians over rounds")
    for heading in (
        "arm",
        "clients",
        "tokens/s",
        "a busy second",
        "first token p50/95/99, ms",
        "a token, ms",
        "client CPU s",
    ):
        table.add_column(heading)
    for arm, levels in summary["arms"].items():
        for level in levels:
            busy = level.get("tokens_per_busy_second")
            table.add_row(
                arm,
                str(level["clients"]),
                f"{level['tokens_per_second']:.1f}",
                "" if busy is None else f"{busy:.1f}",
                _shown(level.get("first_token_seconds")),
                _shown(level.get("token_seconds")),
                "" if "client_cpu_seconds" not in level else f"{level['client_cpu_seconds']:.1f}",
            )
    console = Console(stderr=True)
    console.print(table)
    for name, value in summary["ratios"].items():
        console.print(f"{name} {value:.3g}")


def _shown(cuts: dict[str, float] | None) -> str:
    return "" if cuts is None else " / ".join(f"{1000 * cuts[name]:.0f}" for name in ("p50", "p95", "p99"))


if __name__ == "__main__":
    main()
