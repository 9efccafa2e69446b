"""The processes that train one run together, started by `torchrun`, and what they exchange.

Every process reads the data, loads the base and walks through the same updates. Of each update it computes its own
share of the trees (`trees.shares`). The gradients of all shares are then added, and every process takes the same
step. The first process alone writes files and prints.

An adapter's gradients have a few megabytes, so they are added once per update, in one all-reduce after the last pass.
`sharded` is for full fine-tuning.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from tailora.core import launch
from tailora.core.errors import SettingsError, UserError

TIMEOUT = "TAILORA_PROCESS_TIMEOUT"
"""Environment variable: the seconds that a process waits for the others, by default 600."""

_LEFT = "first process has left"
T = TypeVar("T")


class LostProcessError(UserError):
    """Another process of the run has ended, or has not answered in time."""


class Processes:
    """The processes of a run. This class itself is a run in one process, for which every exchange is trivial.

    Every process must call the methods that exchange something, in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def from_first(self, value: Callable[[], T]) -> T:
        """Return what the function returns in the first process, which alone calls it; the value must be picklable."""
        return value()

    def from_all(self, value: T) -> list[T]:
        """Return the values of all processes, in order."""
        return [value]

    def totals(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes, in float64."""
        return list(values)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes; a gradient that none has stays None."""

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        """Return the first process's value on the device of `like`, and divided among processes as `like` is.

        Args:
            value: the value; in other processes than the first, only its shape and dtype are read.
            like: a tensor of the same shape.
        """
        return value.to(like.device)

    def reseed(self, generators: Mapping[str, torch.Generator], seed: int, step: int) -> None:
        """Seed the generators for an update, in every process differently, if there are several processes.

        The state of several processes then needs no random states, and another number of processes can continue it.
        """


class _Group(Processes):
    """Several processes, connected by PyTorch."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def from_first(self, value: Callable[[], T]) -> T:
        values: list[Any] = [value() if self.is_first else None]
        with reporting_loss():
            dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        result: T = values[0]
        return result

    def from_all(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with reporting_loss():
            dist.all_gather_object(values, value)
        return values

    def totals(self, *values: float) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        with reporting_loss():
            dist.all_reduce(sums)
        result: list[float] = sums.tolist()
        return result

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        learning = list(parameters)
        has_gradient = learning[0].new_tensor([parameter.grad is not None for parameter in learning])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        flat = torch.cat([*(part.flatten() for part in parts), has_gradient])
        with reporting_loss():
            dist.all_reduce(flat)
        *sums, counts = flat.split([*(parameter.numel() for parameter in learning), len(learning)])
        for parameter, total, count in zip(learning, sums, counts.tolist(), strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if count else None

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        own = value.to(like.device) if self.is_first else torch.empty_like(value, device=like.device)
        with reporting_loss():
            if hasattr(like, "placements"):
                from torch.distributed.tensor import distribute_tensor  # loading it takes as long as half of PyTorch

                return distribute_tensor(own, cast(Any, like).device_mesh, cast(Any, like).placements)
            dist.broadcast(own, 0)
        return own

    def reseed(self, generators: Mapping[str, torch.Generator], seed: int, step: int) -> None:
        for name, generator in generators.items():
            generator.manual_seed(random.Random(f"{seed} {step} {self.rank} {name}").getrandbits(63))


SINGLE = Processes()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Connect this process with the others of its run that `torchrun` started; it may be the only one.

    An error is reported by the process that leaves the context with it first (`core.launch.reports`).

    Args:
        device: device of the run; CPUs communicate by gloo, NVIDIA GPUs by NCCL.

    Raises:
        LostProcessError: another process does not start, ends, or does not answer for `TIMEOUT`.
        SettingsError: the processes have different kinds of devices.
    """
    if launch.size() == 1:
        yield SINGLE
        return
    kind = torch.device(device).type
    patience = timedelta(seconds=_patience())
    with reporting_loss():
        shared, rank, size = next(rendezvous("env://", timeout=patience))
        store = PrefixStore(f"tailora {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", shared)
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    try:
        group = _Group(rank, size)
        kinds = group.from_all(kind)
        if len(set(kinds)) > 1:
            what = f"the processes have different devices ({', '.join(kinds)})"
            raise SettingsError(what, where="device", hint="set --device cpu or --device cuda")
        yield group
    except BaseException as error:
        launch.choose_reporter(_is_first_to_fail(store))
        _disconnect(kind)  # the others notice it
        if rank and not isinstance(error, LostProcessError):
            _wait_for_first(store)
        raise
    else:
        _disconnect(kind)
    finally:
        if rank == 0:
            with contextlib.suppress(RuntimeError):  # nobody may be left to read it
                store.set(_LEFT, "")


def own_device(device: str) -> str:
    """Return this process's device: on a machine with several GPUs, each process has its own.

    Raises:
        SettingsError: the machine has fewer GPUs than processes, or the kind of device cannot be shared.
    """
    kind = torch.device(device).type
    if launch.size() == 1 or kind == "cpu":
        return device
    if kind != "cuda":
        what = f"several processes cannot train on {kind}"
        raise SettingsError(what, where="device", hint="use --device cpu, or start one process")
    gpus = torch.cuda.device_count()
    if launch.local_size() > gpus:
        what = f"{launch.local_size()} processes on a machine with {gpus} GPUs"
        raise SettingsError(what, where="device", hint=f"start {gpus} with torchrun --nproc-per-node {gpus}")
    torch.cuda.set_device(launch.local_rank())
    return f"cuda:{launch.local_rank()}"


@contextlib.contextmanager
def reporting_loss() -> Iterator[None]:
    """Turn PyTorch's error on a lost connection into one that says what to do.

    Raises:
        LostProcessError: another process has ended, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no error type; its messages begin with the file that they come from.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise LostProcessError(
            f"process {launch.rank()} of {launch.size()} has lost the connection to another process, which has ended "
            "or does not answer",
            hint="see its messages; the same command continues the run, also with another number of processes",
        ) from error


def _is_first_to_fail(store: Store) -> bool:
    """Whether no other process has reported an error; True if that cannot be known."""
    try:
        return bool(store.add("errors", 1) == 1)
    except RuntimeError:  # the process that keeps the store is gone
        return True


def _disconnect(kind: str) -> None:
    if kind != "cuda":  # NCCL would wait for a process that is lost; its connections end with this process
        dist.destroy_process_group()


def _wait_for_first(store: Store) -> None:
    """Wait until the first process has saved its state and cleaned up: torchrun ends it soon after this one."""
    with contextlib.suppress(RuntimeError):  # it takes longer, or has ended
        store.wait([_LEFT], timedelta(seconds=20))


def _patience() -> float:
    value = os.environ.get(TIMEOUT, "600")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise SettingsError(
            f"{value!r} is not a number of seconds above 0", where=TIMEOUT, hint="set, for example, 600"
        )
    return seconds
