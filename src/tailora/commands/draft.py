"""`tailora draft`: write the table of drafts of an adapter or model, from texts like those that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tailora.core.console import message_console
from tailora.core.sizes import size
from tailora.data.reading import ReadingSettings
from tailora.inference.draft_tables import write_draft_table
from tailora.models.settings import BaseSettings


class DraftSettings(BaseSettings, ReadingSettings):
    """Settings of `tailora draft`."""

    heading = "data"
    headings: ClassVar = {"adapter": "adapter"}
    first = "adapter"
    adapter: Path
    """Folder of an adapter or of a model, or a run directory. The table is written into it."""
    data: str
    """Records with texts, such as the training data: a file, a folder of splits, or the name of a data set."""


def run(settings: DraftSettings) -> dict[str, Any]:
    """Write a table of drafts and print what it contains; see `draft_tables.write_draft_table`."""
    result = write_draft_table(settings.adapter, settings.data, settings, base=settings.base, force=settings.force)
    message_console().print(
        f"wrote {result['output']}: {result['contexts']:,} contexts from {result['texts']:,} texts, "
        f"{size(result['bytes'])}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result
