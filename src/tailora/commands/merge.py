"""`tailora merge`: merge adapters into their base model, and write a model folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.adapters.arithmetic import combined
from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.files import atomic_folder, require_new, write_json
from tailora.core.settings import Unset, Verbatim
from tailora.inference.attached import load_adapted
from tailora.inference.verification import verify
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import Base
from tailora.models.save import save_model
from tailora.models.settings import BaseSettings
from tailora.training.methods import DELTA, load_delta


class MergeSettings(BaseSettings):
    """Settings of `tailora merge`."""

    heading = "adapter"
    adapter: Annotated[tuple[Path, ...], Verbatim()]
    """Adapter: a folder, a file or a run directory of any method. Repeat the flag to add several adapters."""
    weights: Annotated[tuple[float, ...], Unset("1 for each")] = ()
    """Factors by which the adapters are multiplied, in the order of --adapter, separated by commas."""
    svd: Annotated[int | None, Field(ge=1), Unset("the exact sum, whose rank is the sum of the ranks")] = None
    """Rank at which the sum of the adapters is approximated (SVD)."""
    check: bool = True
    """Compare the written model with base + adapter, and write the measurements to verify.json."""
    output: Path
    """Folder to write. It must not exist, or be empty."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


def run(settings: MergeSettings) -> dict[str, Any]:
    """Merge adapters and write the model. Weights keep their type; sums are computed in fp32 and rounded once.

    Raises:
        SettingsError: the output folder exists and is not empty, or no base model is named.
        AdapterError: the adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be loaded.
        CheckError: the merged model does not match base + adapter; nothing is written.
    """
    output = settings.output
    require_new(output)
    (path, *more) = settings.adapter
    delta = not more and (path / DELTA).is_file()
    model = _trained_in_place(settings) if delta else _with_adapters(settings)
    base, merged = model.base, " and ".join(map(str, settings.adapter))
    with atomic_folder(output) as folder:
        save_model(base, folder)
        write_json(folder / "tailora.json", {"tailora": __version__, "merged": model.merged, "meta": model.meta})
        if settings.check:
            named = settings.base or base.name
            report = verify(model.adapter, named, str(folder), force=settings.force)
            write_json(folder / "verify.json", {**report, "adapter": merged, "model": str(output)})
    result = {
        "output": str(output),
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "fingerprint": fingerprint_folder(output),
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
    }
    message_console().print(
        f"wrote {output}: {base.name} with {merged} merged into it, {result['parameters']:,} parameters "
        f"in {result['dtype']}, {result['bytes'] / 2**20:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result


class _MergedModel(NamedTuple):
    """A merged network, the adapter it is compared with, and the description for tailora.json."""

    base: Base
    adapter: Adapter | None
    merged: dict[str, Any]
    meta: dict[str, Any]


def _with_adapters(settings: MergeSettings) -> _MergedModel:
    adapters = [formats.load(formats.adapter_place(path)) for path in settings.adapter]
    weights = settings.weights or (1.0,) * len(adapters)
    chosen = combined(adapters, weights, how="concat" if settings.svd is None else "svd", rank=settings.svd)
    adapted = load_adapted(chosen, settings.base, merged=True, force=settings.force)
    base, adapter = adapted.base, adapted.adapter
    assert adapter is not None
    parts = zip(settings.adapter, adapters, weights, strict=True)
    sources = [lineage.MergedAdapter(*part) for part in parts]
    merged = {
        "adapters": lineage.entries(sources, settings.output),
        "svd": settings.svd,
        "adapter_hash": adapter.content_hash,
        "base": base.name,
        "base_fingerprint": base.fingerprint,
    }
    return _MergedModel(base, chosen, merged, dict(adapter.meta))


def _trained_in_place(settings: MergeSettings) -> _MergedModel:
    """Return the base with the parameters that a run of a method other than LoRA trained."""
    if settings.weights or settings.svd is not None:
        what, where = "this run did not train an adapter", "weights" if settings.weights else "svd"
        raise SettingsError(what, where=where, hint=f"leave out --{where}")
    path = settings.adapter[0]
    base, prompts = load_delta(path, settings.base, force=settings.force)
    merged = {"adapters": [], "run": str(path.absolute()), "base": base.name, "base_fingerprint": base.fingerprint}
    return _MergedModel(base, None, merged, prompts)
