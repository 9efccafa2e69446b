"""A base model and its adapters, started as an engine: what is read, what runs it, in which precision."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing, check_base
from tailora.core.errors import AdapterError, ModelError, SettingsError
from tailora.core.hardware.devices import choose_device
from tailora.core.hardware.machine import describe
from tailora.data.prompts import PromptForm, PromptFormat
from tailora.data.readers.jsonl import parse_facts
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Record
from tailora.engine.architecture import architecture_of
from tailora.engine.backend import Backend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Request
from tailora.families import family_of
from tailora.inference import self_check, step_timing
from tailora.inference.step_timing import Choice
from tailora.models.catalog import Resolved, resolve
from tailora.models.config import read_config
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.provenance import training_metadata

log = logging.getLogger(__name__)
BackendName = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "int8", "bf16", "fp32"]
Facts = Mapping[str, Any] | Sequence[Sequence[Any]]
SLOTS = 16  # adapters that a step mixes, where so many are given
_NAMED = re.compile(r"([\w.-]+)=(.+)")  # a name has no slash, so that a path with = in it is seldom taken for one
_IN_BLOCK = re.compile(r"\.\d+\.(.+)$")  # "attn.c_attn" of "transformer.h.0.attn.c_attn"
_ANOTHER = "choose a base whose layers keep nothing but keys and values"
_AT_THE_ENDS = ("wte", "embed_tokens", "lm_head")  # what the graphs can adapt besides


@dataclass(frozen=True, eq=False)
class Setup:
    """What is to run, found and checked: nothing of the network is in memory yet.

    Attributes:
        base: where the base model lies.
        tokenizer: its tokenizer.
        fingerprint: of its weights.
        adapters: by the names that requests use.
        force: whether adapters trained on other weights were let pass.
    """

    base: Resolved
    tokenizer: Tokenizer
    fingerprint: str
    adapters: Mapping[str, Adapter]
    force: bool = False

    def account(self, adapter: str | None) -> Mapping[str, Any]:
        """How an adapter was trained, or what the base's folder says of one merged into it."""
        return training_metadata(self.base.folder) if adapter is None else self.adapters[adapter].meta

    def prompts(self, adapter: str | None, *, form: PromptForm | None = None, style: str | None = None) -> PromptFormat:
        """How records become prompts of an adapter, or of the base.

        As training had it. A base that was trained on no form gets the facts and an arrow: an end-of-text token after
        the facts would tell it that all is said.

        Args:
            adapter: its name; None for the base.
            form: to take instead of the one it was trained on.
            style: likewise the linearisation.

        Raises:
            SettingsError: the base has no chat template, or its tokenizer lacks a token of the adapter's prompts.
        """
        return self.prompts_of(self.account(adapter), adapted=adapter is not None, form=form, style=style)

    def prompts_of(
        self,
        account: Mapping[str, Any],
        *,
        adapted: bool,
        form: PromptForm | None = None,
        style: str | None = None,
    ) -> PromptFormat:
        """The same for an account of how an adapter was trained."""
        usual: PromptForm = "paper" if adapted else "arrow"
        return PromptFormat.of_account(account, self.tokenizer, self.base.folder, usual=usual, form=form, style=style)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text: those of the base, and those that its adapters were taught."""
        taught = (self.prompts(name).end for name in (None, *self.adapters) if self.account(name))
        return self.tokenizer.end_ids.union(taught)


@dataclass(frozen=True, eq=False)
class Running:
    """An engine with what speaks text to it.

    Attributes:
        engine: the engine.
        tokenizer: of its base.
        backend: "openvino" or "torch".
        precision: of its products.
        device: "cpu" or "cuda".
        built_in: whether the network itself carries the only adapter, so that requests name none.
        timed: how the precision was chosen, in words; empty where it was asked for or none was timed.
    """

    engine: Engine
    tokenizer: Tokenizer
    backend: str
    precision: str
    device: str
    built_in: bool = False
    timed: str = ""

    @property
    def told(self) -> str:
        """Precision and backend in words, with the times that decided."""
        return f"{self.precision} on {self.backend}" + (f", {self.timed}" if self.timed else "")

    def request(
        self,
        prompt: Sequence[int],
        decoding: Decoding,
        adapter: str | None = None,
        stop: Sequence[str] = (),
        *,
        score_prompt: bool = False,
    ) -> Request:
        """A request of the engine's for a prompt of text, ended by any of some strings too.

        Raises:
            SettingsError: the decoding's biases name a token that the tokenizer does not have.
        """
        unknown = [token for token, _ in decoding.logit_bias if not 0 <= token < self.tokenizer.vocab_size]
        if unknown:
            what = f"there is no token {unknown[0]}"
            raise SettingsError(what, where="logit_bias", hint=f"name ids from 0 to {self.tokenizer.vocab_size - 1}")
        ended = None if not stop else _StopStrings(self.tokenizer, stop)
        name = None if self.built_in else adapter
        return Request(tuple(prompt), decoding, name, ended=ended, score_prompt=score_prompt)


@dataclass(frozen=True)
class AdapterCapacity:
    """What adapters may come while the engine runs.

    Attributes:
        slots: how many a step can mix.
        rank: most that one may have in a layer, its slices together.
    """

    slots: int
    rank: int


def named_adapters(given: Sequence[str]) -> dict[str, Path]:
    """Paths by name from `NAME=PATH`; an adapter without a name is called by its path.

    Raises:
        SettingsError: two have one name.
    """
    found: dict[str, Path] = {}
    for text in given:
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, path = (named[1], named[2]) if named else (text, text)
        if name in found:
            raise SettingsError(f"two adapters are called {name}", where="adapter", hint="give each its own name")
        found[name] = Path(path)
    return found


def resolve_models(base: str | None, adapters: Mapping[str, Path], *, force: bool = False) -> Setup:
    """Find a base model and read adapters for it. Loads no network, and no torch.

    Args:
        base: name, path or hub id; None takes the one that the adapters name.
        adapters: folders, files or run directories by name.
        force: accept adapters that were trained on other weights than the base has.

    Raises:
        SettingsError: no base is named, or several are.
        AdapterError: an adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be found or read.
    """
    found = {name: formats.load(formats.adapter_place(path)) for name, path in adapters.items()}
    for name, adapter in found.items():
        if changes_nothing(adapter):
            what = "the adapter changes nothing: all its updates are zero"
            raise AdapterError(what, where=adapters[name], hint="train it again")
    if base is None:
        named = sorted({adapter.base_name for adapter in found.values() if adapter.base_name})
        if not named:
            why = "the adapter does not name its base model" if found else "no base model named"
            raise SettingsError(why, where="base", hint="name it with --base")
        if len(named) > 1:
            raise SettingsError(
                f"the adapters name several base models ({', '.join(named)})",
                where="adapter",
                hint="give the adapters of one base",
            )
        base = named[0]
    resolved = resolve(base)
    fingerprint = fingerprint_folder(resolved.folder)
    for name, adapter in found.items():
        check_base(adapter, fingerprint=fingerprint, base_name=resolved.name, place=str(adapters[name]), force=force)
    return Setup(resolved, Tokenizer.from_folder(resolved.folder), fingerprint, found, force)


def prompt_ids(facts: Facts, *, adapter: str | Path | None = None, base: str | None = None) -> list[int]:
    """The token ids of a record's prompt as `generate` and the server build them, for servers that take ids.

    Args:
        facts: {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …].
        adapter: its folder or file, or a run directory.
        base: name, path or hub id; by default the one that the adapter names. A merged model's folder describes the
            prompts of what was merged into it.

    Raises:
        DataError: the facts cannot be read.
        UserError: see `resolve_models`.
    """
    setup = resolve_models(base, {} if adapter is None else {"adapter": Path(adapter)})
    record = Record("1", parse_facts(facts, "facts"), ())
    return list(setup.prompts(None if adapter is None else "adapter").encode([record])[0])


def start(
    setup: Setup,
    *,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    merged: bool = False,
    sequences: int = 32,
    cache_tokens: int = 16384,
    room: AdapterCapacity | None = None,
) -> Running:
    """Start an engine.

    Args:
        setup: what it runs.
        backend: "openvino" on a CPU, for the families that it has a graph for; "torch" for everything else.
        precision: of the products; "auto" is the one whose steps are fastest here, and int8 with OpenVINO, fp32 with
            torch, unless another is faster by more than the noise (see `step_timing`).
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        merged: fold the only adapter into the weights.
        sequences: most sequences at once.
        cache_tokens: how many tokens the cache of keys and values holds.
        room: for adapters on any linear layer of the blocks; by default for those of the setup alone.

    Raises:
        SettingsError: a combination that cannot be.
        AdapterError: an adapter that cannot run as asked for.
        ModelError: the base cannot be loaded.
    """
    if merged and len(setup.adapters) != 1:
        raise SettingsError(f"{len(setup.adapters)} adapters to merge", where="merged", hint="name exactly one")
    why_not = _not_in_graph(setup.adapters, merged)
    if why_not and len(setup.adapters) > 1:
        name, reason = why_not
        raise AdapterError(f"{reason}, which does not run beside other adapters", where=name, hint="`tailora merge` it")
    if backend == "openvino" and why_not:
        raise AdapterError(why_not[1], where=why_not[0], hint="run it with --backend torch")
    if backend == "openvino" and device not in ("auto", "cpu"):
        raise SettingsError("OpenVINO runs on the CPU here", where="device", hint="use --backend torch")
    made: tuple[Backend, Choice, str] | None = None
    if backend == "openvino" or (backend == "auto" and not why_not and _is_for_openvino(device)):
        try:
            made = _openvino(setup, precision, merged, cache_tokens, room)
            backend = "openvino"
        except ModelError as error:
            if backend == "openvino":
                raise
            log.info("running on torch: %s", error)
    if made is None:
        backend = "torch"
        made = _torch(setup, precision, device, merged or why_not is not None, merged, cache_tokens, room)
    network, choice, place = made
    engine = Engine(network, end=setup.ends, sequences=sequences)
    built_in = merged or why_not is not None
    return Running(engine, setup.tokenizer, backend, choice.precision, place, built_in=built_in, timed=choice.told)


def _openvino(
    setup: Setup, precision: Precision, merged: bool, cache_tokens: int, room: AdapterCapacity | None
) -> tuple[Backend, Choice, str]:
    from tailora.engine.backends.openvino import OpenVinoBackend  # the backend is chosen here

    folder, slots = setup.base.folder, {"slots": 0} if merged else _slots(setup, room)

    def make(precision: Any, cache_tokens: int = step_timing.CACHE_TOKENS) -> OpenVinoBackend:
        adapter = next(iter(setup.adapters.values())) if merged else None
        return OpenVinoBackend(folder, precision=precision, cache_tokens=cache_tokens, merged=adapter, **slots)

    choice = Choice(precision, {})
    if precision == "auto":
        architecture_of(read_config(folder))  # before anything is timed
        key = {"backend": "openvino", "config": read_config(folder), "slots": slots}
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
    precision: Precision,
    device: str,
    built_in: bool,
    merged: bool,
    cache_tokens: int,
    room: AdapterCapacity | None,
) -> tuple[Backend, Choice, str]:
    from tailora.engine.backends.torch import TorchBackend
    from tailora.inference.attached import DTYPES, apply_adapter  # the backend is chosen here
    from tailora.models.load import load_base

    if precision == "int8":
        raise SettingsError("int8 runs on a CPU with OpenVINO", where="precision", hint="use fp32 or bf16")
    place, slots = choose_device(device), {"slots": 0} if built_in else _slots(setup, room)

    def make(precision: Any, cache_tokens: int = step_timing.CACHE_TOKENS) -> TorchBackend:
        base = load_base(setup.base.name, dtype=DTYPES[precision], device=place)
        if built_in:
            apply_adapter(base, next(iter(setup.adapters.values())), merged=merged)
        return TorchBackend(base, cache_tokens=cache_tokens, **slots)

    choice = Choice(precision, {})
    if precision == "auto":
        key = {"backend": "torch", "device": place, "gpu": describe()["gpu"], "slots": slots}
        key |= {
            "config": read_config(setup.base.folder),
            "adapter": _attached(setup) if built_in and not merged else [],
        }
        with _told_as_architecture(setup):
            choice = step_timing.choose(setup.base.folder, key, ("fp32", "bf16"), make)
    network, type_ = make(choice.precision, cache_tokens), choice.precision
    key = {"backend": "torch", "device": place, "model": _identity(setup), "adapters": []}
    if built_in:
        key["adapters"] = [adapter.content_hash for adapter in setup.adapters.values()]
    with _told_as_architecture(setup):
        self_check.check(network, key, type_, network.plain_logits, hint=_ANOTHER)
    _register(network, setup, built_in)
    return network, choice, place


@contextlib.contextmanager
def _told_as_architecture(setup: Setup) -> Iterator[None]:
    """Say of what goes wrong in a network's first steps that the torch backend cannot run it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the engine cannot run this architecture ({reason})", where=setup.base.name, hint=_ANOTHER
        ) from error


def _attached(setup: Setup) -> list[str]:
    """The layers that the only adapter sits on, with their ranks."""
    (adapter,) = setup.adapters.values()
    return [f"{path} {[branch.rank for branch in layer.branches]}" for path, layer in adapter.layers.items()]


def _identity(setup: Setup) -> list[Any]:
    """What a network is: its weights and its configuration."""
    return [setup.fingerprint, read_config(setup.base.folder)]


def _register(network: Backend, setup: Setup, built_in: bool) -> None:
    for name, adapter in {} if built_in else setup.adapters.items():
        network.bank.register(name, adapter, force=setup.force)


def _slots(setup: Setup, room: AdapterCapacity | None) -> dict[str, Any]:
    """The room that the adapters need, and those that may come."""
    layers = [(path, layer) for adapter in setup.adapters.values() for path, layer in adapter.layers.items()]
    ends = {_end(path) for path, _ in layers}
    if room is not None:
        family = family_of(read_config(setup.base.folder).get("model_type"))
        ends |= {*family.attention.values(), *family.mlp}
    return {
        "slots": min(len(setup.adapters), SLOTS) if room is None else room.slots,
        "rank": max(
            [sum(branch.rank for branch in layer.branches) for _, layer in layers] + [room.rank if room else 1]
        ),
        "layers": tuple(sorted(ends)),
    }


def _end(path: str) -> str:
    """What the paths of a layer in every block have in common."""
    place = _IN_BLOCK.search(path)
    return place[1] if place else path.rpartition(".")[2]


def _not_in_graph(adapters: Mapping[str, Adapter], merged: bool) -> tuple[str, str] | None:
    """An adapter that has to be attached to a network of its own on torch, and why; None where there is none."""
    for name, adapter in adapters.items():
        if adapter.biases:
            return name, "has trained biases"
        for path, layer in adapter.layers.items():
            if layer.magnitude is not None:
                return name, f"rescales the outputs of {path} (DoRA)"
            inside = layer.kind in ("linear", "gpt2_conv1d") and _IN_BLOCK.search(path)
            # A tied head would have to part from the embedding, or follow it.
            if not inside and (merged or _end(path) not in _AT_THE_ENDS):
                return name, f"adapts {path}, outside the blocks' linear layers"
    return None


def _is_for_openvino(device: str) -> bool:
    """Whether a device is one on which OpenVINO is tried first where no backend was asked for."""
    return device == "cpu" or (device == "auto" and not _sees_gpu())


def _sees_gpu() -> bool:
    """Whether PyTorch has a GPU; it is asked, and loaded, only where NVIDIA's driver is installed."""
    if shutil.which("nvidia-smi") is None:
        return False
    return choose_device("auto") == "cuda"


class _StopStrings:
    """Says whether one of some strings stands at the end of what is written."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # A token has a byte at least; a character cut at the front takes up to three more.
        self._tail = max(len(each.encode()) for each in stop) + 3

    def __call__(self, written: Sequence[int]) -> bool:
        text = self._tokenizer.decode_written(written[-self._tail :])
        return any(each in text for each in self._stop)
