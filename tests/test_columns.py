"""How columns are named on the command line, in YAML and in Python."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.commands.generate import GenerateSettings
from tailora.commands.lint import LintSettings
from tailora.core.errors import SettingsError
from tailora.core.flags import from_arguments, parser_for
from tailora.core.settings import Settings
from tailora.data.columns import check_columns, parse_columns, spell_columns, spell_name
from tailora.training.settings import TrainSettings


def from_flags(cls: type[Settings], *flags: str) -> Settings:
    parser = parser_for(cls, prog="tailora verb", description="")
    return from_arguments(cls, parser, flags)[0]


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        (["text=ref"], {"text": "ref"}),
        (["text=ref,facts=name+area"], {"text": "ref", "facts": ("name", "area")}),
        (["text=ref", "facts=name", "facts=area"], {"text": "ref", "facts": ("name", "area")}),
        (["facts=name, ignore=row id + url"], {"facts": ("name",), "ignore": ("row id", "url")}),
        (['text="Text, clean",facts="a+b"+"c=d"+e'], {"text": "Text, clean", "facts": ("a+b", "c=d", "e")}),
        (['facts="6"" pipe"'], {"facts": ('6" pipe',)}),
        (["text=none"], {"text": None}),
        (["text="], {"text": None}),
        (['text="none"'], {"text": "none"}),
        (["text=a=b"], {"text": "a=b"}),
        (['{"text": "a, b", "facts": {"n": "name"}}'], {"text": "a, b", "facts": {"n": "name"}}),
    ],
)
def test_columns_on_the_command_line(flags: list[str], columns: dict[str, Any]) -> None:
    assert check_columns(parse_columns(flags)) == columns
    arguments = [part for flag in flags for part in ("--columns", flag)]
    for settings in (
        from_flags(TrainSettings, "--data", "x.csv", *arguments),
        from_flags(GenerateSettings, "--input", "x.csv", "--base", "tiny", *arguments),
        from_flags(LintSettings, "x.csv", *arguments),
    ):
        assert settings.model_dump()["columns"] == columns


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("area", "must be ROLE=COLUMN, not 'area'"),
        ("txt=ref", "there is no role 'txt'"),
        ("text=a,text=b", "the role text is given twice"),
        ("{broken", "is not valid JSON"),
        ('{"id": "a", "id": "a"}', "is not valid JSON .the key 'id' occurs twice"),
        ('{"text": ["a", "b"]}', "the role text takes one column"),
        ('{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
        ('{"facts": {"a": null}}', "facts, column 'a': None is not a name"),
        ('{"facts": {"a": ["b"]}}', "facts, column 'a': .* is not a name"),
        ('{"facts": {"a": ""}}', "facts, column 'a': the name is empty"),
        ('{"ignore": {"a": "b"}}', "ignore: .* is not a name"),
        ('{"facts": [["a"]]}', "facts: .* is not a name"),
        ('text="a', "a quotation mark is not closed"),
        ('facts="a+b,text=c', "a quotation mark is not closed"),
    ],
)
def test_columns_that_cannot_be_read(flag: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        from_flags(LintSettings, "x.csv", "--columns", flag)
    assert "--columns" in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "columns"),
    [
        ("columns: {facts: [name, area], text: ref}", {"facts": ("name", "area"), "text": "ref"}),
        ("columns: {facts: {n: name}, text: null}", {"facts": {"n": "name"}, "text": None}),
        ("columns: {facts: name}", {"facts": ("name",)}),
        ("columns: text=ref,facts=name+area", {"text": "ref", "facts": ("name", "area")}),
        ("columns: [text=ref, facts=name]", {"text": "ref", "facts": ("name",)}),
    ],
)
def test_columns_in_yaml(tmp_path: Path, yaml: str, columns: dict[str, Any]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"data: x.csv\n{yaml}\n", encoding="utf-8")
    settings = TrainSettings.from_yaml(path)
    assert settings.columns == columns
    path.write_text(settings.to_yaml(), encoding="utf-8")
    assert TrainSettings.from_yaml(path) == settings


@pytest.mark.parametrize("yaml", ["{facts: [no, name]}", "{id: no}", "{ignore: on}", "{facts: {name: yes}}"])
def test_words_that_yaml_reads_as_true_and_false_are_not_names(tmp_path: Path, yaml: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"data: x.csv\ncolumns: {yaml}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"named by text, not by (True|False).*quotation marks"):
        TrainSettings.from_yaml(path)
    path.write_text("data: x.csv\ncolumns: {facts: [2020, 2021-01-02, 'no']}\n", encoding="utf-8")
    assert TrainSettings.from_yaml(path).columns == {"facts": ("2020", "2021-01-02", "no")}


NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name == name.strip())


@given(st.lists(NAMES, min_size=1, max_size=4), NAMES)
def test_any_name_can_be_spelled(facts: list[str], text: str) -> None:
    columns = {"facts": tuple(facts), "text": text}
    flag = f"text={spell_name(text)},facts={'+'.join(map(spell_name, facts))}"
    assert check_columns(parse_columns([flag])) == columns
    assert check_columns(parse_columns([spell_columns(columns)])) == columns
