"""The training loop: the same for every method, which differ in what learns and in what is saved."""

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

from tailora.core.errors import TrainingError
from tailora.data.examples import Example
from tailora.training.methods import learning_parameters, restore
from tailora.training.optimizer import adamw, learning_rate
from tailora.training.precision import Arithmetic
from tailora.training.resume import RunState, Saver
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, evaluation, passes, training_mode
from tailora.training.trees.prefix_tree import batches

PROGRESS = ("examples", "seconds", "initial_loss", "final_loss", "best_step", "warnings")
"""What an outcome knows of a run that is under way."""


class Observer(Protocol):
    """Receives the progress of a run."""

    def step(self, line: dict[str, Any]) -> None:
        """An update was made; the line goes to metrics.jsonl."""

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """A validation loss was measured; `best` if it is the lowest so far."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        steps: updates made.
        examples: examples seen.
        seconds: time of the updates alone, without validation.
        initial_loss: validation loss before the first update, in nats per completion token; None without such data.
        final_loss: of the state that is kept: the best one seen; None if it was not measured.
        best_step: the update after which it was reached.
        interrupted: whether the run ended early: by Ctrl-C, SIGTERM or a loss that is not finite.
        failed: the error that ended it, where something had been learnt before.
        optimizer_bytes: of what the optimiser keeps for what learns.
        saving_seconds: time spent on saving states to continue from.
        warnings: what the user should know.
    """

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    initial_loss: float | None = None
    final_loss: float | None = None
    best_step: int = 0
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
    whole: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Outcome:
    """Train what requires a gradient; at the end it holds the values of the best validation.

    Ctrl-C after the first update ends the run there: it keeps the best validation if there was one since the start, and
    otherwise what it has. A loss that is not finite ends it too, and keeps the best validation.

    Args:
        model: a transformers causal language model, on its device, what learns marked.
        train: examples to learn.
        valid: examples to validate on; may be empty, and then the last state is the result.
        settings: of the run.
        observer: called after every update and every validation.
        arithmetic: how the model computes.
        state: to continue from.
        keep: writes a state from which the run can be continued; called every few minutes (`settings.save_every`),
            after validations and when the run is interrupted.
        whole: makes the context of an update, inside which an interrupt waits for its end.

    Raises:
        TrainingError: if no gradient reaches what should learn, or the loss is not finite before any validation
            brought a better loss than the start.
    """
    run = _Run(model, settings, observer, arithmetic)
    steps = total_steps(len(train), settings)
    saver = None if keep is None else Saver(lambda: keep(run.state()), settings.save_every)
    with arithmetic.products(), TreeModel(model, head=arithmetic.head) as run.trees:
        if state is None:
            run.validate(valid)
            run.warn_of_chance()
            if saver is not None:
                saver.save()
        else:
            run.continue_from(state)
        training_mode(model)
        try:
            _updates(run, train, valid, steps, saver, whole)
        except KeyboardInterrupt:
            if saver is not None and run.is_whole and run.outcome.steps:
                saver.save()
            run.interrupt()
        except TrainingError as error:
            run.fail(error)
        run.outcome.saving_seconds = 0.0 if saver is None else saver.seconds
        if saver is not None and saver.problem:
            run.outcome.warnings.append(f"the last state of the run could not be saved ({saver.problem})")
        run.outcome.optimizer_bytes = sum(
            value.numel() * value.element_size()
            for state in run.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
        if run.best is not None:
            restore(model, run.best)
        model.eval()
    return run.outcome


def total_steps(examples: int, settings: TrainSettings) -> int:
    """How many updates a run has."""
    steps = settings.epochs * math.ceil(examples / settings.batch_size)
    return min(steps, settings.max_steps or steps)


def _updates(
    run: _Run,
    train: Sequence[Example],
    valid: Sequence[Example],
    steps: int,
    saver: Saver | None,
    whole: Callable[[], AbstractContextManager[Any]],
) -> None:
    """The updates and validations that are left of a run."""
    every = run.settings.eval_every or max(1, math.ceil(len(train) / run.settings.batch_size))

    def is_due() -> bool:
        return run.outcome.steps % every == 0 or run.outcome.steps == steps

    if run.outcome.steps and is_due() and run.validated_at != run.outcome.steps:  # interrupted before that
        run.validate(valid)
    if run.out_of_patience():
        return
    for batch in run.updates(train, steps):
        with whole():
            run.update(batch, steps)
        due = is_due()
        if due and not run.validate(valid) and run.out_of_patience():
            return
        if saver is not None and run.outcome.steps < steps:
            with whole():
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
    ) -> None:
        self.model, self.settings, self.observer, self.autocast = model, settings, observer, arithmetic.autocast
        self.learning = learning_parameters(model)
        self.optimizer = adamw(self.learning.values(), settings.weight_decay)
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.fruitless, self.validated_at, self.is_whole = 0, -1, True
        self.generators = generators_of(model, arithmetic.head)
        torch.manual_seed(settings.seed)

    def state(self) -> RunState:
        """What the rest of the run depends on."""
        progress = {name: getattr(self.outcome, name) for name in PROGRESS}
        return RunState(
            step=self.outcome.steps,
            progress=progress | {"validated_at": self.validated_at},
            fruitless=self.fruitless,
            learning={name: parameter.detach() for name, parameter in self.learning.items()},
            best=self.best,
            optimizer=self.optimizer.state_dict()["state"],
            generators={name: generator.get_state() for name, generator in self.generators.items()},
        )

    def continue_from(self, state: RunState) -> None:
        """Put everything back as it was."""
        restore(self.model, state.learning)
        device = next(iter(self.learning.values())).device
        self.best = None if state.best is None else {name: value.to(device) for name, value in state.best.items()}
        options = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**options, "state": state.optimizer})
        for name, generator in self.generators.items():
            generator.set_state(state.generators[name])
        for name in PROGRESS:
            setattr(self.outcome, name, state.progress[name])
        self.outcome.steps, self.fruitless = state.step, state.fruitless
        self.validated_at = state.progress["validated_at"]

    def updates(self, train: Sequence[Example], steps: int) -> Iterator[list[Example]]:
        """The batches that are left."""
        skipped = self.outcome.steps
        for epoch in range(self.settings.epochs):
            for number, batch in enumerate(_epoch(train, self.settings, epoch), start=epoch * self.epoch_steps(train)):
                if self.outcome.steps == steps:
                    return
                if number >= skipped:
                    yield batch

    def epoch_steps(self, train: Sequence[Example]) -> int:
        """Updates in an epoch."""
        return math.ceil(len(train) / self.settings.batch_size)

    def update(self, batch: list[Example], steps: int) -> None:
        """One update of the parameters, its gradient gathered over as many passes as the memory asks for."""
        began = time.perf_counter()
        step = self.outcome.steps
        self.is_whole = False
        rate = learning_rate(
            step,
            steps,
            peak=self.settings.peak_learning_rate,
            warmup_steps=self.settings.warmup_steps,
            schedule=self.settings.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tokens = sum(len(example.completion) for example in batch)
        loss = 0.0
        for trees in passes(batch, self.settings.tokens_per_pass):
            with self.autocast():
                part = self.trees.loss(trees, label_smoothing=self.settings.label_smoothing) / tokens
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(self.learning.values(), self.settings.max_grad_norm, foreach=True).item()
        self._check(step, loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        self.outcome.steps += 1
        self.outcome.examples += len(batch)
        self.outcome.seconds += seconds
        self.is_whole = True
        line = {"step": step + 1, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        self.observer.step({**line, "examples": len(batch), "seconds": seconds})

    def _check(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(f"the loss is no longer finite at update {step + 1}", hint="lower the learning rate")
        if step == 0 and norm == 0:
            raise TrainingError(
                "no gradient reaches what should learn", hint="choose targets that the output depends on"
            )

    def validate(self, valid: Sequence[Example]) -> bool:
        """Measure the validation loss; whether it is the lowest so far. True without validation data."""
        if not valid:
            return True
        with self.autocast():
            loss = mean_loss(self.trees, valid, self.settings)
        if not math.isfinite(loss):
            raise TrainingError("the validation loss is not finite", hint="lower the learning rate")
        self.validated_at = self.outcome.steps
        best = self.outcome.final_loss is None or loss < self.outcome.final_loss
        if self.outcome.initial_loss is None:
            self.outcome.initial_loss = loss
        if best:
            self.outcome.final_loss, self.outcome.best_step, self.fruitless = loss, self.outcome.steps, 0
            self.best = {name: parameter.detach().clone() for name, parameter in self.learning.items()}
        else:
            self.fruitless += 1
        self.observer.validated({"step": self.outcome.steps, "validation_loss": loss}, best)
        return best

    def warn_of_chance(self) -> None:
        vocabulary = cast(Tensor, self.trees.projection.weight).shape[0]
        chance = math.log(vocabulary)
        if self.outcome.initial_loss is not None and self.outcome.initial_loss > 0.95 * chance:
            self.outcome.warnings.append(
                f"the base scores like chance: {self.outcome.initial_loss:.2f} nats a token where guessing among "
                f"{vocabulary} tokens has {chance:.2f}; check that its weights and tokenizer are what you mean"
            )

    def interrupt(self) -> None:
        """Keep what there is, if there is any."""
        if not self.outcome.steps:
            raise KeyboardInterrupt
        self.outcome.interrupted = True
        if self.outcome.best_step == 0:
            self.best, self.outcome.final_loss, self.outcome.best_step = None, None, self.outcome.steps

    def fail(self, error: TrainingError) -> None:
        """Keep the best validation since the start, or raise the error where there was none."""
        if self.best is None or self.outcome.best_step == 0:
            what = f"{error.what}; nothing is kept, since no validation brought a better loss than the start"
            raise TrainingError(what if self.outcome.steps else error.what, hint=error.hint) from error
        self.outcome.interrupted, self.outcome.failed = True, error

    def out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.fruitless >= self.settings.patience


def generators_of(model: nn.Module, head: Any) -> dict[str, torch.Generator]:
    """The random number generators that a run draws from, by name."""
    found = {"torch": torch.default_generator}
    device = next(model.parameters()).device
    if device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[device.index or 0]
    if (generator := getattr(head, "generator", None)) is not None:
        found["head"] = generator
    return found


def first_batch(train: Sequence[Example], settings: TrainSettings) -> list[Example]:
    """The examples of a run's first update."""
    return next(_epoch(train, settings, 0))


def _epoch(train: Sequence[Example], settings: TrainSettings, epoch: int) -> Iterator[list[Example]]:
    rng = random.Random(f"{settings.seed} {epoch}")
    return batches(train, settings.batch_size, group_size=settings.group_size, rng=rng)


def mean_loss(trees: TreeModel, examples: Sequence[Example], settings: TrainSettings) -> float:
    """The loss per completion token, end-of-text included, in nats, without dropout; of one example at least."""
    total = tokens = 0.0
    with evaluation(trees.model):
        for batch in batches(examples, settings.batch_size):
            for part in passes(batch, settings.tokens_per_pass):
                total += trees.loss(part).item()
                tokens += part.completion_tokens
    return total / tokens
