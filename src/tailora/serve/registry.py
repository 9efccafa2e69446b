"""The models that clients can name: the base, and adapters that are loaded and unloaded while requests run.

The engine knows each version of an adapter by its own name, so that requests keep the version they began with;
a version that was replaced or unloaded is removed when its last request is done. Used by the event loop's thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tailora import __version__
from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, require_base
from tailora.adapters.formats import draft_file
from tailora.adapters.formats.peft_files import TAILORA_FILE
from tailora.adapters.insert import AnyAdapter, Insert
from tailora.core.errors import AdapterError, SettingsError, UserError
from tailora.data.mixtures import Mixture
from tailora.data.prompts import PromptFormat
from tailora.engine.worker import Worker
from tailora.inference.running import Running
from tailora.inference.setup import Setup, with_fitting_drafts
from tailora.serve.daemon_threads import in_daemon_thread
from tailora.serve.hub import FILES, HubAdapters, require_safetensors
from tailora.serve.served_model import ServedModel, mixed


class Registry:
    """Models by name.

    Args:
        setup: base, and the adapters that the engine starts with.
        running: engine.
        worker: thread of the engine.
        folder: folder that adapters may be loaded from; None if none may.
        hub: adapters of the hub that requests may name; None if they may name none.
        fetch_seconds: seconds that a request waits for an adapter of the hub.
        compositions: adapters with weights that requests can name as one model; see `compose`.

    Raises:
        SettingsError: two models have one name, or see `compose`.
    """

    def __init__(
        self,
        setup: Setup,
        running: Running,
        worker: Worker,
        *,
        folder: Path | None = None,
        hub: HubAdapters | None = None,
        fetch_seconds: float = 300.0,
        compositions: Mapping[str, Mixture] | None = None,
    ) -> None:
        self._setup, self._running, self._worker = setup, running, worker
        self._folder = None if folder is None else folder.resolve()
        self._hub, self.fetch_seconds = hub, fetch_seconds
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._fetched: dict[str, None] = {}  # models of the hub, the most recently used last
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
        self._compositions: Mapping[str, Mixture] = {}
        self.compose(compositions or {})

    def __iter__(self) -> Iterator[ServedModel]:
        models = list(self._models.values())
        for name in self._compositions:
            with suppress(UserError):  # it lacks an adapter, or one was replaced by one of other prompts
                models.append(self._composed(name))
        return iter(models)

    def find(self, name: str) -> ServedModel | None:
        """Return the model of this name, if there is one.

        Raises:
            AdapterError: a composition has this name, and one of its adapters is not loaded.
            SettingsError: its adapters cannot be mixed.
        """
        return self._composed(name) if name in self._compositions else self._models.get(name)

    def compose(self, compositions: Mapping[str, Mixture]) -> None:
        """Name adapters with weights, in place of earlier compositions, which requests in progress keep.

        A composition has the versions of its adapters that are loaded when a request begins.

        Args:
            compositions: adapters and weights by the names that requests use.

        Raises:
            SettingsError: a composition has the name of a model, names an adapter that does not exist and cannot be
                loaded, or names adapters that cannot be mixed. Nothing is changed then.
        """
        together = max(1, self._running.engine.backend.adapter_slots.together)
        for name, mixture in compositions.items():
            where = f"compositions.{name}"
            if name in self._models:
                raise SettingsError("a model has this name", where=where, hint="give the composition another name")
            missing = [own for own, _ in mixture if own not in self._models]
            fetched = self._hub is not None and all(map(self._hub.allows, missing))
            if missing and self._folder is None and not fetched:
                hint = "name the adapter with --adapter"
                raise SettingsError(f"there is no adapter {missing[0]!r}", where=where, hint=hint)
            if len(mixture) > together:
                what = f"names {len(mixture)} adapters (limit of this server for one text: {together})"
                raise SettingsError(what, where=where, hint="merge some of them beforehand with `tailora merge`")
            if not missing:
                try:
                    self._mixed(name, mixture)
                except SettingsError as error:
                    raise SettingsError(error.what, where=where, hint=error.hint) from error
        self._compositions = dict(compositions)

    def _composed(self, name: str) -> ServedModel:
        mixture = self._compositions[name]
        for own, _ in mixture:
            if own not in self._models:
                what = f"the composition {name!r} needs the adapter {own!r}, which is not loaded"
                raise AdapterError(what, hint="load it, or name another model")
        return self._mixed(name, mixture)

    def _mixed(self, name: str, mixture: Mixture) -> ServedModel:
        return mixed(name, [(self._models[own], weight) for own, weight in mixture])

    @contextmanager
    def use(self, model: ServedModel) -> Iterator[None]:
        """Keep a version in the engine within this context; of a mixture, those of its adapters."""
        used = [model, *(part for part, _ in model.parts)]
        for version in used:
            version.users += 1
        try:
            yield
        finally:
            for version in used:
                version.users -= 1
                self._remove_unused(version)

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
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise SettingsError("is not a valid name", where="lora_name", hint="use up to 200 printable characters")
        async with self._changing:
            old = self._models.get(name)
            if name in self._compositions:
                hint = "choose another name"
                raise SettingsError(f"a composition {name!r} already exists", where="lora_name", hint=hint)
            if old is self.base or (old is not None and not replace):
                hint = "choose another name" if old is self.base else "unload it first, or set load_inplace"
                raise SettingsError(f"a model {name!r} already exists", where="lora_name", hint=hint)
            return await self._install(name, await in_daemon_thread(lambda: self._read(path)))

    async def fetch(self, name: str) -> None:
        """Load an adapter of the hub, or those of a composition, that are not loaded; do nothing for any other name.

        Requests that name it at the same time share one download, which goes on if they end.

        Raises:
            ModelError: the hub has no such adapter.
            AdapterError: it cannot be used with the base.
            OfflineError: the hub cannot be reached.
        """
        for own, _ in self._compositions.get(name, ((name, 1.0),)):
            await self._fetch_once(own)

    async def _fetch_once(self, name: str) -> None:
        if name in self._fetched and name in self._models:
            self._fetched[name] = self._fetched.pop(name)
        if self._hub is None or name in self._models or not self._hub.allows(name):
            return
        if name not in self._fetching:
            task = self._fetching[name] = asyncio.create_task(self._fetch(name, self._hub))
            task.add_done_callback(lambda _: self._fetching.pop(name))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it
        await asyncio.shield(self._fetching[name])

    async def _fetch(self, name: str, hub: HubAdapters) -> None:
        base = self._setup.base.name
        fingerprint, force = self._setup.fingerprint, self._setup.force
        adapter = await in_daemon_thread(lambda: hub.read(name, fingerprint=fingerprint, base_name=base, force=force))
        async with self._changing:
            await self._install(name, with_fitting_drafts(adapter, self._setup.tokenizer, name))
            self._fetched.pop(name, None)
            self._fetched[name] = None
            for oldest in list(self._fetched)[: -hub.loaded]:
                del self._fetched[oldest]
                if oldest in self._models:
                    self._retire(self._models.pop(oldest))

    async def _install(self, name: str, adapter: Adapter) -> ServedModel:
        """Register an adapter in the engine under a name, in place of an earlier version."""
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
        old = self._models.get(name)
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
        for file in (*FILES, TAILORA_FILE, draft_file.FILE):  # each may itself be a link out of the folder
            if (place / file).exists() or file in FILES:
                _inside(self._folder, str(place / file), shown=path)
        adapter = formats.load(place)
        base = self._setup.base.name
        require_base(adapter, fingerprint=self._setup.fingerprint, base_name=base, place=path, force=self._setup.force)
        return with_fitting_drafts(adapter, self._setup.tokenizer, path)

    def _retire(self, model: ServedModel) -> None:
        model.retired = True
        self._remove_unused(model)

    def _remove_unused(self, model: ServedModel) -> None:
        if model.retired and not model.users:
            name = model.engine_name
            assert name is not None
            self._worker.post(lambda engine: engine.backend.adapter_slots.unregister(name))


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
