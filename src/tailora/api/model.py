"""`tailora.load`: a base model and its adapters in memory, for any number of texts and threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias, Unpack, overload

from tailora.adapters import formats
from tailora.adapters.adapter import changes_nothing, require_base
from tailora.api.inputs import Place, Row, Source, is_one_row, read_data
from tailora.core.console import message_console
from tailora.core.errors import AdapterError, DataError, SettingsError, UserError
from tailora.data.mixtures import Mixture, MixtureError, mixture_text, read_mixture
from tailora.data.text_stream import TextStream
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.engine.decoding import Decoding
from tailora.engine.worker import Stream, Worker
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.model_settings import ModelSettings
from tailora.inference.progress import WritingProgress
from tailora.inference.record_prompts import check_prompts, prompts_of_records
from tailora.inference.rerank import Chosen, Judge, write_chosen
from tailora.inference.running import Running
from tailora.inference.setup import Setup, resolve_models
from tailora.inference.start import AdapterCapacity, start_engine
from tailora.inference.texts import Candidate, Generation, Prompt, generation_of

if TYPE_CHECKING:
    from tailora.api.options import DecodingOptions, EngineOptions

Weights = Mapping[str, float]
"""Names of adapters and the factors of their effects."""
Which: TypeAlias = str | Weights | None
"""The name of an adapter, or several with weights; None for the one that a record names, else the only one."""
BASE: Final = ""
"""The name of the base model without an adapter."""
ONLY: Final = "adapter"
"""The name of an adapter that the caller did not name."""


class Text(str):
    """A generated text: a string with details of its generation.

    Attributes:
        token_ids: the tokens, with the end-of-text token if the model wrote it.
        logprob: sum of the tokens' log-probabilities under the model, in nats.
        logprobs: of each token.
        finish_reason: "stop", or "length" where the text was cut at `max_new_tokens`.
        adapter: the name of the adapter that wrote it, several as "0.7 e2e + 0.3 formal"; None for the base model.
        candidates: all texts for the record, the best first; empty where there is one.
        slot_errors: its slot errors in words, if it was written with `faithful`; else empty.
    """

    token_ids: tuple[int, ...]
    logprob: float
    logprobs: tuple[float, ...]
    finish_reason: str
    adapter: str | None
    candidates: tuple[Text, ...]
    slot_errors: tuple[str, ...]

    @classmethod
    def of(cls, candidate: Candidate, adapter: str | None, candidates: tuple[Text, ...] = ()) -> Text:
        """The text of what an engine wrote."""
        text = cls(candidate.text)
        text.token_ids, text.logprobs = candidate.token_ids, candidate.logprobs
        text.logprob, text.finish_reason = candidate.logprob, candidate.finish_reason
        text.adapter, text.candidates, text.slot_errors = adapter, candidates, ()
        return text

    @classmethod
    def chosen(cls, chosen: Chosen, adapter: str | None) -> Text:
        """The text that was chosen among the candidates of a record."""
        several = chosen.generation.candidates if len(chosen.generation.candidates) > 1 else ()
        text = cls.of(chosen.generation, adapter, tuple(cls.of(candidate, adapter) for candidate in several))
        text.slot_errors = chosen.slot_errors or ()
        return text


def load(
    base: Place | None = None,
    adapters: Mapping[str, Place] | Place | None = None,
    *,
    extra_adapters: int = 0,
    max_rank: int = 16,
    cache_tokens: int = 16384,
    **settings: Unpack[EngineOptions],
) -> Model:
    """Load a base model with any number of adapters.

    Args:
        base: a name (see `tailora models`), a folder or a hub id; by default the one that the adapters name.
        adapters: name to adapter (its folder or file, a run directory, a `TrainingRun`); a single one needs no name.
        extra_adapters: how many adapters that `Model.add_adapter` adds later are computed side by side.
        max_rank: the largest rank of those.
        cache_tokens: tokens whose keys and values fit into the cache, of all texts in work together.
        settings: precision, backend, device, merged, …, as of `tailora generate`.

    Returns:
        The model. Close it, or use it in a `with` statement, to free its memory.

    Raises:
        UserError: base or adapters cannot be read, or do not fit each other.
    """
    named = {} if adapters is None else adapters if isinstance(adapters, Mapping) else {ONLY: adapters}
    for name in named:
        if not name or not name.isprintable():
            raise SettingsError("is not a name for an adapter", where=f"adapters[{name!r}]", hint="use a short text")
    places = {name: Path(place) for name, place in named.items()}
    chosen = ModelSettings.from_values(
        {**settings, "base": base, "adapter": [f"{name}={place}" for name, place in places.items()]}
    )
    chosen.check_model()
    setup = resolve_models(chosen.base, places, force=chosen.force)
    running = start_engine(
        setup,
        backend=chosen.backend,
        precision=chosen.precision,
        device=chosen.device,
        merged=chosen.merged,
        sequences=chosen.batch_size,
        cache_tokens=cache_tokens,
        drafts=chosen.drafts,
        capacity=AdapterCapacity(len(places) + extra_adapters, max_rank) if extra_adapters else None,
    )
    return Model(setup, running, chosen)


class Model:
    """A base model and its adapters, ready to write. Every method may be called from any thread, at any time.

    Texts that several threads ask for are written side by side.
    """

    def __init__(self, setup: Setup, running: Running, settings: ModelSettings) -> None:
        self._setup, self._running, self._settings = setup, running, settings
        self._worker = Worker(running.engine)

    @property
    def base(self) -> str:
        """The base model's name or path."""
        return self._setup.base.name

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters."""
        return tuple(self._setup.adapters)

    @property
    def backend(self) -> str:
        """The engine's backend: "openvino" or "torch"."""
        return self._running.backend

    @property
    def precision(self) -> str:
        """The precision of the matrix products: "int8", "bf16" or "fp32"."""
        return self._running.precision

    @overload
    def generate(  # type: ignore[overload-overlap]  # a Source may be of any type
        self,
        records: Row,
        *,
        adapter: Which = None,
        progress: bool = True,
        **decoding: Unpack[DecodingOptions],
    ) -> Text: ...

    @overload
    def generate(
        self,
        records: Source,
        *,
        adapter: Which = None,
        progress: bool = True,
        **decoding: Unpack[DecodingOptions],
    ) -> list[Text]: ...

    def generate(
        self,
        records: Source,
        *,
        adapter: Which = None,
        progress: bool = True,
        **decoding: Unpack[DecodingOptions],
    ) -> Text | list[Text]:
        """Write a text for each record.

        Args:
            records: one record or several: dictionaries of attribute to value, `Record`s, rows of a data frame, a data
                frame, a file, or the name of a data set.
            adapter: the name of the adapter; `tailora.BASE` for the base model alone. By default the one that a record
                names, else the only adapter, else the base. A mapping like {"e2e": 0.7, "formal": 0.3} adds the effects
                of several adapters with these weights; they must have been trained on the same prompts.
            progress: whether a progress bar is shown for more than one record.
            decoding: beams, max_new_tokens, temperature, seed, …, with the defaults of `tailora generate`.

        Returns:
            One text for each row, in the order of the rows; for a single record, its text.

        Raises:
            UserError: a record cannot be read, or no text can be written after it.
        """
        settings = DecodingSettings.from_values(dict(decoding))
        rows = self._rows(records, adapter)
        prompts = self._prompts(rows)
        texts: dict[int, Text] = {}

        def done(number: int, chosen: Chosen) -> None:
            texts[number] = Text.chosen(chosen, _name_of(prompts[number]))

        different = len(dict.fromkeys(prompts))
        with WritingProgress(message_console(quiet=not progress or len(rows) == 1), different, 0) as report:
            judge = Judge(settings, rows, self._setup.known_values)
            write_chosen(rows, prompts, judge, partial(self._write, settings, report), done)
        return texts[0] if is_one_row(records) else [texts[number] for number in range(len(rows))]

    def stream(self, record: Row, *, adapter: Which = None, **decoding: Unpack[DecodingOptions]) -> Iterator[str]:
        """Write a text for one record, piece by piece.

        The text is cancelled when the iterator is closed or garbage-collected.

        Args:
            record: see `generate`.
            adapter: see `generate`.
            decoding: see `generate`; of beams and several candidates the best text comes in one piece.

        Returns:
            An iterator over the pieces, whose concatenation is the text.

        Raises:
            UserError: see `generate`; before the first piece is asked for.
        """
        settings = DecodingSettings.from_values(dict(decoding))
        for name in ("rerank", "faithful"):
            if getattr(settings, name):
                raise SettingsError("a stream has one candidate", where=name, hint="use generate()")
        stream = self._begin(self._one_prompt(record, adapter), settings.decoding(), settings.stop)
        return self._pieces(stream, settings.stop)

    def prompt_ids(self, record: Row, *, adapter: Which = None) -> list[int]:
        """Return the token ids of the prompt that `generate` uses for a record.

        Args:
            record: see `generate`.
            adapter: see `generate`.

        Raises:
            UserError: the record cannot be read.
        """
        return list(self._one_prompt(record, adapter).tokens)

    def add_adapter(self, name: str, adapter: Place) -> None:
        """Add an adapter while the model is in use.

        Its rank in a layer may be up to the largest of the adapters given to `tailora.load`; with `extra_adapters` also
        up to `max_rank`, if that is larger.

        Args:
            name: what to call it.
            adapter: its folder or file, a run directory, or a `TrainingRun`.

        Raises:
            SettingsError: the name is taken.
            AdapterError: the adapter cannot be read, does not fit the base, or there is no place for it.
        """
        if name in self._setup.adapters:
            raise SettingsError(f"an adapter {name!r} already exists", where="name", hint="remove it first")
        self._require_slots()
        place = Path(adapter)
        loaded = formats.load(formats.adapter_place(place))
        if changes_nothing(loaded):
            what = "the adapter changes nothing: all its updates are zero"
            raise AdapterError(what, where=place, hint="train it again")
        setup = self._setup
        require_base(
            loaded, fingerprint=setup.fingerprint, base_name=setup.base.name, place=str(place), force=setup.force
        )
        end = setup.prompts_of(loaded.meta, adapted=True).end
        if end not in setup.ends:
            what = f"ends its texts with the token {end}, which ends no text of the loaded models"
            raise AdapterError(what, where=place, hint="name the adapter when the model is loaded")
        self._worker.call(lambda engine: engine.backend.adapter_slots.register(name, loaded, force=setup.force))
        self._setup = replace(setup, adapters={**setup.adapters, name: loaded})

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter that no text in progress uses.

        Raises:
            SettingsError: there is no adapter of this name.
            AdapterError: a text in progress uses the adapter, or the network contains it.
        """
        if name not in self._setup.adapters:
            known = ", ".join(self._setup.adapters) or "none"
            raise SettingsError(f"there is no adapter {name!r}", where="name", hint=f"choose one of: {known}")
        self._require_slots()
        self._worker.call(lambda engine: engine.backend.adapter_slots.unregister(name))
        self._setup = replace(
            self._setup, adapters={own: value for own, value in self._setup.adapters.items() if own != name}
        )

    def close(self) -> None:
        """Stop writing and free the memory; texts in progress end with an error. Closing twice is allowed."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("a loaded model cannot be pickled; load it in each process")

    def __repr__(self) -> str:
        names = ", ".join(self._setup.adapters) or "none"
        return f"Model({self.base}; adapters: {names}; {self.precision} on {self.backend})"

    def _require_slots(self) -> None:
        """Raise `AdapterError` if the network contains its only adapter, so that none can be added or removed."""
        if self._running.built_in:
            (name,) = self._setup.adapters
            why = "merged, DoRA, with biases or of another method than LoRA"
            what = f"the adapter is part of the network ({why}), so the adapters cannot change"
            raise AdapterError(what, where=name, hint="load another model with tailora.load()")

    def _rows(self, records: Source, adapter: Which) -> list[Record]:
        """One record for each row, with the adapter or the adapters that the caller asks for."""
        setup = self._setup
        asked = self._checked(adapter)
        first = asked[0][0] if isinstance(asked, tuple) else asked
        known_adapter = first is not None and first in setup.adapters
        trained = TrainedReading.of_meta(setup.training_metadata(first)) if known_adapter else setup.reading
        rows = list(read_data(records, texts="unused", trained=trained if first != BASE else None).rows)
        return rows if asked is None else [replace(row, adapter=asked) for row in rows]

    def _checked(self, adapter: Which) -> str | Mixture | None:
        """Return the adapter or the adapters that a caller names; `SettingsError` if one of them does not exist."""
        if adapter is not None and not isinstance(adapter, str | Mapping):
            what = f"is of type {type(adapter).__name__}"
            raise SettingsError(what, where="adapter", hint='give a name, or names with weights like {"e2e": 0.7}')
        if isinstance(adapter, Mapping) and BASE in adapter:
            what = "names the base"
            raise SettingsError(what, where="adapter", hint='give adapters and their weights, like {"e2e": 0.7}')
        try:
            asked = read_mixture(adapter) if isinstance(adapter, Mapping) else adapter
        except MixtureError as error:
            raise SettingsError(str(error), where="adapter", hint=error.hint) from error
        for name in [name for name, _ in asked] if isinstance(asked, tuple) else [asked]:
            if name is not None and name != BASE and name not in self._setup.adapters:
                known = ", ".join([*map(repr, self._setup.adapters), "tailora.BASE"])
                raise SettingsError(f"there is no adapter {name!r}", where="adapter", hint=f"choose one of: {known}")
        return asked

    def _one_prompt(self, record: Row, adapter: Which) -> Prompt:
        rows = self._rows(record, adapter)
        if len(rows) > 1:
            raise DataError(f"contains {len(rows)} records", where="record", hint="give one record for each call")
        return self._prompts(rows)[0]

    def _prompts(self, rows: Sequence[Record]) -> list[Prompt]:
        form, style = self._settings.prompt_form, self._settings.linearization
        prompts = prompts_of_records(rows, self._setup, form=form, style=style)
        check_prompts(rows, prompts, self._running.traits)
        return prompts

    def _begin(self, prompt: Prompt, decoding: Decoding, stop: Sequence[str]) -> Stream:
        if not self._worker.alive:
            raise SettingsError("the model is closed", hint="load it again")
        request = self._running.request(prompt.tokens, decoding, prompt.adapters, stop)
        return self._worker.submit(request)

    def _write(
        self,
        settings: DecodingSettings,
        report: Callable[[int, int], None],
        prompts: Sequence[Prompt],
        decoding: Decoding,
        done: Callable[[int, Generation], None],
    ) -> dict[int, UserError]:
        """Write texts after prompts; see `inference.rerank.Write`. An error of one of them is raised."""
        counted = decoding == settings.decoding()  # further candidates are of the same prompts
        streams: list[Stream] = []
        finished = 0
        try:
            for prompt in prompts:
                streams.append(self._begin(prompt, decoding, settings.stop))
            for place, stream in enumerate(streams):
                length = len(prompts[place].tokens)
                generation = generation_of(self._running.tokenizer, length, stream.result(), settings.stop)
                finished += 1
                done(place, generation)
                report(int(counted), generation.completion_tokens)
        finally:
            for stream in streams[finished:]:
                with contextlib.suppress(RuntimeError):  # the worker is closed
                    stream.cancel()
        return {}

    def _pieces(self, stream: Stream, stop: Sequence[str]) -> Iterator[str]:
        text = TextStream(self._running.tokenizer, stop)
        try:
            for event in stream:
                fresh = event.result[0].token_ids if event.result is not None and not event.tokens else event.tokens
                piece = text.add(fresh) + (text.end() if event.result is not None else "")
                if piece:
                    yield piece
        finally:
            with contextlib.suppress(RuntimeError):  # the worker is closed
                stream.cancel()


def _name_of(prompt: Prompt) -> str | None:
    return mixture_text(prompt.mixture) or prompt.adapter
