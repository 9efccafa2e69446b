"""Settings with which a run fits into memory that does not fit as it is set. Each one is planned before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tailora.training.memory_plan import MemoryPlan

SMALLEST_PASS = 128
"""Tokens of the smallest pass that is suggested."""
SUGGESTIONS = 3

SIZES = (64, 8)
"""Sizes that are suggested in place of a larger rank, bottleneck or prefix."""
_SIZE_OF = {"lora": "rank", "adapter-h": "bottleneck", "adapter-l": "bottleneck", "prefix": "prefix_tokens"}

Changes = Mapping[str, Any]
Planner = Callable[[str, Changes], MemoryPlan]
"""Plans the memory in a precision and with some settings changed."""


@dataclass(frozen=True)
class Remedy:
    """Settings that make a run fit.

    Attributes:
        settings: the settings that differ, by name.
        peak: bytes that the run then needs.
    """

    settings: Changes
    peak: int

    @property
    def flags(self) -> str:
        """The settings as on the command line."""
        return " ".join(_flag(*change) for change in self.settings.items())


def remedies(
    planner: Planner, limit: int, *, settings: Changes, precision: str, precisions: tuple[str, ...], largest_pass: int
) -> list[Remedy]:
    """Return at most `SUGGESTIONS` settings that fit, those first that change the run least.

    Args:
        planner: plans the memory.
        limit: bytes that the run may use.
        settings: the settings of the run.
        precision: the precision that needs least of those that the run may use.
        precisions: those in which an adapter can be trained on the device.
        largest_pass: tokens of the largest pass.
    """
    fitting: list[Remedy] = []
    for kind in _kinds(settings, precision, precisions):
        tried = (_fitting(planner, limit, name, changes, largest_pass) for name, changes in kind)
        remedy = next((remedy for remedy in tried if remedy is not None), None)
        fitting += [] if remedy is None else [remedy]
        if len(fitting) == SUGGESTIONS:
            break
    return fitting


def _kinds(settings: Changes, precision: str, precisions: tuple[str, ...]) -> Iterator[list[tuple[str, Changes]]]:
    """Yield lists of a precision with changed settings, by how little they change the run; one of each list is enough.

    Passes of fewer tokens are part of every kind; see `_fitting`.
    """
    again = {"gradient_checkpointing": True}
    yield [(precision, {})]
    if not settings["gradient_checkpointing"]:
        yield [(precision, again)]
    size = _SIZE_OF.get(settings["method"])
    if size is not None and settings[size] > SIZES[0]:
        yield [(precision, {size: number}) for number in SIZES]
    others: list[dict[str, Any]] = []
    if settings["method"] != "lora":
        others = [{"method": "lora"}, {"method": "lora", "precision": precisions[-1]}]
    elif settings["precision"] != "auto":
        others = [{"precision": name} for name in ("bf16", "int8") if name in precisions and name != precision]
    for change in others:
        name = change.get("precision", precision)
        yield [(name, change), (name, change | again)]


def _fitting(planner: Planner, limit: int, precision: str, changes: Changes, largest_pass: int) -> Remedy | None:
    """Return the changes if they fit, else the changes with passes as large as possible, if there are such."""
    plan = planner(precision, changes)
    size = largest_pass
    while plan.peak > limit and size > SMALLEST_PASS:
        room = limit - (plan.updating - plan.activations)
        if room <= 0 or plan.loading > limit:
            return None
        size = max(SMALLEST_PASS, _power_of_two(min(size / 2, size * room / plan.activations)))
        changes = {**changes, "tokens_per_pass": size}
        plan = planner(precision, changes)
    return Remedy(dict(changes), plan.peak) if plan.peak <= limit else None


def _power_of_two(number: float) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << max(0, int(number).bit_length() - 1)


def _flag(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"
