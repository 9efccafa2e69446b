"""Merged models: adapters, or a run of another method, added to the weights of their base and written as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.adapters.arithmetic import combined
from tailora.adapters.formats import draft_file
from tailora.core.errors import SettingsError
from tailora.core.files import atomic_folder, require_new, write_json
from tailora.inference.attached import load_adapted
from tailora.inference.verification import verify
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import Base
from tailora.models.save import save_model
from tailora.training.methods import DELTA, load_delta


def write_merged(
    adapters: Sequence[Path],
    output: Path,
    *,
    weights: Sequence[float] = (),
    svd: int | None = None,
    base: str | None = None,
    force: bool = False,
    check: bool = True,
) -> dict[str, Any]:
    """Merge adapters and write the model. Weights keep their type; sums are computed in fp32 and rounded once.

    Args:
        adapters: folders, files or run directories; a single one may be the run directory of any method.
        output: folder to write; it must not exist, or be empty.
        weights: factor of each adapter; by default 1.
        svd: rank at which the sum is approximated; None for the exact sum.
        base: base model; None for the one that the adapters name.
        force: accept adapters that were trained on other weights.
        check: compare the written model with base + adapter, and write verify.json.

    Returns:
        The path, the base, both fingerprints, and the parameters, type and bytes of the written model.

    Raises:
        SettingsError: the output exists and is not an empty folder, or no base model is named.
        AdapterError: an adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be loaded.
        CheckError: the merged model does not match base + adapter; nothing is written.
    """
    require_new(output)
    (path, *more) = adapters
    if not more and (path / DELTA).is_file():
        if weights or svd is not None:
            what, where = "this run did not train an adapter", "weights" if weights else "svd"
            raise SettingsError(what, where=where, hint=f"leave out --{where}")
        model = _trained_in_place(path, base, force)
    else:
        model = _with_adapters(adapters, output, weights or (1.0,) * len(adapters), svd, base, force)
    merged_base = model.base
    with atomic_folder(output) as folder:
        save_model(merged_base, folder)
        write_json(folder / "tailora.json", {"tailora": __version__, "merged": model.merged, "meta": model.meta})
        if model.adapter is not None and model.adapter.drafts is not None:
            draft_file.write(model.adapter.drafts, folder)
        if check:
            report = verify(model.adapter, base or merged_base.name, str(folder), force=force)
            merged = " and ".join(map(str, adapters))
            write_json(folder / "verify.json", {**report, "adapter": merged, "model": str(output)})
    return {
        "output": str(output),
        "base": merged_base.name,
        "base_fingerprint": merged_base.fingerprint,
        "fingerprint": fingerprint_folder(output),
        "parameters": sum(parameter.numel() for parameter in merged_base.model.parameters()),
        "dtype": str(merged_base.model.dtype).removeprefix("torch."),
        "bytes": sum(file.stat().st_size for file in output.iterdir()),
    }


class _MergedModel(NamedTuple):
    """A merged network, the adapter it is compared with, and the description for tailora.json."""

    base: Base
    adapter: Adapter | None
    merged: dict[str, Any]
    meta: dict[str, Any]


def _with_adapters(
    places: Sequence[Path], output: Path, weights: Sequence[float], svd: int | None, base_name: str | None, force: bool
) -> _MergedModel:
    adapters = [formats.load(formats.adapter_place(path)) for path in places]
    chosen = combined(adapters, weights, how="concat" if svd is None else "svd", rank=svd)
    adapted = load_adapted(chosen, base_name, merged=True, force=force)
    base, adapter = adapted.base, adapted.adapter
    assert adapter is not None
    parts = zip(places, adapters, weights, strict=True)
    sources = [lineage.MergedAdapter(*part) for part in parts]
    merged = {
        "adapters": lineage.entries(sources, output),
        "svd": svd,
        "adapter_hash": adapter.content_hash,
        "base": base.name,
        "base_fingerprint": base.fingerprint,
    }
    return _MergedModel(base, chosen, merged, dict(adapter.meta))


def _trained_in_place(path: Path, base_name: str | None, force: bool) -> _MergedModel:
    """Return the base with the parameters that a run of a method other than LoRA trained."""
    base, prompts = load_delta(path, base_name, force=force)
    merged = {"adapters": [], "run": str(path.absolute()), "base": base.name, "base_fingerprint": base.fingerprint}
    return _MergedModel(base, None, merged, prompts)
