"""`tailora merge`: fold an adapter into its base and write a model folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator
from rich.console import Console

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.adapters.arithmetic import combined
from tailora.core.errors import SettingsError
from tailora.core.files import atomic_folder, write_json
from tailora.core.settings import Settings, Verbatim
from tailora.inference.attached import load_adapted
from tailora.inference.verification import verify
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import Base
from tailora.models.save import save_model
from tailora.training.methods import DELTA, load_delta


class MergeSettings(Settings):
    """Settings of `tailora merge`."""

    adapter: Annotated[tuple[Path, ...], Verbatim()]
    """The adapter: its folder or file, or a run directory (of bitfit and top2 too). Again for more, to be added up."""
    weights: tuple[float, ...] = ()
    """What each adapter's update is multiplied by, in their order; by default 1."""
    svd: int | None = Field(None, ge=1)
    """Cut the sum to this rank, the nearest there is (SVD); by default it is exact, with the sum of the ranks."""
    output: Path
    """The folder to write; it must not exist yet, or be empty."""
    base: str | None = None
    """Base model; by default the one that the adapter names."""
    force: bool = False
    """Accept an adapter that was trained on other weights than the base's."""
    check: bool = True
    """Hold what was written against base and adapter, and keep the receipt in verify.json."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


def run(settings: MergeSettings) -> dict[str, Any]:
    """Merge and write; the weights keep the type they are stored in, sums are in fp32 and rounded once.

    Raises:
        SettingsError: the output folder exists and is not empty, or nothing names the base.
        AdapterError: the adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be loaded.
        CheckError: the merged weights do not compute what base and adapter do; nothing is written.
    """
    output = settings.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SettingsError("exists already", where=output, hint="name a new folder with --output")
    (place, *more) = settings.adapter
    delta = not more and (place / DELTA).is_file()
    subject = _trained_in_place(settings) if delta else _with_adapters(settings)
    base, told = subject.base, " and ".join(map(str, settings.adapter))
    with atomic_folder(output) as folder:
        save_model(base, folder)
        write_json(folder / "tailora.json", {"tailora": __version__, "merged": subject.merged, "meta": subject.meta})
        if settings.check:
            named = settings.base or base.name
            receipt = verify(subject.adapter, named, str(folder), force=settings.force)
            write_json(folder / "verify.json", {**receipt, "adapter": told, "model": str(output)})
    result = {
        "output": str(output),
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "fingerprint": fingerprint_folder(output),
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
    }
    Console(stderr=True).print(
        f"wrote {output}: {base.name} with {told} merged in, {result['parameters']:,} parameters "
        f"in {result['dtype']}, {result['bytes'] / 2**20:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result


class _Subject(NamedTuple):
    """A network as it is to be written, what it was made of, and what it is held against."""

    base: Base
    adapter: Adapter | None
    merged: dict[str, Any]
    meta: dict[str, Any]


def _with_adapters(settings: MergeSettings) -> _Subject:
    found = [formats.load(formats.adapter_place(place)) for place in settings.adapter]
    weights = settings.weights or (1.0,) * len(found)
    chosen = combined(found, weights, how="concat" if settings.svd is None else "svd", rank=settings.svd)
    adapted = load_adapted(chosen, settings.base, merged=True, force=settings.force)
    base, adapter = adapted.base, adapted.adapter
    assert adapter is not None
    sources = [lineage.MergedAdapter(*each) for each in zip(settings.adapter, found, weights, strict=True)]
    merged = {
        "adapters": lineage.entries(sources, settings.output),
        "svd": settings.svd,
        "adapter_hash": adapter.content_hash,
        "base": base.name,
        "base_fingerprint": base.fingerprint,
    }
    return _Subject(base, chosen, merged, dict(adapter.meta))


def _trained_in_place(settings: MergeSettings) -> _Subject:
    """The base with the parameters that a run of another method than LoRA learnt."""
    if settings.weights or settings.svd is not None:
        what, where = "the run has no adapter to sum or cut", "weights" if settings.weights else "svd"
        raise SettingsError(what, where=where, hint="leave it out")
    place = settings.adapter[0]
    base, prompts = load_delta(place, settings.base, force=settings.force)
    merged = {"adapters": [], "run": str(place.absolute()), "base": base.name, "base_fingerprint": base.fingerprint}
    return _Subject(base, None, merged, prompts)
