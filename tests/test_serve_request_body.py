"""Bodies as bytes: compressed ones are decompressed up to the limit, and what is not text is refused."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import is_idle, save_models, served, settings_for, wait_until
from tailora.serve.server import Server

MAX_BODY = 200_000
ASK = {"model": "one", "prompt": "abc", "max_tokens": 3, "temperature": 0}


def bare_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header, which some clients send."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, max_body=MAX_BODY)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def send(server: Server, body: bytes, encoding: str = "", path: str = "/v1/completions") -> httpx.Response:
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})
    return httpx.post(server.address + path, content=body, headers=headers, timeout=60)


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


@pytest.mark.parametrize("name", PACKERS)
def test_a_compressed_body_is_the_body(server: Server, name: str) -> None:
    encoding, pack = PACKERS[name]
    plain = send(server, json.dumps(ASK).encode()).json()
    for more in ({}, {"user": "x" * 100_000}):  # small and large ones go different ways
        packed = send(server, pack(json.dumps({**ASK, **more}).encode()), encoding)
        assert packed.status_code == 200, packed.text
        assert packed.json()["choices"] == plain["choices"]
    assert send(server, json.dumps(ASK).encode(), "identity").json()["choices"] == plain["choices"]


@pytest.mark.parametrize("name", PACKERS)
def test_a_bomb_is_refused_at_the_limit(server: Server, name: str) -> None:
    encoding, pack = PACKERS[name]
    inside, outside = (b" " * (size - 2) + b"{}" for size in (MAX_BODY, MAX_BODY + 1))
    assert "model: is missing" in refused(send(server, pack(inside), encoding), 400)
    assert f"larger than {MAX_BODY:,} bytes" in refused(send(server, pack(outside), encoding), 413)
    bomb = pack(bytes(100 * MAX_BODY))
    assert len(bomb) < MAX_BODY
    assert send(server, bomb, encoding).json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("name", PACKERS)
def test_broken_data_is_reported(server: Server, name: str) -> None:
    encoding, pack = PACKERS[name]
    packed = pack(json.dumps(ASK).encode())
    assert "ends too early" in refused(send(server, packed[:-3], encoding), 400)
    assert "continues after its end" in refused(send(server, packed + packed, encoding), 400)
    assert f"not valid {encoding.lower()} data" in refused(send(server, b"\xff" + packed, encoding), 400)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip"])
def test_other_encodings_are_refused_with_those_that_are_supported(server: Server, encoding: str) -> None:
    response = send(server, json.dumps(ASK).encode(), encoding)
    message = refused(response, 415)
    assert (
        message == f"Content-Encoding {encoding!r} is not supported; send the body with gzip, deflate or uncompressed"
    )
    assert response.headers["accept-encoding"] == "gzip, deflate, identity"


def test_bytes_that_are_not_utf_8_are_located(server: Server) -> None:
    body = b'{"model": "one", "prompt": "Caf\xe9"}'
    message = refused(send(server, body), 400)
    assert message == "the body is not valid UTF-8 (byte 32); encode the JSON as UTF-8"


BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "word " * 1_000_000},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "word " * 1_000_000}]},
    "/v1/records": {"facts": {"name": "word " * 1_000_000}},
}


@pytest.mark.parametrize("path", BODIES)
def test_the_server_answers_others_while_it_tokenises_a_large_body(
    models: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with served(settings_for(models, max_body=1 << 23)) as server:
        tokenizer = type(server.service.tokenizer)
        started, go_on, threads = threading.Event(), threading.Event(), list[str]()

        def slow(plain: Any) -> Any:
            def encode(self: Any, *arguments: Any, **options: Any) -> Any:
                threads.append(threading.current_thread().name)
                started.set()
                assert go_on.wait(60)
                return plain(self, *arguments, **options)

            return encode

        for name in ("encode", "encode_batch"):
            monkeypatch.setattr(tokenizer, name, slow(getattr(tokenizer, name)))
        with ThreadPoolExecutor(1) as pool:
            large = pool.submit(send, server, json.dumps({"model": "base", **BODIES[path]}).encode(), "", path)
            try:
                assert started.wait(60)
                assert httpx.get(f"{server.address}/health", timeout=30).status_code == 200
            finally:
                go_on.set()
            assert "maximum context length is 96 tokens" in refused(large.result(), 400)
        assert all(name.startswith("asyncio_") for name in threads)


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/completions", b'{"model": "base", "model": "base", "prompt": "a"}', "model"),
        ("/v1/completions", b'{"model": "base", "prompt": "a", "logit_bias": {"7": 1, "7": 1}}', "7"),
        ("/v1/records", b'{"model": "one", "facts": {"name": "Mill", "name": "Mill"}}', "name"),
        ("/v1/records", '{"model": "one", "facts": {"caf\u00e9": "a", "cafe\u0301": "b"}}'.encode(), "café"),
        ("/v1/files/read", b'{"text": "a,b", "columns": {"id": "a", "id": "b"}}', "id"),
        ("/v1/chat/completions", b'{"model": "base", "messages": [{"role": "user", "role": "user"}]}', "role"),
    ],
)
def test_a_key_that_occurs_twice_is_refused(server: Server, path: str, body: bytes, key: str) -> None:
    message = refused(send(server, body, path=path), 400)
    assert f"the key {key!r} occurs twice in one object" in message
