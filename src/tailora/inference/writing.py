"""The settings of a job that writes texts, and the engine that such a job starts, in its own process or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import Field, model_validator

from tailora.core.errors import SettingsError, UserError
from tailora.core.settings import Settings, Unset
from tailora.engine.decoding import Decoding
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.model_settings import ModelSettings
from tailora.inference.rerank import ROUND
from tailora.inference.running import EngineTraits, Running
from tailora.inference.setup import Setup
from tailora.inference.start import start_engine
from tailora.inference.texts import Generation, Prompt, generate

CACHE_TOKENS = 16384


class ClusterSettings(Settings):
    """Engines on a Ray cluster instead of one in the process of the command."""

    heading = "computation"
    headings: ClassVar = dict.fromkeys(("ray", "ray_actors", "ray_cpus", "ray_address"), "cluster")
    ray: bool = False
    """Write the texts with Ray Data: several engines, on this machine or on a cluster."""
    ray_actors: Annotated[int | None, Unset("one for each machine")] = Field(None, ge=1)
    """Number of Ray actors. Each has its own engine."""
    ray_cpus: Annotated[int | None, Unset("the CPUs of a machine, divided by its actors")] = Field(None, ge=1)
    """Number of CPUs that Ray reserves for an actor, and of the threads of its engine."""
    ray_address: Annotated[str | None, Unset("RAY_ADDRESS; without it, Ray starts on this machine")] = None
    """Address of the Ray cluster to join, as HOST:PORT. auto joins the cluster that this machine belongs to."""

    @model_validator(mode="after")
    def _only_with_ray(self) -> Self:
        for name in ("ray_actors", "ray_cpus", "ray_address"):
            if not self.ray and getattr(self, name) is not None:
                raise SettingsError("has no effect without --ray", where=name, hint="add --ray or leave it out")
        return self


class WritingSettings(ClusterSettings, DecodingSettings, ModelSettings):
    """The model that writes texts, the decoding, and where the engines run."""


class DraftCounts(NamedTuple):
    """Number of drafted tokens, and of those that the texts contain."""

    drafted: int
    accepted: int


class TextEngine(Protocol):
    """Writes texts after prompts, by one engine or several."""

    @property
    def traits(self) -> EngineTraits:
        """The traits of the engine, or of each of them."""
        ...

    @property
    def drafts(self) -> DraftCounts | None:
        """Counts of the drafted tokens so far; None if they are not known."""
        ...

    def write(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        done: Callable[[int, Generation], None],
        *,
        progress: Callable[[int, int], None] | None = None,
        stream: Callable[[int, str], None] | None = None,
    ) -> dict[int, UserError]:
        """Write a text after each prompt; see `inference.texts.generate`.

        Returns:
            The errors of single prompts, by the number of the prompt; all other texts are written.
        """
        ...

    def close(self) -> None:
        """Release what the engines hold."""
        ...


class LocalEngine:
    """One engine in this process; see `TextEngine`. An error ends the job.

    Args:
        setup: the base and its adapters.
        settings: of the job.
        longest: number of tokens of the longest prompt.
    """

    def __init__(self, setup: Setup, settings: WritingSettings, longest: int) -> None:
        self._settings = settings
        self._running = start_writing_engine(setup, settings, longest)

    @property
    def traits(self) -> EngineTraits:
        """See `TextEngine`."""
        return self._running.traits

    @property
    def drafts(self) -> DraftCounts:
        """See `TextEngine`."""
        load = self._running.engine.load
        return DraftCounts(load.drafted, load.accepted)

    def write(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        done: Callable[[int, Generation], None],
        *,
        progress: Callable[[int, int], None] | None = None,
        stream: Callable[[int, str], None] | None = None,
    ) -> dict[int, UserError]:
        """See `TextEngine`."""
        ways: dict[str, Any] = {"stop": self._settings.stop, "done": done, "progress": progress, "stream": stream}
        generate(self._running, prompts, decoding, **ways)
        return {}

    def close(self) -> None:
        """See `TextEngine`."""


def start_writing_engine(
    setup: Setup, settings: WritingSettings, longest: int, *, threads: int | None = None
) -> Running:
    """Start an engine of the size that a job needs.

    Args:
        setup: the base and its adapters.
        settings: of the job.
        longest: number of tokens of the longest prompt.
        threads: number of CPU threads; by default that of the machine's cores.

    Raises:
        UserError: see `inference.start.start_engine`.
    """
    decoding = settings.decoding()
    width = max(decoding.num_beams, decoding.num_candidates, ROUND if settings.faithful else 1)
    return start_engine(
        setup,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        merged=settings.merged,
        sequences=width * settings.batch_size,
        cache_tokens=max(CACHE_TOKENS, width * (longest + decoding.max_new_tokens + 64)),
        threads=threads,
        drafts=settings.drafts,
    )
