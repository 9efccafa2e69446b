"""LoRA on any network of PyTorch: attach an adapter, train it in a loop of your own, save it as a PEFT folder.

    from tailora import lora

    lora.attach(model, rank=8, targets="all-linear")   # freezes the base; only the adapter has gradients
    ...                                                 # your own loop, or transformers.Trainer
    lora.save(model, "my-adapter")                      # a folder that PEFT loads as well
    lora.load(other_model, "my-adapter")
    lora.merge(other_model)

The names in `__all__` are stable. They are imported, with PyTorch, when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailora.core.lazy import lazy_names

if TYPE_CHECKING:
    from tailora.adapters.adapter import Adapter as Adapter
    from tailora.adapters.config import LoraConfig as LoraConfig
    from tailora.lora.attachment import adapted_layers as adapted_layers
    from tailora.lora.folders import load as load
    from tailora.lora.folders import save as save
    from tailora.lora.inject import ParameterTable as ParameterTable
    from tailora.lora.inject import attach as attach
    from tailora.lora.inject import detach as detach
    from tailora.lora.inject import extract as extract
    from tailora.lora.inject import parameter_table as parameter_table
    from tailora.lora.merging import merge as merge
    from tailora.lora.merging import unmerge as unmerge

_MODULES = {
    "tailora.adapters.adapter": ("Adapter",),
    "tailora.adapters.config": ("LoraConfig",),
    "tailora.lora.attachment": ("adapted_layers",),
    "tailora.lora.folders": ("load", "save"),
    "tailora.lora.inject": ("ParameterTable", "attach", "detach", "extract", "parameter_table"),
    "tailora.lora.merging": ("merge", "unmerge"),
}

__all__ = [*(name for names in _MODULES.values() for name in names)]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
