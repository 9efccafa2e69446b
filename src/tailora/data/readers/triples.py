"""Sets of triples: WebNLG (the 2017 challenge's JSON, the challenge's XML) and DART's JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any
from xml.parsers import expat

from tailora.data.values import Fact, Record
from tailora.errors import DataError

SEEN_2017 = frozenset(
    (
        *("Airport", "Astronaut", "Building", "City", "ComicsCharacter"),
        *("Food", "Monument", "SportsTeam", "University", "WrittenWork"),
    )
)
"""The WebNLG categories (`Record.group`) that the 2017 train split contains; the test split has five more."""


def load_json(text: str, where: str) -> Any:
    """Parse JSON; `DataError` with the line where it is broken."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"broken JSON ({error})", where=f"{where}{line}", mend="the file may be cut short: fetch it again"
        ) from error


def parse_webnlg_json(text: str, where: str, good_only: bool = True) -> list[Record]:
    """Read WebNLG 2017 in its JSON form; the category becomes the group.

    With `good_only`, texts whose annotators' comment is not "good" are left out, as in the LoRA paper.
    """
    data = load_json(text, where)
    if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
        raise DataError("has no list under 'entries'", where=where, mend="give a WebNLG JSON file")
    records = []
    for number, outer in enumerate(data["entries"], start=1):
        at = f"{where}: entry {number}"
        try:
            ((key, entry),) = outer.items()
            facts = tuple(Fact(t["subject"], t["property"], t["object"]) for t in entry["modifiedtripleset"])
            texts = [(lex["lex"], lex.get("comment", "")) for lex in entry["lexicalisations"]]
            records.append(_record(str(key), facts, texts, entry.get("category"), good_only, at))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"is no WebNLG entry ({type(error).__name__}: {error})", where=at, mend="give a WebNLG JSON file"
            ) from error
    return records


def parse_webnlg_xml(text: str, where: str, good_only: bool = True) -> list[Record]:
    """Read the WebNLG challenge's XML; see `parse_webnlg_json`. Document types and entities are refused."""
    root, lines = _xml_tree(text, where)
    records: list[Record] = []
    for entry in root.iter("entry"):
        at = f"{where}:{lines[id(entry)]}"
        facts = tuple(_xml_fact(triple.text or "", at) for triple in entry.iterfind("modifiedtripleset/mtriple"))
        texts = [(lex.findtext("text") or lex.text or "", lex.get("comment", "")) for lex in entry.iterfind("lex")]
        # Entry ids start anew in each category and size of a challenge file.
        parts = [entry.get("category", ""), entry.get("size", ""), entry.get("eid", "")]
        name = "/".join(part for part in parts if part) or str(len(records) + 1)
        records.append(_record(name, facts, texts, entry.get("category"), good_only, at))
    if not records:
        raise DataError("has no <entry>", where=where, mend="give a WebNLG XML file")
    return records


def parse_dart(text: str, where: str) -> list[Record]:
    """Read DART's JSON: one record per triple set, one reference per annotation."""
    data = load_json(text, where)
    if not isinstance(data, list):
        raise DataError("is not a JSON list", where=where, mend="give a DART JSON file")
    records = []
    for number, entry in enumerate(data, start=1):
        at = f"{where}: entry {number}"
        try:
            facts = tuple(Fact(subject, relation, value) for subject, relation, value in entry["tripleset"])
            texts = [(annotation["text"], "good") for annotation in entry["annotations"]]
            records.append(_record(str(number), facts, texts, None, False, at))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"is no DART entry ({type(error).__name__}: {error})", where=at, mend="give a DART JSON file"
            ) from error
    return records


def _record(
    name: str,
    facts: tuple[Fact, ...],
    texts: list[tuple[str, str]],
    group: str | None,
    good_only: bool,
    where: str,
) -> Record:
    if not facts:
        raise DataError("has no triple", where=where, mend="take the entry out")
    for fact in facts:
        if not all(isinstance(part, str) and part.strip() for part in (fact.subject, fact.attribute)):
            raise DataError("a triple has no subject or no predicate", where=where, mend="fill it in")
        if not isinstance(fact.value, str):
            raise DataError(f"the object {fact.value!r} is not text", where=where, mend="write it as a string")
    stripped = [(text.strip(), comment) for text, comment in texts]
    if not all(text for text, _ in stripped):
        raise DataError("a text is empty", where=where, mend="fill it in, or take it out")
    references = tuple(text for text, comment in stripped if not good_only or comment == "good")
    return Record(name, facts, references, group)


def _xml_fact(text: str, where: str) -> Fact:
    parts = [part.strip() for part in text.split(" | ")]
    if len(parts) != 3:
        raise DataError(
            f"{text.strip()!r} is no triple", where=where, mend="write subject | predicate | object, parted by ' | '"
        )
    return Fact(*parts)


def _xml_tree(text: str, where: str) -> tuple[ElementTree.Element, dict[int, int]]:
    """Parse without any document type, and so without entities to expand; also give the line of each element."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    lines: dict[int, int] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[id(builder.start(tag, attributes))] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise DataError(
            "has a document type, which can hide hostile entities",
            where=f"{where}:{parser.CurrentLineNumber}",
            mend="take the <!DOCTYPE out",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise DataError(
            f"broken XML ({error})", where=f"{where}:{error.lineno}", mend="the file may be cut short: fetch it again"
        ) from error
    return builder.close(), lines
