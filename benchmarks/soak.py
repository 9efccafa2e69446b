"""Send a mixed load to `tailora serve` for some minutes; check every response and the growth of its memory.

    python benchmarks/soak.py --base smollm2-135m --minutes 10

Clients request completions, records and conversations, streamed and whole, with any of the adapters. Some close their
connection during a stream, some send invalid requests. Adapters are loaded, replaced and unloaded at the same time.
Every response has to be one that its request allows (a model that was just unloaded may be missing; a full queue may
respond 429). The server's resident memory is read once per second. At the end the server must be idle, with every block
free, and shut down cleanly. The output shows the numbers of requests and responses, and the memory after a tenth of the
time and at the end. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import httpx

from _processes import say
from _requests import prepare
from serving import SHARED
from serving_http import free_port, wait_for
from tailora.core.hardware.machine import describe

FACTS = {"name": "Blue Spice", "eatType": "pub", "food": "Italian", "area": "riverside", "familyFriendly": "yes"}
COMING = "coming"  # the adapter that comes and goes
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

    def __init__(self, address: str, base: str, seconds: float) -> None:
        self._base = base
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=f"http://{address}", timeout=120, limits=limits)
        self.end = time.monotonic() + seconds
        self.counts: collections.Counter[str] = collections.Counter()
        self.amiss: list[str] = []
        self.memory: list[tuple[float, int]] = []

    async def run(self, clients: int, process: int) -> None:
        """All of it, to the end."""
        jobs = [self._client(number) for number in range(clients)]
        await asyncio.gather(*jobs, self._adapters(), self._mistakes(), self._watch(process))
        await self._http.aclose()

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < self.end:
            model = chance.choice([*(f"a{n}" for n in range(4)), COMING, "base"])
            path, body = self._body(chance, model)
            allowed = {200, 429, *([404] if model == COMING else [])}
            if chance.random() < 0.15:
                await self._leave(path, {**body, "stream": True}, chance.random())
            elif chance.random() < 0.5:
                await self._stream(path, {**body, "stream": True}, allowed)
            else:
                self._check("whole", path, await self._http.post(path, json=body), allowed)

    def _body(self, chance: random.Random, model: str) -> tuple[str, dict[str, Any]]:
        name = self._base if model == "base" else model
        tokens = chance.randint(1, 48)
        kind = chance.randrange(4)
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

    async def _adapters(self) -> None:
        number = 0
        while time.monotonic() < self.end:
            body = {"lora_name": COMING, "lora_path": f"adapter-{4 + number % 4}", "load_inplace": True}
            self._check("loaded", "load", await self._http.post("/v1/load_lora_adapter", json=body), {200})
            await asyncio.sleep(1.5)
            if number % 3 == 2:
                gone = await self._http.post("/v1/unload_lora_adapter", json={"lora_name": COMING})
                self._check("unloaded", "unload", gone, {200})
                await asyncio.sleep(0.5)
            number += 1

    async def _mistakes(self) -> None:
        number = 0
        while time.monotonic() < self.end:
            path, body, status = WRONG[number % len(WRONG)]
            self._check("wrong", path, await self._http.post(path, json=body), {status})
            number += 1
            await asyncio.sleep(0.2)

    async def _watch(self, process: int) -> None:
        began = time.monotonic()
        while time.monotonic() < self.end:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            self.memory.append((time.monotonic() - began, pages * 4096))
            await asyncio.sleep(1)

    def _check(self, kind: str, path: str, answer: httpx.Response, allowed: set[int]) -> None:
        self.counts[f"{kind} {answer.status_code}"] += 1
        if answer.status_code not in allowed:
            told = answer.text[:200] if answer.is_stream_consumed else ""
            self.amiss.append(f"{kind} {path}: {answer.status_code} {told}")


def main() -> int:
    """Start the server, soak it, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, folder or wheel of the base model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
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
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "tailora", "serve", "--base", arguments.base, "--port", str(port)]
    command += [flag for n in range(4) for flag in ("--adapter", f"a{n}={given['adapters'][n]}")]
    command += ["--adapter-folder", str(folder), "--slots", "4"]
    with (folder / "soak.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        wait_for(address, "/ready", process)
        base = json.loads(_get(address, "/v1/models"))["data"][0]["id"]
        soak = Soak(address, base, 60 * arguments.minutes)
        say(f"soaking for {arguments.minutes:g} minutes")
        asyncio.run(soak.run(arguments.clients, process.pid))
        time.sleep(2)
        status = json.loads(_get(address, "/v1/status"))
        for name in ("running", "waiting", "kv_blocks_used"):
            if status[name]:
                soak.amiss.append(f"at the end {name} is {status[name]}")
        process.send_signal(signal.SIGTERM)
        if process.wait(30) != 0:
            soak.amiss.append(f"the server ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
    failures = [line for line in (folder / "soak.log").read_text().splitlines() if '"level": "error"' in line]
    soak.amiss += failures[:5]
    return tell(soak, arguments)


def tell(soak: Soak, arguments: argparse.Namespace) -> int:
    """Print what was found; 1 where something was amiss."""
    settled = [used for second, used in soak.memory if second > 6 * arguments.minutes]
    tenth = max(1, len(settled) // 10)
    begin, end = statistics.median(settled[:tenth]), statistics.median(settled[-tenth:])
    result = {
        "benchmark": "soak",
        "minutes": arguments.minutes,
        "clients": arguments.clients,
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


def _get(address: str, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
        found: bytes = answer.read()
        return found


if __name__ == "__main__":
    sys.exit(main())
