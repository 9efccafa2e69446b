"""Tailora turns records into text with small language models and LoRA.

    import tailora

    run = tailora.train(data="my.csv", base="smollm2-135m", targets="all-linear", rank=8)
    with tailora.load("smollm2-135m", adapters={"shop": run.adapter}) as model:
        texts = model.generate([{"name": "Blue Spice", "eatType": "pub"}], adapter="shop", beams=4)
    scores = tailora.evaluate(texts, records)
    tailora.merge(run.adapter, "merged/")

The names in `__all__` are the stable Python API; `tailora.lora` adapts any network of PyTorch, and `tailora.loralib`
replaces loralib. Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailora.core.lazy import lazy_names

if TYPE_CHECKING:
    from tailora import lora as lora
    from tailora import loralib as loralib
    from tailora.adapters.adapter import Adapter as Adapter
    from tailora.adapters.config import LoraConfig as LoraConfig
    from tailora.api.commands import clean as clean
    from tailora.api.commands import compare as compare
    from tailora.api.commands import convert as convert
    from tailora.api.commands import learning_curve as learning_curve
    from tailora.api.commands import lint as lint
    from tailora.api.commands import merge as merge
    from tailora.api.commands import quantize as quantize
    from tailora.api.commands import tune as tune
    from tailora.api.commands import verify as verify
    from tailora.api.inputs import read_records as read_records
    from tailora.api.model import BASE as BASE
    from tailora.api.model import Model as Model
    from tailora.api.model import Text as Text
    from tailora.api.model import load as load
    from tailora.api.scores import Scores as Scores
    from tailora.api.scores import evaluate as evaluate
    from tailora.api.system_scores import SystemScores as SystemScores
    from tailora.api.training import TrainingRun as TrainingRun
    from tailora.api.training import plan as plan
    from tailora.api.training import plot as plot
    from tailora.api.training import train as train
    from tailora.core.errors import AdapterError as AdapterError
    from tailora.core.errors import CheckError as CheckError
    from tailora.core.errors import DataError as DataError
    from tailora.core.errors import MissingExtraError as MissingExtraError
    from tailora.core.errors import ModelError as ModelError
    from tailora.core.errors import SettingsError as SettingsError
    from tailora.core.errors import TrainingError as TrainingError
    from tailora.core.errors import UserError as UserError
    from tailora.data.records import DataWarning as DataWarning
    from tailora.data.values import Fact as Fact
    from tailora.data.values import Record as Record
    from tailora.training.run import TrainingInterrupted as TrainingInterrupted

__version__ = "0.1.0"

_MODULES = {
    "tailora.adapters.adapter": ("Adapter",),
    "tailora.adapters.config": ("LoraConfig",),
    "tailora.api.commands": (
        "clean",
        "compare",
        "convert",
        "learning_curve",
        "lint",
        "merge",
        "quantize",
        "tune",
        "verify",
    ),
    "tailora.api.inputs": ("read_records",),
    "tailora.api.model": ("BASE", "Model", "Text", "load"),
    "tailora.api.scores": ("Scores", "evaluate"),
    "tailora.api.system_scores": ("SystemScores",),
    "tailora.api.training": ("TrainingRun", "plan", "plot", "train"),
    "tailora.core.errors": (
        "AdapterError",
        "CheckError",
        "DataError",
        "MissingExtraError",
        "ModelError",
        "SettingsError",
        "TrainingError",
        "UserError",
    ),
    "tailora.data.records": ("DataWarning",),
    "tailora.data.values": ("Fact", "Record"),
    "tailora.training.run": ("TrainingInterrupted",),
}
_PACKAGES = ("lora", "loralib")
__all__ = ["__version__", *_PACKAGES, *(name for names in _MODULES.values() for name in names)]

__getattr__, __dir__ = lazy_names(__name__, _MODULES, _PACKAGES)
