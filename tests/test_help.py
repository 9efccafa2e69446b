"""Help texts and errors of every command: complete sentences, with choices, ranges and defaults, in our own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from tailora.commands import COMMANDS, settings_class
from tailora.core.errors import SettingsError
from tailora.core.fields import bounds, choices, default_text, help_of, shape
from tailora.core.flags import GROUPS, parser_for
from tailora.core.settings import Settings

FIELDS = [(name, field) for name in COMMANDS for field in settings_class(name).model_fields]
# Words of the rules for plain English that no help text uses.
AWKWARD = re.compile(r"\b(so many|stands?|told|let pass|parted|of its own|beside it|again for more|as it came)\b", re.I)
WORDING = re.compile(r"Input should|should have|valid (integer|number|string|tuple|dictionary|list)|unable to|_type\b")


def info(name: str, field: str) -> FieldInfo:
    fields: dict[str, FieldInfo] = settings_class(name).model_fields
    return fields[field]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_is_a_sentence(name: str) -> None:
    for field, flag in settings_class(name).model_fields.items():
        text = flag.description or ""
        assert len(text.split()) >= 2, f"describe the field {field}"
        assert text[0].isupper() or text.startswith("sacrebleu"), (field, text)
        assert text.endswith("."), (field, text)
        assert not AWKWARD.search(text), (field, text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_shows_choices_range_and_default(name: str) -> None:
    shown = " ".join(parser_for(settings_class(name), prog="tailora x", description="").format_help().split())
    for field, flag in settings_class(name).model_fields.items():
        assert f"--{field.replace('_', '-')}" in shown
        text = help_of(flag)
        assert " ".join(text.split()).replace("- ", "-") in shown.replace("- ", "-"), field
        assert "|".join(choices(flag)) in shown, field
        assert bounds(flag) in text, field
        named = "required" if flag.is_required() else "default: "
        assert named in text, f"{field}: say the default, with Unset for None"


def test_ranges_are_shown_where_a_field_has_one() -> None:
    bounded = [(name, field) for name, field in FIELDS if bounds(info(name, field))]
    assert len(bounded) > 50
    assert "at least 1; default: 8" in help_of(info("train", "rank"))
    assert "from 0 to 1; default: 1" in help_of(info("generate", "top_p"))
    assert "at least 0 and below 1" in help_of(info("train", "dropout"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_is_in_a_group_of_the_help(name: str) -> None:
    cls = settings_class(name)
    assert {cls.heading_of(field) for field in cls.model_fields} <= set(GROUPS)
    if len(cls.model_fields) > 8:
        assert len({cls.heading_of(field) for field in cls.model_fields}) > 2


@pytest.mark.parametrize(
    "field", ["format", "columns", "language", "all_texts", "split", "limit", "base", "force", "epochs"]
)
def test_a_shared_field_has_one_wording(field: str) -> None:
    texts = {info(name, other).description for name, other in FIELDS if other == field}
    assert len(texts) == 1


@pytest.mark.parametrize("field", ["backend", "device"])
def test_what_computes_has_one_wording(field: str) -> None:
    assert len({info(name, other).description for name, other in FIELDS if other == field}) == 1


WRONG: tuple[Any, ...] = (
    *("zzz", "", "-1", "nan", "1e400", "9" * 5000, -1, 1e400, 2.5, True, None, b"\xff", object),
    *([], [None], [object], ["zzz"], {}, {"zzz": "zzz"}, {"zzz": None}, {1: object}, {"h.0": [1]}, {None: 1}),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_text_names_a_setting_in_place_of_its_flag(name: str) -> None:
    fields = settings_class(name).model_fields
    spelled = {other for other in fields if "_" in other}
    for field, flag in fields.items():
        assert spelled.isdisjoint(re.findall(r"\w+", flag.description or "")), field


def mistakes(cls: type[Settings], field: str) -> Iterator[str]:
    for value in WRONG:
        try:
            cls.from_values({field: value})
        except SettingsError as error:
            yield str(error)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_error_has_the_words_of_pydantic(name: str) -> None:
    cls = settings_class(name)
    for field in cls.model_fields:
        for text in mistakes(cls, field):
            assert not WORDING.search(text), (field, text)
            assert "\n" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_refuses_a_mapping_or_a_text(name: str) -> None:
    for field, flag in settings_class(name).model_fields.items():
        wrong: Any = 3 if shape(flag) in {"many", "mapping"} else [object]
        with pytest.raises(SettingsError, match=field):
            settings_class(name).from_values({field: wrong})


def test_the_default_of_a_float_is_short() -> None:
    assert default_text(info("train", "learning_rate")) == (
        "2e-3 for lora, 5e-5 for full, 1e-4 for top2, 3e-2 for prefix, 1e-3 for other methods"
    )
    assert default_text(info("train", "alpha")) == "16"
