"""New keys, compositions and limits for a running server: the configuration is read again, and used if it is valid."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from tailora.core.errors import SettingsError, UserError
from tailora.serve.keys import KeyRing, read_keys
from tailora.serve.service import Service
from tailora.serve.settings import ServeSettings

log = logging.getLogger("tailora.serve")
RELOADED = ("api_keys", "compositions", "queue", "timeout", "max_prompt", "drain")
"""Settings that a reload changes; any other needs a restart."""


class Reloader:
    """Reads the configuration of a server again. Used by the event loop's thread.

    Args:
        settings: configuration that the server runs with.
        service: its engine.
        keys: its API keys, which are replaced in place.
        read_again: reads the settings from where they came from; None for settings that came from Python.

    Attributes:
        settings: configuration that is in force.
    """

    def __init__(
        self, settings: ServeSettings, service: Service, keys: KeyRing, read_again: Callable[[], Any] | None
    ) -> None:
        self.settings = settings
        self._service, self._keys, self._read_again = service, keys, read_again
        self._reloading = asyncio.Lock()

    async def reload(self) -> dict[str, Any]:
        """Use the configuration as it is on disk; requests in progress are not affected.

        Returns:
            Number of API keys, compositions, changed settings, and changed settings that need a restart.

        Raises:
            UserError: the configuration cannot be used. Nothing is changed then.
        """
        async with self._reloading:
            try:
                result = await self._reload()
            except UserError as error:
                log.error("reload failed", extra={"fields": {"error": str(error)}})
                raise
            log.info("reloaded", extra={"fields": result})
            return result

    async def _reload(self) -> dict[str, Any]:
        before = self.settings
        after = before if self._read_again is None else await asyncio.to_thread(self._read_again)
        assert isinstance(after, ServeSettings)
        keys = await asyncio.to_thread(read_keys, after.api_keys, os.environ)
        if len(self._keys) and not len(keys):
            hint = "name the file of keys, or restart the server without keys"
            raise SettingsError("the new configuration has no API keys", where="api_keys", hint=hint)
        self._service.registry.compose(after.compositions)
        self._service.set_limits(after)
        self._keys.replace(keys)
        changed = [name for name in type(after).model_fields if getattr(after, name) != getattr(before, name)]
        kept = {name: getattr(before, name) for name in type(after).model_fields if name not in RELOADED}
        self.settings = after.model_copy(update=kept)
        return {
            "keys": len(keys),
            "compositions": list(after.compositions),
            "changed": [name for name in changed if name in RELOADED],
            "restart_needed": [name for name in changed if name not in RELOADED],
        }
