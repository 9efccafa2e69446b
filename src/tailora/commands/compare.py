"""`tailora compare`: LoRA, full fine-tuning, biases only and the top two blocks, on the same data, by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.errors import SettingsError
from tailora.experiments.comparison import Comparison, compare
from tailora.metrics.suite import METRICS, MetricName
from tailora.reports.comparison import sheet
from tailora.training.settings import LEARNING_RATE, Method, TrainSettings

METHODS: tuple[Method, ...] = ("lora", "full", "bitfit", "top2")


class CompareSettings(TrainSettings):
    """Settings of `tailora compare`: those of `tailora train`, which hold for every method, and what to compare."""

    without_flag = frozenset({"method", "learning_rate"})
    methods: tuple[Method, ...] = METHODS
    """What to compare."""
    learning_rates: dict[str, Any] = Field(default_factory=dict)
    """Rates to try: method to values (a list, or a|b|c); by default a third of its own, that, and three times it."""
    grid_limit: int | None = Field(None, ge=1)
    """Try the rates on so many records, and train again with the best; by default the best run itself is kept."""
    test: str | None = None
    """Records to write about and score; by default the data's `test` split, else those to validate on."""
    test_limit: int | None = Field(None, ge=1)
    """Only so many of them, from the start."""
    max_new_tokens: int = Field(80, ge=1)
    """Most tokens a text may have; texts are written greedily."""
    metrics: tuple[MetricName, ...] = ()
    """Which scores; by default those that the field reports of such data."""
    draws: int = Field(1000, ge=100)
    """Resamples of the records that intervals come from."""
    tasks: int = Field(10, ge=1)
    """Tasks to reckon the disk for."""
    output: Path | None = None
    """Folder of the runs and the comparison; by default runs/DATA-compare."""

    @model_validator(mode="after")
    def _comparable(self) -> CompareSettings:
        for name, instead in (("method", "methods"), ("learning_rate", "learning_rates")):
            if name in self.model_fields_set:
                raise SettingsError("each method has its own", where=name, hint=f"give --{instead.replace('_', '-')}")
        if not self.methods:
            raise SettingsError("nothing to compare", where="methods", hint=f"name some of {', '.join(METHODS)}")
        for name in self.learning_rates:
            if name not in get_args(Method):
                raise SettingsError(f"no method {name}", where="learning_rates", hint=f"name {', '.join(METHODS)}")
        for method in self.methods:
            self.rates(method)
        return self

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates to try with a method."""
        given = self.learning_rates.get(method)
        if given is None:
            own = LEARNING_RATE[method]
            return (own / 3, own, 3 * own)
        values = given if isinstance(given, list) else str(given).split("|")
        try:
            rates = tuple(float(value) for value in values)
        except (TypeError, ValueError) as error:
            what = f"{method}: {given} are no numbers"
            raise SettingsError(what, where="learning_rates", hint="write them as 1e-4|3e-4|1e-3") from error
        if not rates or min(rates) <= 0:
            raise SettingsError(f"{method}: rates are above 0", where="learning_rates")
        return rates


def run(settings: CompareSettings) -> dict[str, Any]:
    """Train with every method, write and score texts, and write compare.json, compare.md and compare.html.

    Returns:
        What is in compare.json: for each method its grid, sizes, times, memory, losses and scores.

    Raises:
        SettingsError: the folder holds runs of other settings.
        TrainingError: no method could be trained.
        KeyboardInterrupt: on Ctrl-C; what is done is kept, and the same command goes on from there.
    """
    console = Console(stderr=True)
    output = settings.output or Path("runs") / f"{Path(settings.data).name.split('.')[0] or 'data'}-compare"
    own = set(CompareSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    comparison = Comparison(
        training=TrainSettings(**settings.model_dump(mode="json", exclude_unset=True, exclude=own)),
        rates={method: settings.rates(method) for method in settings.methods},
        output=output,
        grid_limit=settings.grid_limit,
        test=settings.test,
        test_limit=settings.test_limit,
        max_new_tokens=settings.max_new_tokens,
        metrics=settings.metrics,
        draws=settings.draws,
        tasks=settings.tasks,
        stated=settings.model_dump(mode="json", exclude_unset=True, exclude={"output"}),
    )
    result = compare(comparison, console)
    _tell(console, sheet(result, METRICS).tables[0], output)
    return {**result, "output": str(output), "report": str(output / "compare.html")}


def _tell(console: Console, table: tuple[str, Sequence[str], Sequence[Sequence[str]]], output: Path) -> None:
    title, head, rows = table
    shown = Table(title=title)
    for number, heading in enumerate(head):
        shown.add_column(heading, justify="right" if number else "left")
    for name, *cells in rows:
        shown.add_row(name, *(cell.partition(" (")[0] for cell in cells))  # without the intervals
    console.print(shown)
    console.print(f"see {output / 'compare.html'}", highlight=False, soft_wrap=True)
