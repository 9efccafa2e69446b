"""The training loop, which is the same for every method: methods differ in what is trained and in what is saved."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from torch import Tensor, nn

from tailora.core.errors import TrainingError
from tailora.data.examples import Example
from tailora.training.averaging import copies
from tailora.training.distributed import SINGLE, LostProcessError, Processes
from tailora.training.learner import Learner
from tailora.training.methods import restore
from tailora.training.precision import Arithmetic
from tailora.training.resume import Saver
from tailora.training.settings import TrainSettings
from tailora.training.sharded import is_sharded, reshard
from tailora.training.shared_passes import mean_loss
from tailora.training.state_file import RunState
from tailora.training.trees.forward import training_mode
from tailora.training.trees.prefix_tree import batches

PROGRESS = ("examples", "seconds", "initial_loss", "final_loss", "best_step", "warnings")
"""Fields of `Outcome` that are saved with the state of an unfinished run."""


class Observer(Protocol):
    """Receives the progress of a run."""

    def step(self, line: dict[str, Any]) -> None:
        """Receive the line of metrics.jsonl of an update."""

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """Receive the line of metrics.jsonl of a validation; `best` if its loss is the lowest so far."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        steps: number of updates.
        examples: number of examples, each counted once per epoch.
        seconds: time of the updates alone, without validation.
        initial_loss: validation loss before the first update, in nats per completion token; None without such data.
        final_loss: validation loss of the state that is kept, which is the best one; None if it was not measured.
        best_step: the update after which that state was reached.
        averaged: number of updates over which the state that is kept is the average; 0 if it is not an average.
        interrupted: whether the run ended early: by Ctrl-C, SIGTERM or a loss that is not finite.
        failed: the error that ended the run after it had reached a better state than the start; else None.
        optimizer_bytes: size of the optimizer's state.
        saving_seconds: time spent on saving states to continue from.
        warnings: warnings for the user.
    """

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    initial_loss: float | None = None
    final_loss: float | None = None
    best_step: int = 0
    averaged: int = 0
    interrupted: bool = False
    failed: TrainingError | None = None
    optimizer_bytes: int = 0
    saving_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def fit(
    model: nn.Module,
    train: Sequence[Example],
    valid: Sequence[Example],
    settings: TrainSettings,
    observer: Observer,
    arithmetic: Arithmetic,
    *,
    state: RunState | None = None,
    keep: Callable[[RunState], None] | None = None,
    complete: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    processes: Processes = SINGLE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train the parameters that require gradients, and leave them at the values of the best validation.

    With `settings.average`, the mean of the parameters over the last updates is validated as well; without validation
    data it is the result.

    Ctrl-C after the first update ends the run: the result is the best validated state since the start, or the current
    state if there was no validation. A loss that is not finite ends the run as well, with the best validated state.

    Args:
        model: a transformers causal language model on its device, whose learning parameters have `requires_grad`.
        train: examples to train on.
        valid: examples to validate on; may be empty, and then the last state is the result.
        settings: the settings of the run.
        observer: called after every update and every validation.
        arithmetic: the precision in which the model computes.
        state: the state to continue from; None starts a new run.
        keep: writes a state from which the run can be continued; called every few minutes (`settings.save_every`),
            after validations and when the run is interrupted.
        complete: returns the context of an update, which defers an interrupt to its end.
        processes: the processes that train together; each calls this with the same arguments.
        is_stopping: returns whether this process has been interrupted. All processes stop after the update or
            validation in which one of them was.

    Returns:
        The outcome of the run.

    Raises:
        LostProcessError: another process has ended or does not answer.
        TrainingError: no learning parameter gets a gradient, or the loss is not finite before any validation has
            brought a better loss than the start.
        KeyboardInterrupt: on Ctrl-C before the first update.
    """
    run = _Run(model, settings, observer, arithmetic, complete, processes, is_stopping)
    saver = _saver(run, keep)
    with arithmetic.products(), run.learner.trees:
        if state is None:
            run.validate(valid)
            run.warn_of_chance()
            if saver is not None:
                saver.save()
        else:
            run.continue_from(state)
        training_mode(model)
        _until_the_end(run, train, valid, saver)
        run.outcome.optimizer_bytes = run.learner.optimizer_bytes()
        if run.learner.best is not None:
            restore(model, run.learner.best)
        model.eval()
    return run.outcome


def _until_the_end(run: _Run, train: Sequence[Example], valid: Sequence[Example], saver: Saver | None) -> None:
    """Run the remaining updates, and decide what an interrupt or an error leaves; see `fit`."""
    try:
        _updates(run, train, valid, total_steps(len(train), run.settings), saver)
        run.validate_average(valid, total_steps(len(train), run.settings))
    except KeyboardInterrupt:
        if saver is not None and run.is_whole and run.outcome.steps:
            saver.save()
        run.interrupt()
    except LostProcessError:
        if saver is not None and not is_sharded(run.model):  # the parameters are those after the last update
            saver.save()
        raise
    except TrainingError as error:
        run.fail(error)
    if saver is not None:
        _report_saving(run.outcome, saver)


def _saver(run: _Run, keep: Callable[[RunState], None] | None) -> Saver | None:
    """Return what saves the states of a run; None in a process that has nothing to contribute to them."""
    if keep is None:
        return None
    if not is_sharded(run.model):
        return Saver(lambda: keep(run.state()), run.settings.save_every) if run.processes.is_first else None

    def agree(is_due: bool) -> bool:  # all processes gather the state, when the first one decides
        return run.processes.from_first(lambda: is_due)

    return Saver(lambda: keep(run.state()), run.settings.save_every, agree=agree)


def _report_saving(outcome: Outcome, saver: Saver) -> None:
    outcome.saving_seconds = saver.seconds
    if saver.problem:
        outcome.warnings.append(f"the last state of the run could not be saved ({saver.problem})")


def total_steps(examples: int, settings: TrainSettings) -> int:
    """Return the number of updates of a run."""
    steps = settings.epochs * math.ceil(examples / settings.batch_size)
    return min(steps, settings.max_steps or steps)


def _updates(
    run: _Run,
    train: Sequence[Example],
    valid: Sequence[Example],
    steps: int,
    saver: Saver | None,
) -> None:
    """Run the remaining updates and validations."""
    every = run.settings.eval_every or max(1, math.ceil(len(train) / run.settings.batch_size))

    def is_due() -> bool:
        return run.outcome.steps % every == 0 or run.outcome.steps == steps

    if run.outcome.steps and is_due() and run.validated_at != run.outcome.steps:  # interrupted before this validation
        run.validate(valid)
    if run.out_of_patience():
        return
    for batch in run.updates(train, steps):
        with run.complete():
            run.update(batch, steps)
        if saver is not None and run.outcome.steps == steps and run.settings.schedule == "constant":
            with run.complete():  # before a validation that a longer run would not have
                saver.save()
        due = is_due()
        if due and not run.validate(valid) and run.out_of_patience():
            return
        if saver is not None and run.outcome.steps < steps:
            with run.complete():
                saver.after_update(validated=due)


class _Run:
    """The state of one run: its learner, and what is known of its course."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        observer: Observer,
        arithmetic: Arithmetic,
        complete: Callable[[], AbstractContextManager[Any]],
        processes: Processes,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.model, self.settings, self.observer = model, settings, observer
        self.learner = Learner(model, settings, arithmetic, processes)
        self.outcome = Outcome()
        self.complete, self.processes, self.is_stopping = complete, processes, is_stopping
        self.fruitless, self.validated_at, self.is_whole = 0, -1, True

    def state(self) -> RunState:
        """Return everything that the rest of the run depends on."""
        progress = {name: getattr(self.outcome, name) for name in PROGRESS} | {"validated_at": self.validated_at}
        return RunState(step=self.outcome.steps, progress=progress, fruitless=self.fruitless, **self.learner.tensors())

    def continue_from(self, state: RunState) -> None:
        """Restore a state."""
        self.learner.continue_from(state)
        for name in PROGRESS:
            setattr(self.outcome, name, state.progress[name])
        self.outcome.steps, self.fruitless = state.step, state.fruitless
        self.validated_at = state.progress["validated_at"]

    def updates(self, train: Sequence[Example], steps: int) -> Iterator[list[Example]]:
        """Yield the remaining batches, until the run has `steps` updates."""
        skipped = self.outcome.steps
        for epoch in range(self.settings.epochs):
            for number, batch in enumerate(_epoch(train, self.settings, epoch), start=epoch * self.epoch_steps(train)):
                if self.outcome.steps == steps:
                    return
                if number >= skipped:
                    yield batch

    def epoch_steps(self, train: Sequence[Example]) -> int:
        """Return the number of updates in an epoch."""
        return math.ceil(len(train) / self.settings.batch_size)

    def update(self, batch: list[Example], steps: int) -> None:
        """Update the parameters once, and report it."""
        began = time.perf_counter()
        self.is_whole = False
        update = self.learner.update(batch, self.outcome.steps, steps, self.is_stopping)
        seconds = time.perf_counter() - began
        self.outcome.steps += 1
        self.outcome.examples += len(batch)
        self.outcome.seconds += seconds
        self.is_whole = True
        line = {"step": self.outcome.steps, "loss": update.loss, "learning_rate": update.learning_rate}
        line |= {"gradient_norm": update.gradient_norm, "examples": len(batch), "seconds": seconds}
        self.observer.step(line)
        if update.interrupts:
            raise KeyboardInterrupt

    def validate_average(self, valid: Sequence[Example], steps: int) -> None:
        """Validate the average, if there is one; without validation data, make it the result."""
        average = self.learner.average.values
        if average is None:
            return
        count = self.learner.average.count(self.outcome.steps, steps)
        kept = copies(self.learner.learning)
        restore(self.model, average)
        try:
            if self.validate(valid, averaged=count):
                self.outcome.averaged, kept = count, average
        finally:
            restore(self.model, kept)

    def validate(self, valid: Sequence[Example], *, averaged: int = 0) -> bool:
        """Measure the validation loss; return whether it is the lowest so far, or True without validation data.

        Args:
            valid: the validation examples.
            averaged: number of updates over which the current values are the average; 0 if they are not an average.
        """
        if not valid:
            return True
        with self.learner.autocast():
            loss = mean_loss(self.learner.trees, valid, self.settings, self.processes, self.is_stopping)
        reshard(self.model)
        if not math.isfinite(loss):
            raise TrainingError("the validation loss is not finite", hint="lower the learning rate")
        with self.complete():  # what is known of the validation changes at once
            self.validated_at = self.outcome.steps
            best = self.outcome.final_loss is None or loss < self.outcome.final_loss
            if self.outcome.initial_loss is None:
                self.outcome.initial_loss = loss
            if best:
                self.outcome.final_loss, self.outcome.best_step, self.fruitless = loss, self.outcome.steps, 0
                self.learner.keep_best()
            else:
                self.fruitless += 1
            line = {"step": self.outcome.steps, "validation_loss": loss}
            self.observer.validated(line | ({"averaged": averaged} if averaged else {}), best)
        return best

    def warn_of_chance(self) -> None:
        vocabulary = cast(Tensor, self.learner.trees.projection.weight).shape[0]
        chance = math.log(vocabulary)
        if self.outcome.initial_loss is not None and self.outcome.initial_loss > 0.95 * chance:
            self.outcome.warnings.append(
                f"the base predicts these texts no better than chance: {self.outcome.initial_loss:.2f} nats per token, "
                f"where guessing among {vocabulary} tokens has {chance:.2f}; check its weights, its tokenizer, and "
                "that it knows the language of the texts"
            )

    def interrupt(self) -> None:
        """Keep the best state since the start, else the current one; before the first update there is none to keep."""
        if not self.outcome.steps:
            raise KeyboardInterrupt
        self.outcome.interrupted = True
        if self.outcome.best_step == 0:
            self.learner.best, self.outcome.final_loss, self.outcome.best_step = None, None, self.outcome.steps

    def fail(self, error: TrainingError) -> None:
        """Keep the best validation since the start, or raise the error where there was none."""
        if self.learner.best is None or self.outcome.best_step == 0:
            what = f"{error.what}; nothing is saved, since no validation had a better loss than the start"
            raise TrainingError(what if self.outcome.steps else error.what, hint=error.hint) from error
        self.outcome.interrupted, self.outcome.failed = True, error

    def out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.fruitless >= self.settings.patience


def first_batch(train: Sequence[Example], settings: TrainSettings) -> list[Example]:
    """Return the examples of a run's first update."""
    return next(_epoch(train, settings, 0))


def _epoch(train: Sequence[Example], settings: TrainSettings, epoch: int) -> Iterator[list[Example]]:
    rng = random.Random(f"{settings.seed} {epoch}")
    return batches(train, settings.batch_size, group_size=settings.group_size, rng=rng)
