"""Measure how the order in which blocks are freed affects the prefix cache: hit rate and throughput.

    python benchmarks/prefix_cache.py --base smollm2-135m --json

1,000 prompts, each a few tokens after one of 20 prefixes, arrive in random order; each is continued by a few tokens.
The cache holds fewer blocks than all prefixes and the running requests need together, so some cached blocks are
evicted. `head first` frees the blocks of a sequence from its first block on: the head of a chain is evicted first, and
the rest can no longer be found. `tail first` is the engine's order. The hit rate is the share of prompt tokens that
were not computed; a request that was preempted and computed again counts as not hit. Both orders run in turn; the
output shows medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tailora.engine import engine as engine_module
from tailora.engine.backend import Backend, Step, StepScores
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.kv_blocks import BlockPool
from tailora.engine.requests import Request
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine


class HeadFirst(BlockPool):
    """Gives the first block of a sequence back first."""

    def give_back(self, blocks: Iterable[int]) -> None:
        """See `BlockPool`."""
        for block in blocks:
            super().give_back([block])


ORDERS: dict[str, type[BlockPool]] = {"head first": HeadFirst, "tail first": BlockPool}


def main() -> None:
    """Measure and print."""
    arguments = parse()
    running = start_engine(resolve_models(arguments.base, {}), backend="openvino", precision=arguments.precision)
    backend = running.engine.backend
    asked = requests(backend.vocabulary, arguments)
    found: dict[int, dict[str, list[dict[str, float]]]] = {}
    for tokens in arguments.cache_tokens:
        rounds: dict[str, list[dict[str, float]]] = {order: [] for order in ORDERS}
        for _ in range(arguments.rounds):
            for order, pool in ORDERS.items():
                rounds[order].append(measure(backend, asked, pool, tokens, arguments.sequences))
        found[tokens] = rounds
        for order, values in rounds.items():
            middle = {name: statistics.median(each[name] for each in values) for name in values[0]}
            print(f"cache {tokens:>6}  {order}  " + "  ".join(f"{name} {each:.3f}" for name, each in middle.items()))
    if arguments.json:
        print(json.dumps({"precision": running.precision, "rounds": found}))


def requests(vocabulary: int, arguments: argparse.Namespace) -> list[Request]:
    """The same prompts at every call."""
    rng = np.random.default_rng(0)
    prefixes = [rng.integers(1, vocabulary, arguments.prefix_tokens) for _ in range(arguments.prefixes)]
    ways = Decoding(max_new_tokens=arguments.new_tokens, ignore_end=True)
    made = []
    for _ in range(arguments.prompts):
        prefix = prefixes[int(rng.integers(len(prefixes)))]
        rest = rng.integers(1, vocabulary, int(rng.integers(4, 24)))
        made.append(Request(tuple(int(token) for token in (*prefix, *rest)), ways))
    return made


def measure(
    backend: Backend, asked: list[Request], pool: type[BlockPool], cache_tokens: int, sequences: int
) -> dict[str, float]:
    """Hit rate, prompts a second, and times that a request was put back, of one run."""
    computed = 0

    class Counted:
        """The backend, with its tokens counted."""

        def __getattr__(self, name: str) -> Any:
            return getattr(backend, name)

        def run(self, step: Step) -> StepScores:
            nonlocal computed
            computed += len(step.tokens)
            return backend.run(step)

    usual, engine_module.BlockPool = engine_module.BlockPool, pool  # type: ignore[misc]
    try:
        blocks = cache_tokens // backend.block_size
        made = Engine(Counted(), end=0, sequences=sequences, blocks=blocks)
    finally:
        engine_module.BlockPool = usual  # type: ignore[misc]
    began = time.perf_counter()
    results = made.complete(asked)
    seconds = time.perf_counter() - began
    prompts = sum(len(request.prompt) for request in asked)
    written = sum(len(completion.token_ids) - 1 for (completion,) in results)
    return {
        "hit_rate": 1 - (computed - written) / prompts,
        "prompts_per_second": len(asked) / seconds,
        "put_back": float(made.load.preempted),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name, wheel or folder of the base model")
    parser.add_argument("--precision", default="int8", choices=["int8", "bf16", "fp32"])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--prefixes", type=int, default=20)
    parser.add_argument(
        "--prefix-tokens", type=int, default=128, help="number of tokens of each prefix; a block holds 32"
    )
    parser.add_argument("--new-tokens", type=int, default=16, help="number of tokens written after each prompt")
    parser.add_argument("--sequences", type=int, default=16, help="largest number of concurrent requests")
    parser.add_argument(
        "--cache-tokens", type=int, nargs="+", default=[3072, 4096, 6144], help="sizes of the cache, in tokens"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="also print the figures of every round as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
