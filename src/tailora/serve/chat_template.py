"""Chat templates as model folders bring them, rendered in a sandbox: they are programs from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tailora.data.tokenizer import Tokenizer
from tailora.errors import DataError, ModelError


class ChatTemplate:
    """Turns a conversation into token ids.

    Args:
        source: of the template.
        tokenizer: of the model.
        names: special tokens that the template may name, such as bos_token.
        where: the folder, for messages.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, names: Mapping[str, str], where: Path) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"the chat template cannot be read ({error})", where=where) from error
        self._tokenizer, self._names = tokenizer, dict(names)

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template in a model's folder, if it has one, as transformers looks for it.

        Raises:
            ModelError: it is broken.
        """
        config = _json(folder / "tokenizer_config.json")
        source = config.get("chat_template")
        if (folder / "chat_template.jinja").is_file():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        if isinstance(source, list):
            source = next((each.get("template") for each in source if each.get("name") == "default"), None)
        if not isinstance(source, str):
            return None
        names: dict[str, str] = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = config.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            names |= {name: token} if isinstance(token, str) else {}
        return cls(source, tokenizer, names, folder)

    def encode(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """The token ids after which the model answers.

        Special tokens are the template's alone: where a message spells one, it is text.

        Raises:
            DataError: the template refuses the conversation.
        """
        special = self._tokenizer.special_tokens
        if not any(token in message["content"] for message in messages for token in special):
            return tuple(self._tokenizer.encode(self._render(messages), special=True))
        marks = [f"\x00{number}\x00" for number in range(len(messages))]
        text = self._render([{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)])
        ids: list[int] = []
        for mark, message in zip(marks, messages, strict=True):
            before, found, text = text.partition(mark)
            ids += self._tokenizer.encode(before, special=True)
            ids += self._tokenizer.encode(message["content"]) if found else []
        return (*ids, *self._tokenizer.encode(text, special=True))

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"the model's chat template takes no such conversation ({error})", where="messages"
            ) from error


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
