"""Base class of all bodies, and a validator for fields that may only have their default."""

from __future__ import annotations

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


class Body(BaseModel):
    """A JSON object of a request.

    A field that is null counts as absent, whether it is known or not, and so does an unknown field that is an empty
    list, because neither asks for anything. Every other unknown field is refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if value is not None and (value != [] or name in cls.model_fields)
        }


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
