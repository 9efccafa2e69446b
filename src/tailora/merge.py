"""`tailora merge`: fold an adapter into its base and write a model folder that transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import field_validator
from rich.console import Console

from tailora import __version__
from tailora.adapted import load_adapted
from tailora.adapters import formats
from tailora.adapters.arithmetic import combined
from tailora.errors import SettingsError
from tailora.files import atomic_folder, write_json
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import Base, quiet_transformers
from tailora.settings import Settings
from tailora.verify import check

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "chat_template.jinja"),
)


class MergeSettings(Settings):
    """Settings of `tailora merge`."""

    adapter: tuple[Path, ...]
    """The adapter: its folder or file, or a run directory. Again for more, whose updates are added up."""
    weights: tuple[float, ...] = ()
    """What each adapter's update is multiplied by, in their order; by default 1."""
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
        raise SettingsError("exists already", where=output, mend="name a new folder with --output")
    found = [formats.load(formats.adapter_place(place)) for place in settings.adapter]
    weights = settings.weights or (1.0,) * len(found)
    chosen = combined(found, weights)
    told = " and ".join(map(str, settings.adapter))
    adapted = load_adapted(chosen, settings.base, merged=True, force=settings.force)
    base, adapter = adapted.base, adapted.adapter
    assert adapter is not None
    with atomic_folder(output) as folder:
        save_model(base, folder)
        provenance = {
            "tailora": __version__,
            "merged": {
                "adapter": told if len(found) == 1 else None,
                "adapters": {str(place): weight for place, weight in zip(settings.adapter, weights, strict=True)},
                "adapter_hash": adapter.content_hash,
                "base": base.name,
                "base_fingerprint": base.fingerprint,
            },
            "meta": dict(adapter.meta),
        }
        write_json(folder / "tailora.json", provenance)
        if settings.check:
            receipt = check(chosen, settings.base, str(folder), force=settings.force)
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


def save_model(base: Base, folder: Path) -> None:
    """Write a plain network (nothing attached) and its tokenizer in Hugging Face layout into an existing folder."""
    with quiet_transformers():
        base.model.save_pretrained(folder, safe_serialization=True)
    for name in _TOKENIZER_FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        base.tokenizer.save(folder)
