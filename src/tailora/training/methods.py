"""The training methods: which parameters learn, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tailora import __version__
from tailora.adapters import formats
from tailora.adapters.adapter import changes_nothing
from tailora.adapters.config import matches
from tailora.adapters.draft_table import DraftTable
from tailora.adapters.formats import draft_file
from tailora.core.errors import ModelError, TrainingError
from tailora.core.files import atomic_folder, atomic_path, write_json
from tailora.data.trained_reading import reading_meta
from tailora.families import family_of
from tailora.inserts import attachment as inserts
from tailora.lora import inject
from tailora.models.load import Base, load_base
from tailora.models.save import save_model
from tailora.training.settings import TrainSettings


def prepare(base: Base, settings: TrainSettings) -> None:
    """Set `requires_grad` of the base's parameters for a method, after attaching what the method adds to the base.

    Raises:
        TrainingError: the base has no parameter that the method trains.
        SettingsError: a target matches no layer.
        ModelError: the architecture has no place for what the method adds.
    """
    model = base.model
    if settings.method == "lora":
        generator = torch.Generator().manual_seed(settings.generator_seed)
        inject.attach(model, settings.lora_config(), model_type=base.model_type, generator=generator)
    elif settings.method in ("adapter-h", "adapter-l", "prefix"):
        generator = torch.Generator().manual_seed(settings.generator_seed)
        inserts.attach_new(model, settings.method, settings.size, model_type=base.model_type, generator=generator)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_learns(name, settings.method, base))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"{base.name} has no parameter for the method {settings.method}", hint="use another method")


def _learns(name: str, method: str, base: Base) -> bool:
    if method == "full":
        return True
    if method == "bitfit":
        return name.endswith(".bias")
    family = family_of(base.model_type)
    blocks, _, rest = name.rpartition(f"{family.blocks}.")
    if rest and (not blocks or blocks.endswith(".")) and rest.split(".")[0].isdigit():
        return int(rest.split(".")[0]) >= int(base.model.config.num_hidden_layers) - 2
    return matches(family.final_norm, name.rpartition(".")[0])


def learning_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name; one that is used in two places has one name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Write values back into the trainable parameters."""
    for name, parameter in learning_parameters(model).items():
        parameter.copy_(values[name])


DELTA = "delta.safetensors"
"""File of a run directory with the parameters that methods bitfit and top2 trained."""


def load_delta(run: Path, base: str | None = None, *, force: bool = False) -> tuple[Base, dict[str, Any]]:
    """Load a base model with the parameters that a run of bitfit or top2 trained, and how the run read its data.

    Args:
        run: the run directory.
        base: name or path; None is the base that the run names.
        force: accept another base than the run's.

    Raises:
        ModelError: the run cannot be read, or the base is another or lacks the parameters.
    """
    try:
        content = json.loads((run / "run.json").read_text(encoding="utf-8"))
        settings, plan = content["settings"], content["account"]
        fingerprint = plan["base_fingerprint"]
        prompts = {name: settings.get(name) for name in ("prompt_form", "linearization")}
        prompts |= plan.get("prompts", {})
        prompts |= reading_meta(settings.get("format"), settings.get("columns") or {}, settings.get("language"))
        values = load_file(run / DELTA)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError("is not a run directory that can be read", where=run, hint="name a run directory") from error
    loaded = load_base(base or str(plan["base"]))
    hint = "name the base that it was trained on with --base"
    if loaded.fingerprint != fingerprint and not force:
        raise ModelError(f"was trained on other weights than those of {loaded.name}", where=run, hint=hint)
    parameters = dict(loaded.model.named_parameters())
    wrong = sorted(n for n, v in values.items() if n not in parameters or parameters[n].shape != v.shape)
    if wrong:
        what = f"does not fit {loaded.name}: {', '.join(wrong[:3])} is missing or has another shape"
        raise ModelError(what, where=run / DELTA, hint=hint)
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return loaded, prompts


def save_result(
    base: Base,
    settings: TrainSettings,
    meta: Mapping[str, Any],
    run: Path,
    values: Mapping[str, torch.Tensor] | None = None,
    drafts: DraftTable | None = None,
) -> Path:
    """Write the result of training into a run directory: `adapter/`, `model/`, or `delta.safetensors`.

    Args:
        base: the base model with what was trained.
        settings: the settings of the run.
        meta: what the result carries besides its tensors.
        run: the run directory.
        values: with method full, the values of all parameters, if the model has them only in part.
        drafts: n-grams of the training texts, for adapters, inserts and models.

    Returns:
        The path of the result.

    Raises:
        TrainingError: all updates of the adapter are zero.
    """
    if settings.method == "lora":
        adapter = replace(
            inject.extract(base.model),
            base_fingerprint=base.fingerprint,
            base_name=base.name,
            meta=dict(meta),
            drafts=drafts,
        )
        if changes_nothing(adapter):
            raise _unchanged()
        formats.save(adapter, run / "adapter")
        return run / "adapter"
    if settings.method in ("adapter-h", "adapter-l", "prefix"):
        insert = replace(
            inserts.extract(base.model, settings.method),
            base_fingerprint=base.fingerprint,
            base_name=base.name,
            meta=dict(meta),
            drafts=drafts,
        )
        if insert.changes_nothing:
            raise _unchanged()
        formats.save_insert(insert, run / "adapter")
        return run / "adapter"
    if settings.method == "full":
        with atomic_folder(run / "model") as folder:
            save_model(base, folder, values)
            origin = {"adapter": None, "run": str(run), "base": base.name, "base_fingerprint": base.fingerprint}
            write_json(folder / "tailora.json", {"tailora": __version__, "merged": origin, "meta": dict(meta)})
            if drafts is not None:
                draft_file.write(drafts, folder)
        return run / "model"
    tensors = {name: p.detach().cpu().contiguous() for name, p in learning_parameters(base.model).items()}
    with atomic_path(run / DELTA) as temporary:
        save_file(tensors, temporary)
    return run / DELTA


def _unchanged() -> TrainingError:
    return TrainingError("the adapter is still all zero after training", hint="raise the learning rate")
