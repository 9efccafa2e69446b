"""Texts by Ray Data: a pool of actors, each with its own engine, on one machine or on a cluster.

Needs the extra [ray], and is imported where it is chosen. The driver (the process of the command) reads the records,
builds the prompts and keeps the texts; an actor turns blocks of prompts into texts. The driver sends the adapters. The
base has to be on every machine, under the same name or path.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import platform
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayActorError

from tailora.core.errors import ModelError, SettingsError, UserError
from tailora.core.plural import plural
from tailora.engine.decoding import Decoding
from tailora.inference.running import EngineTraits, Running
from tailora.inference.setup import Setup, resolve_models
from tailora.inference.texts import Generation, Prompt, generate
from tailora.inference.writing import WritingSettings, start_writing_engine

log = logging.getLogger(__name__)
RESTARTS = 3
"""Number of times that each actor is started again after its process was lost, and that its block is tried again."""
STORE = 256 * 2**20
"""Bytes of the object store of a Ray that the job starts, beside what the adapters need."""
BLOCKS = 8
"""Number of blocks for each actor at which all finish at about the same time; blocks have one to four batches."""

KNOCK_SECONDS = 10
"""Seconds in which a cluster has to accept a connection."""


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What an actor needs to start its engine.

    Attributes:
        setup: the base and its adapters, as the driver sees them.
        settings: of the job; backend, precision and device are fixed by the first engine.
        longest: number of tokens of the longest prompt.
        threads: number of CPU threads.
    """

    setup: Setup
    settings: WritingSettings
    longest: int
    threads: int


class RayTexts:
    """Engines in Ray actors; see `inference.writing.TextEngine`.

    Args:
        setup: the base and its adapters.
        settings: of the job.
        longest: number of tokens of the longest prompt.

    Raises:
        SettingsError: the cluster cannot be joined, or an actor does not fit on this machine.
        UserError: an engine cannot start.
    """

    def __init__(self, setup: Setup, settings: WritingSettings, longest: int) -> None:
        self._stops = not ray.is_initialized()
        local = _join(settings.ray_address, setup) if self._stops else False
        try:
            self._actors, cpus = _shares(settings, local)
            settings = settings.model_copy(update={"device": _device(settings)})
            self._reserved = {"num_cpus": cpus, "num_gpus": int(settings.device == "cuda")}
            work = Work(setup, settings, longest, cpus)
            # One engine chooses backend and precision, so that all engines write the same texts.
            self._traits: EngineTraits = _get(ray.remote(**self._reserved)(_traits).remote(work))
            fixed = {"backend": self._traits.backend, "precision": self._traits.precision}
            self._work = dataclasses.replace(work, settings=settings.model_copy(update=fixed))
        except BaseException:
            self.close()
            raise

    @property
    def traits(self) -> EngineTraits:
        """The traits that all engines have."""
        return self._traits

    @property
    def drafts(self) -> None:
        """See `TextEngine`. The actors do not report them."""
        return None

    def write(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        done: Callable[[int, Generation], None],
        *,
        progress: Callable[[int, int], None] | None = None,
        stream: Callable[[int, str], None] | None = None,
    ) -> dict[int, UserError]:
        """See `TextEngine`. Texts are not streamed.

        Raises:
            ModelError: an actor's process was lost more than `RESTARTS` times.
        """
        errors: dict[int, UserError] = {}
        seen: set[int] = set()
        for place, result in self._results(prompts, decoding):
            if place in seen:  # the block of a lost actor, whose texts had arrived
                continue
            seen.add(place)
            if isinstance(result, UserError):
                errors[place] = result
            else:
                done(place, result)
            if progress is not None:
                progress(1, 0 if isinstance(result, UserError) else result.completion_tokens)
        return errors

    def close(self) -> None:
        """Leave the cluster, or end the Ray that the job started."""
        if self._stops:
            ray.shutdown()

    def _results(self, prompts: Sequence[Prompt], decoding: Decoding) -> Iterator[tuple[int, Generation | UserError]]:
        if not prompts:
            return
        batch, share = self._work.settings.batch_size, -(-len(prompts) // self._actors)
        size = max(min(batch, share), min(4 * batch, share // BLOCKS))
        items = [{"place": place, "prompt": pickle.dumps(prompt)} for place, prompt in enumerate(prompts)]
        try:
            for batch in self._dataset(items, decoding, size).iter_batches(
                batch_size=None, prefetch_batches=0, batch_format="numpy"
            ):
                for place, result in zip(batch["place"], batch["result"], strict=True):
                    yield int(place), pickle.loads(result)
        except Exception as error:
            raise _of_the_user(error) or error from None

    def _dataset(self, items: list[dict[str, Any]], decoding: Decoding, size: int) -> ray.data.Dataset:
        """Return the texts of prompts, which Ray Data writes in blocks of a size when they are read."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns of bars that are off
        with warnings.catch_warnings():
            # Until Ray 2.64, which the extra excludes: the restarts of actors have no other argument.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            return ray.data.from_items(items, override_num_blocks=-(-len(items) // size)).map_batches(
                _Engine,
                fn_constructor_args=(ray.put(self._work),),
                fn_kwargs={"decoding": decoding},
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=self._actors, max_tasks_in_flight_per_actor=2),
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
                **self._reserved,
            )


class _Engine:
    """An actor's engine, called with blocks of prompts."""

    def __init__(self, work: Any) -> None:
        self._work: Work = ray.get(work)
        self._running = _started(self._work)

    def __call__(self, batch: dict[str, Any], decoding: Decoding) -> dict[str, Any]:
        prompts: list[Prompt] = [pickle.loads(prompt) for prompt in batch["prompt"]]
        results: dict[int, Generation | UserError] = {}
        try:
            self._write(prompts, decoding, range(len(prompts)), results)
        except UserError:
            for place in range(len(prompts)):  # alone, so that an error concerns no other text
                if place not in results:
                    try:
                        self._write(prompts, decoding, [place], results)
                    except UserError as error:
                        results[place] = error
        column = np.empty(len(prompts), dtype=object)
        column[:] = [pickle.dumps(results[place]) for place in range(len(prompts))]
        return {"place": batch["place"], "result": column}

    def _write(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        places: Sequence[int],
        results: dict[int, Generation | UserError],
    ) -> None:
        def done(number: int, generation: Generation) -> None:
            results[places[number]] = generation

        chosen = [prompts[place] for place in places]
        generate(self._running, chosen, decoding, stop=self._work.settings.stop, done=done)


def _traits(work: Work) -> EngineTraits:
    return _started(work).traits


def _started(work: Work) -> Running:
    """Start an engine on the machine of an actor, after checking that its base is the driver's."""
    setup = resolve_models(work.setup.base.name, {}, force=work.setup.force)
    if setup.fingerprint != work.setup.fingerprint:
        raise ModelError(
            f"the machine {platform.node()} has other weights than the one that runs the command",
            where=setup.base.name,
            hint="put the same base on every machine",
        )
    setup = dataclasses.replace(setup, adapters=work.setup.adapters)
    return start_writing_engine(setup, work.settings, work.longest, threads=work.threads)


def _join(address: str | None, setup: Setup) -> bool:
    """Join a cluster, or start Ray on this machine, and return whether it was started."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    options: dict[str, Any] = {}
    if local:
        factors = [branch for a in setup.lora.values() for layer in a.layers.values() for branch in layer.branches]
        needed = STORE + 2 * sum(branch.a.nbytes + branch.b.nbytes for branch in factors)
        options = {"object_store_memory": needed, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray's own are plain ones, for example if its processes take too long to start
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if local:
            hint = "run the command again when the machine has less to do, or leave out --ray"
            raise SettingsError(f"Ray cannot be started ({reason})", where="--ray", hint=hint) from error
        hint = "start Ray there with `ray start --head`, or leave out --ray-address"
        raise SettingsError(f"cannot be joined ({reason})", where="--ray-address", hint=hint) from error
    return local


def _knock(address: str) -> None:
    """Raise `OSError` if nothing listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and "//" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _shares(settings: WritingSettings, local: bool) -> tuple[int, int]:
    """Return the number of actors and the CPUs of each."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    machines = [cpus for cpus in machines if cpus] or [1]
    actors, cpus = settings.ray_actors, settings.ray_cpus
    if actors is None:
        actors = len(machines) if cpus is None else max(1, sum(count // cpus for count in machines))
    if cpus is None:
        cpus = max(1, min(machines) // -(-actors // len(machines)))
    room = sum(count // cpus for count in machines)
    if room < actors:
        what = f"{plural(actors, 'actor')} of {plural(cpus, 'CPU')} need more than the cluster's {sum(machines)}"
        if local or room == 0:
            raise SettingsError(what, where="--ray-actors", hint="lower --ray-actors or --ray-cpus")
        log.warning("%s; %d start now, the others when the cluster grows", what, room)
    return actors, cpus


def _device(settings: WritingSettings) -> str:
    """Return the device of every engine: Ray shows a GPU only to actors that reserve one."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if settings.backend != "openvino" and ray.cluster_resources().get("GPU", 0) else "cpu"


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:
        raise _of_the_user(error) or error from None


def _of_the_user(error: BaseException | None) -> UserError | None:
    """Return what the user can fix among the causes of an error of Ray: an error of an engine, or a lost process."""
    while error is not None:
        if isinstance(error, UserError):
            cause = getattr(error, "cause", error)  # Ray's own class of the two has the actor's traceback as its text
            return cause if isinstance(cause, UserError) else error
        if isinstance(error, RayActorError):
            what = f"an actor was lost {RESTARTS + 1} times"
            hint = "its machine may lack memory: lower --ray-actors or --batch-size and run the command again"
            return ModelError(what, hint=hint)
        error = getattr(error, "cause", None) or error.__cause__
    return None
