"""`tailora compare`: LoRA and other ways to fine-tune, measured on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.settings import Unset
from tailora.data.hub_names import short_name
from tailora.metrics.suite import METRICS, MetricName
from tailora.reports.comparison import sheet
from tailora.training.named_recipes import added
from tailora.training.settings import LEARNING_RATE, Method, RunSettings, TrainSettings

METHODS: tuple[Method, ...] = get_args(Method)


class CompareSettings(RunSettings):
    """Settings of `tailora compare`."""

    heading = "scoring"
    headings: ClassVar = {
        **dict.fromkeys(("methods", "learning_rates", "grid_limit", "seeds"), "method"),
        **dict.fromkeys(("test", "test_limit"), "data"),
        "max_new_tokens": "decoding",
        "output": "output",
    }
    methods: tuple[Method, ...] = METHODS
    """Methods to compare, separated by commas."""
    learning_rates: Annotated[
        dict[str, Any], Unset("a third, once and three times the default of the method or the recipe")
    ] = Field(default_factory=dict)
    """Learning rates to try, as METHOD=RATE|RATE|…, or as lists in the configuration."""
    grid_limit: Annotated[int | None, Field(ge=1), Unset("all, and the best run is the result")] = None
    """Number of training records for trying the learning rates. The best rate is then trained with all records."""
    seeds: Annotated[tuple[int, ...], Unset("that of --seed")] = ()
    """Seeds, separated by commas. The learning rates are tried with the first one, and the best is trained with each.
    Losses and scores are then reported as mean and standard deviation."""
    test: Annotated[str | None, Unset("the split `test` of the data, or else the validation records")] = None
    """Records to write about and to score."""
    test_limit: Annotated[int | None, Field(ge=1), Unset("all")] = None
    """Number of test records to use, from the first one on."""
    max_new_tokens: int = Field(80, ge=1)
    """Maximum length of a text, in tokens. Texts are written greedily."""
    metrics: Annotated[tuple[MetricName, ...], Unset("those usually reported for such data")] = ()
    """Metrics to compute, separated by commas."""
    draws: int = Field(1000, ge=100)
    """Number of bootstrap samples of the records for the confidence intervals."""
    tasks: int = Field(10, ge=1)
    """Number of tasks for which the report estimates the disk space."""
    output: Annotated[Path | None, Unset("runs/DATA-compare")] = None
    """Folder for the runs and the comparison."""

    @model_validator(mode="after")
    def _comparable(self) -> CompareSettings:
        if not self.methods:
            raise SettingsError(
                "there is no method to compare", where="methods", hint=f"choose from {', '.join(METHODS)}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise SettingsError("names a seed twice", where="seeds", hint="name each seed once")
        if self.seeds and "seed" in self.model_fields_set:
            raise SettingsError("excludes --seed", where="seeds", hint="give one of --seeds and --seed")
        for name in self.learning_rates:
            if name not in get_args(Method):
                raise SettingsError(
                    f"{name!r} is not a method", where="learning_rates", hint=f"choose from {', '.join(METHODS)}"
                )
        for method in self.methods:
            self.rates(method)
        return self

    def rates(self, method: Method) -> tuple[float, ...]:
        """Return the learning rates to try with a method."""
        stated = self.learning_rates.get(method)
        if stated is None:
            own = self._usual_rate(method)
            return (own / 3, own, 3 * own)
        values = stated if isinstance(stated, list) else str(stated).split("|")
        try:
            rates = tuple(float(value) for value in values)
        except (TypeError, ValueError) as error:
            what = f"{method}: {stated!r} is not a list of numbers"
            raise SettingsError(what, where="learning_rates", hint="write it as 1e-4|3e-4|1e-3") from error
        if not rates or min(rates) <= 0:
            raise SettingsError(f"{method}: learning rates must be above 0", where="learning_rates")
        return rates

    def _usual_rate(self, method: Method) -> float:
        """Return the learning rate of the recipe for method lora, else the method's default."""
        values = {"recipe": self.recipe, "method": method}
        return float(added(values, TrainSettings.model_fields).get("learning_rate", LEARNING_RATE[method]))


def run(settings: CompareSettings) -> dict[str, Any]:
    """Train with every method, write and score texts, and write compare.json, compare.md and compare.html.

    Returns:
        The content of compare.json: for each method its grid, sizes, times, memory, losses and scores.

    Raises:
        SettingsError: the folder contains runs with other settings.
        TrainingError: no method could be trained.
        KeyboardInterrupt: on Ctrl-C; finished runs are kept, and the same command continues from there.
    """
    from tailora.experiments.compared_texts import Comparison  # loads PyTorch, which help does not need
    from tailora.experiments.comparison import compare

    console = message_console()
    output = settings.output or Path("runs") / f"{short_name(settings.data)}-compare"
    own = set(CompareSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    stated = settings.model_dump(mode="json", exclude_unset=True, exclude=own)
    first, *others = settings.seeds or (settings.seed,)
    comparison = Comparison(
        training=TrainSettings(**stated | ({"seed": first} if settings.seeds else {})),
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
        seeds=others,
    )
    result = compare(comparison, console)
    _print(console, sheet(result, METRICS).tables[0], output)
    return {**result, "output": str(output), "report": str(output / "compare.html")}


def _print(console: Console, table: tuple[str, Sequence[str], Sequence[Sequence[str]]], output: Path) -> None:
    title, head, rows = table
    shown = Table(title=title)
    for number, heading in enumerate(head):
        shown.add_column(heading, justify="right" if number else "left")
    for name, *cells in rows:
        shown.add_row(name, *(cell.partition(" (")[0] for cell in cells))  # without the intervals
    console.print(shown)
    console.print(f"see {output / 'compare.html'}", highlight=False, soft_wrap=True)
