"""What a run trains: the network with its optimizer and its random numbers.

A learner takes updates, and saves and restores itself. It knows neither validations nor the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tailora.core.errors import TrainingError
from tailora.data.examples import Example
from tailora.training.averaging import Average, copies
from tailora.training.distributed import Processes, reporting_loss
from tailora.training.methods import learning_parameters, restore
from tailora.training.optimizer import adamw, foreach_on, set_learning_rate
from tailora.training.precision import Arithmetic
from tailora.training.settings import TrainSettings
from tailora.training.sharded import is_sharded, whole, whole_on_first
from tailora.training.shared_passes import aligned, own_share
from tailora.training.state_file import RunState
from tailora.training.trees.forward import TreeModel, passes


@dataclass(frozen=True)
class Update:
    """The figures of an update.

    Attributes:
        loss: loss of the whole batch, in nats per completion token.
        learning_rate: the learning rate of the update.
        gradient_norm: norm of all gradients before it was limited.
        interrupts: number of processes that have been interrupted.
    """

    loss: float
    learning_rate: float
    gradient_norm: float
    interrupts: float


class Learner:
    """The network of a run, with all that its next updates depend on besides the examples.

    Args:
        model: a transformers causal language model, whose learning parameters have `requires_grad`.
        settings: the settings of the run.
        arithmetic: the precision in which the model computes.
        processes: the processes that train together.

    Attributes:
        trees: the model as it computes trees; enter it to train or to validate.
        learning: the learning parameters by name.
        best: their values at the best validation; None without validation.
        average: their mean over the last updates.
        optimizer: AdamW.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, arithmetic: Arithmetic, processes: Processes) -> None:
        self.model, self.settings, self.autocast, self.processes = model, settings, arithmetic.autocast, processes
        self.trees = TreeModel(model, head=arithmetic.head, checkpointing=settings.gradient_checkpointing)
        self.learning = learning_parameters(model)
        self.optimizer = adamw(model, settings)
        self.best: dict[str, Tensor] | None = None
        self.average = Average(self.learning, settings.average)
        self._generators = _generators_of(model, arithmetic.head)
        torch.manual_seed(settings.generator_seed)

    def update(self, batch: Sequence[Example], step: int, steps: int, is_stopping: Callable[[], bool]) -> Update:
        """Update the parameters once, accumulating gradients over passes of at most `tokens_per_pass` nodes.

        Args:
            batch: the examples of the update, in all processes.
            step: number of updates before this one.
            steps: number of updates of the run.
            is_stopping: returns whether this process has been interrupted.

        Raises:
            LostProcessError: another process has ended or does not answer.
            TrainingError: the loss is not finite, or no learning parameter gets a gradient.
        """
        rate = set_learning_rate(self.optimizer, self.settings, step, steps)
        self.processes.reseed(self._generators, self.settings.seed, step)
        loss, interrupts = self.compute_gradients(batch, is_stopping)
        foreach = foreach_on(next(iter(self.learning.values())).device)
        norm = whole(clip_grad_norm_(self.learning.values(), self.settings.max_grad_norm, foreach=foreach)).item()
        _check(step, loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.add(step + 1, steps)
        return Update(loss, rate, norm, interrupts)

    def compute_gradients(
        self, batch: Sequence[Example], is_stopping: Callable[[], bool] = lambda: False
    ) -> tuple[float, float]:
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
        loss, interrupts = self.processes.totals(loss, float(is_stopping()))
        return loss, interrupts

    def keep_best(self) -> None:
        """Keep the current values as the best so far."""
        self.best = copies(self.learning)

    def optimizer_bytes(self) -> int:
        """Return the size of the optimizer's state."""
        values = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))

    def tensors(self) -> dict[str, Any]:
        """Return the tensors of `RunState` by its fields. Sharded processes gather them, so all must call this."""
        return {
            "learning": self._whole({name: parameter.detach() for name, parameter in self.learning.items()}),
            "best": None if self.best is None else self._whole(self.best),
            "average": None if self.average.values is None else self._whole(self.average.values),
            "optimizer": {n: self._whole(values) for n, values in self.optimizer.state_dict()["state"].items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
        }

    def continue_from(self, state: RunState) -> None:
        """Restore the tensors of a state."""
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
        for name, generator in self._generators.items():
            if name in state.generators:  # a run may continue on another device
                generator.set_state(state.generators[name])

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return whole_on_first(tensors, is_first=self.processes.is_first)

    def _own(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the learning parameters' values as this process holds them."""
        return {name: self.processes.spread(values[name], like) for name, like in self.learning.items()}


def _check(step: int, loss: float, norm: float) -> None:
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(f"the loss is not finite at update {step + 1}", hint="lower the learning rate")
    if step == 0 and norm == 0:
        raise TrainingError(
            "the gradient of all trainable parameters is zero", hint="choose targets that the output depends on"
        )


def _generators_of(model: nn.Module, head: Any) -> dict[str, torch.Generator]:
    """Return the random number generators that a run uses, by name."""
    generators = {"torch": torch.default_generator}
    device = next(model.parameters()).device
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.default_generators[device.index or 0]
    if (generator := getattr(head, "generator", None)) is not None:
        generators["head"] = generator
    return generators
