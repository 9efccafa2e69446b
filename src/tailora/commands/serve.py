"""`tailora serve`: a base model and its adapters over HTTP, until Ctrl-C or SIGTERM."""

from __future__ import annotations

from typing import Any

from tailora.core.errors import MissingExtraError
from tailora.serve.settings import ServeSettings

__all__ = ["ServeSettings", "run"]


def run(settings: ServeSettings) -> dict[str, Any]:
    """Serve until the process is asked to end; see `serve.server.run`.

    Returns:
        What was served, and how much.

    Raises:
        MissingExtraError: the packages that serving needs are not installed.
        UserError: the models, the keys or the address cannot be used.
    """
    try:
        from tailora.serve.server import run as serve  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tailora"):
            raise
        hint = "install them with `pip install 'tailora[serve]'`"
        raise MissingExtraError(f"serving needs packages that are not installed ({error.name})", hint=hint) from error
    return serve(settings)
