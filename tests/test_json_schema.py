"""JSON schemas of YAML files: what the settings accept is valid, and unknown keys and wrong values are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailora.commands import COMMANDS, settings_class
from tailora.commands.schema import SchemaSettings, run
from tailora.core.errors import SettingsError
from tailora.core.fields import choices, shape
from tailora.core.json_schema import schema_of
from tailora.core.settings import Settings

jsonschema = pytest.importorskip("jsonschema")


def is_valid(name: str, values: Any) -> bool:
    schema = schema_of(settings_class(name), name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(values))


def is_accepted(cls: type[Settings], path: Path, text: str) -> bool:
    path.write_text(text, encoding="utf-8")
    try:
        cls.from_yaml(path)
    except SettingsError:
        return False
    return True


FILES = [
    ("train", "data: e2e\nlearning_rate: 1e-3\ntargets: mlp, head\nrank_pattern: {h.0: 4}\nrslora: on\nlimit: none\n"),
    ("train", "data: 2026\ncolumns: text=ref,facts=name+area\nrank: '8'\nmax_steps:\nprecision: auto\n"),
    ("train", "data: x\ncolumns: {text: ref, facts: [name, area]}\ntargets: [attention.qv, head]\n"),
    ("lint", "data: x\nallow: all\nshow: 0\n"),
    ("key", "name: me\noutput: keys.yaml\nmodel: [one, two]\nadmin: yes\n"),
]
REFUSED = [
    ("train", "data: x\nranks: 3\n"),
    ("train", "data: x\nrank: 0\n"),
    ("train", "data: x\nmethod: loro\n"),
    ("train", "data: x\nlearning_rate: fast\n"),
    ("train", "data: x\nseed: null\n"),
    ("train", "data: x\nrslora: maybe\n"),
    ("train", "- data\n"),
    ("lint", "data: x\nshow: [3]\n"),
]


@pytest.mark.parametrize(("name", "text"), FILES, ids=range(len(FILES)))
def test_files_that_are_accepted_are_valid(name: str, text: str, tmp_path: Path) -> None:
    assert is_accepted(settings_class(name), tmp_path / "a.yaml", text)
    assert is_valid(name, yaml.safe_load(text))


@pytest.mark.parametrize(("name", "text"), REFUSED, ids=range(len(REFUSED)))
def test_files_that_are_refused_are_not_valid(name: str, text: str, tmp_path: Path) -> None:
    assert not is_accepted(settings_class(name), tmp_path / "a.yaml", text)
    assert not is_valid(name, yaml.safe_load(text))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_default_and_choice_is_valid(name: str) -> None:
    for field, info in settings_class(name).model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if not info.is_required():
            plain = json.loads(json.dumps(default, default=str))
            assert is_valid(name, {field: plain}), field
        for choice in choices(info):
            assert is_valid(name, {field: [choice] if shape(info) == "many" else choice}), (field, choice)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_schema_accepts_an_unknown_key(name: str) -> None:
    assert not is_valid(name, {"zzz": 1})


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(SchemaSettings(command="train"))
    assert json.loads(capsys.readouterr().out) == result
    assert result["properties"]["rank"]["minimum"] == 1
    assert result["properties"]["method"]["enum"] == [
        "lora",
        "full",
        "bitfit",
        "top2",
        "adapter-h",
        "adapter-l",
        "prefix",
    ]


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^command: no such command: trian; did you mean train\?"):
        SchemaSettings(command="trian")
