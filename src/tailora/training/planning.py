"""What is known about a run before its base is loaded: its data, its work, its memory and its time.

`tailora plan` prints it, and `tailora train` announces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console

from tailora.core.console import message_console
from tailora.core.errors import ModelError, TrainingError, UserError
from tailora.core.hardware.devices import limit_threads
from tailora.core.sizes import size
from tailora.data.examples import Example
from tailora.data.prompts import PromptFormat
from tailora.lora.inject import parameter_table
from tailora.models.catalog import resolve
from tailora.models.load import outline
from tailora.training.block_timing import precision_seconds, update_seconds
from tailora.training.distributed import SINGLE, Processes
from tailora.training.estimate import arithmetic, seconds, workload
from tailora.training.loop import first_batch
from tailora.training.memory_plan import MemoryPlan, memory_limit, memory_plan, process_bytes
from tailora.training.memory_remedies import Remedy, remedies
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.precision import available, device_for
from tailora.training.precision_choice import SHORT, PrecisionChoice, choose
from tailora.training.run_data import examples_of, prompts_of, read_records
from tailora.training.run_report import print_memory, print_plan
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import passes
from tailora.training.vocabulary import used_tokens


@dataclass(frozen=True)
class Shortage:
    """The memory that a run lacks.

    Attributes:
        precision: the precision that needs least.
        plan: the memory that the run needs in it.
        limit: bytes that it may use.
        chosen: whether the limit is the user's.
        remedies: settings that fit.
    """

    precision: str
    plan: MemoryPlan
    limit: int
    chosen: bool
    remedies: tuple[Remedy, ...]

    @property
    def what(self) -> str:
        """The problem in one clause."""
        available = f"the limit is {self._size(self.limit)}" if self.chosen else f"{self._size(self.limit)} are free"
        return f"the run needs {self._size(self.plan.peak)} of memory at its peak, and {available}"

    @property
    def hint(self) -> str:
        """What the user can do."""
        if self.remedies:
            return f"add {', or '.join(f'{one.flags} (peak: {self._size(one.peak)})' for one in self.remedies)}"
        plan = self.plan
        more = "raise --memory-limit" if self.chosen else "free some memory"
        if plan.process >= self.limit:
            return f"{more}; Python, its libraries and the data alone take {self._size(plan.process)}"
        smaller = "use shorter texts (--max-length)"
        if plan.loading > self.limit or plan.updating - plan.activations > self.limit:
            smaller = "use a smaller --base"
        return f"{more}, or {smaller}"

    def _size(self, amount: int) -> str:
        return size(amount, like=self.plan.peak)


class RunPlan:
    """A run whose data is read and counted, and whose base is not loaded.

    Args:
        settings: the settings of the run.
        device: its device.
        console: where the numbers of examples are printed.
        processes: the processes that train together.

    Attributes:
        prompts: how prompts are written.
        train: the examples to train on.
        valid: the examples to validate on; may be empty.
        work: the amount of work in an epoch.
        steps: number of updates.
        operations: floating-point operations of all updates.
        limit: bytes that the process may use; None if they are not known.
        selected: which rows of the training data were read; None for all.

    Raises:
        UserError: data, model or settings cannot be trained on.
    """

    def __init__(self, settings: TrainSettings, device: str, console: Console, processes: Processes = SINGLE) -> None:
        self.settings, self.device, self.processes = settings, device, processes
        train_records, valid_records, self.selected = read_records(settings)
        resolve(settings.base)  # a download or conversion needs the values of the weights
        with without_values():
            base = outline(settings.base)
            prepare(base, settings)
        self.base = base
        self.prompts: PromptFormat = prompts_of(base, settings, [*train_records, *valid_records])
        self.train = examples_of(train_records, base, settings, console, self.prompts)
        self.valid: list[Example] = []
        if valid_records:
            self.valid = examples_of(valid_records, base, settings, console, self.prompts)
        self.work = workload(self.train, settings)
        whole = settings.epochs * self.work.updates
        self.steps = min(whole, settings.max_steps or whole)
        self.operations = arithmetic(base, self.work, settings) * self.steps / self.work.updates
        # Both change when the base is loaded.
        self.process, self.limit = process_bytes(device), memory_limit(settings, device)
        self._memory: dict[str, MemoryPlan] = {}

    @cached_property
    def tokens(self) -> list[int]:
        """The tokens of the examples, ascending."""
        return used_tokens([*self.train, *self.valid])

    @cached_property
    def data(self) -> dict[str, str]:
        """The fingerprints of the examples to train and to validate on."""
        return {"training": _digest(self.train), "validation": _digest(self.valid)}

    @property
    def summary(self) -> dict[str, Any]:
        """The part of `account` in run.json that is known before the base is loaded."""
        table, work, selected = parameter_table(self.base.model), self.work, self.selected
        rows = {} if selected is None else {"rows": selected.rows, "count": selected.count, "seed": selected.seed}
        return {
            **({"rows_read": rows} if rows else {}),
            "base": self.base.name,
            "data_fingerprint": self.data["training"],
            "parameters": {"total": table.total, "trainable": table.trainable, "percent": table.percent},
            "examples": len(self.train),
            "steps": self.steps,
            "operations": self.operations,
            "tokens_per_epoch": {
                "sequences": sum(map(len, self.train)),
                "trees": work.nodes,
                "scored": work.scored,
                "completion": sum(len(example.learnt) for example in self.train),
            },
            "largest_pass": work.largest_pass,
            "nodes": self._nodes,
            "prompts": self.prompts.meta,
            "device": self.device,
            "processes": self.processes.size,
            "threads": torch.get_num_threads(),
        }

    def memory(self, precision: str, changes: Mapping[str, Any] = MappingProxyType({})) -> MemoryPlan:
        """Return the memory of the run in a precision, with some settings changed.

        Raises:
            ModelError: the architecture cannot be planned.
        """
        if changes or precision not in self._memory:
            settings, validates = self.settings.model_copy(update=dict(changes)), bool(self.valid)
            size = self.processes.size
            plan = memory_plan(
                settings,
                self.work,
                precision,
                self.device,
                process=self.process,
                validates=validates,
                processes=size,
                tokens=len(self.tokens),
            )
            return plan if changes else self._memory.setdefault(precision, plan)
        return self._memory[precision]

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The precisions to choose from, in all processes: those that fit into memory, or all if none does."""
        names = self._candidates()
        try:
            fitting = [name for name in names if self._fits(name)]
        except ModelError:  # `announcement` reports it
            fitting = list(names)
        common = set.intersection(*map(set, self.processes.from_all(fitting)))
        return tuple(name for name in names if name in common) or names

    def _fits(self, precision: str) -> bool:
        """Return whether the run fits into memory in a precision.

        Counting takes seconds, so it is left out for precisions that need no count: none takes twice as much memory as
        the most exact one.
        """
        if self.limit is None or 2 * self.memory(self._candidates()[0]).peak <= self.limit:
            return True
        return self.memory(precision).peak <= self.limit

    def _candidates(self) -> tuple[str, ...]:
        if self.settings.precision != "auto":
            return (self.settings.precision,)
        return available(self.settings.method, self.device)

    def require_fit(self) -> None:
        """Check that the run fits into the memory that it may use.

        Raises:
            TrainingError: it does not; the hint names settings that do.
        """
        short = self.shortage()
        if short is not None:
            raise TrainingError(short.what, hint=short.hint)

    def shortage(self) -> Shortage | None:
        """Return what is missing if the run does not fit into memory in any precision, in some process."""
        own = self._own_shortage(self.precisions)
        return next((short for short in self.processes.from_all(own) if short is not None), None)

    def _own_shortage(self, precisions: Sequence[str]) -> Shortage | None:
        try:
            if self.limit is None or any(map(self._fits, precisions)):
                return None
            plans = {name: self.memory(name) for name in precisions}
        except ModelError:  # `announcement` reports it
            return None
        precision = min(plans, key=lambda name: plans[name].peak)
        fitting = remedies(
            self.memory,
            self.limit,
            settings=self.settings.model_dump(),
            precision=precision,
            precisions=available("lora", self.device),
            largest_pass=self.work.largest_pass,
        )
        chosen = self.settings.memory_limit is not None
        return Shortage(precision, plans[precision], self.limit, chosen, tuple(fitting))

    def announcement(self, choice: PrecisionChoice, *, fits: bool = True) -> dict[str, Any]:
        """Return the precision, and the estimates of time and memory, as they are in run.json.

        Args:
            choice: the precision.
            fits: whether the run fits into memory, so that blocks of its network can be timed.
        """
        return {
            "precision": choice.precision,
            "choice": dataclasses.asdict(choice),
            "estimate": {"seconds": self._seconds(choice, fits), **self._memory_of(choice)},
        }

    def choice(self) -> PrecisionChoice:
        """Return the precision of the run; it may be timed."""
        batch, operations = first_batch(self.train, self.settings), self.operations / self.processes.size
        model = self.base.model
        return choose(model, batch, self.settings, self.device, operations, self.precisions, self._precision_seconds)

    def _seconds(self, choice: PrecisionChoice, fits: bool) -> float:
        """Return the seconds of all updates."""
        if choice.seconds:
            duration, nodes = choice.seconds[choice.precision], choice.nodes
        else:
            duration, nodes = self.processes.from_first(lambda: self._pass_seconds(choice.precision, fits))
        return duration / nodes * self._nodes / self.processes.size

    @property
    def _nodes(self) -> float:
        """Number of tree nodes of all updates."""
        return self.work.nodes * self.steps / self.work.updates

    def _pass_seconds(self, precision: str, fits: bool = True) -> tuple[float, int]:
        """Return the seconds of the first pass, and its nodes: from a few blocks, or where that fails from products."""
        batch, settings = first_batch(self.train, self.settings), self.settings
        if fits and self.operations >= SHORT:
            with contextlib.suppress(UserError, torch.OutOfMemoryError):
                return update_seconds(self.base, batch, settings, self.device, precision)
        nodes = len(next(iter(passes(batch, settings.tokens_per_pass))))
        return seconds(self.operations, precision, self.device) * nodes / self._nodes, nodes

    def _precision_seconds(self, precisions: Sequence[str]) -> dict[str, float]:
        """Return the seconds of the first pass in several precisions; see `_pass_seconds`."""
        batch, settings = first_batch(self.train, self.settings), self.settings
        with contextlib.suppress(UserError, torch.OutOfMemoryError):
            return precision_seconds(self.base, batch, settings, self.device, precisions)
        return {name: self._pass_seconds(name, fits=False)[0] for name in precisions}

    def _memory_of(self, choice: PrecisionChoice) -> dict[str, Any]:
        """Return the peak, the memory by part, and the limit; the first two are None where they cannot be planned."""
        limit = {"memory_limit_bytes": self.limit}
        try:
            plan = self.memory(choice.precision)
        except ModelError as error:
            return limit | {"peak_memory_bytes": None, "memory": None, "warning": str(error)}
        return limit | {"peak_memory_bytes": plan.peak, "memory": plan.to_dict()}


def plan(settings: TrainSettings) -> dict[str, Any]:
    """Plan a run, and print its memory, its time and whether it fits, without loading its base.

    Returns:
        The content of `account` in the run's run.json, its `settings`, and whether the run fits as `fits`, which is
        None if that is not known. If it does not fit, `problem` and `hint` say why, and `alternatives` are settings
        with which it would.

    Raises:
        UserError: data, model or settings cannot be trained on.
    """
    console = message_console()
    limit_threads()
    planned = RunPlan(settings, device_for(settings), console)
    short = planned.shortage()
    choice = planned.choice() if short is None else PrecisionChoice(short.precision, "needs the least memory")
    announced = planned.summary | planned.announcement(choice, fits=short is None)
    result = announced | {"settings": settings.model_dump(mode="json")}
    print_plan(console, result, choice)
    estimate = result["estimate"]
    print_memory(console, estimate)
    if short is not None:
        fitting = [{"settings": one.settings, "flags": one.flags, "peak": one.peak} for one in short.remedies]
        return result | {"fits": False, "problem": short.what, "hint": short.hint, "alternatives": fitting}
    known = estimate["memory"] is not None and planned.limit is not None
    return result | {"fits": True if known else None}


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.prompt, example.completion, *example.context)).encode())
    return digest.hexdigest()
