"""A real server on a tiny base with two adapters, in this process and reached over its socket."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import tailora
from bases import save_adapter, save_base
from tailora.core.files import write_json
from tailora.serve.keys import KeyRing
from tailora.serve.server import Server, open_server
from tailora.serve.settings import ServeSettings

CHAT = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    "{% if tone %}({{ tone }}){% endif %}"
)


def save_models(folder: Path, *, meta: Mapping[str, Any] | None = None) -> Path:
    """Write a base with a chat template, and the adapters `one` and `two` and, apart, `later/three`.

    Without `meta` they are as if made elsewhere: every text is a prompt of theirs.
    """
    save_base(folder / "base")
    config = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}
    write_json(folder / "base" / "tokenizer_config.json", config)
    for seed, name in enumerate(("one", "two", "later/three", "later/four"), start=1):
        save_adapter(folder / name, str(folder / "base"), seed=seed, meta=meta or {})
    return folder


def save_tiny(folder: Path) -> Path:
    """Copy the bundled model into a folder `base`, with a chat template in a file of its own."""
    shutil.copytree(Path(tailora.__file__).parent / "models" / "tiny", folder / "base")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (folder / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def settings_for(models: Path, **changes: Any) -> ServeSettings:
    """Settings in fp32, so that texts are the same in every company."""
    values: dict[str, Any] = {
        "base": str(models / "base"),
        "adapter": (f"one={models / 'one'}", f"two={models / 'two'}"),
        "port": 0,
        "precision": "fp32",
        "cache_tokens": 2048,
        "drain": 5.0,
    }
    return ServeSettings(**{**values, **changes})


@contextmanager
def served(settings: ServeSettings, keys: KeyRing | None = None) -> Iterator[Server]:
    """A server that answers."""
    with open_server(settings, keys or KeyRing()) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield server
        finally:
            server.should_exit = True
            thread.join()


def wait_until(holds: Any, seconds: float = 30) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def post(server: Server, path: str, body: Any, **options: Any) -> httpx.Response:
    """A request without OpenAI's client."""
    return httpx.post(server.address + path, json=body, timeout=60, **options)


def get(server: Server, path: str, **options: Any) -> httpx.Response:
    """The same for GET."""
    return httpx.get(server.address + path, timeout=60, **options)


def is_idle(server: Server) -> bool:
    """Whether the engine holds nothing, and no text is counted as under way."""
    load = server.service.worker.stats.load
    return not server.service.open_texts and not load.running and not load.waiting and not load.blocks_used


class Slow:
    """Makes the engine's steps take some time."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._backend, self._seconds = server.service.running.engine.backend, seconds

    def __enter__(self) -> None:
        plain = type(self._backend).run

        def run(step: Any) -> Any:
            time.sleep(self._seconds)
            return plain(self._backend, step)

        self._backend.run = run  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        del self._backend.run
