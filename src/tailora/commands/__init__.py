"""The commands: one file for each, with its settings, one call into the packages below and its printed result.

A command NAME is the module `tailora.commands.NAME` (with _ for -), its settings are `NameSettings` there, and
`run(settings)` returns its result as a dict. Nothing else is imported until a command is asked for, so that help and
mistakes take no time.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command in the overview: the purpose that it is listed under, and what it does in one line."""

    purpose: str
    summary: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command("Train", "Train, score and merge an adapter on the bundled model, offline, in minutes"),
    "train": Command("Train", "Train an adapter, or other parts of a model, on records with texts"),
    "plan": Command("Train", "Plan the memory and the time of a training run, without loading its base"),
    "tune": Command("Train", "Search for the training settings with the lowest validation loss"),
    "compare": Command("Train", "Compare LoRA with full fine-tuning and other methods, each at its best learning rate"),
    "learning-curve": Command("Train", "Train on parts of the data, and estimate what more data would bring"),
    "plot": Command("Train", "Draw the losses of several training runs into one figure"),
    "generate": Command("Use", "Write texts for records with a base model and adapters"),
    "evaluate": Command("Use", "Score texts against references and facts, with confidence intervals and a report"),
    "serve": Command("Use", "Serve a base model and its adapters over HTTP: OpenAI's API, and an API for records"),
    "key": Command("Use", "Create an API key for `tailora serve`"),
    "merge": Command("Convert", "Merge adapters into their base model"),
    "convert": Command("Convert", "Convert an adapter for PEFT, loralib, llama.cpp or OpenVINO GenAI"),
    "quantize": Command("Convert", "Store a model in 8 or 16 bits and measure the loss in quality"),
    "draft": Command("Convert", "Write the table of an adapter from which the next tokens of its texts are drafted"),
    "verify": Command("Check", "Check that an adapter has an effect, or that a merged model matches base + adapter"),
    "lint": Command("Check", "Describe a data file and report what looks wrong in it"),
    "clean": Command("Check", "Correct the facts of records from their texts, and write them in the same format"),
    "models": Command("Check", "List the built-in names of base models"),
    "completion": Command("Command line", "Print a script that completes commands and flags in your shell"),
    "schema": Command("Command line", "Print the JSON schema of a command's YAML file"),
}


def settings_class(name: str) -> Any:
    """Return the settings class of a command."""
    return getattr(_module(name), "".join(part.capitalize() for part in name.split("-")) + "Settings")


def function(name: str) -> Any:
    """Return the function of a command, from its settings to its result."""
    return _module(name).run


def _module(name: str) -> Any:
    return importlib.import_module(f"tailora.commands.{name.replace('-', '_')}")
