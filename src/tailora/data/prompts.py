"""The prompts of records: a format that is stored in an adapter's metadata and restored from there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from tailora.core.errors import DataError, SettingsError
from tailora.data.chat_template import PROMPT_DATE, ChatTemplate
from tailora.data.known_values import KnownValues, known_values, read_known_values
from tailora.data.linearize import linearize, written_name
from tailora.data.readers import json_text, piped
from tailora.data.readers.jsonl import parse_facts
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record

PromptForm = Literal["paper", "arrow", "chat"]
PromptSource = Literal["facts", "text", "mixed"]
ARROW = "=>"
_MOST_ATTRIBUTES = 500  # more names than this are not the columns of a table
_FENCED = re.compile(r"(?P<fence>```+|~~~+)[^\n`]*\n(?P<content>.*)\n[ \t]*(?P=fence)", re.DOTALL)
_PLAIN_FACT = re.compile(r"(?:([^:;]+), )?([^:;,]*[^:;,\s]): ([^;]*\S)")


@dataclass(frozen=True, eq=False)
class PromptFormat:
    """How records become prompts in token ids.

    Attributes:
        tokenizer: the tokenizer of the base.
        form: "paper": the linearised facts and the end-of-text token, as in the LoRA paper's example. "arrow": the
            facts and ` =>`. "chat": a user's message in the base's chat template. A ready prompt is used unchanged in
            the first two forms, and is the message in the third.
        style: the linearisation, see `linearize`.
        bos: ids of the tokens that begin a prompt; a chat template writes its own.
        end: id of the token that ends a text and, in the form "paper", the facts.
        template: the chat template of the form "chat"; None in other forms.
        source: what the adapter was trained on: facts, ready prompts, or both; None if unknown.
        trained: whether an adapter or a model was trained on prompts of this format.
        attributes: names of all attributes in the training data, as the style writes them. None if unknown, and if
            facts have subjects, as in WebNLG, whose test set has other relations.
        known_values: values of the training data by which texts that say something else are recognised.
    """

    tokenizer: Tokenizer
    form: PromptForm
    style: str
    bos: tuple[int, ...]
    end: int
    template: ChatTemplate | None = None
    source: PromptSource | None = None
    trained: bool = False
    attributes: frozenset[str] | None = None
    known_values: KnownValues = field(default_factory=dict)

    @classmethod
    def of_training(
        cls,
        tokenizer: Tokenizer,
        *,
        form: PromptForm | None = "paper",
        style: str = "paper",
        folder: Path | None = None,
        records: Sequence[Record] = (),
    ) -> Self:
        """Return the prompt format of a new training run.

        Args:
            tokenizer: the tokenizer of the base.
            form: see the attribute; None chooses one, see `usual_form`.
            style: see the attribute.
            folder: the folder of the base, for its chat template.
            records: the training records, which determine `source`, `attributes` and `known_values`.

        Raises:
            SettingsError: the form does not exist, or the base has no chat template.
        """
        form = form or usual_form(records, tokenizer, folder)
        kinds = {"facts" if record.prompt is None else "text" for record in records}
        source: Any = "mixed" if len(kinds) > 1 else next(iter(kinds), None)
        template = None
        if form == "chat" and folder is not None:
            template = ChatTemplate.from_folder(folder, tokenizer, date=PROMPT_DATE)
        base_format = replace(cls._on_base(tokenizer, form, style, template), source=source, trained=True)
        facts = [fact for record in records for fact in record.facts]
        known = frozenset(written_name(fact.attribute, style) for fact in facts)
        closed = known and len(known) <= _MOST_ATTRIBUTES and all(fact.subject is None for fact in facts)
        values = known_values(records)
        return replace(base_format, attributes=known if closed else None, known_values=values)

    @classmethod
    def of_meta(
        cls,
        meta: Mapping[str, Any],
        tokenizer: Tokenizer,
        folder: Path,
        *,
        usual: PromptForm = "paper",
        form: PromptForm | None = None,
        style: str | None = None,
    ) -> Self:
        """Return the prompt format that the `tailora.json` of an adapter or a merged model describes.

        Without `prompt_form`, Tailora did not train it. Without beginning- and end-of-text tokens, its prompts begin
        with no token.

        Args:
            meta: the value of `meta` in the file.
            tokenizer: the tokenizer of the base.
            folder: the folder of the base.
            usual: the form to use if the metadata has none.
            form: the form to use instead of the metadata's.
            style: the linearisation to use instead of the metadata's.

        Raises:
            SettingsError: see `of_training`; or the tokenizer lacks a token that the metadata names.
        """
        own = meta.get("prompt_form")
        chosen = form or own or usual
        template = None
        if chosen == "chat":
            source = meta.get("chat_template") if own == "chat" else None
            template = ChatTemplate.from_folder(folder, tokenizer, source, PROMPT_DATE)
        chosen_format = cls._on_base(tokenizer, chosen, style or meta.get("linearization") or "paper", template)
        if own is None:
            return chosen_format
        known = meta.get("attributes")
        same = chosen_format.style == (meta.get("linearization") or "paper")
        attributes = frozenset(map(str, known)) if isinstance(known, list) and same else None
        values = read_known_values(meta)
        chosen_format = replace(
            chosen_format, source=meta.get("prompt_source"), trained=True, attributes=attributes, known_values=values
        )
        if (own == "chat") != (chosen == "chat"):
            return chosen_format
        bos, end = meta.get("bos_token_ids", ()), meta.get("end_token_id", tokenizer.first_end_id)
        for token in (*bos, end):
            if not isinstance(token, int) or not 0 <= token < tokenizer.vocab_size:
                what = f"the prompts of the adapter use the token {token!r}, which the tokenizer does not have"
                raise SettingsError(what, where=folder, hint="use the base that the adapter was trained on")
        return replace(chosen_format, bos=tuple(bos), end=end)

    @classmethod
    def _on_base(cls, tokenizer: Tokenizer, form: PromptForm, style: str, template: ChatTemplate | None) -> Self:
        if form not in get_args(PromptForm):
            hint = f"use one of {', '.join(get_args(PromptForm))}"
            raise SettingsError(f"there is no prompt form {form!r}", where="prompt_form", hint=hint)
        if form != "chat":
            return cls(tokenizer, form, style, tokenizer.bos_ids, tokenizer.eos_id)
        if template is None:
            raise SettingsError("the base has no chat template", where="prompt_form", hint="use paper or arrow")
        return cls(tokenizer, form, style, (), template.answer_form()[1], template)

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata that an adapter stores in its `tailora.json`."""
        return {
            "linearization": self.style,
            "prompt_form": self.form,
            "prompt_source": self.source,
            "bos_token_ids": list(self.bos),
            "end_token_id": self.end,
            "attributes": None if self.attributes is None else sorted(self.attributes),
            **({} if self.template is None else {"chat_template": self.template.source}),
            **({"known_values": dict(self.known_values)} if self.known_values else {}),
        }

    def unknown_attributes(self, records: Sequence[Record]) -> list[str]:
        """Return the attributes of records that no training record had, for example renamed or omitted columns."""
        if self.attributes is None:
            return []
        names = dict.fromkeys(fact.attribute for record in records for fact in record.facts if fact.subject is None)
        return [name for name in names if written_name(name, self.style) not in self.attributes]

    def encode(self, records: Sequence[Record]) -> list[tuple[int, ...]]:
        """Return the prompt of each record as token ids."""
        if self.template is not None:
            return [self.template.encode(self._messages(record)) for record in records]
        for record in records:
            if len(record.messages) > 1:
                what = f"is a conversation, which the prompt form {self.form} cannot represent"
                raise DataError(
                    what, where=record.place, hint="use --prompt-form chat with a base that has a chat template"
                )
        texts = [prompt_text(record, form=self.form, style=self.style) for record in records]
        end = (self.end,) if self.form == "paper" else ()
        batch = self.tokenizer.encode_batch(texts)
        return [
            (*self.bos, *ids, *(end if record.prompt is None else ())) or (self.end,)
            for record, ids in zip(records, batch, strict=True)
        ]

    def around_text(self) -> tuple[str, str]:
        """Return the texts before and after a record's text in its prompt, for programs that fill in templates.

        Tokenizing the whole, special tokens recognised, after the tokenizer's own beginning-of-text tokens gives the
        prompt's ids. The record's text is a ready prompt if the adapter was trained on those, and else its facts in
        the linearisation `style`.

        Raises:
            SettingsError: the adapter was trained on records as well as ready prompts, whose prompts end differently.
            DataError: the chat template does not write a message once and unchanged.
        """
        if self.template is not None:
            before, after = self.template.around_message()
            bos = self.tokenizer.decode(self.tokenizer.bos_ids, special=True)
            return before.removeprefix(bos), after
        if self.source == "mixed":
            what = "the adapter was trained on records and on ready prompts, which no single template writes"
            raise SettingsError(what, where="prompt_form", hint="send token ids to Tailora's own server instead")
        if self.source == "text":
            return "", ""
        return "", self.tokenizer.decode([self.end], special=True) if self.form == "paper" else f" {ARROW}"

    def _messages(self, record: Record) -> list[dict[str, str]]:
        """Return the conversation that a chat template writes as the prompt of a record."""
        if record.prompt == "":
            what = "a text without a prompt cannot be written in a chat template"
            raise DataError(what, hint="use --prompt-form paper")
        if not record.messages:
            return [{"role": "user", "content": prompt_text(record, form=self.form, style=self.style)}]
        return [{"role": message.role, "content": message.content} for message in record.messages]

    def encode_earlier(self, record: Record) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return prompt and completion, as token ids, of the answers within a conversation that are learnt."""
        places = [place for place, message in enumerate(record.messages) if message.learnt and place > 0]
        turns = [
            replace(record, messages=record.messages[:place], references=(record.messages[place].content.strip(),))
            for place in places
        ]
        completions = [texts[0] for texts in self.encode_completions(turns)]
        return list(zip(self.encode(turns), completions, strict=True))

    def encode_completions(self, records: Sequence[Record]) -> list[list[tuple[int, ...]]]:
        """Return the token ids of each record's texts as they are trained on, including the end-of-text token.

        A text follows a space. After a ready prompt that ends in a line end it follows nothing, and in a chat template
        what the template puts there.
        """
        gap = None if self.template is None else self.template.answer_form()[0]
        texts = [(_gap(record) if gap is None else gap) + text for record in records for text in record.references]
        batch = iter(self.tokenizer.encode_batch(texts, continues=True))
        return [[(*next(batch), self.end) for _ in record.references] for record in records]

    def complete(self, text: str) -> tuple[int, ...]:
        """Return the prompt of a client's text as token ids.

        Without training on a prompt format, the prompt is the text itself after the base's beginning-of-text tokens.
        Otherwise the text is a record, as JSON or linearised, and its prompt is written as in training. A text that
        ends in the arrow of the form "arrow" is already a prompt, and so is any text for an adapter that was trained
        on ready prompts.

        Raises:
            DataError: the adapter was trained on records, and the text is not one.
        """
        if not self.trained:
            return (*self.bos, *self.tokenizer.encode(text)) or (self.end,)
        return self.encode([self._record_of(text)])[0]

    def _record_of(self, text: str) -> Record:
        if self.source == "text":
            record: Record | None = Record("1", (), (), prompt=text)
        elif self.form == "arrow" and text.rstrip().endswith(ARROW):
            record = Record("1", (), (), prompt=text.rstrip())
        else:
            ends = (ARROW, self.tokenizer.token_bytes(self.end).decode(errors="replace"))
            record = parse_record(_without(text.strip(), ends), self.style)
        if record is None and self.source == "mixed":
            record = Record("1", (), (), prompt=text)
        if record is None or not (record.facts or (record.prompt or "").strip()):
            what = "the adapter was trained on records, and this text is not one"
            raise DataError(what if record is None else "the prompt is empty", hint=_RECORD_HINT)
        return record


def usual_form(records: Sequence[Record], tokenizer: Tokenizer, folder: Path | None) -> PromptForm:
    """Return the prompt form of a new training run: "chat" for conversations if the base can, else "paper"."""
    conversations = any(record.messages for record in records)
    can = conversations and folder is not None and ChatTemplate.from_folder(folder, tokenizer) is not None
    return "chat" if can else "paper"


_RECORD_HINT = 'send facts as JSON, {"name": "Blue Spice", "Type": "pub"}, or as name : Blue Spice | Type : pub'


def parse_record(text: str, style: str = "paper") -> Record | None:
    """Parse a record from facts as JSON, or from one line as `linearize` writes it.

    JSON in a fenced code block of Markdown is accepted, since chat models and people write it like that.

    Args:
        text: the text that a client sent.
        style: the linearisation that is accepted in addition to the paper's.

    Returns:
        The record, or None for any other text.

    Raises:
        DataError: the text begins like JSON, but is not valid JSON or does not contain facts.
    """
    fenced = _FENCED.fullmatch(text.strip())
    text = text if fenced is None else fenced["content"].strip()
    if text.startswith(("{", "[")):
        return Record("1", _json_facts(json_text.whole(text, "the record", _RECORD_HINT)), ())
    if "\n" in text:
        return None
    try:
        return Record("1", piped.parse_facts(text), ())
    except ValueError:
        matches = [_PLAIN_FACT.fullmatch(part) for part in text.split("; ")]
    if style != "plain" or not all(matches):
        return None
    return Record("1", tuple(Fact(match[1], match[2], match[3]) for match in matches if match is not None), ())


def _json_facts(value: Any) -> tuple[Fact, ...]:
    if isinstance(value, dict) and isinstance(value.get("facts"), dict | list):
        if len(value) > 1:
            others = ", ".join(sorted(set(value) - {"facts"}))
            raise DataError(f"the record has other keys than facts ({others})", hint="send the facts alone")
        value = value["facts"]
    return parse_facts(value, "facts")


def _without(text: str, ends: Sequence[str]) -> str:
    """Return a text without the separators at its end."""
    for end in ends:
        text = text.removesuffix(end).rstrip()
    return text


def prompt_text(record: Record, *, form: PromptForm = "paper", style: str = "paper") -> str:
    """Return the text of a record's prompt, without the tokens that "paper" and "chat" add.

    A ready prompt is used without the spaces at its end, since the space before the next word is part of that word's
    token.
    """
    if record.prompt is not None:
        return record.prompt.rstrip(" ")
    return linearize(record, style) + (f" {ARROW}" if form == "arrow" else "")


def encode_prompts(
    records: Sequence[Record], tokenizer: Tokenizer, *, form: PromptForm = "paper", style: str = "paper"
) -> list[tuple[int, ...]]:
    """Return the token ids after which a model writes the text of each record, in the format of a new training run."""
    return PromptFormat.of_training(tokenizer, form=form, style=style).encode(records)


def _gap(record: Record) -> str:
    if record.prompt == "":  # a text without a prompt
        return ""
    return "" if record.prompt is not None and record.prompt.rstrip(" ").endswith("\n") else " "
