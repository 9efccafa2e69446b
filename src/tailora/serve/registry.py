"""The models that clients can name: the base, and adapters that are loaded and unloaded while requests run.

The engine knows each version of an adapter by its own name, so that requests keep the version they began with;
a version that was replaced or unloaded is removed when its last request is done. Used by the event loop's thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailora import __version__
from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, require_base
from tailora.adapters.formats import peft
from tailora.adapters.formats.peft_files import CONFIG_FILE, TAILORA_FILE
from tailora.adapters.insert import AnyAdapter, Insert
from tailora.core.errors import AdapterError, SettingsError
from tailora.data.prompts import PromptFormat
from tailora.engine.requests import Mixture, mixture_of
from tailora.engine.worker import Worker
from tailora.inference.running import Running
from tailora.inference.setup import Setup

_FILES = (CONFIG_FILE, peft.WEIGHTS_FILE)


@dataclass(eq=False)
class ServedModel:
    """A base or an adapter that requests can name.

    Attributes:
        name: name that clients use.
        engine_name: name of this version in the engine; None for the base and for a mixture.
        meta: how it was trained: prompt form and linearisation, as far as known.
        prompts: how its prompts are built.
        system_fingerprint: identifies all that a text depends on besides the request: weights, precision, version.
        rank: largest rank of a branch; 0 for the base.
        slot_rank: rank that it takes of an adapter slot: the largest sum of ranks on one layer.
        created: time of loading, in seconds since 1970.
        users: number of requests that write with it.
        retired: whether it was replaced or unloaded.
        mixture: of a mixture, the names in the engine and the weights of its adapters.
    """

    name: str
    engine_name: str | None
    meta: Mapping[str, Any]
    prompts: PromptFormat
    system_fingerprint: str
    rank: int = 0
    slot_rank: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    retired: bool = False
    mixture: Mixture = ()

    @property
    def adapters(self) -> Mixture:
        """The adapters as the engine's requests name them."""
        return self.mixture or mixture_of(self.engine_name)


class Registry:
    """Models by name.

    Args:
        setup: base, and the adapters that the engine starts with.
        running: engine.
        worker: thread of the engine.
        folder: folder that adapters may be loaded from; None if none may.
    """

    def __init__(self, setup: Setup, running: Running, worker: Worker, *, folder: Path | None = None) -> None:
        self._setup, self._running, self._worker = setup, running, worker
        self._folder = None if folder is None else folder.resolve()
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()
        name = setup.base.name
        # A path would show clients how the server's disk is laid out.
        public = Path(name).name if Path(name).exists() else name
        self.base = ServedModel(
            public, None, setup.training_metadata(None), setup.prompts(None), self._system_fingerprint(None)
        )
        self._models: dict[str, ServedModel] = {} if running.built_in else {public: self.base}
        for own, adapter in setup.adapters.items():
            if own in self._models:
                raise SettingsError(
                    f"the adapter {own} has the name of the base", where="adapter", hint="give it another name"
                )
            engine_name = None if running.built_in else own
            self._models[own] = self._model(own, engine_name, adapter, setup.prompts(own))

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def find(self, name: str) -> ServedModel | None:
        """Return the model of this name, if there is one."""
        return self._models.get(name)

    def mixed(self, name: str, parts: Sequence[tuple[ServedModel, float]]) -> ServedModel:
        """Return adapters with weights as one model, which is not listed.

        Args:
            name: name that the request uses.
            parts: the adapters, each once, and the factors of their effects.

        Raises:
            SettingsError: an adapter is named twice, is part of the network, or was trained on other prompts.
        """
        first = parts[0][0]
        names = [model.engine_name for model, _ in parts]
        if len(set(names)) < len(names):
            raise SettingsError("an adapter is named twice", where="adapters", hint="add its weights")
        for model, _ in parts:
            if model.engine_name is None:
                what = f"{model.name} is not an adapter that can be mixed"
                raise SettingsError(what, where="adapters", hint="name adapters, as GET /v1/models lists them")
            if _prompt_of(model) != _prompt_of(first):
                what = f"the adapters {first.name} and {model.name} were trained on different prompts"
                raise SettingsError(what, where="adapters", hint="use adapters with the same prompts")
        mixture = tuple((model.engine_name or "", weight) for model, weight in parts)
        described = " ".join(f"{model.system_fingerprint} {weight!r}" for model, weight in parts)
        fingerprint = f"fp_{hashlib.sha256(described.encode()).hexdigest()[:12]}"
        return ServedModel(name, None, first.meta, first.prompts, fingerprint, mixture=mixture)

    @contextmanager
    def use(self, model: ServedModel) -> Iterator[None]:
        """Keep a version in the engine within this context."""
        model.users += 1
        try:
            yield
        finally:
            model.users -= 1
            self._remove_unused(model)

    async def load(self, name: str, path: str, *, replace: bool = False) -> ServedModel:
        """Load an adapter from the folder that adapters may be loaded from.

        Args:
            name: name that clients will use.
            path: of the adapter's folder, absolute or relative to that folder.
            replace: replace an adapter of this name.

        Raises:
            AdapterError: no adapter in safetensors is there, or it does not belong to the base.
            SettingsError: the name is taken or not valid.
        """
        assert self._folder is not None
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise SettingsError("is not a valid name", where="lora_name", hint="use up to 200 printable characters")
        async with self._changing:
            old = self._models.get(name)
            if old is self.base or (old is not None and not replace):
                hint = "choose another name" if old is self.base else "unload it first, or set load_inplace"
                raise SettingsError(f"a model {name!r} already exists", where="lora_name", hint=hint)
            adapter = await asyncio.to_thread(self._read, path)
            prompts = self._setup.prompts_of(adapter.meta, adapted=True)
            if prompts.end not in self._setup.ends:
                what = f"its texts end with the token {prompts.end}, which does not end texts on this server"
                raise AdapterError(what, hint="name the adapter with --adapter when the server starts")
            engine_name = f"{name}#{next(self._numbers)}"
            force = self._setup.force
            registered = self._worker.post(
                lambda engine: engine.backend.adapter_slots.register(engine_name, adapter, force=force)
            )
            try:
                await asyncio.wrap_future(registered)
            except asyncio.CancelledError:
                if self._worker.alive:  # queued behind the registration, if that has begun
                    self._worker.post(lambda engine: engine.backend.adapter_slots.unregister(engine_name))
                raise
            model = self._models[name] = self._model(name, engine_name, adapter, prompts)
            if old is not None:
                self._retire(old)
            return model

    async def unload(self, name: str) -> bool:
        """Unload an adapter, which requests in progress keep to their ends; return False if none has this name."""
        async with self._changing:
            model = self._models.get(name)
            if model is None or model.engine_name is None:
                return False
            del self._models[name]
            self._retire(model)
            return True

    def _model(self, name: str, engine_name: str | None, adapter: AnyAdapter, prompts: PromptFormat) -> ServedModel:
        layers = () if isinstance(adapter, Insert) else adapter.layers.values()
        ranks = [[branch.rank for branch in layer.branches] for layer in layers]
        rank = max((rank for of_layer in ranks for rank in of_layer), default=0)
        slot_rank = max(map(sum, ranks), default=0)
        fingerprint = self._system_fingerprint(adapter)
        return ServedModel(name, engine_name, adapter.meta, prompts, fingerprint, rank=rank, slot_rank=slot_rank)

    def _system_fingerprint(self, adapter: AnyAdapter | None) -> str:
        running = self._running
        weights = (self._setup.fingerprint, "" if adapter is None else adapter.content_hash)
        text = " ".join((__version__, running.backend, running.precision, running.device, *weights))
        return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _read(self, path: str) -> Adapter:
        assert self._folder is not None
        place = _inside(self._folder, path)
        place = require_safetensors(place, shown=path)
        for file in (*_FILES, TAILORA_FILE):  # each may itself be a link out of the folder
            if (place / file).exists() or file in _FILES:
                _inside(self._folder, str(place / file), shown=path)
        adapter = formats.load(place)
        base = self._setup.base.name
        require_base(adapter, fingerprint=self._setup.fingerprint, base_name=base, place=path, force=self._setup.force)
        return adapter

    def _retire(self, model: ServedModel) -> None:
        model.retired = True
        self._remove_unused(model)

    def _remove_unused(self, model: ServedModel) -> None:
        if model.retired and not model.users:
            name = model.engine_name
            assert name is not None
            self._worker.post(lambda engine: engine.backend.adapter_slots.unregister(name))


def require_safetensors(path: Path, *, shown: str | None = None) -> Path:
    """Return the folder of an adapter whose tensors are in safetensors: a server opens no pickle.

    Args:
        path: the folder, or a run directory.
        shown: name of the folder in messages.

    Raises:
        AdapterError: the folder holds something else.
    """
    place = formats.adapter_place(path)
    missing = [file for file in _FILES if not (place / file).is_file()]
    if missing:
        hint = "name a folder with an adapter in safetensors, as `tailora train` and PEFT write it"
        raise AdapterError(f"{missing[0]} is missing", where=shown or path, hint=hint)
    return place


def _inside(folder: Path, path: str, *, shown: str | None = None) -> Path:
    """A path in a folder, links followed; the error is the same whether a place outside exists or not."""
    try:
        place = (folder / path).resolve()
        if place.is_relative_to(folder) and place.exists():
            return place
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, links in a circle
        pass
    hint = "name a folder inside the server's folder of adapters"
    raise AdapterError("no adapter is there", where=shown or path, hint=hint)


def _prompt_of(model: ServedModel) -> tuple[object, ...]:
    """Return what the token ids of an adapter's prompts depend on, besides the base."""
    prompts = model.prompts
    return prompts.form, prompts.style, prompts.bos, prompts.end, prompts.trained, prompts.source
