"""The flags of a settings class: its parser, its grouped help, and settings from a command line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic.fields import FieldInfo

from tailora.core.errors import SettingsError
from tailora.core.fields import flag, help_of, is_verbatim, metavar, parts, shape, takes_none
from tailora.core.problems import nearest
from tailora.core.settings import Settings, build
from tailora.core.yaml_file import read_yaml

S = TypeVar("S", bound=Settings)
read_again: ContextVar[Callable[[], Any] | None] = ContextVar("read_again", default=None)
"""Reads the settings of the command that is running from its arguments and its file again; None outside of one."""
GROUPS = (
    *("data", "model", "adapter", "method", "prompt", "optimisation", "search", "decoding", "sampling", "scoring"),
    *("checks", "cleaning", "computation", "cluster", "server", "limits", "access", "options", "output"),
)
"""The groups of the help, in their order."""
LEADING = ("data", "input", "record", "base", "adapter", "model", "method", "methods")
"""Fields that come first in their group."""


class SettingsParser(argparse.ArgumentParser):
    """An argument parser that raises `SettingsError`: one line, with the nearest known flag."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, add_help=False, **keywords)
        self._positionals.title = "configuration"
        self._groups = {title: self.add_argument_group(title) for title in GROUPS}
        self.appendix: Callable[[], str] = str
        self.input_flag: str | None = None

    def group(self, title: str) -> Any:
        """Return a group of the help; `title` is one of `GROUPS`."""
        return self._groups[title]

    def format_help(self) -> str:
        """Return the help, with the appendix of the settings after the flags."""
        appendix = self.appendix()
        return super().format_help() + (f"\n{appendix}\n" if appendix else "")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage."""
        match = re.fullmatch(r"argument (\S+): (.*)", message)
        where, what = match.groups() if match else (None, message)
        raise SettingsError(what.replace("expected one argument", "needs a value"), where=where, hint=self.see_help)

    @property
    def see_help(self) -> str:
        """The hint that points to this parser's help."""
        return f"see `{self.prog} --help`"

    def as_input(self, value: str) -> str:
        """Return the hint for a value without a flag, which is probably the command's main input."""
        if self.input_flag is None or value.lower().endswith((".yaml", ".yml")):
            return self.see_help
        return f"give it by its flag: {self.input_flag} {shlex.quote(value)}"

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments; `--learning_rate` counts as `--learning-rate`.

        Raises:
            SettingsError: on the first argument that is not known.
        """
        spelled = [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), argument) for argument in arguments]
        namespace, unknown = self.parse_known_args(spelled)
        if isinstance(namespace.config, list):  # argparse stops at the flag after the first ones
            while unknown and not unknown[0].startswith("-"):
                namespace.config.append(unknown.pop(0))
        if unknown:
            name = unknown[0].partition("=")[0]
            if not name.startswith("-"):
                raise SettingsError(f"unexpected argument {name!r}", hint=self.as_input(unknown[0]))
            hint = nearest(name, self._option_string_actions, self.see_help)
            raise SettingsError("no such flag", where=name, hint=hint)
        return namespace


def parser_for(cls: type[Settings], *, prog: str, description: str) -> SettingsParser:
    """Return a parser with an optional CONFIG.yaml and one flag for each field of a settings class."""
    place, text = "CONFIG.yaml", "YAML file of settings; flags override it."
    several = cls.first is not None and shape(cls.model_fields[cls.first]) == "many"
    if cls.first is not None:
        name, value = (f"{cls.first.upper()}…", "Values") if several else (cls.first.upper(), "Value")
        place, text = f"{name}|{place}", f"{value} of {flag(cls.first)}, or a {text}"
    parser = SettingsParser(prog=prog, description=description, usage=f"%(prog)s [{place}] [--flags]")
    parser.appendix = cls.help_appendix
    parser.input_flag = None if cls.main is None else flag(cls.main)
    parser.add_argument("config", nargs="*" if several else "?", metavar=place, help=text)
    fields = cls.model_fields.items()
    for name, field in sorted(fields, key=lambda item: item[0] not in LEADING):
        _add_flag(parser.group(cls.heading_of(name)), name, field)
    parser.group("output").add_argument("--json", action="store_true", help="Print the result as one JSON object.")
    parser.group("output").add_argument("-h", "--help", action="help", help="Show this help and exit.")
    return parser


def from_arguments(cls: type[S], parser: SettingsParser, arguments: Sequence[str]) -> tuple[S, argparse.Namespace]:
    """Return settings from a command line: defaults, then the configuration file, then flags.

    Args:
        cls: the settings class that `parser` was made for.
        parser: from `parser_for`; flags that the caller added to it are handed back.
        arguments: the command line after the command's name.

    Returns:
        The settings, and a namespace with what was parsed besides.

    Raises:
        SettingsError: one line naming the flag, or the file, line and key.
    """
    namespace = parser.parse_strictly(arguments)
    if isinstance(namespace.config, list):
        _take_several(cls, namespace)
    config = None if namespace.config is None else Path(namespace.config)
    is_yaml = config is not None and config.suffix.lower() in {".yaml", ".yml"}
    if config is not None and not is_yaml and cls.first is not None and not hasattr(namespace, cls.first):
        setattr(namespace, cls.first, namespace.config)
        config = None
    if config is not None and not is_yaml:
        hint = parser.as_input(namespace.config)
        raise SettingsError("is not a .yaml configuration", where=config, hint=hint)
    stated = {name: vars(namespace).pop(name) for name in cls.model_fields if hasattr(namespace, name)}
    flags = {name: _from_texts(name, cls.model_fields[name], value) for name, value in stated.items()}
    return build(cls, {} if config is None else read_yaml(config), flags, config), namespace


def _take_several(cls: type[Settings], namespace: argparse.Namespace) -> None:
    """Move arguments without a flag to the field that they fill, unless the only one is a YAML file."""
    texts: list[str] = namespace.config
    is_yaml = len(texts) == 1 and Path(texts[0]).suffix.lower() in {".yaml", ".yml"}
    namespace.config = texts[0] if is_yaml else None
    if texts and not is_yaml:
        assert cls.first is not None
        setattr(namespace, cls.first, [*texts, *getattr(namespace, cls.first, [])])


def _add_flag(group: Any, name: str, field: FieldInfo) -> None:
    kind = shape(field)
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_of(field).replace("%", "%%")}
    if kind == "bool":
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **common)
    else:
        action = "store" if kind == "one" else "append"
        group.add_argument(flag(name), action=action, metavar=metavar(field), **common)


def _from_texts(name: str, field: FieldInfo, value: Any) -> Any:
    """A flag's text, or the texts of a repeated flag, as the value that pydantic checks."""
    kind = shape(field)
    if kind == "bool":
        return value
    texts = [value] if kind == "one" else [part for text in value for part in parts(field, text)]
    if takes_none(field) and [text.lower() for text in texts] == ["none"]:
        return None
    if kind == "one":
        return value
    if kind == "many" or is_verbatim(field):
        return texts
    pairs = [text.rpartition("=") for text in texts]
    keys = [key for key, _, _ in pairs]
    for text, key in zip(texts, keys, strict=True):
        if not key:
            raise SettingsError(f"must be KEY=VALUE, not {text!r}", where=flag(name))
        if keys.count(key) > 1:
            raise SettingsError(f"the key {key!r} is given twice", where=flag(name), hint="keep one of the values")
    return {key: item for key, _, item in pairs}


class _HelpFormatter(argparse.HelpFormatter):
    """Help in wider columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)
