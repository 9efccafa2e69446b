"""Send a mixed load to `tailora serve` for some minutes; check every response and the growth of its memory.

    python benchmarks/soak.py --base smollm2-135m --minutes 30 --kills 1

Clients request completions, records and conversations, streamed and whole, with any of the adapters, with mixtures of
adapters, and with a composition of the server's configuration. Two of the adapters have a table of drafts. Some
clients close their connection during a stream, some send invalid requests. Adapters are loaded, replaced and unloaded
at the same time. With `--kills`, the server is killed with SIGKILL at even intervals and started again; only requests
that meet the gap may fail. Every other response has to be one that its request allows (a model that was just unloaded
may be missing; a full queue may respond 429). The server's resident memory is read once per second. At the end the
server must be idle, with every block free, and shut down cleanly. The output shows the numbers of requests and
responses, and the memory after a tenth of the time and at the end. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from _processes import run_tailora, say
from _requests import prepare
from serving import SHARED
from serving_http import free_port, wait_for
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores
from tailora.data.chat_template import ChatTemplate
from tailora.data.tokenizer import Tokenizer

FACTS = {"name": "Blue Spice", "eatType": "pub", "food": "Italian", "area": "riverside", "familyFriendly": "yes"}
COMING = "coming"  # the adapter that comes and goes
MIXED = "mixed"  # a composition of the server's configuration
WRONG: tuple[tuple[str, Any, int], ...] = (
    ("/v1/completions", {"model": "none", "prompt": "x"}, 404),
    ("/v1/completions", {"model": "a0", "prompt": "x", "temperature": 9}, 400),
    ("/v1/completions", {"model": "a0", "prompt": "x" * 40_000}, 400),
    ("/v1/records", {"model": "a0", "facts": {}}, 400),
    ("/v1/records", {"model": "a0", "facts": [["a"]]}, 400),
    ("/v1/chat/completions", {"model": "a0", "messages": []}, 400),
    ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "../../etc"}, 409),
    ("/v1/unload_lora_adapter", {"lora_name": "x"}, 404),
)


class Soak:
    """The clients, and what became of their requests."""

    def __init__(self, server: SoakedServer, base: str, seconds: float, *, kills: int, chat: bool) -> None:
        self._server, self._base, self._kills, self._seconds = server, base, kills, seconds
        self._kinds = range(4) if chat else (0, 2, 3)
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=f"http://{server.address}", timeout=120, limits=limits)
        self.end = time.monotonic() + seconds
        self.up = asyncio.Event()
        self.up.set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.amiss: list[str] = []
        self.memory: list[tuple[float, int]] = []

    async def run(self, clients: int) -> None:
        """Run all clients until the end."""
        jobs = [self._repeat(self._client, random.Random(number)) for number in range(clients)]
        others = (self._repeat(job, itertools.count()) for job in (self._adapters, self._mistakes))
        await asyncio.gather(*jobs, *others, self._watch(), self._kill())
        await self._http.aclose()

    async def _repeat(self, job: Callable[[Any], Awaitable[None]], state: Any) -> None:
        """Do a job again and again. A request that fails because the server is killed is counted."""
        while time.monotonic() < self.end:
            await self.up.wait()
            starts = self._server.starts
            try:
                await job(state)
            except httpx.TransportError as error:
                if self.up.is_set() and self._server.starts == starts:
                    self.amiss.append(f"{job.__name__}: {type(error).__name__} {error}")
                self.counts["cut by a kill"] += 1

    async def _client(self, chance: random.Random) -> None:
        model = chance.choice([*(f"a{n}" for n in range(4)), COMING, "base", MIXED])
        path, body = self._body(chance, model)
        if model in ("a0", "a1") and chance.random() < 0.3:
            body["adapters"] = [{"name": model, "weight": 0.7}, {"name": "a2", "weight": -0.2}]
        allowed = {200, 429, *([404] if model == COMING else [])}
        if chance.random() < 0.15:
            await self._leave(path, {**body, "stream": True}, chance.random())
        elif chance.random() < 0.5:
            await self._stream(path, {**body, "stream": True}, allowed)
        else:
            self._check("whole", path, await self._http.post(path, json=body), allowed)

    async def _kill(self) -> None:
        """Kill the server and start it again."""
        for number in range(self._kills):
            at = self.end - self._seconds * (1 - (number + 1) / (self._kills + 1))
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            self.up.clear()
            self._server.process.kill()
            await asyncio.to_thread(self._server.start)
            self.counts["killed"] += 1
            self.up.set()

    def _body(self, chance: random.Random, model: str) -> tuple[str, dict[str, Any]]:
        name = self._base if model == "base" else model
        tokens = chance.randint(1, 48)
        kind = chance.choice(self._kinds)
        if kind == 0:
            facts = dict(chance.sample(sorted(FACTS.items()), chance.randint(1, len(FACTS))))
            beams = chance.choice([1, 1, 4])
            return "/v1/records", {"model": name, "facts": facts, "max_tokens": tokens, "beams": beams}
        if kind == 1:
            said = [{"role": "user", "content": "Say something about " + chance.choice(["tea", "rain", "Hà Nội"])}]
            return "/v1/chat/completions", {"model": name, "messages": said, "max_tokens": tokens}
        more = {"n": chance.choice([1, 1, 3]), "logprobs": chance.choice([None, 2]), "seed": chance.randint(0, 9)}
        prompt = " | ".join(f"{a} : {v}" for a, v in FACTS.items()) + " =>"
        return "/v1/completions", {"model": name, "prompt": prompt, "max_tokens": tokens, **more}

    async def _stream(self, path: str, body: dict[str, Any], allowed: set[int]) -> None:
        async with self._http.stream("POST", path, json=body) as answer:
            text = (await answer.aread()).decode()
        self._check("streamed", path, answer, allowed)
        if answer.status_code == 200 and not text.endswith("data: [DONE]\n\n"):
            self.amiss.append(f"{path}: a stream broke off: {text[-200:]}")

    async def _leave(self, path: str, body: dict[str, Any], after: float) -> None:
        """Close the connection somewhere in the answer."""
        try:
            async with asyncio.timeout(after):
                async with self._http.stream("POST", path, json=body) as answer:
                    await answer.aread()
        except TimeoutError:
            self.counts["left"] += 1

    async def _adapters(self, numbers: Iterator[int]) -> None:
        number = next(numbers)
        body = {"lora_name": COMING, "lora_path": f"adapter-{4 + number % 4}", "load_inplace": True}
        self._check("loaded", "load", await self._http.post("/v1/load_lora_adapter", json=body), {200})
        await asyncio.sleep(1.5)
        if number % 3 == 2:
            gone = await self._http.post("/v1/unload_lora_adapter", json={"lora_name": COMING})
            self._check("unloaded", "unload", gone, {200, 404} if self._kills else {200})
            await asyncio.sleep(0.5)

    async def _mistakes(self, numbers: Iterator[int]) -> None:
        path, body, status = WRONG[next(numbers) % len(WRONG)]
        self._check("wrong", path, await self._http.post(path, json=body), {status})
        await asyncio.sleep(0.2)

    async def _watch(self) -> None:
        began = time.monotonic()
        while time.monotonic() < self.end:
            await self.up.wait()
            with contextlib.suppress(OSError, IndexError):  # the process is being killed
                pages = int(Path(f"/proc/{self._server.process.pid}/statm").read_text().split()[1])
                self.memory.append((time.monotonic() - began, pages * 4096))
            await asyncio.sleep(1)

    def _check(self, kind: str, path: str, answer: httpx.Response, allowed: set[int]) -> None:
        self.counts[f"{kind} {answer.status_code}"] += 1
        if answer.status_code not in allowed:
            text = answer.text[:200] if answer.is_stream_consumed else ""
            self.amiss.append(f"{kind} {path}: {answer.status_code} {text}")


class SoakedServer:
    """The server's process, which can be started again after it was killed."""

    def __init__(self, command: Sequence[str], log: Path, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.starts = 0
        self._command, self._log = command, log
        self._log.unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)
        wait_for(self.address, "/ready", self.process)
        self.starts += 1

    def get(self, path: str) -> Any:
        """Return the JSON of a route."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def errors(self) -> list[str]:
        """Return the lines of the log that report an error."""
        return [line for line in self._log.read_text().splitlines() if '"level": "error"' in line]


def main() -> int:
    """Start the server, send the load, and print what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=0, help="how many times the server is killed with SIGKILL")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e" / "lora_format" / "test.txt.gz"))
    parser.add_argument(
        "--work",
        default=str(Path(tempfile.gettempdir()) / "tailora-serving"),
        help="folder for environments and models that the script creates",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    arguments = parser.parse_args()
    folder = Path(arguments.work) / Path(arguments.base).name
    given = prepare(folder, arguments.base, arguments.data, prompts=64, adapters=8)
    for adapter in given["adapters"][:2]:
        if not (Path(adapter) / "tailora.drafts").is_file():
            run_tailora(["draft", adapter, "--data", arguments.data, "--base", arguments.base], threads=cores())
    port = free_port()
    command = [sys.executable, "-m", "tailora", "serve", "--base", arguments.base, "--port", str(port)]
    command += [flag for n in range(4) for flag in ("--adapter", f"a{n}={given['adapters'][n]}")]
    command += ["--compositions", f"{MIXED}=a1:0.5+a3:0.5", "--adapter-folder", str(folder), "--slots", "4"]
    server = SoakedServer(command, folder / "soak.log", port)
    try:
        server.start()
        base = server.get("/v1/models")["data"][0]["id"]
        model = Path(given["folder"])
        chat = ChatTemplate.from_folder(model, Tokenizer.from_folder(model)) is not None
        soak = Soak(server, base, 60 * arguments.minutes, kills=arguments.kills, chat=chat)
        say(f"soaking for {arguments.minutes:g} minutes")
        asyncio.run(soak.run(arguments.clients))
        time.sleep(2)
        status = server.get("/v1/status")
        for name in ("running", "waiting", "kv_blocks_used"):
            if status[name]:
                soak.amiss.append(f"at the end {name} is {status[name]}")
        server.process.send_signal(signal.SIGTERM)
        if server.process.wait(30) != 0:
            soak.amiss.append(f"the server ended with {server.process.returncode}")
    finally:
        server.process.kill()
        server.process.wait()
    soak.amiss += server.errors()[:5]
    return tell(soak, arguments)


def tell(soak: Soak, arguments: argparse.Namespace) -> int:
    """Print the figures; return 1 if a check failed."""
    settled = [used for second, used in soak.memory if second > 6 * arguments.minutes]
    tenth = max(1, len(settled) // 10)
    begin, end = statistics.median(settled[:tenth]), statistics.median(settled[-tenth:])
    result = {
        "benchmark": "soak",
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "kills": arguments.kills,
        "answers": dict(sorted(soak.counts.items())),
        "amiss": soak.amiss[:20],
        "memory_by_seconds_bytes": {round(second): used for second, used in soak.memory[::30]},
        "memory_after_a_tenth_bytes": int(begin),
        "memory_at_the_end_bytes": int(end),
        "memory_most_bytes": max(used for _, used in soak.memory),
        "machine": describe(),
    }
    for name, number in sorted(soak.counts.items()):
        say(f"{name:<16}{number:8}")
    say(f"memory {begin / 2**20:.1f} MiB after a tenth of the time, {end / 2**20:.1f} MiB at the end")
    for line in soak.amiss[:20]:
        say(f"amiss: {line}")
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 1 if soak.amiss else 0


if __name__ == "__main__":
    sys.exit(main())
