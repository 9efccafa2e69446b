"""The models that clients can name: the base, and adapters that come and go while requests go on.

The engine knows each version of an adapter by a name of its own, so that requests keep the version they began with;
a version that was replaced or unloaded is forgotten when its last request is done. Used by the event loop's thread.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, check_base
from tailora.adapters.formats import peft
from tailora.adapters.formats.peft_files import CONFIG_FILE, TAILORA_FILE
from tailora.core.errors import AdapterError, SettingsError
from tailora.data.prompts import PromptFormat
from tailora.engine.worker import Worker
from tailora.inference.setup import Setup

_FILES = (CONFIG_FILE, peft.WEIGHTS_FILE)


@dataclass(eq=False)
class Model:
    """Something that requests can name.

    Attributes:
        name: as clients say it.
        engine_name: the engine's own name for this version; None for the base.
        account: how it was trained: prompt form and linearisation, as far as that is known.
        prompts: how its training wrote prompts.
        created: when it was loaded, in seconds since 1970.
        rank: of the adapter; 0 for the base.
        users: requests that write with it.
        retired: whether it was replaced or unloaded.
    """

    name: str
    engine_name: str | None
    account: Mapping[str, Any]
    prompts: PromptFormat
    created: int = field(default_factory=lambda: int(time.time()))
    rank: int = 0
    users: int = 0
    retired: bool = False


class Registry:
    """Models by name.

    Args:
        setup: the base, and the adapters that the engine begins with.
        worker: of the engine that has them.
        folder: whence adapters may be loaded; None for nowhere.
        built_in: whether the network itself carries the only adapter, so that there is no base to name.
    """

    def __init__(self, setup: Setup, worker: Worker, *, folder: Path | None = None, built_in: bool = False) -> None:
        self._setup, self._worker = setup, worker
        self._folder = None if folder is None else folder.resolve()
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()
        name = setup.base.name
        # A path would tell clients how the server's disk is laid out.
        shown = Path(name).name if Path(name).exists() else name
        base = Model(shown, None, setup.account(None), setup.prompts(None))
        self.base = base
        self._models: dict[str, Model] = {} if built_in else {base.name: base}
        for own, adapter in setup.adapters.items():
            if own in self._models:
                raise SettingsError(f"an adapter is called {own}, as the base is", where="adapter", hint="rename it")
            prompts = setup.prompts(own)
            self._models[own] = Model(own, None if built_in else own, adapter.meta, prompts, rank=_rank(adapter))

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._models.values()))

    def find(self, name: str) -> Model | None:
        """The model of this name, if there is one."""
        return self._models.get(name)

    @contextmanager
    def use(self, model: Model) -> Iterator[None]:
        """Keep a version known to the engine for so long."""
        model.users += 1
        try:
            yield
        finally:
            model.users -= 1
            self._forget_unused(model)

    async def load(self, name: str, path: str, *, replace: bool = False) -> Model:
        """Load an adapter from the folder that adapters may come from.

        Args:
            name: what clients will call it.
            path: of its folder, absolute or in that folder.
            replace: let it take the place of an adapter of this name.

        Raises:
            AdapterError: it is not there, is no whole adapter in safetensors, or does not belong to the base.
            SettingsError: the name is taken, or no name.
        """
        assert self._folder is not None
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise SettingsError("is no name", where="lora_name", hint="use a short text")
        async with self._changing:
            old = self._models.get(name)
            if old is self.base or (old is not None and not replace):
                raise SettingsError(f"there is a model {name!r} already", where="lora_name", hint="unload it first")
            adapter = await asyncio.to_thread(self._read, path)
            prompts = self._setup.prompts_of(adapter.meta, adapted=True)
            if prompts.end not in self._setup.ends:
                hint = "name the adapter with --adapter when the server starts"
                raise AdapterError(f"ends its texts with the token {prompts.end}, which ends no text here", hint=hint)
            engine_name = f"{name}#{next(self._numbers)}"
            force = self._setup.force
            registered = self._worker.post(
                lambda engine: engine.backend.adapter_slots.register(engine_name, adapter, force=force)
            )
            try:
                await asyncio.wrap_future(registered)
            except asyncio.CancelledError:
                if self._worker.alive:  # behind the registration, where that has begun
                    self._worker.post(lambda engine: engine.backend.adapter_slots.unregister(engine_name))
                raise
            model = self._models[name] = Model(name, engine_name, adapter.meta, prompts, rank=_rank(adapter))
            if old is not None:
                self._retire(old)
            return model

    async def unload(self, name: str) -> bool:
        """Forget an adapter; requests under way keep it to their ends. False if there is none of this name."""
        async with self._changing:
            model = self._models.get(name)
            if model is None or model.engine_name is None:
                return False
            del self._models[name]
            self._retire(model)
            return True

    def _read(self, path: str) -> Adapter:
        assert self._folder is not None
        place = _inside(self._folder, path)
        place = require_safetensors(place, shown=path)
        for file in (*_FILES, TAILORA_FILE):  # each may itself be a link out of the folder
            if (place / file).exists() or file in _FILES:
                _inside(self._folder, str(place / file), shown=path)
        adapter = peft.load(place)
        base = self._setup.base.name
        check_base(adapter, fingerprint=self._setup.fingerprint, base_name=base, place=path, force=self._setup.force)
        return adapter

    def _retire(self, model: Model) -> None:
        model.retired = True
        self._forget_unused(model)

    def _forget_unused(self, model: Model) -> None:
        if model.retired and not model.users:
            name = model.engine_name
            assert name is not None
            self._worker.post(lambda engine: engine.backend.adapter_slots.unregister(name))


def require_safetensors(path: Path, *, shown: str | None = None) -> Path:
    """The folder of an adapter whose tensors are in safetensors: a server opens no pickle.

    Args:
        path: the folder, or a run directory.
        shown: what to call it in messages.

    Raises:
        AdapterError: it is something else.
    """
    place = formats.adapter_place(path)
    missing = [file for file in _FILES if not (place / file).is_file()]
    if missing:
        hint = "give a folder with an adapter in safetensors, as `tailora train` and PEFT write it"
        raise AdapterError(f"holds no {missing[0]}", where=shown or path, hint=hint)
    return place


def _inside(folder: Path, path: str, *, shown: str | None = None) -> Path:
    """A path in a folder, links followed; the answer is the same whether a place outside exists or not."""
    try:
        place = (folder / path).resolve()
        if place.is_relative_to(folder) and place.exists():
            return place
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, links in a circle
        pass
    raise AdapterError(
        "no adapter there", where=shown or path, hint="name one in the folder that the server reads from"
    )


def _rank(adapter: Adapter) -> int:
    return max((sum(branch.rank for branch in layer.branches) for layer in adapter.layers.values()), default=0)
