"""Base class of all bodies, and a validator for fields that may only have their default."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator

lenient_fields: ContextVar[list[str] | None] = ContextVar("lenient_fields", default=None)
"""Names of the unknown fields that a lenient server has ignored in a request; None if unknown fields are refused."""


class Body(BaseModel):
    """A JSON object of a request.

    A field that is null counts as absent, whether it is known or not, and so does an unknown field that is empty (see
    `empty`), because neither asks for anything. Every other unknown field is refused, unless a lenient server ignores
    it (`lenient_fields`).
    """

    empty: ClassVar[tuple[Any, ...]] = ([],)
    """Values with which an unknown field asks for nothing; an empty object may ask for a default."""
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _drop_empty(cls, data: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return check(data)
        values = {
            name: value
            for name, value in data.items()
            if value is not None and (value not in cls.empty or name in cls.model_fields)
        }
        ignored = lenient_fields.get()
        if ignored is None:
            return check(values)
        body = check({name: value for name, value in values.items() if name in cls.model_fields})
        ignored += [name for name in values if name not in cls.model_fields]  # only of the alternative that fits
        return body


def default_only(*accepted: Any, hint: str) -> AfterValidator:
    """Return a validator for a field that may be present but may not ask for anything.

    Args:
        accepted: values that ask for nothing.
        hint: error for any other value: what is not supported and what to do.
    """

    def check(value: Any) -> Any:
        if value not in accepted:
            raise ValueError(hint)
        return value

    return AfterValidator(check)
