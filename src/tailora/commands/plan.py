"""`tailora plan`: the memory and the time of a training run, and whether it fits, without its weights."""

from __future__ import annotations

from typing import Any

from tailora.core.errors import CheckError
from tailora.training.settings import TrainSettings


class PlanSettings(TrainSettings):
    """Settings of `tailora plan`, which are those of the run that is planned."""


def planned(settings: PlanSettings) -> dict[str, Any]:
    """Plan a run and print the plan; see `training.planning.plan`."""
    from tailora.training.planning import plan  # loads PyTorch, which help and mistakes do not need

    return plan(settings)


def run(settings: PlanSettings) -> dict[str, Any]:
    """Plan a run and check that it fits; see `planned`.

    Returns:
        The settings of the run, the numbers that it would announce, and whether it fits.

    Raises:
        CheckError: the run does not fit into memory.
        UserError: the data, the model or the settings cannot be trained with.
    """
    result = planned(settings)
    if result["fits"] is False:
        raise CheckError(result["problem"], hint=result["hint"], result=result)
    return result
