"""Typed settings: one class gives the flags, the YAML keys, the help and the checks.

Each settings class is defined by its owner, and composed of mixins where commands share fields. Fields are flat and
hold numbers, texts, paths, choices, tuples of those, or mappings from text to those; deeper nesting is not supported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tailora.core.errors import SettingsError
from tailora.core.fields import (
    Unset,
    Verbatim,
    default_text,
    flag,
    is_optional,
    leaves,
    parts,
    shape,
    takes_none,
    wanted,
)
from tailora.core.problems import FieldError, InvalidSettingsError, problems_of, shown
from tailora.core.yaml_file import Value, read_yaml

__all__ = ["Settings", "Unset", "Verbatim"]

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A frozen set of checked settings; subclass it with annotated, described fields.

    A field's help is the docstring that follows it, or its `Field(description=…)`, with its range and default.
    Fields that several commands share are defined once, in a mixin. A validator may raise
    `SettingsError(…, where="field_name")`; the error is reported with the flag or the file's line of that field.

    Attributes:
        first: the field that an argument without a flag fills on the command line, unless it is a YAML file.
        main: the field that such an argument probably means, for the hint of its error, where no field takes it.
        heading: the group of the help that the fields defined in this class belong to.
        headings: the groups of single fields of this class, where they differ; a field `output` is in "output".

    Raises:
        SettingsError: an unknown name, a missing value, or a value that its field cannot hold.
    """

    first: ClassVar[str | None] = None
    main: ClassVar[str | None] = None
    heading: ClassVar[str] = "options"
    headings: ClassVar[Mapping[str, str]] = {}
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
            raise InvalidSettingsError(problems_of(type(self).model_fields, error, self.first)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: Any) -> Any:
        """Refuse `epochs: yes`, which would otherwise count as 1, and an empty value where the field needs one."""
        field = cls.model_fields[info.field_name]
        if isinstance(value, bool) and not {bool, Any} & leaves(field.annotation):
            raise FieldError(f"must be {wanted(field)}, not {shown(value)}")
        if value is None and not is_optional(field):
            default = f" for its default ({default_text(field)})" if default_text(field) else ""
            raise FieldError(
                "has no value", f"give {wanted(field)}" if field.is_required() else f"leave the setting out{default}"
            )
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """Replace the `~` of paths, which a shell leaves in `--output=~/runs`, by the home directory."""
        return _expanded(value)

    @classmethod
    def heading_of(cls, name: str) -> str:
        """Return the group of the help that a field belongs to."""
        owner = next(c for c in reversed(cls.__mro__) if name in getattr(c, "__annotations__", {}))
        assert issubclass(owner, Settings)
        return owner.headings.get(name, "output" if name == "output" else owner.heading)

    @classmethod
    def help_appendix(cls) -> str:
        """Return lines that follow the flags in the help."""
        return ""

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read settings from a YAML file of `field_name: value` lines; defaults fill the rest."""
        return build(cls, read_yaml(Path(path)), {}, Path(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from Python values: whatever the YAML file may hold, with paths and numpy numbers as well.

        Raises:
            SettingsError: it names the field.
        """
        return cls(**{name: _from_file(cls, name, _plain(value)) for name, value in values.items()})

    def to_yaml(self) -> str:
        """Return the settings as YAML that `from_yaml` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def build(cls: type[S], file: Mapping[str, Value], flags: Mapping[str, Any], config: Path | None) -> S:
    """Make settings from the values of a file and from those of flags, which override them.

    Args:
        cls: the settings class.
        file: values by field name, as `read_yaml` returns them.
        flags: values by field name.
        config: the file, for errors.

    Raises:
        SettingsError: it names the flag, or the file, line and key.
    """

    def place(name: str) -> str:
        if name in file and name not in flags:
            return f"{config}:{file[name].line}: {name}"
        return flag(name) if name else ""

    try:
        return cls(**{name: _from_file(cls, name, value.value) for name, value in file.items()} | dict(flags))
    except InvalidSettingsError as error:
        raise InvalidSettingsError(error.problems, place) from None
    except SettingsError as error:
        if error.where is None or error.where not in cls.model_fields:
            raise
        raise SettingsError(error.what, where=place(error.where), hint=error.hint) from error


def _expanded(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(map(_expanded, value))
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser()
    except RuntimeError as error:
        raise FieldError(f"{value} is in a home directory that does not exist", "write the whole path") from error


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
    """A YAML value; a text for a field of several values is read as its flag would be, and so is the word none."""
    field = cls.model_fields.get(name)
    if field is None or not isinstance(value, str):
        return value
    if value.lower() == "none" and takes_none(field) and str not in leaves(field.annotation):
        return None
    return parts(field, value) if shape(field) == "many" else value
