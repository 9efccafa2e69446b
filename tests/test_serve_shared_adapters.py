"""Adapters that come and go with their holders: one that is asked for again while others load stays."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from live_server import save_models, settings_for
from tailora.core.errors import AdapterError
from tailora.serve.keys import KeyRing
from tailora.serve.server import open_server
from tailora.serve.shared_adapters import SharedAdapters


def test_an_adapter_stays_for_a_holder_that_comes_while_another_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = save_models(tmp_path)
    folders = {name: str(models / "later" / name) for name in ("three", "four")} | {"none": str(models / "none")}
    with open_server(settings_for(models, adapter_folder=models / "later", slots=3), KeyRing()) as server:
        registry = server.service.registry
        shared, read, go_on = SharedAdapters(registry, folders), registry._read, threading.Event()

        def slow(path: str) -> Any:
            assert go_on.wait(30)
            return read(path)

        async def scenario() -> None:
            await shared.acquire("three")
            with monkeypatch.context() as patched:
                patched.setattr(registry, "_read", slow)
                loading = asyncio.create_task(shared.acquire("four"))
                await asyncio.sleep(0)
                leaving = asyncio.create_task(shared.release("three"))
                await asyncio.sleep(0)
                again = asyncio.create_task(shared.acquire("three"))
                await asyncio.sleep(0)
                go_on.set()
                await asyncio.gather(loading, leaving, again)
            assert registry.find("three") is not None
            await shared.release("three")
            assert registry.find("three") is None
            assert registry.find("four") is not None
            for _ in range(2):
                with pytest.raises(AdapterError, match="no adapter is there"):
                    await shared.acquire("none")
            await shared.acquire("three")
            assert registry.find("three") is not None

        asyncio.run(scenario())
