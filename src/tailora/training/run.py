"""A training run, from its settings to its run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from tailora.adapters import formats
from tailora.adapters.draft_table import DraftTable
from tailora.adapters.ngram_counts import draft_table
from tailora.core.console import message_console
from tailora.core.errors import SettingsError, TrainingError
from tailora.core.files import write_json
from tailora.core.hardware.devices import limit_threads, peak_gpu_memory
from tailora.core.hardware.machine import describe
from tailora.core.hardware.memory import peak_rss
from tailora.data.examples import Example
from tailora.lora.inject import attach
from tailora.models.blocks import blocks_of
from tailora.models.load import load_base
from tailora.reports.plots import loss_plot
from tailora.training.distributed import LostProcessError, Processes, joined, own_device
from tailora.training.int8 import Int8Head
from tailora.training.interrupts import Interrupts
from tailora.training.loop import Observer, Outcome, fit
from tailora.training.methods import learning_parameters, prepare, save_result
from tailora.training.planning import RunPlan
from tailora.training.precision import Arithmetic, apply, available, device_for, loading_dtype
from tailora.training.precision_choice import PrecisionChoice
from tailora.training.resume import Job, LoadedState, ResumeFolder, check_same
from tailora.training.run_folder import RunFolder, has_trained, remove_results, run_folder, writing_to
from tailora.training.run_report import (
    RunObserver,
    SilentObserver,
    Watch,
    print_continuation,
    print_plan,
    print_restart,
    print_result,
    print_warning,
)
from tailora.training.settings import FROZEN_BASE, TrainSettings
from tailora.training.sharded import is_sharded, shard, whole_on_first
from tailora.training.shared_passes import mean_loss
from tailora.training.shared_state import check_processes, load_state
from tailora.training.state_file import RunState
from tailora.training.trackers.feed import Trackers, check_installed
from tailora.training.trackers.tracker import TrackedRun
from tailora.training.trees.check import ROUNDED, check_trees
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.prefix_tree import build
from tailora.training.vocabulary import keep_used_rows


class TrainingInterrupted(KeyboardInterrupt):
    """A run that Ctrl-C or SIGTERM stopped; its result so far is saved.

    Attributes:
        folder: its run directory, complete up to the last update.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"training was interrupted; its result so far is in {folder}")
        self.folder = folder

    def __reduce__(self) -> tuple[type[TrainingInterrupted], tuple[Path]]:
        return TrainingInterrupted, (self.folder,)


def run(settings: TrainSettings, watch: Watch | None = None) -> dict[str, Any]:
    """Train, and write the run directory: adapter/ (or the method's result), run.json, metrics.jsonl, loss.svg.

    Args:
        settings: the settings of the run.
        watch: called after each validation. An exception that it raises ends the run at once: run.json, metrics.jsonl
            and the best state so far stay, if it is better than the start.

    Returns:
        The content of run.json, and the path of the run directory as `run`.

    Raises:
        UserError: data, model or settings cannot be trained on.
        TrainingError: the loss is not finite, or the run directory cannot be written. The message says what is saved:
            the best state so far, if it is better than the start.
        LostProcessError: another process of the run has ended or does not answer; the saved state stays.
        TrainingInterrupted: on Ctrl-C or SIGTERM after the first update; the run directory is completed first.
        KeyboardInterrupt: on Ctrl-C or SIGTERM before the first update.
    """
    device = own_device(device_for(settings))
    limit_threads()
    check_installed(settings.track)
    with Interrupts() as interrupts, joined(device) as processes, run_folder(settings, processes) as place:
        console = message_console(quiet=not processes.is_first)
        folder = place.path
        training = _Training(settings, place, processes, device, console)
        result, outcome, saved = training.fit(watch, interrupts)
        valid, precision = training.valid, training.arithmetic.precision
        del training  # free the network before the saved adapter is measured
        if precision == "int8" and outcome.final_loss is not None and not outcome.interrupted:
            result["validation_loss"]["exact"] = _exact_loss(settings, saved, valid, processes)
        peaks = [peak for peak in processes.from_all(peak_rss()) if peak is not None]
        result |= {"processes": processes.size, "peak_memory_bytes": max(peaks, default=None)}
        result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if place.resume is not None:
            with writing_to(folder):
                write_json(folder / "run.json", result)
            if outcome.failed is not None or not outcome.interrupted:
                constant = settings.schedule == "constant" and outcome.failed is None
                place.resume.finished(outcome.steps if constant else None)
        print_result(console, folder, outcome, result["validation_loss"].get("exact"))
        result = processes.from_first(lambda: result)  # torchrun ends all processes when one has ended with an error
        if outcome.failed is not None:
            state = f"the state after update {outcome.best_step} is saved in {saved}"
            raise TrainingError(f"{outcome.failed.what}; {state}", hint=outcome.failed.hint) from outcome.failed
        if outcome.interrupted:
            raise TrainingInterrupted(folder)
    return result | {"run": str(folder)}


class _Training:
    """A run that is ready for its first update: data read, network prepared, precision chosen.

    Attributes:
        valid: the validation examples; may be empty.
        arithmetic: how the network computes.
        has_best: whether a validation found a state better than the start, which is saved.
        best_seconds: time spent on saving such states.
    """

    def __init__(
        self, settings: TrainSettings, place: RunFolder, processes: Processes, device: str, console: Console
    ) -> None:
        self.settings, self.folder, self.console, self.resume = settings, place.path, console, place.resume
        self.processes = processes
        self.tracking: dict[str, Any] = {}
        self.best_seconds = 0.0
        planned = RunPlan(settings, device, console, processes)
        self.prompts, self.train, self.valid = planned.prompts, planned.train, planned.valid
        planned.require_fit()
        loaded = load_state(self.resume, self.processes)
        choice = processes.from_first(planned.choice) if loaded is None else PrecisionChoice(**loaded.job.choice)
        if choice.precision == "int8" and "int8" not in available(settings.method, device):  # it continues elsewhere
            what = "the run computes in int8, which needs a CPU with AVX2 instructions"
            hint = "continue it with --device cpu on such a machine, or train in another directory with --output"
            raise SettingsError(what, where=place.path, hint=hint)
        dtype = loading_dtype(settings, choice.precision)
        self.base = load_base(settings.base, dtype=dtype, device=device)
        prepare(self.base, settings)
        self.base.model.to(device)
        if dtype == torch.float32:  # `_apply` compares trees with sequences in narrower types
            check_trees(self.base.model, [*self.train, *self.valid])
        self.plan = planned.summary | {"base_fingerprint": self.base.fingerprint}
        self._continue(planned, choice, loaded)
        self.arithmetic = self._apply(choice.precision, planned.tokens)
        self.plan |= planned.announcement(choice)
        print_plan(console, self.plan, choice)

    def _continue(self, planned: RunPlan, choice: PrecisionChoice, loaded: LoadedState | None) -> None:
        """Check that all processes work on the same run, and that it is the one that a loaded state belongs to.

        Raises:
            SettingsError: the run has other settings or data, or the processes differ in them.
        """
        settings = self.settings
        self.job = Job(
            settings=settings.model_dump(mode="json"),
            data=planned.data,
            base=self.base.fingerprint,
            steps=planned.steps,
            threads=torch.get_num_threads(),
        )
        check_processes(self.job, self.processes)
        self.job = dataclasses.replace(self.job, choice=dataclasses.asdict(choice))
        self.state = None if loaded is None else loaded.state
        self.has_best = self.state is not None and self.state.progress["best_step"] > 0
        if loaded is not None:
            check_same(loaded.job, self.job, self.folder)
            print_continuation(self.console, self.folder, loaded, self.job)
        elif self.resume is not None and has_trained(self.folder):
            print_restart(self.console, self.folder)

    def _apply(self, precision: str, tokens: Sequence[int]) -> Arithmetic:
        model, settings = self.base.model, self.settings
        arithmetic = apply(model, precision, settings, build(self.train[: settings.batch_size]))
        if precision in ("bf16", "int8"):
            texts, autocast, head = [*self.train, *self.valid], arithmetic.autocast, arithmetic.head
            check_trees(model, texts, autocast=autocast, head=head, bound=ROUNDED)
        if isinstance(arithmetic.head, Int8Head):
            keep_used_rows(model, arithmetic.head, tokens)
        if self.processes.size > 1 and settings.method == "full":
            shard(model, blocks_of(model))
        return arithmetic

    def fit(self, watch: Watch | None, interrupts: Interrupts) -> tuple[dict[str, Any], Outcome, Path]:
        """Train and save; return the content of run.json, the outcome, and the path of the result."""
        fit_here = self._lead if self.resume is not None else self._follow
        outcome, saved = fit_here(watch, interrupts)
        saved = self.processes.from_first(lambda: saved)
        result = _result(self.settings, self.plan, outcome, saved) | {"tracking": self.tracking}
        result["saving_seconds"] += self.best_seconds
        return result, outcome, saved

    def _lead(self, watch: Watch | None, interrupts: Interrupts) -> tuple[Outcome, Path]:
        """Train in the process that writes the run directory."""
        settings, folder, state, resume = self.settings, self.folder, self.state, self.resume
        assert resume is not None, "the first process has the folder"
        with writing_to(folder):
            write_json(folder / "run.json", {"settings": settings.model_dump(mode="json"), "account": self.plan})
            with self._clearing(resume), self._trackers() as trackers:
                observed = folder, self.plan["steps"], self.console, self._save_best, watch, state, trackers.log
                with RunObserver(*observed) as observer:

                    def keep(state: RunState) -> None:
                        length, digest = observer.synchronise()
                        state = dataclasses.replace(state, metrics_bytes=length, metrics_digest=digest)
                        resume.save(self.job, state)
                        if state.step and state.progress["best_step"] == 0:  # no validation has chosen a state yet
                            with contextlib.suppress(TrainingError):  # nothing learnt yet: an error only at the end
                                self._write(None, state.learning)

                    outcome = self._updates(observer, keep, interrupts)
                saved = self._save_outcome(outcome)
                if outcome.failed is None:
                    trackers.status = "interrupted" if outcome.interrupted else "finished"
            loss_plot(folder / "metrics.jsonl", folder / "loss.svg")
        self.tracking = trackers.summary()
        return outcome, saved

    def _follow(self, _: Watch | None, interrupts: Interrupts) -> tuple[Outcome, Path]:
        """Train in a process that writes nothing."""
        outcome = self._updates(SilentObserver(self._save_best), lambda _: None, interrupts)
        return outcome, self._save_outcome(outcome)

    def _trackers(self) -> Trackers:
        run = TrackedRun(self.folder, self.settings.model_dump(mode="json"))
        return Trackers(
            self.settings.track, run, continues=self.state is not None, warn=partial(print_warning, self.console)
        )

    @contextlib.contextmanager
    def _clearing(self, resume: ResumeFolder) -> Iterator[None]:
        """After an error that would come again, remove the states, and what no validation found better than the start.

        A full disk or memory may have room the next time, and a lost process may be there; everything stays then.
        """
        try:
            yield
        except (OSError, MemoryError, RuntimeError, LostProcessError):  # PyTorch reports a full memory as RuntimeError
            raise
        except Exception:
            resume.finished()
            if not self.has_best:
                remove_results(self.folder)
            raise

    def _updates(self, observer: Observer, keep: Callable[[RunState], None], interrupts: Interrupts) -> Outcome:
        several = self.processes.size > 1  # they agree on when an interrupt ends the run
        with interrupts.recorded() if several else contextlib.nullcontext():
            return fit(
                self.base.model,
                self.train,
                self.valid,
                self.settings,
                observer,
                self.arithmetic,
                state=self.state,
                keep=keep,
                complete=contextlib.nullcontext if several else interrupts.deferred,
                processes=self.processes,
                is_stopping=interrupts.is_pending if several else lambda: False,
            )

    def _save_best(self, loss: float) -> None:
        began = time.perf_counter()
        self._save(loss)
        self.best_seconds += time.perf_counter() - began
        self.has_best = True

    def _save_outcome(self, outcome: Outcome) -> Path:
        start = outcome.initial_loss
        if start is not None and outcome.best_step == 0 and self.settings.method in FROZEN_BASE:
            raise TrainingError(
                f"no validation loss was below that before training ({start:.3f}), so the adapter is still all zero",
                hint="lower the learning rate, raise it if the loss hardly changed, or validate on other texts",
            )
        return self._save(outcome.final_loss)

    def _save(self, loss: float | None) -> Path:
        """Write the current state as the result, in the first process; the others contribute their parts."""
        values = None
        if is_sharded(self.base.model):
            values = whole_on_first(learning_parameters(self.base.model), is_first=self.processes.is_first)
        return self._write(loss, values) if self.processes.is_first else self.folder

    def _write(self, loss: float | None, values: Mapping[str, Tensor] | None) -> Path:
        ratio = self.settings.lora_plus_ratio
        meta = {
            **self.prompts.meta,
            **self.settings.reading_meta(),
            "data_fingerprint": self.plan["data_fingerprint"],
            **({} if ratio is None or self.settings.method != "lora" else {"lora_plus_ratio": ratio}),
            "scores": {"validation_loss": loss},
        }
        return save_result(self.base, self.settings, meta, self.folder, values, self._drafts)

    @cached_property
    def _drafts(self) -> DraftTable:
        """The n-grams of the training texts."""
        pairs = [(example.prompt, example.completion) for example in self.train]
        return draft_table(pairs, self.base.tokenizer.vocabulary_fingerprint)


def _result(settings: TrainSettings, plan: dict[str, Any], outcome: Outcome, saved: Path) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(mode="json"),
        "account": plan,
        "learning_rate": settings.peak_learning_rate,
        "steps": outcome.steps,
        "examples": outcome.examples,
        "seconds": outcome.seconds,
        "examples_per_second": outcome.examples / outcome.seconds if outcome.seconds else None,
        "validation_loss": {"before": outcome.initial_loss, "after": outcome.final_loss, "step": outcome.best_step},
        "averaged": outcome.averaged,
        "peak_gpu_memory_bytes": peak_gpu_memory(plan["device"]),
        "optimizer_bytes": outcome.optimizer_bytes,
        "saving_seconds": outcome.saving_seconds,
        "saved": saved.name,
        "interrupted": outcome.interrupted,
        "failed": None if outcome.failed is None else str(outcome.failed),
        "warnings": outcome.warnings,
        "hardware": describe(),
    }


def _exact_loss(settings: TrainSettings, saved: Path, valid: Sequence[Example], processes: Processes) -> float:
    """Return the validation loss of the saved adapter on the original weights of the base, instead of the int8 ones."""
    base, adapter = load_base(settings.base, dtype=torch.float32), processes.from_first(lambda: formats.load(saved))
    attach(base.model, adapter.config, adapter, model_type=base.model_type)
    with TreeModel(base.model) as trees:
        return mean_loss(trees, valid, settings, processes)
