"""Passes over trees that are shared out to processes, and the validation loss that they measure together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from tailora.data.examples import Example
from tailora.training.distributed import SINGLE, Processes, reporting_loss
from tailora.training.settings import TrainSettings
from tailora.training.sharded import is_sharded
from tailora.training.trees.forward import TreeModel, evaluation, passes
from tailora.training.trees.prefix_tree import TreeBatch, batches, build
from tailora.training.trees.shares import head_cost, shares


def own_share(model: nn.Module, examples: Sequence[Example], processes: Processes) -> Sequence[Example]:
    """Return this process's share of the examples of an update or a validation."""
    if processes.size == 1:
        return examples
    return shares(examples, processes.size, head=head_cost(model))[processes.rank]


def aligned(
    model: nn.Module, parts: Iterable[TreeBatch], examples: Sequence[Example], processes: Processes
) -> Iterator[tuple[TreeBatch, float]]:
    """Yield this process's passes, each with the weight of its loss.

    The processes of a sharded model compute every pass together. Those with fewer passes append some over the shortest
    example, with weight 0.

    Args:
        model: the model.
        parts: the trees of this process's passes; there may be none.
        examples: the examples of all processes.
        processes: the processes.
    """
    if not is_sharded(model):
        yield from ((trees, 1.0) for trees in parts)
        return
    own = list(parts)
    missing = max(processes.from_all(len(own))) - len(own)
    yield from ((trees, 1.0) for trees in own)
    yield from ((build([min(examples, key=len)]), 0.0) for _ in range(missing))


def mean_loss(
    trees: TreeModel,
    examples: Sequence[Example],
    settings: TrainSettings,
    processes: Processes = SINGLE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> float:
    """Return the loss per completion token, end-of-text included, in nats, without dropout.

    Args:
        trees: the model.
        examples: at least one example.
        settings: the settings of the run, which give the size of batches and passes.
        processes: the processes that share the examples; each gets the result.
        is_stopping: returns whether this process has been interrupted.

    Raises:
        KeyboardInterrupt: a process has been interrupted.
        LostProcessError: another process has ended or does not answer.
    """
    total = tokens = 0.0
    with evaluation(trees.model), reporting_loss():
        own = own_share(trees.model, examples, processes)
        parts = (
            part for batch in batches(own, settings.batch_size) for part in passes(batch, settings.tokens_per_pass)
        )
        for part, weight in aligned(trees.model, parts, examples, processes):
            total += weight * trees.loss(part).item()
            tokens += weight * part.completion_tokens
            if is_stopping() and not is_sharded(trees.model):
                break
    total, tokens, interrupts = processes.totals(total, tokens, float(is_stopping()))
    if interrupts:
        raise KeyboardInterrupt
    return total / tokens
