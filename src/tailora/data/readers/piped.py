r"""The LoRA paper's text form: `name : Blue Spice | Type : pub||A pub called Blue Spice.`, one text a line.

Source of the form: microsoft/LoRA, examples/NLG. A fact has two parts (attribute, value) or three (subject,
attribute, value). A separator within a part is written with a backslash (`\|`, `\:`), so that what
`data.linearize` writes can be read back. Files from other programs contain no such escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tailora.core.errors import DataError
from tailora.data.text_files import lines_of
from tailora.data.values import Fact, Parsed, Reference, Row

_TEXT_MARK = re.compile(r"(?<!\\)(?:\\\\)*\|\|")
_FACT_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\|")
_PART_MARK = re.compile(r"(?:(?<=\s)|^):(?:\s|$)")
_ESCAPED = re.compile(r"\\([\\|:])")
_RESERVED = re.compile(r"[\\|]|(?<!\S):(?!\S)")


def escape(part: str) -> str:
    """Escape the separators in one part of a fact, and replace runs of white space by single spaces."""
    return _RESERVED.sub(lambda match: "\\" + match[0], " ".join(part.split()))


def parse_facts(text: str) -> tuple[Fact, ...]:
    """Parse `attribute : value | subject : attribute : value`.

    Raises:
        ValueError: a part is not a fact; the message is that part.
    """
    facts = []
    for piece in _split_facts(text):
        parts = [_ESCAPED.sub(r"\1", part.strip()) for part in _PART_MARK.split(piece.strip(), maxsplit=2)]
        if len(parts) < 2 or not parts[-2]:
            raise ValueError(piece.strip())
        facts.append(Fact(parts[0] if len(parts) == 3 else None, parts[-2], parts[-1]))
    return tuple(facts)


def written_facts(facts: Iterable[Fact]) -> str:
    """Return facts as a text that `parse_facts` reads back."""
    parts = ((fact.subject, fact.attribute, fact.value) for fact in facts)
    return " | ".join(" : ".join(escape(part) for part in own if part is not None) for own in parts)


def parse(text: str, where: str, *, needs_text: bool = False) -> Parsed:
    """Read a file of `facts||text` lines; blank lines are skipped.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        needs_text: a line without `||` is an error; otherwise it holds facts without a text.

    Raises:
        DataError: a line cannot be read.
    """
    parsed = Parsed([])
    known: dict[str, tuple[Fact, ...]] = {}
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        at = f"{where}:{number}"
        mark = _TEXT_MARK.search(line)
        if mark is None and needs_text:
            raise DataError("the line has no ||", where=at, hint="write facts||text")
        head, reference = (line, "") if mark is None else (line[: mark.end() - 2], line[mark.end() :].strip())
        if head not in known:
            try:
                known[head] = tuple(fact for fact in parse_facts(head) if fact.value)
            except ValueError as error:
                raise DataError(
                    f"{str(error)!r} is not a fact", where=at, hint="write attribute : value, with | between facts"
                ) from error
            if not known[head]:
                raise DataError("no fact has a value", where=at, hint="give a value, or remove the line")
        parsed.rows.append(Row(at, known[head], (Reference(reference),) if reference else ()))
    return parsed


def _split_facts(text: str) -> list[str]:
    pieces, start = [], 0
    for match in _FACT_MARK.finditer(text):
        pieces.append(text[start : match.end() - 1])
        start = match.end()
    return [*pieces, text[start:]]
