"""Commands that work on files, as functions: flags are keyword arguments, and the result is the object of `--json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tailora.api.inputs import Place, Source, places_of
from tailora.commands import clean as clean_command
from tailora.commands import compare as compare_command
from tailora.commands import convert as convert_command
from tailora.commands import learning_curve as learning_curve_command
from tailora.commands import lint as lint_command
from tailora.commands import merge as merge_command
from tailora.commands import quantize as quantize_command
from tailora.commands import tune as tune_command
from tailora.commands import verify as verify_command

if TYPE_CHECKING:
    from tailora.api import options


def merge(adapter: Place | Sequence[Place], output: Place, **settings: Unpack[options.MergeOptions]) -> dict[str, Any]:
    """Merge an adapter into its base model and write a model folder that transformers loads.

    Args:
        adapter: the adapter, or several, which are added.
        output: the folder to write; it must not exist yet, or be empty.
        settings: weights, svd, base, …; see `tailora merge --help`.

    Returns:
        Where the model is, its fingerprint and sizes, as `tailora merge --json` prints them.

    Raises:
        UserError: an adapter or the base cannot be read, they do not fit, or the output exists.
        CheckError: the merged weights do not compute what base and adapter do; nothing is written.
    """
    places = [adapter] if isinstance(adapter, str | os.PathLike) else list(adapter)
    chosen = merge_command.MergeSettings.from_values({**settings, "adapter": places, "output": output})
    return merge_command.run(chosen)


def convert(adapter: Place, output: Place, **settings: Unpack[options.ConvertOptions]) -> dict[str, Any]:
    """Write an adapter in the form that PEFT, loralib, llama.cpp or OpenVINO GenAI reads.

    Args:
        adapter: the adapter.
        output: what to write.
        settings: to, base, …; see `tailora convert --help`.

    Returns:
        What was written, as `tailora convert --json` prints it.

    Raises:
        UserError: the adapter cannot be read, or the form cannot hold it.
    """
    chosen = convert_command.ConvertSettings.from_values({**settings, "adapter": adapter, "output": output})
    return convert_command.run(chosen)


def quantize(output: Place, **settings: Unpack[options.QuantizeOptions]) -> dict[str, Any]:
    """Write a model in 8 or 16 bits, with an adapter next to it or merged into it, and measure the loss of quality.

    Args:
        output: the folder to write.
        settings: base, adapter, bits, …; see `tailora quantize --help`.

    Returns:
        Sizes, perplexities and speed, as `tailora quantize --json` prints them.

    Raises:
        UserError: base or adapter cannot be read.
        CheckError: the perplexity rises by more than the tolerance.
    """
    return quantize_command.run(quantize_command.QuantizeSettings.from_values({**settings, "output": output}))


def verify(**settings: Unpack[options.VerifyOptions]) -> dict[str, Any]:
    """Check that an adapter has an effect, or that a merged model still computes what base and adapter do.

    Args:
        settings: adapter, model, base, …; see `tailora verify --help`.

    Returns:
        Differences of logits, perplexities and texts, as `tailora verify --json` prints them.

    Raises:
        UserError: something cannot be read.
        CheckError: the adapter changes nothing, or the model has drifted; `.result` has what was measured.
    """
    return verify_command.run(verify_command.VerifySettings.from_values(dict(settings)))


def compare(data: Source, *, valid: Source | None = None, **settings: Unpack[options.CompareOptions]) -> dict[str, Any]:
    """Train LoRA and other methods on the same data, each at its best learning rate, and measure them.

    Args:
        data: see `tailora.train`.
        valid: see `tailora.train`.
        settings: methods, learning_rates, …; see `tailora compare --help`.

    Returns:
        The comparison, as `tailora compare --json` prints it.

    Raises:
        UserError: see `tailora.train`.
    """
    with places_of(_folder_for_rows(settings.get("output")), data=data, valid=valid) as places:
        return compare_command.run(compare_command.CompareSettings.from_values({**settings, **places}))


def tune(data: Source, *, valid: Source | None = None, **settings: Unpack[options.TuneOptions]) -> dict[str, Any]:
    """Search for the training settings with the lowest validation loss.

    Args:
        data: see `tailora.train`.
        valid: see `tailora.train`.
        settings: ranges, trials, …; see `tailora tune --help`.

    Returns:
        The trials and the best settings, as `tailora tune --json` prints them.

    Raises:
        UserError: see `tailora.train`.
    """
    with places_of(_folder_for_rows(settings.get("output")), data=data, valid=valid) as places:
        return tune_command.run(tune_command.TuneSettings.from_values({**settings, **places}))


def learning_curve(
    data: Source, *, valid: Source | None = None, **settings: Unpack[options.LearningCurveOptions]
) -> dict[str, Any]:
    """Train on parts of the data, and estimate what more data would bring.

    Args:
        data: see `tailora.train`.
        valid: see `tailora.train`.
        settings: percentages, repeats, …; see `tailora learning-curve --help`.

    Returns:
        The losses, the fitted law and the conclusion, as `tailora learning-curve --json` prints them.

    Raises:
        UserError: see `tailora.train`.
    """
    with places_of(_folder_for_rows(settings.get("output")), data=data, valid=valid) as places:
        chosen = learning_curve_command.LearningCurveSettings.from_values({**settings, **places})
        return learning_curve_command.run(chosen)


def lint(data: Source, **settings: Unpack[options.LintOptions]) -> dict[str, Any]:
    """Describe the content of data, and fail if something in it looks wrong.

    Args:
        data: see `tailora.train`.
        settings: allow, split, …; see `tailora lint --help`.

    Returns:
        Counts and findings, as `tailora lint --json` prints them.

    Raises:
        DataError: the data cannot be read.
        CheckError: there are findings that `allow` does not name; `.result` has them all.
    """
    with places_of(Path("runs") / "data", data=data) as places:
        return lint_command.run(lint_command.LintSettings.from_values({**settings, **places}))


def clean(data: Source, output: Place, **settings: Unpack[options.CleanOptions]) -> dict[str, Any]:
    """Annotate the facts of a data file again from its texts, and write it in the same format.

    Args:
        data: see `tailora.train`.
        output: the file to write; it must not exist.
        settings: only, against, report, …; see `tailora clean --help`.

    Returns:
        Counts, and slot errors by attribute before and after, as `tailora clean --json` prints them.

    Raises:
        UserError: the data cannot be read, its format cannot be written, or the output exists.
    """
    with places_of(_folder_for_rows(output), data=data) as places:
        return clean_command.run(clean_command.CleanSettings.from_values({**settings, **places, "output": output}))


def _folder_for_rows(output: Place | None) -> Path:
    return (Path("runs") if output is None else Path(output).expanduser().parent) / "data"
