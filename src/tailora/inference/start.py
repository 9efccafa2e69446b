"""Start an engine for a setup: which backend runs it, and in which precision."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tailora.adapters.draft_table import DraftTable
from tailora.adapters.insert import AnyAdapter, Insert
from tailora.core.errors import AdapterError, ModelError, SettingsError
from tailora.core.hardware.devices import choose_device, limit_threads
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import granted_cores
from tailora.engine.architecture import architecture_of
from tailora.engine.backend import Backend
from tailora.engine.drafting import NgramDrafter, StepCost
from tailora.engine.engine import Engine
from tailora.families import family_of
from tailora.inference import self_check, step_timing
from tailora.inference.model_settings import BackendName, PrecisionName
from tailora.inference.running import Running
from tailora.inference.setup import Setup
from tailora.inference.step_timing import PrecisionTiming
from tailora.models.config import read_config

log = logging.getLogger(__name__)
SLOTS = 16  # largest number of adapters in a step, unless a capacity is asked for
_IN_BLOCK = re.compile(r"\.\d+\.(.+)$")  # "attn.c_attn" of "transformer.h.0.attn.c_attn"
_ANOTHER = "choose a base whose layers keep nothing but keys and values"
_AT_THE_ENDS = ("wte", "embed_tokens", "lm_head")  # what the graphs can adapt besides


@dataclass(frozen=True)
class AdapterCapacity:
    """Capacity for adapters that are loaded while the engine runs.

    Attributes:
        slots: how many a step can mix.
        rank: largest rank of an adapter in a layer, its slices together.
    """

    slots: int
    rank: int


def start_engine(
    setup: Setup,
    *,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    device: str = "auto",
    merged: bool = False,
    sequences: int = 32,
    cache_tokens: int = 16384,
    capacity: AdapterCapacity | None = None,
    threads: int | None = None,
    drafts: int = 0,
) -> Running:
    """Start an engine.

    Args:
        setup: the base and its adapters.
        backend: "openvino" on a CPU for the families that it has a graph for, "torch" for everything else, or "auto".
        precision: of the products; "auto" is int8 with OpenVINO and fp32 with torch, unless another one is faster on
            this machine by more than the noise (see `step_timing`).
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        merged: merge the only adapter into the weights.
        sequences: largest number of sequences at once.
        cache_tokens: capacity of the key-value cache in tokens.
        capacity: for further adapters of any linear layer of the blocks; by default only those of the setup fit.
        threads: number of CPU threads; by default that of the machine's cores, or of those that a CPU limit grants.
        drafts: largest number of tokens that a step drafts for a text.

    Raises:
        SettingsError: the arguments contradict each other.
        AdapterError: an adapter cannot run on this backend, or together with the others.
        ModelError: the base cannot be loaded.
    """
    in_slots = _fit_into_slots(setup, backend, device, merged)
    built_in = merged or not in_slots
    started: tuple[Backend, PrecisionTiming, str] | None = None
    if backend == "openvino" or (backend == "auto" and in_slots and _is_for_openvino(device)):
        try:
            started = _openvino(setup, precision, merged, cache_tokens, capacity, threads or granted_cores())
            backend = "openvino"
        except ModelError as error:
            if backend == "openvino":
                raise
            log.info("running on torch: %s", error)
    if started is None:
        backend = "torch"
        started = _torch(setup, precision, device, built_in, merged, cache_tokens, capacity, threads)
    network, choice, place = started
    drafter = None
    if drafts:
        key: dict[str, Any] = {"backend": backend, "precision": choice.precision, "device": place, "threads": threads}
        key |= {"config": read_config(setup.base.folder), "slots": network.adapter_slots.slots}
        cost = step_timing.step_cost(setup.base.folder, key, network)
        drafter = _drafter(network, setup, built_in, drafts, cost)
    engine = Engine(network, end=setup.ends, sequences=sequences, drafter=drafter)
    return Running(
        engine, setup.tokenizer, backend, choice.precision, place, built_in=built_in, timed=choice.description
    )


def _drafter(network: Backend, setup: Setup, built_in: bool, longest: int, cost: StepCost) -> NgramDrafter:
    own = next(iter(setup.adapters.values())).drafts if built_in and setup.adapters else setup.base_drafts

    def table(adapter: str | None) -> DraftTable | None:
        return own if adapter is None else network.adapter_slots.drafts(adapter)

    return NgramDrafter(table, network.vocabulary, longest, cost)


def _fit_into_slots(setup: Setup, backend: BackendName, device: str, merged: bool) -> bool:
    """Return whether slots can express all adapters, and raise if the arguments exclude each other."""
    if merged and len(setup.adapters) != 1:
        raise SettingsError(
            f"there are {len(setup.adapters)} adapters to merge", where="merged", hint="name exactly one"
        )
    why_not = _not_in_graph(setup.adapters, merged)
    if why_not and len(setup.adapters) > 1:
        name, reason = why_not
        alone = isinstance(setup.adapters[name], Insert)
        hint = "run it alone" if alone else "merge it with `tailora merge`"
        raise AdapterError(f"{reason} and cannot run together with other adapters", where=name, hint=hint)
    if merged and len(setup.lora) != 1:
        name, reason = why_not or ("adapter", "")
        raise AdapterError(f"{reason}, which no weights of the base can express", where=name, hint="leave out --merged")
    if backend == "openvino" and why_not:
        raise AdapterError(why_not[1], where=why_not[0], hint="run it with --backend torch")
    if backend == "openvino" and device not in ("auto", "cpu"):
        raise SettingsError("the OpenVINO backend runs on the CPU only", where="device", hint="use --backend torch")
    return why_not is None


def _openvino(
    setup: Setup,
    precision: PrecisionName,
    merged: bool,
    cache_tokens: int,
    capacity: AdapterCapacity | None,
    threads: int | None,
) -> tuple[Backend, PrecisionTiming, str]:
    from tailora.engine.backends.openvino import OpenVinoBackend  # the backend is chosen here

    folder, slots = setup.base.folder, {"slots": 0} if merged else _slots(setup, capacity)
    limit = {} if threads is None else {"threads": threads}

    def make(precision: Any, cache_tokens: int = step_timing.CACHE_TOKENS) -> OpenVinoBackend:
        adapter = next(iter(setup.lora.values())) if merged else None
        options = {**slots, **limit}
        return OpenVinoBackend(folder, precision=precision, cache_tokens=cache_tokens, merged=adapter, **options)

    choice = PrecisionTiming(precision, {})
    if precision == "auto":
        architecture_of(read_config(folder))  # before anything is timed
        key: dict[str, Any] = {"backend": "openvino", "config": read_config(folder), "slots": slots, **limit}
        choice = step_timing.choose(folder, key, ("int8", "bf16", "fp32"), make)
    network, chosen = make(choice.precision, cache_tokens), choice.precision
    if not merged:  # the reference is the base's
        key = {"backend": "openvino", "model": _identity(setup)}
        reference = partial(self_check.reference_of, setup.base.folder)
        self_check.check(network, key, chosen, reference, hint="use --backend torch")
    _register(network, setup, merged)
    return network, choice, "cpu"


def _torch(
    setup: Setup,
    precision: PrecisionName,
    device: str,
    built_in: bool,
    merged: bool,
    cache_tokens: int,
    capacity: AdapterCapacity | None,
    threads: int | None,
) -> tuple[Backend, PrecisionTiming, str]:
    import torch

    from tailora.engine.backends.torch import TorchBackend
    from tailora.inference.attached import DTYPES, apply_adapter  # the backend is chosen here
    from tailora.models.load import load_base

    if precision == "int8":
        raise SettingsError("int8 is available on a CPU with OpenVINO only", where="precision", hint="use fp32 or bf16")
    place, slots = choose_device(device), {"slots": 0} if built_in else _slots(setup, capacity)
    limit = {} if threads is None else {"threads": threads}
    if threads is None:
        limit_threads()
    else:
        torch.set_num_threads(threads)

    def make(precision: Any, cache_tokens: int = step_timing.CACHE_TOKENS) -> TorchBackend:
        base = load_base(setup.base.name, dtype=DTYPES[precision], device=place)
        if built_in:
            apply_adapter(base, next(iter(setup.adapters.values())), merged=merged)
        return TorchBackend(base, cache_tokens=cache_tokens, **slots)

    choice = PrecisionTiming(precision, {})
    if precision == "auto":
        key = {"backend": "torch", "device": place, "gpu": describe()["gpu"], "slots": slots, **limit}
        key |= {
            "config": read_config(setup.base.folder),
            "adapter": _attached(setup) if built_in and not merged else [],
        }
        with _architecture_errors(setup):
            choice = step_timing.choose(setup.base.folder, key, ("fp32", "bf16"), make)
    network, type_ = make(choice.precision, cache_tokens), choice.precision
    key = {"backend": "torch", "device": place, "model": _identity(setup), "adapters": []}
    if built_in:
        key["adapters"] = [adapter.content_hash for adapter in setup.adapters.values()]
    with _architecture_errors(setup):
        self_check.check(network, key, type_, network.plain_logits, hint=_ANOTHER)
    _register(network, setup, built_in)
    return network, choice, place


@contextlib.contextmanager
def _architecture_errors(setup: Setup) -> Iterator[None]:
    """Report an error in a network's first steps as an architecture that the torch backend cannot run."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the engine cannot run this architecture ({reason})", where=setup.base.name, hint=_ANOTHER
        ) from error


def _attached(setup: Setup) -> list[str]:
    """The layers that the only adapter changes, with their ranks."""
    (adapter,) = setup.adapters.values()
    if isinstance(adapter, Insert):
        return [f"{adapter.kind} {adapter.size}"]
    return [f"{path} {[branch.rank for branch in layer.branches]}" for path, layer in adapter.layers.items()]


def _identity(setup: Setup) -> list[Any]:
    """What identifies a network: its weights and its configuration."""
    return [setup.fingerprint, read_config(setup.base.folder)]


def _register(network: Backend, setup: Setup, built_in: bool) -> None:
    for name, adapter in {} if built_in else setup.lora.items():
        network.adapter_slots.register(name, adapter, force=setup.force)


def _slots(setup: Setup, capacity: AdapterCapacity | None) -> dict[str, Any]:
    """Slots, rank and layers for the adapters of the setup and for those that come later."""
    layers = [(path, layer) for adapter in setup.lora.values() for path, layer in adapter.layers.items()]
    ends = {_end(path) for path, _ in layers}
    if capacity is not None:
        family = family_of(read_config(setup.base.folder).get("model_type"))
        ends |= {end for part in family.attention.values() for end in part} | {*family.mlp}
    return {
        "slots": min(len(setup.adapters), SLOTS) if capacity is None else capacity.slots,
        "rank": max(
            [sum(branch.rank for branch in layer.branches) for _, layer in layers] + [capacity.rank if capacity else 1]
        ),
        "layers": tuple(sorted(ends)),
    }


def _end(path: str) -> str:
    """The part of a layer's path that is equal in every block."""
    place = _IN_BLOCK.search(path)
    return place[1] if place else path.rpartition(".")[2]


def _not_in_graph(adapters: Mapping[str, AnyAdapter], merged: bool) -> tuple[str, str] | None:
    """The first adapter that no slot can express, and the reason; None if slots can express all."""
    for name, adapter in adapters.items():
        if isinstance(adapter, Insert):
            return name, f"contains {adapter.description}"
        if adapter.biases:
            return name, "has trained biases"
        for path, layer in adapter.layers.items():
            if layer.magnitude is not None:
                return name, f"rescales the outputs of {path} (DoRA)"
            inside = layer.kind in ("linear", "gpt2_conv1d") and _IN_BLOCK.search(path)
            # Merging into a tied head would change the embedding too.
            if not inside and (merged or _end(path) not in _AT_THE_ENDS):
                return name, f"adapts {path}, which is not a linear layer of a block"
    return None


def _is_for_openvino(device: str) -> bool:
    """Whether `--backend auto` tries OpenVINO first on a device."""
    return device == "cpu" or (device == "auto" and not _sees_gpu())


def _sees_gpu() -> bool:
    """Whether PyTorch has a GPU. PyTorch is loaded only if NVIDIA's driver is installed."""
    if shutil.which("nvidia-smi") is None:
        return False
    return choose_device("auto") == "cuda"
