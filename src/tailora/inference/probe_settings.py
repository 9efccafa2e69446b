"""The settings of commands that compare models on probes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tailora.core.errors import DataError
from tailora.core.settings import Unset
from tailora.data.reading import Limit, SplitSettings
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.models.settings import BaseSettings

LARGEST_DRIFT = 0.05
"""Largest accepted drift: mean distance from base and adapter, over the mean effect of the adapter."""
LARGEST_RISE = 0.05
"""Largest accepted rise of the perplexity, as a fraction."""
PROBES = 8


class ProbeSettings(SplitSettings, BaseSettings):
    """The texts on which models are compared."""

    heading = "checks"
    headings: ClassVar = {"input": "data"}
    input: Annotated[str | None, Unset("bundled records")] = None
    """Records with texts on which the models are compared: a file, a folder of splits, or the name of a data set."""
    limit: Limit = PROBES
    new_tokens: int = Field(32, ge=1)
    """Length of the greedy texts that are compared, in tokens."""

    def records(self, trained: TrainedReading | None = None) -> list[Record]:
        """Return the first records with texts; an empty list if no source is named.

        Args:
            trained: how the adapter's training read its data, for what the settings leave open.

        Raises:
            DataError: no record has a text.
        """
        if self.input is None:
            return []
        records = self.load(self.input, self.split, texts="optional", trained=trained).records
        texts = [record for record in records if record.references][: self.limit]
        if not texts:
            raise DataError("no record has a text", where=self.input, hint="use records with texts")
        return texts
