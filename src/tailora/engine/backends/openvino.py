"""The OpenVINO backend for CPUs: 8-bit products and paged attention. No PyTorch."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from tailora.adapters.adapter import Adapter
from tailora.core.errors import ModelError
from tailora.engine.adapter_slots import GROUPED, AdapterSlots
from tailora.engine.architecture import architecture_of
from tailora.engine.arrays import Floats, Ints
from tailora.engine.backend import Precision, Step, StepScores
from tailora.engine.backends.openvino_graph import Graph, build_graph
from tailora.engine.backends.openvino_rows import SlotShape
from tailora.models.config import read_config
from tailora.models.fingerprint import fingerprint_folder

BLOCK = 32  # tokens per block of OpenVINO's CPU cache
# Kernels are compiled for every new size of a step. OpenVINO and its oneDNN cache thousands of them by default, so that
# the memory of a server grows for hours. With these limits no loss of speed was measurable.
_KERNELS, _PRIMITIVES = 128, 64
# Environment variables that limit the instructions of oneDNN's kernels, and limits below AVX-512.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_BELOW_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI"}


class OpenVinoBackend:
    """See `backend.Backend`.

    Args:
        folder: the base in Hugging Face layout.
        precision: precision of matrix products; the cache is in fp32 with "fp32", and in 8 bits otherwise.
        cache_tokens: capacity of the cache in tokens; every sequence rounds up to blocks of 32.
        slots: number of adapters that a step can mix; 0 for a base alone.
        rank: largest rank of an adapter in a layer.
        layers: the layers that can be adapted, by the ends of their module paths (`families.ends_in`).
        grouped: see `adapter_slots.AdapterSlots`.
        merged: an adapter of linear layers to merge into the weights.
        threads: number of threads; by default that of the cores.

    Raises:
        ModelError: the family has no graph, or the weights are damaged.
        AdapterError: the adapter to merge does not fit the weights.
    """

    def __init__(
        self,
        folder: Path,
        *,
        precision: Precision = "int8",
        cache_tokens: int = 16384,
        slots: int = 8,
        rank: int = 16,
        layers: tuple[str, ...] = (),
        grouped: int = GROUPED,
        merged: Adapter | None = None,
        threads: int | None = None,
    ) -> None:
        architecture = architecture_of(read_config(folder))
        self.context, self.vocabulary = architecture.context, architecture.vocabulary
        shape = SlotShape(slots, rank, layers, grouped) if slots else None
        graph = build_graph(folder, architecture, precision, shape, merged)
        if shape is not None and not graph.stacks:
            raise ModelError(f"no layer ends in {' or '.join(layers) or 'nothing'}", where=folder)
        fingerprint = fingerprint_folder(folder)
        self.adapter_slots = AdapterSlots(
            graph.stacks, slots=slots, rank=rank, grouped=grouped, base_fingerprint=fingerprint
        )
        self.block_size, self.blocks = BLOCK, -(-cache_tokens // BLOCK)
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRIMITIVES))  # read once, by the first primitive
        compiled = _core().compile_model(graph.model, "CPU", _settings(precision, threads))
        self._request = compiled.create_infer_request()
        self._caches = _allocate(compiled, graph, self.blocks)
        for name, cache in self._caches.items():
            self._request.set_tensor(name, cache)
        self._bound: tuple[range, range] | None = None

    def run(self, step: Step) -> StepScores:
        """See `backend.Backend`."""
        lengths = step.past + np.diff(step.begins)
        inputs: dict[str, Any] = {
            "tokens": step.tokens,
            "positions": step.positions,
            "past_lens": step.past,
            "subsequence_begins": step.begins,
            "block_indices": step.blocks,
            "block_indices_begins": step.block_begins,
            "max_context_len": np.array(lengths.max(), np.int32),
            "sampled": step.sampled,
            "best": np.array(step.best, np.int32),
        }
        if self.adapter_slots.slots:
            used = self.adapter_slots.of_slots(np.unique(step.slots[step.slots >= 0]).tolist())
            self._bind(*used)
            inputs |= self._arranged(step.slots, step.scales, *used)
            if "lm_head" in self.adapter_slots.factors:
                of_head = self._arranged(step.slots[step.sampled], step.scales[step.sampled], *used)
                inputs |= {f"head_{name}": values for name, values in of_head.items()}
        for name, values in inputs.items():
            self._request.set_tensor(name, ov.Tensor(values))
        self._request.infer()
        return StepScores(*(self._request.get_output_tensor(number).data for number in range(3)))

    def _bind(self, groups: range, places: range) -> None:
        """Let the graph use the factors of these groups, and of these slots of each group."""
        if self._bound == (groups, places):
            return
        for name, factors in self.adapter_slots.factors.items():
            columns = factors.a.shape[1] // self.adapter_slots.grouped
            chosen = slice(places.start * columns, places.stop * columns)
            for factor, values in (("A", factors.a), ("B", factors.b)):
                part = values[groups.start : groups.stop, chosen]
                # Shared memory, so that writing these arrays fills a slot.
                part = part if self.adapter_slots.groups > 1 else part[0]
                self._request.set_tensor(f"{name}.{factor}", ov.Tensor(part, shared_memory=True))
        self._bound = groups, places

    def _arranged(self, slots: Ints, scales: Floats, groups: range, places: range) -> dict[str, Any]:
        """Return the inputs of `openvino_rows.GroupedRows`.

        Args:
            slots: slots of the rows, [rows, A].
            scales: factors of their effects, [rows, A].
            groups: the groups that are bound.
            places: the slots of each group that are bound.
        """
        rows, grouped = len(slots), self.adapter_slots.grouped
        own = np.zeros((rows, len(places)), np.float32)
        row, column = np.nonzero(slots >= 0)
        own[row, slots[row, column] % grouped - places.start] = scales[row, column]
        if self.adapter_slots.groups == 1:
            return {"scales": own}
        if len(groups) == 1:
            every = np.arange(rows, dtype=np.int32)
            return {"places": every[None], "back": every, "scales": own[None]}
        # Rows without an adapter are spread evenly over the groups.
        first = slots[:, 0]
        group = np.where(first < 0, np.arange(rows) % len(groups), first // grouped)
        order = np.argsort(group, kind="stable")
        counts = np.bincount(group, minlength=len(groups))
        most = int(counts.max())
        at = group[order] * most + np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
        taken, back = np.zeros(len(groups) * most, np.int32), np.empty(rows, np.int32)
        factors = np.zeros((len(groups) * most, len(places)), np.float32)
        taken[at], back[order], factors[at] = order, at, own[order]
        shape = len(groups), most
        return {"places": taken.reshape(shape), "back": back, "scales": factors.reshape(*shape, len(places))}

    def copy_blocks(self, pairs: Iterable[tuple[int, int]]) -> None:
        """See `backend.Backend`."""
        for source, target in pairs:
            for cache in self._caches.values():
                cache.data[target] = cache.data[source]


@functools.cache
def _core() -> ov.Core:
    """Return OpenVINO's core, one for the whole process.

    On CPUs with large registers, its CPU plugin gives the thread that loads it another stack for signal handlers. If
    the plugin were unloaded in another thread, the first thread would keep a freed stack, and the next signal, such as
    Ctrl-C, would end the process with a segmentation fault.
    """
    return ov.Core()


def _settings(precision: Precision, threads: int | None) -> dict[str, Any]:
    """Return the settings of OpenVINO."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",  # f32 if the processor has no bf16
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_RUNTIME_CACHE_CAPACITY": str(_KERNELS),
    }
    if precision == "fp32":
        settings["KV_CACHE_PRECISION"] = "f32"
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if _BELOW_AVX512 & {os.environ.get(name, "").upper() for name in _LIMITS}:
        # OpenVINO detects the processor's instructions; oneDNN has no kernels for them below the limit.
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    return settings


def _allocate(compiled: Any, graph: Graph, blocks: int) -> Mapping[str, ov.Tensor]:
    """Allocate the caches in the shapes and types of the compiled network's inputs."""
    wanted = {port.get_any_name(): port for port in compiled.inputs}
    caches = {}
    for name in graph.caches:
        shape = wanted[name].get_partial_shape()
        sizes = [blocks, *(shape[axis].get_length() for axis in range(1, 4))]
        caches[name] = ov.Tensor(wanted[name].get_element_type(), ov.Shape(sizes))
        # The system allocates memory when it is first written: all of it at the start, not gradually under load.
        caches[name].data[:] = 0
    return caches
