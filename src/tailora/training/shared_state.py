"""What the processes of a run agree on before its first update: settings, data, and the state to continue from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from tailora.core.errors import SettingsError
from tailora.training.distributed import Processes
from tailora.training.resume import Job, LoadedState, ResumeFolder
from tailora.training.state_file import RunState


def check_processes(job: Job, processes: Processes) -> None:
    """Check that all processes work on the same run.

    Raises:
        SettingsError: their settings, data or base models differ; all differences are in the message.
    """
    first = processes.from_first(lambda: job)
    differences = [
        f"process {number}: {', '.join(clauses)}"
        for number, clauses in enumerate(processes.from_all(first.differences(job)))
        if clauses
    ]
    if differences:
        raise SettingsError(
            f"the processes of the run differ from process 0: {'; '.join(differences)}",
            hint="start the same command on every machine, with the same data and the same base",
        )


def load_state(resume: ResumeFolder | None, processes: Processes) -> LoadedState | None:
    """Load the state that a run continues from in the first process; None if there is none.

    The other processes get its description without the values of its tensors, which `Processes.spread` gives them.

    Args:
        resume: the saved states; None in other processes than the first.
        processes: the processes of the run.
    """
    loaded = None if resume is None else resume.load()
    described = processes.from_first(
        lambda: None if loaded is None else loaded._replace(state=_described(loaded.state))
    )
    return loaded if processes.is_first else described


def _described(state: RunState) -> RunState:
    return dataclasses.replace(
        state,
        learning=_shapes(state.learning),
        best=None if state.best is None else _shapes(state.best),
        average=None if state.average is None else _shapes(state.average),
        optimizer={number: _shapes(values) for number, values in state.optimizer.items()},
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
