"""Typed settings: one class gives the flags, the YAML keys, the help and the checks.

Machinery only; each settings class lives with its owner. Fields are flat and hold numbers, texts, paths,
choices, tuples of those, or mappings from text to those; deeper nesting is not served.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from tailora.core.errors import SettingsError

S = TypeVar("S", bound="Settings")
_TWINS = ("data", "input")  # what verbs that learn and verbs that write call their records


class Verbatim:
    """Marks a field of several texts, `Annotated[tuple[str, ...], Verbatim()]`, that may hold commas and white space.

    Each flag, or one text in YAML, is then one value as it is, where other fields of several texts are split at commas.
    A mapping that is marked so gets the texts of its flags, and makes sense of them itself in a validator.
    """


class Problem(NamedTuple):
    """One thing wrong with settings: the field it stands in, what it is, and the hint."""

    field: str
    what: str
    hint: str | None = None


class InvalidSettingsError(SettingsError):
    """Every problem found in one set of settings, told in one line.

    Args:
        problems: at least one.
        place: what to call a field: its name, its flag, or the file, line and key it was read from.
    """

    def __init__(self, problems: Sequence[Problem], place: Callable[[str], str] = str) -> None:
        self.problems = tuple(problems)
        first, *others = problems
        more = "".join(f"; {SettingsError(p.what, where=place(p.field), hint=p.hint)}" for p in others)
        super().__init__(first.what, where=place(first.field), hint=f"{first.hint or ''}{more}".removeprefix("; "))


class Settings(BaseModel):
    """A frozen set of checked settings; subclass it with annotated, described fields.

    A field's help is the docstring that follows it, or its `Field(description=…)`, and its default. Fields that
    several verbs share can stand in a base class: its docstring's first line becomes their heading in the help.
    A validator may raise `SettingsError(…, where="field_name")`; it is told with the flag or file the value came
    from.

    Attributes:
        first: the field that an argument without a flag may fill on the command line, where it is no YAML file.
        without_flag: inherited fields that the verb always refuses, and so does not offer on the command line.

    Raises:
        SettingsError: on an unknown name, a missing value, or a value that its field cannot hold.
    """

    first: ClassVar[str | None] = None
    without_flag: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettingsError(_problems(type(self), error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: Any) -> Any:
        """Refuse `epochs: yes`, which would otherwise count as 1."""
        if isinstance(value, bool) and not {bool, Any} & _leaves(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"takes a value, not {'yes' if value else 'no'}")
        return value

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read settings from a YAML file of `field_name: value` lines; defaults fill the rest."""
        return _build(cls, read_yaml(Path(path)), {}, Path(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from Python values: whatever the YAML file may hold, with paths and numpy numbers as well.

        Raises:
            SettingsError: it names the field.
        """
        return cls(**{name: _from_file(cls, name, _plain(value)) for name, value in values.items()})

    def to_yaml(self) -> str:
        """The settings as YAML that `from_yaml` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


class Value(NamedTuple):
    """A value read from a file, and the line it stands on (from 1)."""

    value: Any
    line: int


def read_yaml(path: Path) -> dict[str, Value]:
    """The top-level keys of a YAML file with their values and lines.

    Raises:
        SettingsError: when the file is missing, not text, not YAML, no mapping, or names a key twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise SettingsError("holds no `key: value` lines", where=path, hint="write one setting a line")
        pairs = [(key, loader.construct_object(value, deep=True)) for key, value in node.value]
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror})", where=path, hint="check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError("is not UTF-8 text", where=path, hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "unreadable"
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SettingsError(f"is not YAML: {what}", where=place, hint="correct that line") from error
    found: dict[str, Value] = {}
    for key, value in pairs:
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise SettingsError(f"{name} stands twice", where=f"{path}:{line}", hint="keep one of them")
        found[name] = Value(value, line)
    return found


class SettingsParser(argparse.ArgumentParser):
    """An argument parser whose complaints are `SettingsError`s: one line, and the nearest known flag."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage."""
        match = re.fullmatch(r"argument (\S+): (.*)", message)
        where, what = match.groups() if match else (None, message)
        raise SettingsError(what.replace("expected one argument", "needs a value"), where=where, hint=self.see_help)

    @property
    def see_help(self) -> str:
        """The clause that points to this parser's help."""
        return f"see `{self.prog} --help`"

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments; `--learning_rate` counts as `--learning-rate`.

        Raises:
            SettingsError: on the first argument that is not known.
        """
        spelled = [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), argument) for argument in arguments]
        namespace, unknown = self.parse_known_args(spelled)
        if unknown:
            name = unknown[0].partition("=")[0]
            if not name.startswith("-"):
                raise SettingsError(f"unexpected argument {name!r}", hint=self.see_help)
            raise SettingsError(
                "no such flag", where=name, hint=_nearest(name, self._option_string_actions, self.see_help)
            )
        return namespace


def parser_for(cls: type[Settings], *, prog: str, description: str) -> SettingsParser:
    """A parser with an optional CONFIG.yaml and one flag for each field of a settings class."""
    given, told = "CONFIG.yaml", "settings from a file; flags override it"
    if cls.first is not None:
        given, told = f"{cls.first.upper()}|{given}", f"the same as {_flag(cls.first)}, or {told}"
    parser = SettingsParser(prog=prog, description=description, usage=f"%(prog)s [{given}] [--flags]")
    parser.add_argument("config", nargs="?", metavar=given, help=told)
    groups: dict[type, Any] = {}
    for name, field in cls.model_fields.items():
        if name in cls.without_flag:
            continue
        owner = next(c for c in reversed(cls.__mro__) if name in getattr(c, "__annotations__", {}))
        if owner not in groups:
            heading = (owner.__doc__ or "").strip().partition("\n")[0].rstrip(".")
            groups[owner] = parser if owner is cls else parser.add_argument_group(heading.lower() or owner.__name__)
        _add_flag(groups[owner], name, field)
    return parser


def from_arguments(cls: type[S], parser: SettingsParser, arguments: Sequence[str]) -> tuple[S, argparse.Namespace]:
    """Settings from a command line: defaults, then the configuration file, then flags.

    Args:
        cls: the settings class that `parser` was made for.
        parser: from `parser_for`; flags that the caller added to it are handed back.
        arguments: the command line after the verb.

    Returns:
        The settings, and a namespace with what was parsed besides.

    Raises:
        SettingsError: one line naming the flag, or the file, line and key.
    """
    namespace = parser.parse_strictly(arguments)
    config = None if namespace.config is None else Path(namespace.config)
    is_yaml = config is not None and config.suffix.lower() in {".yaml", ".yml"}
    if config is not None and not is_yaml and cls.first is not None and not hasattr(namespace, cls.first):
        setattr(namespace, cls.first, namespace.config)
        config = None
    if config is not None and not is_yaml:
        raise SettingsError(
            "is not a .yaml configuration", where=config, hint=f"give it by its flag, {parser.see_help}"
        )
    stated = {name: vars(namespace).pop(name) for name in cls.model_fields if hasattr(namespace, name)}
    flags = {name: _from_texts(name, cls.model_fields[name], value) for name, value in stated.items()}
    return _build(cls, {} if config is None else read_yaml(config), flags, config), namespace


def _build(cls: type[S], file: Mapping[str, Value], flags: Mapping[str, Any], config: Path | None) -> S:
    def place(name: str) -> str:
        if name in file and name not in flags:
            return f"{config}:{file[name].line}: {name}"
        return _flag(name) if name else ""

    try:
        return cls(**{name: _from_file(cls, name, value.value) for name, value in file.items()} | dict(flags))
    except InvalidSettingsError as error:
        raise InvalidSettingsError(error.problems, place) from None
    except SettingsError as error:
        if error.where is None or error.where not in cls.model_fields:
            raise
        raise SettingsError(error.what, where=place(error.where), hint=error.hint) from error


def _problems(cls: type[Settings], error: ValidationError) -> list[Problem]:
    """One problem for each field in pydantic's account, which has one for each member of a union."""
    by_field: dict[str, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_field.setdefault(str(details["loc"][0]) if details["loc"] else "", []).append(details)
    return [_problem(cls, name, found) for name, found in by_field.items()]


def _problem(cls: type[Settings], name: str, found: Sequence[ErrorDetails]) -> Problem:
    first = found[0]
    if first["type"] == "missing":
        return Problem(name, "is missing", f"give {_flag(name)} or `{name}:` in the configuration")
    if first["type"] == "extra_forbidden":
        return Problem(name, "no such setting", _nearest(name, cls.model_fields, "see --help for those that exist"))
    if first["type"] in {"value_error", "assertion_error"}:
        return Problem(name, str(first.get("ctx", {}).get("error", first["msg"])))
    messages = dict.fromkeys(re.sub(r", (unable|got) .*", "", details["msg"]) for details in found)
    wanted = " or ".join(message.removeprefix("Input should ").removeprefix("be ") for message in messages)
    for wordy, plain in {"greater than or equal to": "at least", "less than or equal to": "at most"}.items():
        wanted = wanted.replace(wordy, plain)
    if not first["msg"].startswith("Input should "):
        return Problem(name, wanted[0].lower() + wanted[1:])
    return Problem(name, f"must be {wanted}, not {first['input']!r}")


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    names = list(known)
    other = name.replace(*_TWINS) if _TWINS[0] in name else name.replace(*_TWINS[::-1])
    close = [other] if other != name and other in names else difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _arms(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the one annotation itself."""
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def _leaves(annotation: Any) -> set[Any]:
    """Every plain type within an annotation."""
    inner = get_args(annotation)
    if not inner or get_origin(annotation) is Literal:
        return {annotation}
    return set().union(*(_leaves(part) for part in inner))


def _shape(field: FieldInfo) -> Literal["bool", "many", "mapping", "one"]:
    """How a field's flag takes its value."""
    arms = [arm for arm in _arms(field.annotation) if arm is not type(None)]
    origins = {get_origin(arm) or arm for arm in arms}
    if origins == {bool}:
        return "bool"
    if origins & {tuple, list, Sequence}:
        return "many"
    return "mapping" if origins & {dict, Mapping} else "one"


def _add_flag(group: Any, name: str, field: FieldInfo) -> None:
    shape = _shape(field)
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(field)}
    if shape == "bool":
        group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, **common)
    else:
        metavar = "KEY=VALUE" if shape == "mapping" else _metavar(field)
        group.add_argument(_flag(name), action="store" if shape == "one" else "append", metavar=metavar, **common)


def _metavar(field: FieldInfo) -> str:
    words = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    kinds: dict[str, None] = {}
    for arm in _arms(field.annotation):
        choices = [leaf for leaf in _leaves(arm) if get_origin(leaf) is Literal]
        if choices and _shape(field) != "mapping":
            kinds |= dict.fromkeys(str(choice) for leaf in choices for choice in get_args(leaf))
        elif arm is not type(None):
            kinds |= dict.fromkeys(words[leaf] for leaf in typing.cast("set[type]", _leaves(arm)) if leaf in words)
    return "|".join(kinds) or "VALUE"


def _help(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        note = "required"
    elif default is None or default in ((), {}, ""):
        note = ""
    elif isinstance(default, bool):
        note = f"default: {'yes' if default else 'no'}"
    elif isinstance(default, tuple | list):
        note = f"default: {','.join(map(str, default))}"
    else:
        note = f"default: {default}"
    text = (field.description or "").replace("%", "%%")
    return f"{text} ({note})".strip() if note else text


def _plain(value: Any) -> Any:
    """A Python value as YAML would hold it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    is_numpy = type(value).__module__ == "numpy"  # without importing it, so that help stays fast
    return value.tolist() if is_numpy else value


def _from_file(cls: type[Settings], name: str, value: Any) -> Any:
    """A YAML value; one text where several may stand is read as its flag would be."""
    if isinstance(value, str) and name in cls.model_fields and _shape(cls.model_fields[name]) == "many":
        return _parts(cls.model_fields[name], value)
    return value


def _from_texts(name: str, field: FieldInfo, given: Any) -> Any:
    """A flag's text, or the texts of a repeated flag, as what pydantic is to check."""
    shape = _shape(field)
    if shape == "bool":
        return given
    texts = [given] if shape == "one" else [part for text in given for part in _parts(field, text)]
    if type(None) in _arms(field.annotation) and [text.lower() for text in texts] == ["none"]:
        return None
    if shape == "one":
        return given
    if shape == "many" or any(isinstance(mark, Verbatim) for mark in field.metadata):
        return texts
    pairs = [text.rpartition("=") for text in texts]
    for text, (key, _, _) in zip(texts, pairs, strict=True):
        if not key:
            raise SettingsError(f"takes key=value, not {text!r}", where=_flag(name))
    return {key: value for key, _, value in pairs}


def _parts(field: FieldInfo, text: str) -> list[str]:
    """The values in one text: split at commas, but not within the braces of a regular expression's {1,2}."""
    if any(isinstance(mark, Verbatim) for mark in field.metadata):
        return [text]
    return [part.strip() for part in re.split(r",(?![^{]*\})", text) if part.strip()]


class _HelpFormatter(argparse.HelpFormatter):
    """Help in wider columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)
