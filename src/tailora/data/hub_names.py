"""Names of data sets on the Hugging Face hub: `ORGANISATION/NAME:CONFIGURATION@REVISION#SPLIT`."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?::(?P<configuration>[^@#]+))?(?:@(?P<revision>\w[\w./-]*))?(?:#(?P<split>[^#]+))?"
)


class HubName(NamedTuple):
    """The name of a data set on the hub.

    Attributes:
        repository: "organisation/name".
        configuration: one of the parts that some data sets have, which the hub calls subsets; None for the only one.
        revision: a commit, a tag or a branch; None for the hub's default branch.
        split: a split as the hub calls it; None if the name has none.
    """

    repository: str
    configuration: str | None = None
    revision: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the parts of a name; None if it does not have the form of one. A relative path may have it too."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(**match.groupdict())

    @property
    def is_plain(self) -> bool:
        """Whether the name has the repository alone, which a path may look like."""
        return self == (self.repository, None, None, None)


def short_name(source: str) -> str:
    """Return a name for files and folders that are made from a data source, such as "e2e" for `data/e2e.train.csv`."""
    name = HubName.parse(source)
    last = re.split(r"[/\\]", source.rstrip("/\\"))[-1] if name is None or name.is_plain else name.repository
    return last.rpartition("/")[2].split(".")[0] or "data"
