"""Adapters that are in memory for as long as somebody holds them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from tailora.serve.registry import Registry


class HeldAdapters:
    """Loads an adapter for its first holder, and unloads it after its last. Used by the event loop's thread.

    Args:
        registry: where they are loaded and unloaded.
        folders: of the adapters, by name.
    """

    def __init__(self, registry: Registry, folders: Mapping[str, str]) -> None:
        self._registry, self._folders = registry, folders
        self._holders: Counter[str] = Counter()
        self._changing = asyncio.Lock()

    async def hold(self, name: str) -> None:
        """Load an adapter unless it is loaded. Every call needs a `let_go`, unless it raises.

        Raises:
            AdapterError, SettingsError: see `Registry.load`.
        """
        self._holders[name] += 1  # before anything is waited for, so that an unloading that waits leaves it loaded
        try:
            async with self._changing:
                if self._registry.find(name) is None:
                    await self._registry.load(name, self._folders[name])
        except BaseException:
            await self.let_go(name)
            raise

    async def let_go(self, name: str) -> None:
        """Unload an adapter unless others hold it; texts under way keep it to their ends."""
        self._holders[name] -= 1
        if self._holders[name]:
            return
        async with self._changing:
            if not self._holders[name]:
                await self._registry.unload(name)
