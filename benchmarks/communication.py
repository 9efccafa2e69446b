"""How long does sharing an update's gradients take, and does a simple model predict it?

Processes on this machine add up tensors with gloo's all-reduce, as data-parallel training does after every update. The
model has two constants: a latency, and the bytes that a process sends in a second. Both are fitted to small tensors,
and then predict the times of the gradients of an adapter and of full fine-tuning. `--bandwidth` and `--latency` add
the model's times for a network between machines.

    python benchmarks/communication.py --processes 2 --json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from torch.multiprocessing.spawn import spawn

from tailora.core.hardware.machine import describe

FITTED = (2**14, 2**16, 2**18, 2**20)
"""Numbers of fp32 values of the tensors that the constants are fitted to: 64 KiB to 4 MiB."""
GRADIENTS = {
    "GPT-2 124M, LoRA of rank 4 on q and v": 147_456,
    "SmolLM2 135M, half of the factors of rank 8": 2_442_240 // 2,
    "SmolLM2 135M, LoRA of rank 8 on all linear layers": 2_442_240,
    "SmolLM2 135M, full": 134_515_008,
}
"""Numbers of fp32 values of an update's gradients."""


@dataclass(frozen=True)
class Model:
    """The time of an all-reduce.

    Attributes:
        latency: seconds that do not depend on the size.
        bandwidth: bytes that a process sends in a second.
    """

    latency: float
    bandwidth: float

    def seconds(self, size: int, processes: int) -> float:
        """The time to add up `size` bytes: each process sends 2 (N - 1) / N of them (ring all-reduce)."""
        return self.latency + sent(size, processes) / self.bandwidth


def sent(size: int, processes: int) -> float:
    """Bytes that each process sends to add up tensors of `size` bytes."""
    return 2 * (processes - 1) / processes * size


def fit(times: dict[int, float], processes: int) -> Model:
    """Fit the constants to seconds by bytes, by least squares of the relative errors."""
    sizes = np.array(list(times), float)
    seconds = np.array(list(times.values()))
    columns = np.stack([np.ones_like(sizes), 2 * (processes - 1) / processes * sizes], axis=1)
    latency, inverse = np.linalg.lstsq(columns / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
    return Model(max(float(latency), 0.0), 1 / max(float(inverse), 1e-15))


def measure(rank: int, processes: int, port: int, laps: int, results: Any) -> None:
    """Time the all-reduce of every size in one of the processes; the first one reports medians."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    limit = datetime.timedelta(seconds=120)
    distributed.init_process_group("gloo", rank=rank, world_size=processes, timeout=limit)
    times: dict[int, float] = {}
    for count in (*FITTED, *GRADIENTS.values()):
        values = torch.full((count,), 1.0)
        laps_here = laps if count < 10**7 else max(3, laps // 10)
        seen = []
        for _ in range(laps_here + 2):  # the first two connect and allocate
            values.fill_(1.0)
            distributed.barrier()
            began = time.perf_counter()
            distributed.all_reduce(values)
            seen.append(time.perf_counter() - began)
        assert values[0] == values[-1] == processes
        times[4 * count] = statistics.median(seen[2:])
    if rank == 0:
        results.put(times)
    distributed.destroy_process_group()


def main() -> int:
    """Run the processes and print measured and predicted times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--laps", type=int, default=50, help="measurements of each small tensor")
    parser.add_argument("--bandwidth", type=float, default=0.117, help="GB/s of a network between machines")
    parser.add_argument("--latency", type=float, default=0.0005, help="seconds of an all-reduce on that network")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.processes < 2:
        parser.error("--processes must be at least 2")
    times = _times(arguments.processes, arguments.laps)
    local = fit({size: times[size] for size in (4 * count for count in FITTED)}, arguments.processes)
    network = Model(arguments.latency, arguments.bandwidth * 1e9)
    rows = []
    for name, count in GRADIENTS.items():
        size = 4 * count
        row: dict[str, Any] = {
            "gradients": name,
            "megabytes": size / 1e6,
            "sent_megabytes": sent(size, arguments.processes) / 1e6,
        }
        row |= {"measured": times[size], "predicted": local.seconds(size, arguments.processes)}
        rows.append({**row, "network": network.seconds(size, arguments.processes)})
    if arguments.json:
        result = {"processes": arguments.processes, "model": asdict(local), "network": asdict(network), "rows": rows}
        print(json.dumps(result | {"fitted": times, "machine": describe()}))
        return 0
    print(f"gloo, {arguments.processes} processes: {local.bandwidth / 1e9:.2f} GB/s and {1e3 * local.latency:.2f} ms")
    for row in rows:
        print(
            f"{row['gradients']}: {row['megabytes']:.1f} MB; measured {1e3 * row['measured']:.1f} ms, "
            f"model {1e3 * row['predicted']:.1f} ms; network {1e3 * row['network']:.1f} ms"
        )
    return 0


def _times(processes: int, laps: int) -> dict[int, float]:
    """Return the median seconds of each all-reduce, by bytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    spawn(measure, (processes, port, laps, results), processes)
    found: dict[int, float] = results.get()
    return found


if __name__ == "__main__":
    sys.exit(main())
