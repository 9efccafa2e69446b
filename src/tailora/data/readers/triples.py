"""Sets of triples: WebNLG and DART, in JSON and in XML, and as rows of the Hugging Face hub."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.parsers import expat

from tailora.core.errors import DataError
from tailora.data.readers import json_text
from tailora.data.readers.object_forms import gem_texts
from tailora.data.values import Fact, Parsed, Reference, Row

SEEN_2017 = frozenset(
    (
        *("Airport", "Astronaut", "Building", "City", "ComicsCharacter"),
        *("Food", "Monument", "SportsTeam", "University", "WrittenWork"),
    )
)
"""The WebNLG categories (`Record.group`) that the 2017 train split contains; the test split has five more."""


_GOOD = frozenset(("good",))
_FAULTY = frozenset(("tofix", "bad"))
_UNNAMED_LANGUAGE = "en"  # where some texts of a WebNLG file name their language, the others are English


@dataclass(frozen=True, slots=True)
class _Lex:
    """One text of an entry, as in the file."""

    text: str
    comment: str
    language: str


def parse_webnlg_json(text: str, where: str, *, plain_numbers: bool = True) -> Parsed:
    """Read WebNLG in its JSON form, or in the rows of the hub's `web_nlg` and `GEM/web_nlg`.

    See `parse_webnlg_xml`, and `json_text.values` for `plain_numbers`.
    """
    rows: list[Row] = []
    texts: list[list[_Lex]] = []
    for line, data in json_text.values(text, where, plain_numbers=plain_numbers):
        if isinstance(data, dict) and is_hub_row(data):
            row, lexes = _hub_row(data, f"{where}:{line}", len(rows) + 1)
            rows.append(row)
            texts.append(lexes)
            continue
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
            raise DataError("has no list under 'entries'", where=f"{where}:{line}", hint="give a WebNLG JSON file")
        for number, outer in enumerate(data["entries"], start=len(rows) + 1):
            at = f"{where}: entry {number}"
            try:
                ((key, entry),) = outer.items()
                facts = [_fact(t["subject"], t["property"], t["object"]) for t in entry["modifiedtripleset"]]
                lexes = [
                    _Lex(_string(lex["lex"]), _string(lex.get("comment")), _string(lex.get("lang")))
                    for lex in entry.get("lexicalisations") or ()
                ]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"is not a WebNLG entry ({type(error).__name__}: {error})"
                raise DataError(what, where=at, hint="give a WebNLG JSON file") from error
            rows.append(_row(at, str(key), facts, entry.get("category")))
            texts.append(lexes)
    return Parsed(_with_texts(rows, texts))


def is_hub_row(row: Mapping[str, Any]) -> bool:
    """Return whether an object is a row of `web_nlg` or `GEM/web_nlg` on the hub."""
    triples = row.get("input")
    if not isinstance(triples, list) or not triples:
        return "modified_triple_sets" in row
    return all(str(triple).count(" | ") == 2 for triple in triples)


def _hub_row(data: Mapping[str, Any], at: str, number: int) -> tuple[Row, list[_Lex]]:
    try:
        if "modified_triple_sets" in data:
            triples = data["modified_triple_sets"]["mtriple_set"][0]
            lex = data.get("lex") or {"text": ()}
            columns = [lex["text"], *(lex.get(key) or [""] * len(lex["text"]) for key in ("comment", "lang"))]
            lexes = [_Lex(*map(_string, parts)) for parts in zip(*columns, strict=True)]
            parts = (data.get("category"), data.get("size"), data.get("eid"))
            name = "/".join(str(part) for part in parts if part not in (None, ""))
        else:
            triples, name = data["input"], _string(data.get("gem_id"))
            lexes = [_Lex(_string(text), "", "") for text in gem_texts(data)]
        facts = [_written_fact(str(triple), at) for triple in triples]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"is not a row of WebNLG ({type(error).__name__}: {error})"
        raise DataError(what, where=at, hint="give the rows as the hub has them") from error
    return _row(at, name or str(number), facts, _string(data.get("category")) or None), lexes


def parse_webnlg_xml(text: str, where: str) -> Parsed:
    """Read the XML of the WebNLG challenges of 2017, 2020 and 2023, and DART's, which has the same form.

    The category becomes the group. A text is marked as faulty where annotators commented it as anything but "good";
    a text without a comment is not marked. In DART's files the comments name the corpus that a text is from: comments
    are judgements only in a file that has a "good", "toFix" or "bad".

    Document types and entities are refused.
    """
    root, lines = _xml_tree(text, where)
    rows: list[Row] = []
    texts: list[list[_Lex]] = []
    for entry in root.iter("entry"):
        at = f"{where}:{lines[id(entry)]}"
        facts = [
            _written_fact("".join(triple.itertext()), at) for triple in entry.iterfind("modifiedtripleset/mtriple")
        ]
        lexes = [
            _Lex(
                _xml_text(lex),
                lex.get("comment", ""),
                lex.get("lang") or lex.get("xml:lang") or "",
            )
            for lex in entry.iterfind("lex")
        ]
        # Entry ids start anew in each category and size of a challenge file.
        parts = [entry.get("category", ""), entry.get("size", ""), entry.get("eid", "")]
        name = "/".join(part for part in parts if part) or str(len(rows) + 1)
        rows.append(_row(at, name, facts, entry.get("category")))
        texts.append(lexes)
    if not rows:
        raise DataError("has no <entry>", where=where, hint="give a WebNLG or DART XML file")
    return Parsed(_with_texts(rows, texts))


def parse_dart(text: str, where: str, *, plain_numbers: bool = True) -> Parsed:
    """Read DART's JSON: one record for each triple set, one reference for each annotation.

    The rows of the hub's `dart`, whose annotations are columns, and of `GEM/dart` are read too.

    `plain_numbers` is that of `json_text.values`.
    """
    rows: list[Row] = []
    for number, (line, entry) in enumerate(json_text.values(text, where, plain_numbers=plain_numbers), start=1):
        at = f"{where}:{line}"
        try:
            facts = [_fact(subject, relation, value) for subject, relation, value in entry["tripleset"]]
            texts = _annotations(entry)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"is not a DART entry ({type(error).__name__}: {error})"
            raise DataError(what, where=at, hint="give a DART JSON file") from error
        rows.append(replace(_row(at, str(number), facts, None), texts=tuple(map(Reference, texts))))
    return Parsed(rows)


def _annotations(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry.get("annotations")
    if isinstance(annotations, dict):
        return [_string(text) for text in annotations["text"]]
    if annotations is None and {"target", "references"} & entry.keys():
        return list(map(_string, gem_texts(entry)))
    return [_string(annotation["text"]) for annotation in annotations or ()]


def _with_texts(rows: list[Row], texts: list[list[_Lex]]) -> list[Row]:
    """Add the texts to their rows; the meaning of comments and missing languages depends on the whole file."""
    comments = {_plain(lex.comment) for lexes in texts for lex in lexes}
    judged = bool(comments & (_GOOD | _FAULTY))
    named = any(lex.language.strip() for lexes in texts for lex in lexes)
    full = []
    for row, lexes in zip(rows, texts, strict=True):
        own = tuple(
            Reference(
                lex.text,
                (lex.language.strip() or _UNNAMED_LANGUAGE) if named else None,
                judged and _plain(lex.comment) not in _GOOD | {""},
            )
            for lex in lexes
        )
        full.append(replace(row, texts=own))
    return full


def _row(where: str, name: str, facts: list[Fact], group: str | None) -> Row:
    if not facts:
        raise DataError("has no triple", where=where, hint="remove the entry")
    if not all(fact.subject and fact.attribute for fact in facts):
        raise DataError("a triple has no subject or no predicate", where=where, hint="fill it in")
    stated = tuple(fact for fact in facts if fact.value)
    if not stated:
        raise DataError("no triple has an object", where=where, hint="fill one in, or remove the entry")
    return Row(where, stated, (), id=name, group=group, entry=True)


def _fact(subject: Any, attribute: Any, value: Any) -> Fact:
    return Fact(_string(subject), _string(attribute), json_text.plain(value) or "")


def _plain(comment: str) -> str:
    return "".join(comment.casefold().split())


def _string(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return (value or "").strip()


def _xml_text(lex: ElementTree.Element) -> str:
    """Return the text of a <lex>, or of the <text> in it, including text within markup such as <i>."""
    inner = lex.find("text")
    return "".join((lex if inner is None else inner).itertext()).strip()


def _written_fact(text: str, where: str) -> Fact:
    parts = [part.strip() for part in re.split(r"\s\|(?=\s|$)", text)]
    if len(parts) != 3:
        hint = "write subject | predicate | object, with ' | ' between them"
        raise DataError(f"{text.strip()!r} is not a triple", where=where, hint=hint)
    return Fact(*parts)


def _xml_tree(text: str, where: str) -> tuple[ElementTree.Element, dict[int, int]]:
    """Parse XML and return it with the line of each element; document types, and so entities, are refused."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    lines: dict[int, int] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[id(builder.start(tag, attributes))] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise DataError(
            "has a document type, which can hide hostile entities",
            where=f"{where}:{parser.CurrentLineNumber}",
            hint="remove the <!DOCTYPE",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise DataError(
            f"broken XML ({error})", where=f"{where}:{error.lineno}", hint="the file may be cut short: fetch it again"
        ) from error
    return builder.close(), lines
