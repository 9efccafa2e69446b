"""Settings that choose the model: base, adapters, and what computes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Verbatim
from tailora.data.prompts import PromptForm
from tailora.engine.backend import Precision

BackendName = Literal["auto", "openvino", "torch"]
PrecisionName = Literal["auto", Precision]
_NAMED = re.compile(r"([\w.-]+)=(.+)")  # a name has no slash, so that a path with = in it is seldom taken for one


class ModelSettings(Settings):
    """What writes."""

    adapter: Annotated[tuple[str, ...], Verbatim()] = ()
    """An adapter: its folder or file, or a run directory; with NAME= before it rows can name it. Again for more."""
    base: str | None = None
    """Base model: a name (see `tailora models`), a folder or a hub id; by default the one that the adapter names."""
    merged: bool = False
    """Fold the adapter into the weights first; as exact and a little faster."""
    force: bool = False
    """Accept an adapter that was trained on other weights than the base's."""
    linearization: str | None = None
    """How facts become a line of text (paper or plain); by default as in the adapter's training, else paper."""
    prompt_form: PromptForm | None = None
    """How the line becomes a prompt (paper, arrow or chat); by default as in training, arrow for an untrained base."""
    batch_size: int = Field(32, ge=1)
    """Records side by side."""
    precision: PrecisionName = "auto"
    """Compute in int8, bf16 or fp32; auto takes int8 with OpenVINO and fp32 with torch, unless another is
    faster here by more than 10%."""
    backend: BackendName = "auto"
    """What computes: openvino on a CPU where it has the architecture, torch for everything else."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU if there is one."""

    def check_model(self) -> None:
        """Raise `SettingsError` unless there is something to write with."""
        if not self.adapter and self.base is None:
            raise SettingsError("neither an adapter nor a base model", where="adapter", hint="name one of them")
        if self.merged and len(self.adapter) != 1:
            which = "there is no adapter to merge" if not self.adapter else "only one adapter can be merged"
            raise SettingsError(which, where="merged", hint="name one with --adapter")
        self.adapters()

    def adapters(self) -> dict[str, Path]:
        """Where the adapters lie, by name; one without a name is called by its path."""
        return named_adapters(self.adapter)


def named_adapters(given: Sequence[str]) -> dict[str, Path]:
    """Paths by name from `NAME=PATH`; an adapter without a name is called by its path.

    Raises:
        SettingsError: two have one name.
    """
    found: dict[str, Path] = {}
    for text in given:
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, path = (named[1], named[2]) if named else (text, text)
        if name in found:
            raise SettingsError(f"two adapters are called {name}", where="adapter", hint="give each its own name")
        found[name] = Path(path)
    return found
