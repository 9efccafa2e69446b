"""JSON records: `{"prompt", "completion"}` or `{"facts", "text" | "texts"}`, as JSON lines or as a list.

Also the rows of GEM's tasks, and the LoRA paper's `{"context", "completion"}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tailora.core.errors import DataError
from tailora.data.columns import spell_name
from tailora.data.mixtures import Mixture, MixtureError, read_mixture
from tailora.data.readers import conversations, json_text, tables
from tailora.data.readers.conversations import Conversation
from tailora.data.readers.object_forms import own_form, refuse_form
from tailora.data.readers.table_layout import Cell
from tailora.data.readers.text_lists import check_references
from tailora.data.suspects import is_text_name
from tailora.data.text_files import BYTE_ORDER_MARK
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Fact, Parsed, Record, Reference, Row, Turn

_TEXT_KEYS = ("text", "texts", "completion")
_KEYS = {*conversations.METADATA_KEYS, "facts", "prompt", *_TEXT_KEYS}
_ATTRIBUTE_KEYS = ("attribute", "predicate", "property", "relation", "key", "slot", "name")
_VALUE_KEYS = ("value", "object")
"""Keys of a fact that is an object; its subject is under `subject`."""
_OTHER_FILES: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"settings", "account"}),
        "is the run.json of a training run, not a data file",
        "give a file of records",
    ),
    (
        frozenset({"text", "finish_reason", "completion_tokens"}),
        "contains texts that `tailora generate` wrote, not records",
        "give the file with the records; `tailora evaluate` scores such texts",
    ),
    (frozenset({"r", "lora_alpha", "target_modules"}), "is the settings file of an adapter", "give a file of records"),
    (frozenset({"model_type", "architectures"}), "is the settings file of a model", "give a file of records"),
)
"""Keys by which a file is recognised as one that contains no records, what it is, and the hint."""


def parse(
    text: str,
    where: str,
    columns: Mapping[str, Any] | None = None,
    *,
    needs_text: bool = False,
    trained: TrainedReading | None = None,
) -> Parsed:
    """Read JSON records: one object per line, a list, or consecutive objects.

    Objects that hold conversations, or instructions in Alpaca's form, are read by `conversations`.

    Facts are an object (attribute to value, or to a list of values), or a list of [attribute, value], of [subject,
    attribute, value], or of objects with these parts (`fact_keys`). Objects without `facts` and `prompt` whose values
    are plain are read as the rows of a table whose columns are their keys; so are all objects if `columns` says which
    key is what.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        columns: see `tables.parse_rows`.
        needs_text: see `tables.parse_rows`.
        trained: see `tables.parse_rows`; objects with `facts` or `prompt` need no columns.

    Raises:
        DataError: the file cannot be read.
    """
    plain_numbers = trained is None or trained.plain_values
    objects = [
        (line, _object(value, f"{where}:{line}"))
        for line, value in json_text.values(text, where, plain_numbers=plain_numbers)
    ]
    first = objects[0][1] if objects else {}
    _refuse_other_files(first, where)
    if columns is None:
        refuse_form(first, f"{where}:{objects[0][0] if objects else 1}")
    if objects and columns is None and (form := _conversation_form(objects[0][1])) is not None:
        return _conversations(objects, where, form)
    if columns is None and not (trained and trained.columns):
        objects = own_form(objects, where)
    if len(objects) == 1 and _is_whole_table(objects[0][1]):
        what = "is one object, with its values in columns or its rows under a key"
        hint = 'write one object for each row (pandas: to_json(orient="records"))'
        raise DataError(what, where=f"{where}:{objects[0][0]}", hint=hint)
    present = {key for _, row in objects for key, value in row.items() if value is not None}
    named = trained is not None and bool(trained.input_columns) and set(trained.input_columns) <= present
    null = {"facts", "prompt"} - present if present - _KEYS else set()  # keys that some programs write in every row
    tabular = not any(({"facts", "prompt"} - null) & row.keys() for _, row in objects)
    if columns is not None or (objects and (named or tabular)):
        rows = [(line, {key: row[key] for key in row if key not in null}) for line, row in objects]
        return _table(rows, where, columns, needs_text, trained)
    parsed = Parsed([])
    ignored: Counter[str] = Counter()
    for line, row in objects:
        parsed.rows.append(_row(row, f"{where}:{line}", parsed.listed))
        ignored.update(key for key in row if key not in _KEYS and row[key] not in (None, "", [], {}))
    if len({row.prompt is None for row in parsed.rows}) > 1:
        raise DataError("mixes rows with 'facts' and rows with 'prompt'", where=where, hint="use one form")
    if needs_text and parsed.rows and not any(row.texts for row in parsed.rows):
        _refuse_other_texts(ignored, where, prompts=parsed.rows[0].prompt is not None)
    parsed.notes += _ignored_keys(ignored, "the facts or the prompt")
    return parsed


def dump(records: Iterable[Record]) -> str:
    """Return the text of a file that `parse`, or `plain_texts.parse` for texts alone, reads back as these records."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for record in records for row in _rows(record))


def parse_facts(value: Any, where: str) -> tuple[Fact, ...]:
    """Turn the JSON value of `facts` into facts; null, NaN and blank values are left out.

    Raises:
        DataError: the value has another form, or no fact is left.
    """
    keyed = [_keyed_parts(row) for row in value] if isinstance(value, list) else []
    if isinstance(value, dict):
        pairs = [
            (attribute, item)
            for attribute, items in value.items()
            for item in (items if isinstance(items, list) else [items])
        ]
        facts = [_fact((None, attribute, item), where) for attribute, item in pairs]
    elif keyed and None not in keyed:
        facts = [_fact(parts, where) for parts in keyed if parts is not None]
    elif isinstance(value, list) and all(isinstance(row, list) and len(row) in (2, 3) for row in value):
        facts = [_fact((None, *row) if len(row) == 2 else (row[0] or None, *row[1:]), where) for row in value]
    else:
        raise DataError(
            "'facts' cannot be read",
            where=where,
            hint="give an object, or a list of [attribute, value] or [subject, attribute, value]",
        )
    stated = tuple(fact for fact in facts if fact is not None)
    if not stated:
        what = "every value of 'facts' is missing" if facts else "'facts' is empty"
        raise DataError(what, where=where, hint="give a fact, or remove the record")
    return stated


def fact_keys(row: Any) -> tuple[str, str, str] | None:
    """Return the keys of subject, attribute and value in an object that is one fact; None if it is not.

    The first key may be absent from the object.
    """
    if not isinstance(row, dict):
        return None
    attribute, value = ([key for key in names if key in row] for names in (_ATTRIBUTE_KEYS, _VALUE_KEYS))
    others = row.keys() - {"subject", *attribute, *value}
    return ("subject", attribute[0], value[0]) if len(attribute) == len(value) == 1 and not others else None


def _keyed_parts(row: Any) -> tuple[Any, Any, Any] | None:
    """Return subject, attribute and value of an object that is one fact; None if it is not."""
    keys = fact_keys(row)
    return None if keys is None else (row.get(keys[0]) or None, row[keys[1]], row[keys[2]])


def parse_adapter(row: dict[str, Any], where: str) -> str | Mixture | None:
    """Return the adapter that a row names, or several with weights; "" for null, which means the base model alone.

    Raises:
        DataError: it is empty, or is neither a name nor adapters with weights.
    """
    if "adapter" not in row:
        return None
    if row["adapter"] is None:
        return ""
    if isinstance(row["adapter"], dict | list):
        try:
            return read_mixture(row["adapter"])
        except MixtureError as error:
            raise DataError(f"adapter: {error}", where=where, hint=error.hint) from error
    name = _string(row["adapter"], where, "adapter").strip()
    if not name:
        raise DataError("the adapter is empty", where=where, hint="name one, or give null for the base model alone")
    return name


def _refuse_other_files(first: dict[str, Any], where: str) -> None:
    """Raise `DataError` for other JSON files that Tailora writes."""
    for keys, what, hint in _OTHER_FILES:
        if keys <= first.keys():
            raise DataError(what, where=where, hint=hint)


def _table(
    objects: list[tuple[int, dict[str, Any]]],
    where: str,
    columns: Mapping[str, Any] | None,
    needs_text: bool,
    trained: TrainedReading | None,
) -> Parsed:
    """Objects as rows of a table; a list is a cell with several values."""
    header, rows = cells_of(objects, where, unknown=columns is None and not (trained and trained.columns))
    return tables.parse_rows(header, rows, where, where, columns, needs_text=needs_text, trained=trained, sparse=True)


def cells_of(
    objects: Sequence[tuple[int, Mapping[str, Any]]], where: str, *, unknown: bool
) -> tuple[list[str], list[tuple[int, list[Cell]]]]:
    """Return objects as the header and the rows of a table; a list is a cell with several values.

    Args:
        objects: (line, object) of each row.
        where: the file's name, for messages.
        unknown: no roles of columns are known, so that a value with parts is an error.

    Raises:
        DataError: a value has parts.
    """
    header = list(dict.fromkeys(key for _, row in objects for key in row))
    rows = []
    for line, row in objects:
        cells: list[Cell] = []
        for key in header:
            items = row.get(key)
            try:
                cells.append(
                    tuple(
                        v for item in (items if isinstance(items, list) else [items]) if (v := json_text.value_of(item))
                    )
                )
            except TypeError as error:
                nested = json_text.NestedValue(json.dumps(items, ensure_ascii=False))
                if unknown:
                    what = f"has neither 'facts' nor 'prompt', and the value of {key!r} is {nested.kind}"
                    hint = "give one of the two, or say which key is what with --columns"
                    raise DataError(what, where=f"{where}:{line}", hint=f"{hint}; {tables.nested_hint(key)}") from error
                cells.append((nested,))
        rows.append((line, cells))
    return header, rows


def _conversation_form(row: Mapping[str, Any]) -> Callable[[Mapping[str, Any], str], Conversation] | None:
    """Return what reads the objects of a file as conversations, by its first object; None for other files."""
    if conversations.is_conversation(row):
        return conversations.of_messages
    return conversations.of_alpaca if conversations.is_alpaca(row) else None


def _conversations(
    objects: list[tuple[int, dict[str, Any]]],
    where: str,
    form: Callable[[Mapping[str, Any], str], Conversation],
) -> Parsed:
    """Read objects that all hold conversations of one form."""
    is_alpaca = form is conversations.of_alpaca
    known = conversations.METADATA_KEYS | (conversations.ALPACA_KEYS if is_alpaca else conversations.MESSAGES_KEYS)
    parsed = Parsed([])
    ignored: Counter[str] = Counter()
    for line, row in objects:
        at = f"{where}:{line}"
        if _conversation_form(row) is not form and not (is_alpaca and "instruction" in row):
            raise DataError("is not a conversation like the first object", where=at, hint="use one form for all")
        conversation = form(row, at)
        parsed.rows.append(
            Row(
                at,
                (),
                () if conversation.answer is None else (Reference(conversation.answer, _language(row, at)),),
                id=_name(row, "id", at),
                group=_name(row, "group", at),
                prompt=conversation.messages[-1].content,
                adapter=parse_adapter(row, at),
                language=_language(row, at),
                messages=conversation.messages,
            )
        )
        ignored.update(key for key in row if key not in known and row[key] not in (None, "", [], {}))
    return replace(parsed, notes=_ignored_keys(ignored, "the conversation"))


def _refuse_other_texts(ignored: Iterable[str], where: str, *, prompts: bool) -> None:
    """Raise `DataError` if a key that is not read contains the texts by its name."""
    key = next((key for key in ignored if is_text_name(key)), None)
    if key is not None:
        what = f"no record has a text, and the key {key!r} next to the facts or the prompt is not read"
        mapping = f"add --columns prompt=prompt,text={spell_name(key)}" if prompts else "call it 'text'"
        raise DataError(what, where=where, hint=f"if it contains the texts, {mapping}")


def _ignored_keys(ignored: Iterable[str], beside: str) -> list[str]:
    """Return a note on the keys of objects that are not read; none if there are none."""
    names = [repr(key) for key in ignored]
    if not names:
        return []
    keys, are = ("keys", "are") if len(names) > 1 else ("key", "is")
    return [f"the {keys} {', '.join(names)} next to {beside} {are} not read"]


def _is_whole_table(row: dict[str, Any]) -> bool:
    """Return whether an object is a whole table: lists of one length, or rows within it, and no single values."""
    if {"facts", "prompt", "texts"} & row.keys() or not all(isinstance(value, list | dict) for value in row.values()):
        return False
    columns = list(row.values())
    if any(isinstance(column, dict) or any(isinstance(item, list | dict) for item in column) for column in columns):
        return True
    return len(columns) > 1 and len(columns[0]) > 1 and len(set(map(len, columns))) == 1


def _row(row: dict[str, Any], at: str, listed: set[str]) -> Row:
    if row.get("facts") is not None and row.get("prompt") is not None:
        raise DataError("has both 'facts' and 'prompt'", where=at, hint="give one of the two")
    facts: tuple[Fact, ...] = ()
    prompt = None
    if row.get("facts") is not None:
        facts = parse_facts(row["facts"], at)
        if isinstance(row["facts"], dict):
            listed.update(attribute for attribute, value in row["facts"].items() if isinstance(value, list))
    elif row.get("prompt") is not None:
        prompt = _string(row["prompt"], at, "prompt")
        if not prompt.strip():
            raise DataError("the prompt is empty", where=at, hint="fill it in, or remove the record")
    else:
        raise DataError("has neither 'facts' nor 'prompt'", where=at, hint="give one of the two")
    language = _language(row, at)
    return Row(
        at,
        facts,
        tuple(Reference(text, language) for text in _texts(row, at)),
        id=_name(row, "id", at),
        group=_name(row, "group", at),
        prompt=prompt,
        adapter=parse_adapter(row, at),
        language=language,
    )


def _rows(record: Record) -> list[dict[str, Any]]:
    head: dict[str, Any] = {"id": record.id}
    if record.group is not None:
        head["group"] = record.group
    if record.adapter is not None:
        several = record.adapter if isinstance(record.adapter, tuple) else None
        head["adapter"] = dict(several) if several else record.adapter or None
    if record.language is not None:
        head["language"] = record.language
    if record.messages:
        earlier = [_message_row(message) for message in record.messages]
        answers = [[{"role": "assistant", "content": text}] for text in record.references]
        return [head | {"messages": earlier + answer} for answer in answers or [[]]]
    if record.prompt == "":  # a text alone, which `plain_texts` reads
        return [head | {"text": text} for text in record.references]
    if record.prompt is not None:
        completions = [{"completion": text} for text in record.references]
        return [head | {"prompt": record.prompt} | completion for completion in completions or [{}]]
    return [head | {"facts": _facts(record)} | ({"texts": list(record.references)} if record.references else {})]


def _message_row(message: Turn) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    return row | ({"weight": 0} if message.role == "assistant" and not message.learnt else {})


def _facts(record: Record) -> Any:
    """An object where that keeps the order of the facts, with lists for attributes of several values."""
    if any(fact.subject is not None for fact in record.facts):
        return [[fact.subject or "", fact.attribute, fact.value] for fact in record.facts]
    by_attribute: dict[str, list[str]] = {}
    for fact in record.facts:
        by_attribute.setdefault(fact.attribute, []).append(fact.value)
    if [name for name, values in by_attribute.items() for _ in values] == [fact.attribute for fact in record.facts]:
        return {name: values[0] if len(values) == 1 else values for name, values in by_attribute.items()}
    return [[fact.attribute, fact.value] for fact in record.facts]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        what = f"is a JSON {_kind(value)}, not an object"
        raise DataError(what, where=where, hint="give one object for each record")
    return value


def _fact(parts: tuple[Any, ...], where: str) -> Fact | None:
    """Return a fact; None if the value is missing."""
    subject, attribute, value = parts
    if subject is not None:
        subject = _required(subject, where, "subject")
    attribute = _required(attribute, where, "attribute").removeprefix(BYTE_ORDER_MARK)
    try:
        text = json_text.value_of(value)
    except TypeError as error:
        what = f"the value of {attribute!r} is a JSON {_kind(value)}"
        raise DataError(what, where=where, hint="give text or a number") from error
    return None if text is None else Fact(subject, attribute, text)


def _texts(row: dict[str, Any], where: str) -> list[str]:
    """Return the references of a row, with "" for one that is blank or null."""
    present = [key for key in _TEXT_KEYS if row.get(key) not in (None, "", [])]
    if len(present) > 1:
        names = " and ".join(map(repr, present))
        raise DataError(f"has {names}", where=where, hint="give one of them")
    if not present:
        return [""] if any(key in row for key in _TEXT_KEYS) else []
    value = row[present[0]]
    if present[0] != "texts":
        return [_string(value, where, present[0]).strip()]
    if not isinstance(value, list):
        raise DataError("'texts' is not a list", where=where, hint="give a list, or a 'text'")
    texts = ["" if item is None else _string(item, where, "text").strip() for item in value]
    check_references(texts, where)
    return texts


def _name(row: dict[str, Any], key: str, where: str) -> str | None:
    """Return a short text such as an id; None if it is missing or blank."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise DataError(f"the {key} is a JSON {_kind(value)}, not text", where=where, hint="write it as a string")
    return json_text.plain(value)


def _language(row: dict[str, Any], where: str) -> str | None:
    return _name(row, "language" if row.get("language") is not None else "lang", where)


def _required(value: Any, where: str, what: str) -> str:
    text = _string(value, where, what).strip()
    if not text:
        raise DataError(f"the {what} is empty", where=where, hint="fill it in, or remove the fact")
    return text


def _string(value: Any, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"the {what} is a JSON {_kind(value)}, not text", where=where, hint="write it as a string")
    return value


def _kind(value: Any) -> str:
    """Return the JSON name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "list" if isinstance(value, list) else "object"
