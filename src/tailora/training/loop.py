"""The training loop, which is the same for every method: methods differ in what learns and in what is saved."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tailora.core.errors import TrainingError
from tailora.data.examples import Example
from tailora.training.averaging import Average, copies
from tailora.training.distributed import SINGLE, LostProcessError, Processes, reporting_loss
from tailora.training.methods import learning_parameters, restore
from tailora.training.optimizer import adamw, set_learning_rate
from tailora.training.precision import Arithmetic
from tailora.training.resume import RunState, Saver
from tailora.training.settings import TrainSettings
from tailora.training.sharded import is_sharded, reshard, whole, whole_on_first
from tailora.training.shared_passes import aligned, mean_loss, own_share
from tailora.training.trees.forward import TreeModel, passes, training_mode
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
    checkpointing = settings.gradient_checkpointing
    with arithmetic.products(), TreeModel(model, head=arithmetic.head, checkpointing=checkpointing) as run.trees:
        if state is None:
            run.validate(valid)
            run.warn_of_chance()
            if saver is not None:
                saver.save()
        else:
            run.continue_from(state)
        training_mode(model)
        _until_the_end(run, train, valid, saver)
        run.outcome.optimizer_bytes = _state_bytes(run.optimizer)
        if run.best is not None:
            restore(model, run.best)
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


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


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
    """The state of one run."""

    trees: TreeModel

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
        self.model, self.settings, self.observer, self.autocast = model, settings, observer, arithmetic.autocast
        self.learning = learning_parameters(model)
        self.optimizer = adamw(model, settings)
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.average = Average(self.learning, settings.average)
        self.complete, self.processes, self.is_stopping = complete, processes, is_stopping
        self.fruitless, self.validated_at, self.is_whole = 0, -1, True
        self.generators = generators_of(model, arithmetic.head)
        torch.manual_seed(settings.seed)

    def state(self) -> RunState:
        """Return everything that the rest of the run depends on."""
        progress = {name: getattr(self.outcome, name) for name in PROGRESS}
        return RunState(
            step=self.outcome.steps,
            progress=progress | {"validated_at": self.validated_at},
            fruitless=self.fruitless,
            learning=self._whole({name: parameter.detach() for name, parameter in self.learning.items()}),
            best=None if self.best is None else self._whole(self.best),
            average=None if self.average.values is None else self._whole(self.average.values),
            optimizer={n: self._whole(values) for n, values in self.optimizer.state_dict()["state"].items()},
            generators={name: generator.get_state() for name, generator in self.generators.items()},
        )

    def continue_from(self, state: RunState) -> None:
        """Restore a state."""
        restore(self.model, self._own(state.learning))
        self.best = None if state.best is None else self._own(state.best)
        self.average.values = None if state.average is None else self._own(state.average)
        numbered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {
                name: self.processes.spread(value, numbered[number] if value.dim() else torch.empty(()))
                for name, value in values.items()
            }
            for number, values in sorted(state.optimizer.items())
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for name, generator in self.generators.items():
            if name in state.generators:  # a run may continue on another device
                generator.set_state(state.generators[name])
        for name in PROGRESS:
            setattr(self.outcome, name, state.progress[name])
        self.outcome.steps, self.fruitless = state.step, state.fruitless
        self.validated_at = state.progress["validated_at"]

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return whole_on_first(tensors, is_first=self.processes.is_first)

    def _own(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the learning parameters' values as this process holds them."""
        return {name: self.processes.spread(values[name], like) for name, like in self.learning.items()}

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
        """Update the parameters once, accumulating gradients over passes of at most `tokens_per_pass` nodes."""
        began = time.perf_counter()
        step = self.outcome.steps
        self.is_whole = False
        rate = set_learning_rate(self.optimizer, self.settings, step, steps)
        self.processes.reseed(self.generators, self.settings.seed, step)
        loss, interrupts = self._gradients(batch)
        norm = whole(clip_grad_norm_(self.learning.values(), self.settings.max_grad_norm, foreach=True)).item()
        self._check(step, loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.add(self.outcome.steps + 1, steps)
        seconds = time.perf_counter() - began
        self.outcome.steps += 1
        self.outcome.examples += len(batch)
        self.outcome.seconds += seconds
        self.is_whole = True
        line = {"step": step + 1, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        self.observer.step({**line, "examples": len(batch), "seconds": seconds})
        if interrupts:
            raise KeyboardInterrupt

    def _gradients(self, batch: list[Example]) -> tuple[float, float]:
        """Compute this process's share of a batch, and add the gradients of all processes.

        Returns:
            The loss of the whole batch per completion token, and the number of processes that are interrupted.
        """
        tokens = sum(len(example.learnt) for example in batch)
        # Sharded processes average their gradients in every pass, instead of adding them after the last one.
        scale = self.processes.size if is_sharded(self.model) else 1
        loss = 0.0
        with reporting_loss():
            own = own_share(self.model, batch, self.processes)
            parts = passes(own, self.settings.tokens_per_pass) if own else iter(())
            for trees, weight in aligned(self.model, parts, batch, self.processes):
                with self.autocast():
                    part = self.trees.loss(trees, label_smoothing=self.settings.label_smoothing) / tokens
                (part if weight * scale == 1 else part * (weight * scale)).backward()
                loss += weight * part.item()
        if not is_sharded(self.model):
            self.processes.add_gradients(self.learning.values())
        loss, interrupts = self.processes.totals(loss, float(self.is_stopping()))
        return loss, interrupts

    def _check(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(f"the loss is not finite at update {step + 1}", hint="lower the learning rate")
        if step == 0 and norm == 0:
            raise TrainingError(
                "the gradient of all trainable parameters is zero", hint="choose targets that the output depends on"
            )

    def validate_average(self, valid: Sequence[Example], steps: int) -> None:
        """Validate the average, if there is one; without validation data, make it the result."""
        average = self.average.values
        if average is None:
            return
        count, kept = self.average.count(self.outcome.steps, steps), copies(self.learning)
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
        with self.autocast():
            loss = mean_loss(self.trees, valid, self.settings, self.processes, self.is_stopping)
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
                self.best = copies(self.learning)
            else:
                self.fruitless += 1
            line = {"step": self.outcome.steps, "validation_loss": loss}
            self.observer.validated(line | ({"averaged": averaged} if averaged else {}), best)
        return best

    def warn_of_chance(self) -> None:
        vocabulary = cast(Tensor, self.trees.projection.weight).shape[0]
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
            self.best, self.outcome.final_loss, self.outcome.best_step = None, None, self.outcome.steps

    def fail(self, error: TrainingError) -> None:
        """Keep the best validation since the start, or raise the error where there was none."""
        if self.best is None or self.outcome.best_step == 0:
            what = f"{error.what}; nothing is saved, since no validation had a better loss than the start"
            raise TrainingError(what if self.outcome.steps else error.what, hint=error.hint) from error
        self.outcome.interrupted, self.outcome.failed = True, error

    def out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.fruitless >= self.settings.patience


def generators_of(model: nn.Module, head: Any) -> dict[str, torch.Generator]:
    """Return the random number generators that a run uses, by name."""
    generators = {"torch": torch.default_generator}
    device = next(model.parameters()).device
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.default_generators[device.index or 0]
    if (generator := getattr(head, "generator", None)) is not None:
        generators["head"] = generator
    return generators


def first_batch(train: Sequence[Example], settings: TrainSettings) -> list[Example]:
    """Return the examples of a run's first update."""
    return next(_epoch(train, settings, 0))


def _epoch(train: Sequence[Example], settings: TrainSettings, epoch: int) -> Iterator[list[Example]]:
    rng = random.Random(f"{settings.seed} {epoch}")
    return batches(train, settings.batch_size, group_size=settings.group_size, rng=rng)
