"""The memory of a run before it starts: what occupies it, and how much of it the run may use.

Nothing is loaded. Sizes come from the shapes of the base's tensors, and one update is run without values
(`pass_memory`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tailora.core import launch
from tailora.core.hardware.memory import memory, rss
from tailora.data.examples import Example
from tailora.models.catalog import resolve
from tailora.models.config import is_quantised, read_config
from tailora.models.load import outline
from tailora.models.weights import stored_tensors
from tailora.training import int8
from tailora.training.estimate import Workload
from tailora.training.fused import compact_gelus
from tailora.training.methods import prepare
from tailora.training.pass_memory import pass_bytes, without_values
from tailora.training.precision import apply, loading_dtype
from tailora.training.settings import ExampleSettings, OptimizationSettings, TrainingDataSettings, TrainSettings
from tailora.training.trees.forward import passes
from tailora.training.vocabulary import is_reducible

RUNTIME = 80 * 2**20
"""Bytes of main memory that libraries take while they compute, in addition to those after their import: kernels,
threads and buffers."""
SPREAD = 1.3
"""Factor by which tensors of changing sizes spread in main memory: freed places between them are too small for the
next. Both are measured; see `benchmarks/plan.py`."""

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_STORED = {torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one process of a run, in bytes.

    Attributes:
        process: the process without the network: Python, libraries, data. On a GPU it is not counted.
        weights: the frozen weights by type.
        learning: the trained parameters.
        gradients: its gradients.
        optimizer: the state of AdamW.
        best: a copy of the trained parameters, from the best validation; 0 without validation.
        average: its mean over the last updates, if the run averages.
        activations: what a pass keeps for the gradient and computes, logits and loss included, at its peak.
        loading: peak while the base is loaded and converted.
    """

    process: int
    weights: Mapping[str, int]
    learning: int
    gradients: int
    optimizer: int
    best: int
    average: int
    activations: int
    loading: int

    @property
    def updating(self) -> int:
        """Peak of an update."""
        training = self.learning + self.gradients + self.optimizer + self.best + self.average
        return self.process + sum(self.weights.values()) + training + self.activations

    @property
    def peak(self) -> int:
        """Peak of the run."""
        return max(self.updating, self.loading)

    def to_dict(self) -> dict[str, Any]:
        """Return the parts and the peaks, in bytes."""
        return {**asdict(self), "updating": self.updating, "peak": self.peak}


def memory_plan(
    settings: TrainSettings,
    work: Workload,
    precision: str,
    device: str,
    *,
    process: int,
    validates: bool,
    processes: int = 1,
    tokens: int | None = None,
) -> MemoryPlan:
    """Plan the memory of a run in a precision.

    Args:
        settings: the settings of the run.
        work: its data, with the examples of its largest update.
        precision: one of `precision.ORDER`; that of the settings is not read.
        device: its device.
        process: bytes of the process without the network (`process_bytes`).
        validates: whether there are examples to validate on.
        processes: number of processes that share the trees of an update, and with method full the parameters.
        tokens: number of different tokens in its data; None counts the whole vocabulary.

    Raises:
        ModelError: the network cannot be trained, or needs the values of its weights to be planned.
    """
    share = work.largest_batch[: -(-len(work.largest_batch) // processes)]
    folder, loaded = resolve(settings.base).folder, loading_dtype(settings, precision)
    network = _network_bytes(settings, folder, share, precision, device, tokens)
    whole, learning, weights = network.whole * loaded.itemsize // 4, network.learning, network.weights
    # Quantised weights are widened to fp32 and copied; those stored in the type that they are loaded in are mapped.
    beside = network.whole if is_quantised(read_config(folder)) else _bytes_converted(folder, loaded)
    divided = processes if settings.method == "full" else 1  # see `sharded`
    converted = 0 if precision in ("fp32", "tf32") or loaded != torch.float32 else sum(weights.values())
    spread = SPREAD if torch.device(device).type == "cpu" else 1
    update = max(network.during_pass, 2 * learning)  # a step of AdamW needs a copy of what it updates
    return MemoryPlan(
        process=process,
        weights=weights,
        learning=learning // divided,
        gradients=learning // divided,
        optimizer=2 * learning // divided,
        best=learning // divided if validates else 0,
        average=learning // divided if settings.average else 0,
        activations=int(spread * update) - learning,
        loading=process + whole + max(beside, converted),
    )


@dataclass(frozen=True)
class _NetworkBytes:
    """What is counted on a network without values, in bytes.

    Attributes:
        whole: all weights in fp32.
        weights: the frozen weights by type.
        learning: the trained parameters.
        during_pass: the peak of a pass.
    """

    whole: int
    weights: Mapping[str, int]
    learning: int
    during_pass: int


_COUNTED: dict[str, _NetworkBytes] = {}
"""Counts of this process: trials of a search differ in settings that change no shape."""
_WITHOUT_EFFECT = {
    *TrainingDataSettings.model_fields,
    *ExampleSettings.model_fields,
    *OptimizationSettings.model_fields,
    *("base", "recipe", "precision", "memory_limit", "learning_rate", "lora_plus_ratio"),
    *("output", "save_every", "resume", "track"),
} - {"label_smoothing"}
"""Settings that change no shape; the folder's configuration and the examples are compared in place of their names."""


def _network_bytes(
    settings: TrainSettings,
    folder: Path,
    share: Sequence[Example],
    precision: str,
    device: str,
    tokens: int | None,
) -> _NetworkBytes:
    """Count on the network without values, once for equal shapes."""
    shapes = (
        settings.model_dump_json(exclude=_WITHOUT_EFFECT),
        read_config(folder),
        [(example.prompt, example.completion, example.context) for example in share],
        (precision, device, tokens),
    )
    key = hashlib.sha256(repr(shapes).encode()).hexdigest()
    if key not in _COUNTED:
        _COUNTED[key] = _count(settings, share, precision, device, tokens)
    return _COUNTED[key]


def _count(
    settings: TrainSettings, share: Sequence[Example], precision: str, device: str, tokens: int | None
) -> _NetworkBytes:
    trees = max(passes(share, settings.tokens_per_pass), key=len)
    with without_values():
        base = outline(settings.base, device)
        whole = _bytes(base.model.parameters())
        prepare(base, settings)
        model = cast(nn.Module, base.model)
        learning = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
        # Rounding needs values. Layers in fp32 keep as much for the gradient as rounded ones, which is nothing.
        arithmetic = apply(model, "fp32" if precision == "int8" else precision, settings, trees)
        weights = _rounded_weights(model, tokens) if precision == "int8" else _frozen_weights(model)
        if precision == "int8":
            compact_gelus(model)
        several = trees.examples < len(share)
        during_pass = pass_bytes(model, trees, settings, arithmetic.autocast, first=not several)
    return _NetworkBytes(whole, weights, learning, during_pass)


def process_bytes(device: str) -> int:
    """Return the bytes that this process needs without a network; 0 on a GPU, whose memory is planned instead."""
    return 0 if torch.device(device).type != "cpu" else (rss() or 0) + RUNTIME


def memory_limit(settings: TrainSettings, device: str) -> int | None:
    """Return the bytes that one process of a run may use; None if they are not known.

    The processes on a machine share its main memory. Each has its own GPU.
    """
    if settings.memory_limit is not None:
        sharing = launch.local_size() if torch.device(device).type == "cpu" else 1
        return int(settings.memory_limit * 2**30) // sharing
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    available = memory().available
    return None if available is None else available // launch.local_size() + (rss() or 0)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _frozen_weights(model: nn.Module) -> dict[str, int]:
    """Return the bytes of the frozen weights by type."""
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            sizes[_NAMES.get(parameter.dtype, str(parameter.dtype))] += _bytes([parameter])
    return dict(sizes)


def _rounded_weights(model: nn.Module, tokens: int | None) -> dict[str, int]:
    """Return the bytes of the frozen weights by type, once `int8.quantise_frozen` has rounded them, and
    `vocabulary.keep_used_rows` has dropped those of tokens that are not used.

    A rounded weight is kept for both directions. Each output of a direction has a scale of 4 and a zero of 8 bytes.
    """
    rounded = rows = 0
    frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    for layer in int8.convertible(model):
        weight = cast(nn.Parameter, layer.weight)
        frozen.pop(id(weight), None)
        rounded += 2 * weight.numel() + 12 * sum(weight.shape)
    head = int8.convertible_head(model)
    if head is not None:  # its own weight stays for the embedding and for single rows; it has as much noise
        rounded += 2 * head.weight.numel() + 16 * sum(head.weight.shape)
        if tokens is not None and is_reducible(model):
            embedding = cast(Any, model).get_input_embeddings()
            for layer in (embedding, head):
                if frozen.pop(id(layer.weight), None) is not None:  # one weight, if the two are tied
                    rows += tokens * layer.weight.shape[1] * layer.weight.element_size()
            rows += 8 * len(embedding.weight)
    return {"fp32": _bytes(frozen.values()) + rows, "int8": rounded}


def _bytes_converted(folder: Path, dtype: torch.dtype) -> int:
    """Return the bytes of the stored weights that are converted while they load."""
    return sum(int(tensor.raw.nbytes) for tensor in stored_tensors(folder).values() if tensor.dtype != _STORED[dtype])
