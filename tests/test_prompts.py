"""Prompt formats: kept by an adapter and built again, and records read from what clients send as text."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bases import save_sentencepiece, save_tokenizer
from tailora.core.errors import DataError, SettingsError
from tailora.core.files import write_json
from tailora.data import chat_template
from tailora.data.linearize import STYLES
from tailora.data.prompts import PromptFormat, parse_record
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record

PUB = Record("1", (Fact(None, "name", "Blue Spice"), Fact(None, "type", "pub")), ("A pub.",))
CHAT = "{% for m in messages %}[{{ m.content }}]{{ ' ' if m.role == 'user' }}{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_sentencepiece(tmp_path)
    return tmp_path


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("form", ["paper", "arrow", "chat"])
def test_what_an_adapter_keeps_builds_its_prompts_on_any_tokenizer_of_the_base(
    folder: Path, form: Any, style: str
) -> None:
    """Also where the base's folder has come to name other tokens, or another template."""
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    made = PromptFormat.of_training(Tokenizer.from_folder(folder), form=form, style=style, folder=folder, records=[PUB])
    assert (made.source, made.trained) == ("facts", True)
    save_sentencepiece(folder, bos=False)
    write_json(folder / "generation_config.json", {"eos_token_id": [300, 301]})
    (folder / "chat_template.jinja").unlink()
    again = PromptFormat.of_meta(made.meta, Tokenizer.from_folder(folder), folder)
    assert again.encode([PUB]) == made.encode([PUB])
    assert (again.end, again.source, again.meta) == (made.end, "facts", made.meta)


@pytest.mark.parametrize("style", STYLES)
def test_attributes_that_training_had_in_no_record_are_found(folder: Path, style: str) -> None:
    tokenizer = Tokenizer.from_folder(folder)

    def kept(records: list[Record]) -> PromptFormat:
        made = PromptFormat.of_training(tokenizer, style=style, records=records)
        return PromptFormat.of_meta(made.meta, tokenizer, folder)

    trained = kept([PUB, Record("2", (Fact(None, "eatType", "pub"),), ("A pub.",))])
    new = Record("1", (Fact(None, "type", "pub"), Fact(None, "Ghi chú", "mới"), Fact(None, "area", "riverside")), ())
    assert trained.unknown_attributes([PUB, new, new]) == ["Ghi chú", "area"]
    # Two spellings of one written name are the same to the model.
    assert trained.unknown_attributes([Record("1", (Fact(None, "eatType", "pub"),), ())]) == []
    # New relations are what a set of triples is tested on, ready prompts have none, and old adapters do not say.
    triples = kept([Record("1", (Fact("Cork", "country", "Ireland"),), ("A.",))])
    assert triples.unknown_attributes([Record("1", (Fact("Cork", "mayor", "X"), Fact(None, "area", "y")), ())]) == []
    assert kept([Record("1", (), ("A.",), prompt="a")]).unknown_attributes([new]) == []
    assert PromptFormat.of_meta({"prompt_form": "paper"}, tokenizer, folder).unknown_attributes([new]) == []


def test_a_prompt_does_not_depend_on_the_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }} " + CHAT, encoding="utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    record = Record("0", (Fact(None, "name", "Giraffe"),), ("A pub.",))
    trained, conversation = [], []
    for day in (1, 2):
        clock = Mock(wraps=datetime)
        clock.now.return_value = datetime(2026, 11, day)
        monkeypatch.setattr(chat_template, "datetime", clock)
        prompts = PromptFormat.of_training(tokenizer, form="chat", folder=folder)
        trained += [prompts.encode([record]), PromptFormat.of_meta(prompts.meta, tokenizer, folder).encode([record])]
        template = chat_template.ChatTemplate.from_folder(folder, tokenizer)
        assert template is not None
        conversation.append(tokenizer.decode(template.encode([{"role": "user", "content": "hi"}])))
    assert trained == trained[:1] * 4
    assert tokenizer.decode(trained[0][0]).startswith("26 Jul 2024")
    assert [text.split(" Nov")[0] for text in conversation] == ["01", "02"]


def test_formats_that_cannot_be_are_refused(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(SettingsError, match="no prompt form 'x'; use one of paper, arrow, chat"):
        PromptFormat.of_training(tokenizer, form="x")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no chat template"):
        PromptFormat.of_training(tokenizer, form="chat", folder=folder)
    with pytest.raises(SettingsError, match="the token 9999, which the tokenizer does not have"):
        PromptFormat.of_meta({"prompt_form": "paper", "bos_token_ids": [9999]}, tokenizer, folder)


def test_completions_follow_the_prompt_as_one_text_would(folder: Path) -> None:
    """No word divider stands twice between prompt and text."""
    tokenizer = Tokenizer.from_folder(folder)
    for record, whole in (
        (PUB, "name : Blue Spice | type : pub => A pub."),
        (Record("1", (), ("A pub.",), prompt="name\n"), "name\nA pub."),
        (Record("1", (), ("A pub.",), prompt="name: "), "name: A pub."),
    ):
        made = PromptFormat.of_training(tokenizer, form="arrow", records=[record])
        ((prompt,), ((text,),)) = made.encode([record]), made.encode_completions([record])
        assert [*prompt, *text] == [*tokenizer.bos_ids, *tokenizer.encode(whole), tokenizer.eos_id]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('{"name": "Blue Spice", "type": "pub"}', PUB.facts),
        ('{"facts": {"name": "Blue Spice", "type": "pub"}}', PUB.facts),
        ('[["name", "Blue Spice"], ["type", "pub"]]', PUB.facts),
        ("name : Blue Spice | type : pub", PUB.facts),
        ("Spain : capital : Madrid", (Fact("Spain", "capital", "Madrid"),)),
        ("name: Blue Spice; type: pub", PUB.facts),
        ("Blue Spice, type: pub", (Fact("Blue Spice", "type", "pub"),)),
    ],
)
def test_records_in_texts(text: str, facts: tuple[Fact, ...]) -> None:
    found = parse_record(text, "plain")
    assert found is not None
    assert found.facts == facts


@pytest.mark.parametrize("text", ["", "Hello!", "A text. It has: a colon", "a : b\nc : d", '"a"', "a : b |"])
def test_texts_without_a_record(text: str) -> None:
    assert parse_record(text) is None


@pytest.mark.parametrize("text", ["a : b |", "a : b | | c : d", "| a : b"])
def test_a_line_with_an_empty_fact_is_no_record_in_any_style(text: str) -> None:
    """The style "plain" must not read it as an attribute "a " with the value "b |"."""
    assert parse_record(text, "plain") is None


@pytest.mark.parametrize(
    "text",
    [
        *("{}", '{"facts": {"a": "b"}, "hint": "c"}', '{"a": {"b": "c"}}', "[1]", '{"name" : "Blue"', "{name : x}"),
        '{"name": "Blue", "name": "Spice"}',  # a parser that keeps the last drops a fact
        '{"name": "\\ud83d"}',  # half of a character
    ],
)
def test_json_that_is_not_facts_is_reported(text: str) -> None:
    with pytest.raises(DataError):
        parse_record(text)


def test_separators_that_a_text_brings_along(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    line = "name : Blue Spice | type : pub"
    for form in ("paper", "arrow"):
        made = PromptFormat.of_training(tokenizer, form=form, records=[PUB])
        for end in ("", " ", " =>", " => ", "=>" if form == "paper" else "", tokenizer.eos_token):
            assert made.complete(line + end) == made.encode([PUB])[0]
