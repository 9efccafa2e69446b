"""One class, three ways in: Python, YAML and flags give equal settings, and each mistake names its place and hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from tailora.core.errors import SettingsError
from tailora.core.flags import from_arguments, parser_for
from tailora.core.problems import nearest
from tailora.core.settings import Settings, Verbatim


class AdapterSettings(Settings):
    """A mixin."""

    heading = "adapter"
    rank: int = Field(8, ge=1, description="inner dimension, 50% of it")
    targets: tuple[str, ...] = ("attention.qv",)
    """what to adapt"""
    rank_pattern: Mapping[str, int] = Field(default_factory=dict)


class ToySettings(AdapterSettings):
    """Settings of a command."""

    heading = "options"
    main = "data"

    data: Path = Field(description="records")
    learning_rate: float = Field(2e-4, gt=0)
    limit: int | Literal["auto"] | None = "auto"
    method: Literal["lora", "full"] = "lora"
    early: bool = False
    title: str | None = None

    @model_validator(mode="after")
    def _only_lora_has_patterns(self) -> Self:
        if self.method == "full" and self.rank_pattern:
            raise SettingsError("full fine-tuning has no ranks", where="rank_pattern", hint="leave it out")
        return self


PARSER = parser_for(ToySettings, prog="tailora toy", description="Do a thing.")


def parse(*arguments: str) -> ToySettings:
    return from_arguments(ToySettings, PARSER, arguments)[0]


def mistake(*arguments: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def config(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


names = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1)
any_settings = st.builds(
    ToySettings,
    data=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1).map(Path),
    rank=st.integers(1, 10**6),
    targets=st.lists(names | st.sampled_from([r"h\.\d{1,2}\.attn", "all-linear", "Phở", "yes", "1e3"])).map(tuple),
    rank_pattern=st.dictionaries(names | st.just(r"(?=x)h.0"), st.integers(1, 64)).filter(lambda d: len(d) < 4),
    learning_rate=st.floats(1e-12, 1e3),
    limit=st.none() | st.just("auto") | st.integers(-9, 9),
    early=st.booleans(),
    title=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
)


@given(any_settings)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_yaml_gives_back_what_it_was_made_from(tmp_path: Path, made: ToySettings) -> None:
    assert ToySettings.from_yaml(config(tmp_path, made.to_yaml())) == made


@given(any_settings.filter(lambda made: bool(made.targets) and made.title not in {"none", "None", "NONE"}))
def test_flags_say_the_same_as_python(made: ToySettings) -> None:
    arguments = [f"--data={made.data}", f"--rank={made.rank}", f"--learning-rate={made.learning_rate!r}"]
    arguments += [f"--targets={','.join(made.targets)}"]
    arguments += [f"--rank-pattern={pattern}={rank}" for pattern, rank in made.rank_pattern.items()]
    arguments += [f"--limit={'none' if made.limit is None else made.limit}", "--early" if made.early else "--no-early"]
    arguments += [] if made.title is None else [f"--title={made.title}"]
    assert parse(*arguments) == made


@given(any_settings, st.integers(1, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flags_override_the_file(tmp_path: Path, made: ToySettings, rank: int) -> None:
    path = config(tmp_path, made.to_yaml())
    both = parse("--rank", str(rank), path)
    assert both == parse(path, "--rank", str(rank))
    assert both == made.model_copy(update={"rank": rank})


def test_repeated_and_comma_separated_flags_add_up() -> None:
    made = parse("--data", "x", "--targets", "a, b{1,2}", "--targets", "c", "--rank_pattern", "h.0=4,h.1=5")
    assert made.targets == ("a", "b{1,2}", "c")
    assert made.rank_pattern == {"h.0": 4, "h.1": 5}


def test_python_values_are_read_as_yaml_is(tmp_path: Path) -> None:
    values = {"data": Path("a") / "b.csv", "rank": np.int64(3), "targets": "mlp, head"}
    text = f"data: {Path('a') / 'b.csv'}\nrank: 3\ntargets: mlp, head\n"
    assert ToySettings.from_values(values) == ToySettings.from_yaml(config(tmp_path, text))
    with pytest.raises(SettingsError, match=r"^rank: "):
        ToySettings.from_values({"data": "x", "rank": "many"})


def test_yaml_is_read_as_its_writer_means_it(tmp_path: Path) -> None:
    text = "data: e2e\nlearning_rate: 1e-3\ntargets: mlp, head\ntitle: 2026\nearly: on\nlimit:\n"
    made = ToySettings.from_yaml(config(tmp_path, text))
    assert (made.learning_rate, made.targets, made.title) == (1e-3, ("mlp", "head"), "2026")
    assert (made.early, made.limit) == (True, None)


def test_a_path_at_home_is_not_a_folder_called_like_the_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave the sign in --data=~/x, and so does YAML."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert parse("--data=~/runs/x").data == tmp_path / "runs" / "x"
    assert ToySettings.from_yaml(config(tmp_path, "data: ~/runs/x")).data == tmp_path / "runs" / "x"
    assert ToySettings(data="a/~b").data == Path("a") / "~b"
    if sys.platform != "win32":
        assert mistake("--data=~nobody-of-this-name/x") == (
            "--data: ~nobody-of-this-name/x is in a home directory that does not exist; write the whole path"
        )


def test_other_flags_of_the_caller_are_handed_back() -> None:
    parser = parser_for(ToySettings, prog="tailora toy", description="")
    parser.add_argument("--quick", action="store_true")
    others = from_arguments(ToySettings, parser, ["--quick", "--data", "x"])[1]
    assert (others.quick, others.json) == (True, False)


def test_settings_stay_as_they_were_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ToySettings(data=Path("x")).rank = 3  # type: ignore[misc]


def test_python_callers_get_the_same_error() -> None:
    with pytest.raises(
        SettingsError, match=r"^rank: must be a whole number of at least 1, not 0; data: is missing; give --data"
    ):
        ToySettings(rank=0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "--data: is missing; give --data or `data:` in the configuration"),
        ("--data x --rnk 3", "--rnk: no such flag; did you mean --rank?"),
        ("--input x", "--input: no such flag; did you mean --data?"),
        ("--data x --zzzz", "--zzzz: no such flag; see `tailora toy --help`"),
        ("--data x --rank", "--rank: needs a value; see `tailora toy --help`"),
        ("--data x --rank 0", "--rank: must be a whole number of at least 1, not '0'"),
        ("--data x --rank 1.5", "--rank: must be a whole number of at least 1, not '1.5'"),
        ("--data x --limit few", "--limit: must be a whole number or auto, not 'few'"),
        ("--data x --method loro", "--method: must be lora or full, not 'loro'; did you mean lora?"),
        ("--data x --learning-rate nan", "--learning-rate: must be a number above 0, not 'nan'"),
        ("--data x --rank-pattern a", "--rank-pattern: must be KEY=VALUE, not 'a'"),
        (
            "--data x --rank-pattern a=1 --rank-pattern a=2",
            "--rank-pattern: the key 'a' is given twice; keep one of the values",
        ),
        ("--data x --rank-pattern a=b", "--rank-pattern: the value of 'a' must be a whole number, not 'b'"),
        ("a.csv", "a.csv: is not a .yaml configuration; give it by its flag: --data a.csv"),
        ("a.yaml", "a.yaml: there is no such file; check the path"),
        ("a.yaml b.csv", "unexpected argument 'b.csv'; give it by its flag: --data b.csv"),
        ("a.yaml b.yaml", "unexpected argument 'b.yaml'; see `tailora toy --help`"),
        (
            "--data x --method full --rank-pattern a=1",
            "--rank-pattern: full fine-tuning has no ranks; leave it out",
        ),
        (
            "--rank 0 --learning-rate -1",
            "--rank: must be a whole number of at least 1, not '0'; --data: is missing; "
            "give --data or `data:` in the configuration; --learning-rate: must be a number above 0, not '-1'",
        ),
    ],
)
def test_a_mistake_on_the_command_line_names_the_flag(arguments: str, text: str) -> None:
    assert mistake(*arguments.split()) == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("data: x\n\nrank: many", ":3: rank: must be a whole number of at least 1, not 'many'"),
        ("data: x\nranks: 3", ":2: ranks: no such setting; did you mean rank?"),
        ("data: x\n3: 3", ":2: 3: no such setting; see --help for those that exist"),
        ("data: x\nrank: yes", ":2: rank: must be a whole number of at least 1, not yes"),
        ("data: x\nrank: 3\nrank: 4", ":3: 'rank' is given twice; keep one of them"),
        ("data: x\nrank_pattern: {a: 1, a: 1}", ":2: is not valid YAML: 'a' is given twice; correct that line"),
        ("data: x\ntargets: 3", ":2: targets: must be a list (each item: text), not 3"),
        (
            "data: x\nmethod: full\nrank_pattern: {a: 1}",
            ":3: rank_pattern: full fine-tuning has no ranks; leave it out",
        ),
        ("- data", ": holds no `key: value` lines; write one setting per line"),
        ("data: x\nrank: [1", ":2: is not valid YAML: expected ',' or ']', but got '<stream end>'; correct that line"),
        ("data: !!python/object:os.system x", ":1: is not valid YAML: "),
        (
            'rank: 3\ndata: "D:\\my\\x.csv"',
            ":2: is not valid YAML: found unknown escape character 'm'; put the text in single",
        ),
        ("", "--data: is missing; give --data or `data:` in the configuration"),
    ],
)
def test_a_mistake_in_a_file_names_file_line_and_key(tmp_path: Path, content: str, text: str) -> None:
    path = config(tmp_path, content)
    expected = text if text.startswith("--") else f"{path}{text}"
    assert mistake(path).startswith(expected)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(b"data: \xff\xfe")
    assert mistake(str(path)) == f"{path}: is not UTF-8 text; save it as UTF-8"


def test_a_flag_that_overrides_the_file_is_the_one_blamed(tmp_path: Path) -> None:
    assert mistake(config(tmp_path, "data: x\nrank: 4"), "--rank", "0").startswith("--rank:")


def test_help_shows_every_flag_with_what_it_is_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    for text in (
        *("usage: tailora toy [CONFIG.yaml] [--flags]", "Do a thing.", "adapter: --rank N", "options: --data PATH"),
        *("inner dimension, 50% of it (at least 1; default: 8)", "what to adapt (default: attention.qv)"),
        *(
            "--data PATH records (required) --method",
            "--limit N|auto (default: auto)",
            "--method lora|full",
            "--early, --no-early",
        ),
        *("--rank-pattern KEY=VALUE", "--title TEXT"),
    ):
        assert text in shown


def test_every_field_has_a_flag() -> None:
    shown = PARSER.format_help()
    assert all(f"--{name.replace('_', '-')}" in shown for name in ToySettings.model_fields)


def test_an_argument_without_a_flag_fills_the_first_field(tmp_path: Path) -> None:
    class FirstSettings(ToySettings):
        first = "data"

    def read(*arguments: str) -> FirstSettings:
        parser = parser_for(FirstSettings, prog="tailora toy", description="A toy.")
        return from_arguments(FirstSettings, parser, arguments)[0]

    config = tmp_path / "a.yaml"
    config.write_text("data: told.csv\nrank: 3\n", encoding="utf-8")
    assert read("mine.csv").data == Path("mine.csv")
    assert read(str(config)).data == Path("told.csv")
    with pytest.raises(SettingsError, match=r"^mine.csv: is not a .yaml configuration"):
        read("mine.csv", "--data", "other.csv")


class TextsSettings(Settings):
    """Settings with fields that inherit, choose and hold texts as they are."""

    stop: Annotated[tuple[str, ...], Verbatim()] = ()
    place: Annotated[tuple[Path, ...] | None, Verbatim()] = None
    metrics: tuple[Literal["bleu", "ter"], ...] = ()
    rates: dict[Literal["lora"], float] = Field(default_factory=dict)


STRINGS = ["\n", ",", " ", " END", ", and", "a, b", "END\n", "\t", "none", "a{1,2}", '"x"', "- ", "é, ü"]


@pytest.mark.parametrize("text", STRINGS)
def test_texts_that_are_taken_as_they_are(text: str, tmp_path: Path) -> None:
    parser = parser_for(TextsSettings, prog="tailora toy", description="A toy.")
    flags = from_arguments(TextsSettings, parser, [f"--stop={text}", f"--stop={text}"])[0]
    assert flags.stop == (text, text)
    one = TextsSettings(stop=(text,))
    assert TextsSettings.from_yaml(config(tmp_path, one.to_yaml())) == one
    assert TextsSettings.from_yaml(config(tmp_path, f"stop: {json.dumps(text)}\n")) == one


def test_paths_may_hold_commas() -> None:
    parser = parser_for(TextsSettings, prog="tailora toy", description="A toy.")
    found = from_arguments(TextsSettings, parser, ["--place", "runs/a, b", "--place", "c"])[0]
    assert found.place == (Path("runs/a, b"), Path("c"))
    assert from_arguments(TextsSettings, parser, ["--place", "none"])[0].place is None


def test_help_shows_the_choices_of_a_field_of_several() -> None:
    shown = parser_for(TextsSettings, prog="tailora toy", description="A toy.").format_help()
    assert "--metrics bleu|ter" in shown
    assert "--rates KEY=VALUE" in shown


@pytest.mark.parametrize("blank", ["", " null", " ~"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rank", "has no value; leave the setting out for its default (8)"),
        ("targets", "has no value; leave the setting out for its default (attention.qv)"),
        ("rank_pattern", "has no value; leave the setting out"),
        ("early", "has no value; leave the setting out for its default (no)"),
        ("data", "has no value; give a path"),
    ],
)
def test_a_blank_value_is_an_error_where_the_field_needs_one(tmp_path: Path, name: str, hint: str, blank: str) -> None:
    path = config(tmp_path, f"{name}:{blank}\n" + ("" if name == "data" else "data: x\n"))
    assert mistake(path) == f"{path}:1: {name}: {hint}"


@pytest.mark.parametrize("blank", ["", " null", " ~", " none", " None"])
def test_a_blank_value_or_none_is_none_where_the_field_is_optional(tmp_path: Path, blank: str) -> None:
    assert ToySettings.from_yaml(config(tmp_path, f"data: x\nlimit:{blank}\n")).limit is None


def test_none_is_a_text_in_a_file_and_a_choice_where_there_is_one(tmp_path: Path) -> None:
    class ChoiceSettings(Settings):
        """Settings with a choice that is called none."""

        tokenizer: Literal["13a", "none"] | None = None

    parser = parser_for(ChoiceSettings, prog="tailora toy", description="A toy.")
    assert from_arguments(ChoiceSettings, parser, ["--tokenizer", "none"])[0].tokenizer == "none"
    assert ChoiceSettings.from_yaml(config(tmp_path, "tokenizer: none")).tokenizer == "none"
    assert ToySettings.from_yaml(config(tmp_path, "data: x\ntitle: none")).title == "none"


def test_each_value_of_a_field_of_several_is_named(tmp_path: Path) -> None:
    def refused(**values: Any) -> str:
        with pytest.raises(SettingsError) as caught:
            TextsSettings.from_values(values)
        return str(caught.value)

    assert (
        refused(metrics=["bleu", "blue"]) == "metrics: each value must be bleu or ter, not 'blue'; did you mean bleu?"
    )
    assert refused(rates={"lora": "x"}) == "rates: the value of 'lora' must be a number, not 'x'"
    assert refused(rates={"full": 1}) == "rates: each key must be lora, not 'full'"
    assert refused(rates=3) == "rates: must be a mapping (each value: a number), not 3"
    assert refused(metrics=3) == "metrics: must be a list (each item: bleu or ter), not 3"
    assert refused(stop=["x", None]) == "stop: each value must be text, not nothing"


def test_long_values_are_cut_in_errors() -> None:
    assert len(mistake("--data", "x", "--rank", "x" * 999)) < 160


def test_initials_stand_for_the_words_of_a_flag() -> None:
    assert nearest("--lr", ["--rank", "--learning-rate"], "see --help") == "did you mean --learning-rate?"
    assert nearest("lr", ["rank", "learning_rate"], "see --help") == "did you mean learning_rate?"
    assert nearest("--xy", ["--rank"], "see --help") == "see --help"
