"""What is known about a run before its base is loaded: its data, its work, its memory and its time.

`tailora plan` prints it, and `tailora train` announces it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from rich.console import Console

from tailora.core.console import message_console
from tailora.core.errors import CheckError, ModelError
from tailora.data.examples import Example
from tailora.data.prompts import PromptFormat
from tailora.lora.inject import parameter_table
from tailora.models.load import outline
from tailora.training.distributed import SINGLE, Processes
from tailora.training.estimate import arithmetic, seconds, workload
from tailora.training.loop import first_batch
from tailora.training.memory_plan import MemoryPlan, memory_limit, memory_plan, process_bytes
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.precision import device_for
from tailora.training.precision_choice import PrecisionChoice, foreseen
from tailora.training.run_data import examples_of, prompts_of, read_records
from tailora.training.run_report import gib, print_memory, print_plan
from tailora.training.settings import TrainSettings


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
        self.process, self.limit = process_bytes(device), memory_limit(device)
        self._memory: dict[str, MemoryPlan] = {}

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
            "nodes": work.nodes * self.steps / work.updates,
            "prompts": self.prompts.meta,
            "device": self.device,
            "processes": self.processes.size,
            "threads": torch.get_num_threads(),
        }

    def memory(self, precision: str) -> MemoryPlan:
        """Return the memory of the run in a precision.

        Raises:
            ModelError: the architecture cannot be planned.
        """
        if precision not in self._memory:
            self._memory[precision] = memory_plan(
                self.settings, self.work, precision, self.device, process=self.process, validates=bool(self.valid)
            )
        return self._memory[precision]

    def announcement(self, choice: PrecisionChoice) -> dict[str, Any]:
        """Return the precision, and the estimates of time and memory, as they are in run.json."""
        return {
            "precision": choice.precision,
            "choice": dataclasses.asdict(choice),
            "estimate": {"seconds": self._seconds(choice), **self._memory_of(choice)},
        }

    def choice(self) -> PrecisionChoice:
        """Return the precision that the run would use, as far as that is known without its weights."""
        batch = first_batch(self.train, self.settings)
        return foreseen(self.base.model, batch, self.settings, self.device, self.operations)

    def _seconds(self, choice: PrecisionChoice) -> float:
        """Return the seconds of all updates."""
        if choice.seconds:
            nodes = self.work.nodes * self.steps / self.work.updates
            duration = choice.seconds[choice.precision] * nodes / choice.nodes
        else:
            duration = seconds(self.operations, choice.precision, self.device)
        return duration / self.processes.size

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
        The content of `account` in the run's run.json, and whether the run fits as `fits`, which is None if that is not
        known.

    Raises:
        CheckError: the run does not fit; the error's result is that of this function.
        UserError: data, model or settings cannot be trained on.
    """
    console = message_console()
    planned = RunPlan(settings, device_for(settings), console)
    choice = planned.choice()
    result = planned.summary | planned.announcement(choice)
    print_plan(console, result, choice)
    estimate = result["estimate"]
    print_memory(console, estimate)
    peak, limit = estimate["peak_memory_bytes"], estimate["memory_limit_bytes"]
    fits = None if peak is None or limit is None else peak <= limit
    if fits is False:
        what = f"the run needs {gib(peak)} of memory, and {gib(limit)} are available"
        raise CheckError(what, hint="see the table for what needs most", result=result | {"fits": False})
    return result | {"fits": fits}


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.prompt, example.completion, *example.context)).encode())
    return digest.hexdigest()
