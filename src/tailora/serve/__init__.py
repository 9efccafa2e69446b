"""`tailora serve`: one base and its adapters over HTTP, in OpenAI's words and in records. Speaks HTTP, not tensors."""

from __future__ import annotations

from typing import Any

from tailora.core.errors import MissingExtraError
from tailora.serve.settings import ServeSettings


def run(settings: ServeSettings) -> dict[str, Any]:
    """See `serve.server.run`.

    Raises:
        MissingExtraError: the packages that serving needs are not installed.
    """
    try:
        from tailora.serve.server import run as serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tailora"):
            raise
        hint = "install them with `pip install 'tailora[serve]'`"
        raise MissingExtraError(f"serving needs packages that are not installed ({error.name})", hint=hint) from error
    return serve(settings)
