"""JSON lines: `{"prompt", "completion"}`, or `{"facts", "text" | "texts"}`, one object a line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from tailora.data.values import Fact, Record, RecordBuilder, check_ids
from tailora.errors import DataError


def parse(text: str, where: str) -> list[Record]:
    """Read JSON lines; keys beside `id`, `group`, `adapter` and those of the two forms are the user's own.

    Facts are an object (attribute to value, or to a list of values), a list of [attribute, value], or of [subject,
    attribute, value]. Lines with the same prompt become one record; lines with facts stay as they are.
    """
    prompts = RecordBuilder()
    with_facts: list[Record] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        at = f"{where}:{number}"
        row = _object(line, at)
        name = None if row.get("id") is None else _text(row["id"], at, "id")
        group = None if row.get("group") is None else _text(row["group"], at, "group")
        adapter = _adapter(row, at)
        if "facts" in row:
            facts = parse_facts(row["facts"], at)
            with_facts.append(Record(name or "", facts, _texts(row, at), group, adapter=adapter))
        elif "prompt" in row:
            prompt = _text(row["prompt"], at, "prompt", strip=False)
            completion = [] if row.get("completion") is None else [_text(row["completion"], at, "completion")]
            prompts.add((), completion, id=name, group=group, prompt=prompt, adapter=adapter)
        else:
            raise DataError("has neither 'facts' nor 'prompt'", where=at, mend="give one of the two")
    if with_facts and prompts.records():
        raise DataError("mixes lines with 'facts' and lines with 'prompt'", where=where, mend="use one form")
    records = [
        dataclasses.replace(record, id=record.id or str(number)) for number, record in enumerate(with_facts, start=1)
    ] or prompts.records()
    check_ids(records, where)
    return records


def dump(records: Iterable[Record]) -> str:
    """Return the text of a file that `parse` reads back as these records."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for record in records for row in _rows(record))


def parse_facts(value: Any, where: str) -> tuple[Fact, ...]:
    """Turn the JSON value of `facts` into facts."""
    if isinstance(value, dict):
        pairs = [
            (attribute, item)
            for attribute, items in value.items()
            for item in (items if isinstance(items, list) else [items])
        ]
        facts = tuple(_fact((None, attribute, item), where) for attribute, item in pairs)
    elif isinstance(value, list) and all(isinstance(row, list) and len(row) in (2, 3) for row in value):
        facts = tuple(_fact((None, *row) if len(row) == 2 else (row[0] or None, *row[1:]), where) for row in value)
    else:
        raise DataError(
            "'facts' cannot be read",
            where=where,
            mend="give an object, or a list of [attribute, value] or [subject, attribute, value]",
        )
    if not facts:
        raise DataError("'facts' is empty", where=where, mend="give a fact, or take the line out")
    return facts


def _rows(record: Record) -> list[dict[str, Any]]:
    head: dict[str, Any] = {"id": record.id}
    if record.group is not None:
        head["group"] = record.group
    if record.adapter is not None:
        head["adapter"] = record.adapter or None
    if record.prompt is not None:
        completions = [{"completion": text} for text in record.references]
        return [head | {"prompt": record.prompt} | completion for completion in completions or [{}]]
    attributes = [fact.attribute for fact in record.facts]
    facts: Any
    if any(fact.subject is not None for fact in record.facts):
        facts = [[fact.subject or "", fact.attribute, fact.value] for fact in record.facts]
    elif len(set(attributes)) == len(attributes):
        facts = {fact.attribute: fact.value for fact in record.facts}
    else:
        facts = [[fact.attribute, fact.value] for fact in record.facts]
    return [head | {"facts": facts} | ({"texts": list(record.references)} if record.references else {})]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON ({error})", where=where, mend="give one whole JSON object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"is a JSON {type(row).__name__}, not an object", where=where, mend="give one object a line")
    return row


def _adapter(row: dict[str, Any], where: str) -> str | None:
    """The adapter that a row names, "" where it asks for none with null."""
    if "adapter" not in row:
        return None
    return "" if row["adapter"] is None else _text(row["adapter"], where, "adapter")


def _fact(parts: tuple[Any, ...], where: str) -> Fact:
    subject, attribute, value = parts
    if subject is not None:
        subject = _text(subject, where, "subject")
    # JSON's own true and false, as people write them in records.
    value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    if value is None or isinstance(value, list | dict):
        raise DataError(
            f"the value of {attribute!r} is a {type(value).__name__}", where=where, mend="give text or a number"
        )
    return Fact(subject, _text(attribute, where, "attribute"), str(value).strip())


def _texts(row: dict[str, Any], where: str) -> tuple[str, ...]:
    if "text" in row and "texts" in row:
        raise DataError("has both 'text' and 'texts'", where=where, mend="give one of the two")
    if row.get("text") is not None:
        return (_text(row["text"], where, "text"),)
    texts = row.get("texts")
    if texts is None:
        return ()
    if not isinstance(texts, list):
        raise DataError("'texts' is not a list", where=where, mend="give a list, or a 'text'")
    return tuple(_text(text, where, "text") for text in texts)


def _text(value: Any, where: str, what: str, strip: bool = True) -> str:
    if not isinstance(value, str) and not (isinstance(value, int | float) and what in ("id", "group")):
        raise DataError(f"the {what} is a {type(value).__name__}, not text", where=where, mend="write it as a string")
    text = str(value)
    if not text.strip():
        raise DataError(f"the {what} is empty", where=where, mend="fill it in, or take the line out")
    return text.strip() if strip else text
