"""Adapters that stay loaded as long as somebody uses them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from tailora.serve.registry import Registry


class SharedAdapters:
    """Loads an adapter for its first user, and unloads it after its last. Used by the event loop's thread.

    Args:
        registry: loads and unloads them.
        folders: folders of the adapters, by name.
    """

    def __init__(self, registry: Registry, folders: Mapping[str, str]) -> None:
        self._registry, self._folders = registry, folders
        self._users: Counter[str] = Counter()
        self._changing = asyncio.Lock()

    async def acquire(self, name: str) -> None:
        """Load an adapter unless it is loaded. Every call needs a `release`, unless it raises.

        Raises:
            AdapterError, SettingsError: see `Registry.load`.
        """
        self._users[name] += 1  # before anything is awaited, so that an unloading that waits leaves it loaded
        try:
            async with self._changing:
                if self._registry.find(name) is None:
                    await self._registry.load(name, self._folders[name])
        except BaseException:
            await self.release(name)
            raise

    async def release(self, name: str) -> None:
        """Unload an adapter unless others use it; texts in progress keep it until they end."""
        self._users[name] -= 1
        if self._users[name]:
            return
        async with self._changing:
            if not self._users[name]:
                await self._registry.unload(name)
