"""Lists of references that hold no texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailora.core.errors import DataError

_LEAST = 4
"""Items from which a list is taken for the words of one text, or for token ids."""
_LIST_IN_TEXT = re.compile(r"""\[\s*(?:'[\s\S]*'|"[\s\S]*")\s*\]""")
_MARKS = re.compile(r"[^\w\s]+")


def check_references(texts: Sequence[str], where: str) -> None:
    """Raise `DataError` if the references of a row are the words of one text, token ids, or a list written as text.

    Args:
        texts: the references.
        where: file and line, for the message.
    """
    if len(texts) == 1 and _LIST_IN_TEXT.fullmatch(texts[0].strip()):
        what = f"the text is a list written as text: {_start(texts[0])}"
        raise DataError(what, where=where, hint="write one row for each text, or save the data as JSON lines")
    if len(texts) < _LEAST or any(len(text.split()) != 1 for text in texts):
        return
    if all(text.isdecimal() for text in texts):
        what = f"the texts are numbers, probably token ids: {_start(', '.join(texts))}"
        raise DataError(what, where=where, hint="give the data before it was tokenised")
    if any(_MARKS.fullmatch(text) for text in texts):
        what = f"the list of texts seems to be one text in words: {_start(' '.join(texts))}"
        raise DataError(what, where=where, hint="join the words of each text to a string")


def _start(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
