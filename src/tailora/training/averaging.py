"""The average of the trained parameters over the last updates of a run (Izmailov et al. 2018, arXiv:1803.05407)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The mean of the learning parameters over the updates at the end of a run.

    Args:
        learning: the learning parameters by name.
        share: share of the run's updates that are averaged; 0 averages none.

    Attributes:
        values: the mean so far by name; None before the first of these updates.
    """

    def __init__(self, learning: Mapping[str, nn.Parameter], share: float) -> None:
        self._learning, self._share = learning, share
        self.values: dict[str, Tensor] | None = None

    def count(self, step: int, steps: int) -> int:
        """Return how many of the first `step` updates are averaged, in a run of `steps`; below 1 if none is."""
        return step - (steps - round(self._share * steps))

    @torch.no_grad()
    def add(self, step: int, steps: int) -> None:
        """Add the current values, which are those after `step` updates, if this update is averaged."""
        count = self.count(step, steps)
        if count == 1:
            self.values = copies(self._learning)
        elif count > 1:
            assert self.values is not None, "it begins with the first update that is averaged"
            for name, parameter in self._learning.items():
                self.values[name] += (parameter - self.values[name]) / count


def copies(learning: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return copies of the current values by name."""
    return {name: parameter.detach().clone() for name, parameter in learning.items()}
