"""Chat templates of model folders, rendered in a sandbox because they are programs of unknown origin."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tailora.core.errors import DataError, ModelError
from tailora.data.model_files import TOKENIZER_CONFIG, read_model_file, special_token
from tailora.data.tokenizer import Tokenizer

PROMPT_DATE = datetime(2024, 7, 26)
"""The date in prompts of records: a template that writes today's would give other prompts on every day after training.
Templates of Llama 3 write this one where they cannot ask for the date."""

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_TAKEN = {"messages", "tools", "documents", "add_generation_prompt", *_NAMES}
_RENDERING_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """Turns a conversation into token ids, as transformers' `apply_chat_template` does.

    Args:
        source: Jinja source of the template.
        tokenizer: tokenizer of the model.
        names: special tokens that the template may use, by name, such as bos_token.
        where: folder of the model, for error messages.
        date: the date that the template gets when it asks for today's; None for today.

    Attributes:
        source: Jinja source of the template.

    Raises:
        ModelError: the template is not valid.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, names: Mapping[str, str], where: Path, date: datetime | None = None
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["namespace"] = _Names
        environment.globals["dict"] = _Dict()
        environment.globals["strftime_now"] = lambda form: (date or datetime.now()).strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"the chat template cannot be read ({error})", where=where) from error
        self.source = source
        self._tokenizer, self._names = tokenizer, dict(names)

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: Tokenizer, source: str | None = None, date: datetime | None = None
    ) -> ChatTemplate | None:
        """Return the template of a model's folder, searched for as in transformers, or None.

        Args:
            folder: folder of the model; its tokenizer_config.json names the special tokens.
            tokenizer: tokenizer of the model.
            source: template to use instead of the folder's.
            date: the date that the template gets when it asks for today's; None for today.

        Raises:
            ModelError: the template is not valid.
        """
        source = _source(folder) if source is None else source
        if source is None:
            return None
        names = {name: token for name in _NAMES if (token := special_token(folder, name)) is not None}
        return cls(source, tokenizer, names, folder, date)

    def encode(
        self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any] | None = None
    ) -> tuple[int, ...]:
        """Return the token ids of a conversation, after which the model writes its answer.

        Only the template can insert special tokens: the name of one in a message or a variable is plain text.

        Args:
            messages: role and content of each message.
            variables: further variables of the template by name, such as `enable_thinking` of Qwen3.

        Raises:
            DataError: the template refuses the conversation, or a variable has a name that is taken.
        """
        own = {} if variables is None else dict(variables)
        if taken := sorted(own.keys() & _TAKEN):
            raise DataError(
                f"a variable of a chat template cannot have the name {taken[0]!r}",
                where="chat_template_kwargs",
                hint="remove it",
            )
        written = [*(message["content"] for message in messages), *_texts(own)]
        special = [token for token in self._tokenizer.special_tokens if any(token in text for text in written)]
        if not special:
            return tuple(self._tokenizer.encode(self._render(messages, own), special=True))
        # The template gets marks in their places: digits, which filters such as tojson and upper leave as they are, and
        # which no message can contain.
        nonce = f"{secrets.randbelow(10**20):020}"
        spelt = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))

        def mark(text: str) -> str:
            return spelt.sub(lambda match: f"{nonce}{special.index(match[0]):06}", text)

        marked = [{**message, "content": mark(message["content"])} for message in messages]
        text = self._render(marked, _map_texts(own, mark))
        ids: list[int] = []
        for place, piece in enumerate(re.split(f"{nonce}([0-9]{{6}})", text)):
            content = special[int(piece)] if place % 2 else piece
            ids += self._tokenizer.encode(content, special=not place % 2, continues=bool(ids))
        return tuple(ids)

    def around_message(self) -> tuple[str, str]:
        """Return what the template writes before and after the only message of a user, up to the answer.

        Raises:
            DataError: the template does not write the message once and unchanged.
        """
        mark = secrets.token_hex(8)
        before, middle, after = self._render([{"role": "user", "content": mark}]).partition(mark)
        if not middle or mark in after:
            raise DataError("the model's chat template does not write a message once and unchanged", where="messages")
        return before, after

    def answer_form(self) -> tuple[str, int]:
        """Return the text between the prompt and an assistant's answer, and the id of the token that ends the answer.

        Both are read from a rendered conversation. If the template writes no end, the tokenizer's end-of-text token is
        returned.

        Raises:
            DataError: the template refuses a question with an answer.
        """
        question = [{"role": "user", "content": "question"}]
        prompt = self._render(question)
        whole = self._render([*question, {"role": "assistant", "content": "answer"}], prompt=False)
        before, _, after = whole.rpartition("answer")
        gap = before.removeprefix(prompt) if before.startswith(prompt) else ""
        first = self._tokenizer.encode(after, special=True, continues=True)[:1]
        ends = first and first[0] in self._tokenizer.special_ids
        return gap, first[0] if ends else self._tokenizer.eos_id

    def _render(
        self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any] | None = None, *, prompt: bool = True
    ) -> str:
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        try:
            return self._template.render({**self._names, **(variables or {}), **values})
        except _RENDERING_ERRORS as error:
            raise DataError(
                f"the model's chat template does not accept this conversation ({error})", where="messages"
            ) from error


class _GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks an assistant's words in a template; renders its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """See `jinja2.ext.Extension`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """`dict(…)` and `dict.fromkeys(…)`, without the attributes of Python's own class."""

    def __call__(self, *pairs: Any, **values: Any) -> dict[Any, Any]:
        return dict(*pairs, **values)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        """See `dict.fromkeys`."""
        return dict.fromkeys(*arguments)


class _Names(Namespace):
    """Jinja's `namespace` without attributes that begin with an underscore, which lead out of the sandbox."""

    def __init__(*arguments: Any, **values: Any) -> None:  # a value may be called self
        own, *rest = arguments
        values = dict(*rest, **values)
        for name in values:
            _check_name(name)
        Namespace.__init__(own, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"the attribute {name!r} of a namespace begins with an underscore")


def _source(folder: Path) -> str | None:
    """Return the default template of a folder, from chat_template.jinja or tokenizer_config.json; None without one."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    source = read_model_file(folder, TOKENIZER_CONFIG).get("chat_template")
    if isinstance(source, list):
        source = next((item.get("template") for item in source if item.get("name") == "default"), None)
    return source if isinstance(source, str) else None


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_texts(item, change) for key, item in value.items()}
    return [_map_texts(item, change) for item in value] if isinstance(value, list) else value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)
