"""Conversations: OpenAI's and TRL's `messages`, ShareGPT's `conversations`, and Alpaca's instructions.

The last answer of the assistant is the reference of the record, and what precedes it is its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tailora.core.errors import DataError
from tailora.data.suspects import is_text_name
from tailora.data.values import Turn

KEYS = frozenset(("messages", "conversations"))
"""Keys under which an object holds a conversation."""
MESSAGES_KEYS = KEYS | {"prompt", "completion", "system"}
"""Keys of an object that `of_messages` reads."""
ALPACA_KEYS = frozenset(("instruction", "input", "output", "system", "history"))
"""Keys of an object that `of_alpaca` reads."""
METADATA_KEYS = frozenset(("id", "group", "adapter", "language", "lang"))
"""Further keys that an object of any form may have."""

_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TOOLS = ("tool", "function", "function_call", "observation")
_TEXT_PARTS = ("text", "input_text", "output_text")


class Conversation(NamedTuple):
    """What precedes an answer, and the answer; None if there is none."""

    messages: tuple[Turn, ...]
    answer: str | None


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Return whether an object holds a conversation: as messages, also as those of TRL's `prompt` and `completion`."""
    if any(isinstance(row.get(key), list) and row[key] and isinstance(row[key][0], dict) for key in KEYS):
        return True
    prompt = row.get("prompt")
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(message, dict) for message in prompt)


def is_alpaca(row: Mapping[str, Any]) -> bool:
    """Return whether an object has Alpaca's form: an instruction with an output or an input, or alone."""
    if "instruction" not in row or "output" in row:
        return "instruction" in row
    others = {key for key, value in row.items() if value is not None} - ALPACA_KEYS - METADATA_KEYS
    return not others or ("input" in row and not any(key in ("text", "texts") or is_text_name(key) for key in others))


def of_messages(row: Mapping[str, Any], where: str) -> Conversation:
    """Return the conversation of an object with `messages`, `conversations`, or `prompt` and `completion`.

    Args:
        row: the object. A message is `{"role", "content"}` or `{"from", "value"}`; its `weight` of 0 excludes an
            assistant's message from training, as in OpenAI's files.
        where: file and line, for messages.

    Raises:
        DataError: the conversation cannot be read, or calls tools.
    """
    for key in ("tools", "functions"):
        if row.get(key) not in (None, "", "[]", [], {}):
            raise DataError(f"has {key!r}, and tool calls are not supported", where=where, hint="remove the row")
    key = next((key for key in ("messages", "conversations") if row.get(key)), "prompt")
    listed = row[key]
    if key == "prompt" and row.get("completion") is not None:
        completion = row["completion"]
        if not isinstance(completion, list):
            raise DataError("'prompt' is a list of messages, and 'completion' is not", where=where, hint="give a list")
        listed = [*listed, *completion]
    messages = [_message(value, f"{where}: {key}[{number}]") for number, value in enumerate(listed)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0].role != "system":
        messages.insert(0, Turn("system", system))
    return _split(messages, where)


def of_alpaca(row: Mapping[str, Any], where: str) -> Conversation:
    """Return the conversation of an object in Alpaca's form.

    The user's message is the instruction and, on the next line, the input. `system` and `history`, pairs of an
    instruction and its output, precede it.

    Raises:
        DataError: a value is not text, or the instruction is empty.
    """
    texts = {key: _text(row.get(key), key, where) for key in ("system", "instruction", "input", "output")}
    if not texts["instruction"].strip():
        raise DataError("the instruction is empty", where=where, hint="fill it in, or remove the row")
    messages = [Turn("system", texts["system"])] if texts["system"].strip() else []
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            hint = "give a list of [instruction, output]"
            raise DataError("'history' is not a list of pairs", where=where, hint=hint)
        messages += [
            Turn("user", _text(pair[0], "history", where)),
            Turn("assistant", _text(pair[1], "history", where), learnt=True),
        ]
    question = [text for text in (texts["instruction"], texts["input"]) if text.strip()]
    messages.append(Turn("user", "\n".join(question)))
    return Conversation(tuple(messages), texts["output"].strip() if row.get("output") is not None else None)


def _split(messages: Sequence[Turn], where: str) -> Conversation:
    """Divide messages into what precedes the last answer that is learnt, and this answer."""
    if messages[-1].role != "assistant":  # a question to which no answer is given
        return Conversation(tuple(messages), None)
    last = max((place for place, message in enumerate(messages) if message.learnt), default=None)
    if last is None:
        raise DataError("every message of the assistant has the weight 0", where=where, hint="remove the row")
    if last == 0:
        raise DataError("the conversation begins with an answer", where=where, hint="put a user message before it")
    return Conversation(tuple(messages[:last]), messages[last].content.strip())


def _message(value: Any, where: str) -> Turn:
    if not isinstance(value, dict):
        raise DataError("is not an object", where=where, hint='write {"role": …, "content": …}')
    if value.get("tool_calls") or value.get("function_call"):
        raise DataError("calls a tool, which is not supported", where=where, hint="remove the row")
    role = value.get("role", value.get("from"))
    speaker = _SPEAKERS.get(role) if isinstance(role, str) else None
    if role in _TOOLS:
        raise DataError("calls a tool, which is not supported", where=where, hint="remove the row")
    if speaker is None:
        raise DataError(f"there is no role {role!r}", where=where, hint="use system, user or assistant")
    content = _content(value["content"] if "content" in value else value.get("value"), where)
    if speaker == "user" and not content.strip():
        raise DataError("the user's message is empty", where=where, hint="fill it in, or remove the row")
    return Turn(speaker, content, learnt=speaker == "assistant" and _weight(value, where) != 0)


def _weight(value: Mapping[str, Any], where: str) -> int:
    weight = value.get("weight")
    if weight not in (None, 0, 1):
        raise DataError(f"the weight is {weight!r}", where=where, hint="use 0 (not learnt) or 1")
    return 1 if weight is None else int(weight)


def _content(value: Any, where: str) -> str:
    """Return the text of a message, which may be a list of text parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError("the content is not text", where=where, hint="write it as a string")
    parts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part if isinstance(part, str) else part.get("text") if kind in _TEXT_PARTS else None
        if not isinstance(text, str):
            raise DataError(f"a part of type {kind!r} is not supported", where=where, hint="give text")
        parts.append(text)
    return "".join(parts)


def _text(value: Any, key: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{key!r} is not text", where=where, hint="write it as a string")
    return value
