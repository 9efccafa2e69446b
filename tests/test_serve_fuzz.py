"""Every route with thousands of generated requests: no status 500, no answer later than a minute, nothing left behind.

`make fuzz` runs it and prints how many requests each route got. `FUZZ_EXAMPLES` sets the number of each kind.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from live_server import get, is_idle, save_models, served, settings_for, wait_until
from tailora.commands.key import KeySettings, run
from tailora.serve.keys import read_keys
from tailora.serve.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
LATEST = 60.0  # seconds
WRITING = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/records")
POSTS = (
    *WRITING,
    "/v1/files/read",
    "/tokenize",
    "/detokenize",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/reload",
)
GETS = ("/", "/health", "/ready", "/metrics", "/version", "/v1/models", "/v1/status", "/openapi.json", "/page/app.js")
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "abc", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 2},
    "/v1/responses": {"input": "abc", "max_output_tokens": 2},
    "/v1/records": {"facts": {"name": "Blue"}, "max_tokens": 2},
    "/v1/files/read": {"text": "name,area\nBlue,north\n"},
    "/tokenize": {"prompt": "abc"},
    "/detokenize": {"tokens": [1, 2]},
    "/v1/load_lora_adapter": {"lora_name": "x", "lora_path": "three"},
    "/v1/unload_lora_adapter": {"lora_name": "x"},
    "/v1/reload": {},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["one", "base", "both", "org/x@v1", "\x00", "a" * 3000, -1, 2**63, 1e308, [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
counted: Counter[str] = Counter()


def thorough(share: float = 1.0) -> Callable[[Any], Any]:
    """Settings of a test; a failing request is printed, and not made smaller, which would take long."""
    phases = (Phase.explicit, Phase.generate)
    count = max(5, int(EXAMPLES * share))
    return settings(max_examples=count, deadline=None, phases=phases, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = save_models(tmp_path_factory.mktemp("models"))
    both = {"both": {"one": 0.5, "two": -0.5}}
    with served(settings_for(models, adapter_folder=models / "later", compositions=both, timeout=20)) as made:
        yield made
        wait_until(lambda: is_idle(made))
        print("\nrequests by route:", json.dumps(dict(sorted(counted.items()))), "in all", counted.total())


def check(server: Server, path: str, status: int, text: str, began: float) -> None:
    counted[path] += 1
    assert status < 500, (path, status, text[:500])
    assert time.monotonic() - began < LATEST, path
    if status >= 400:
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}, (path, text[:500])
    assert '"type": "server_error"' not in text, (path, text[:500])
    assert server.service.worker.alive


def send(server: Server, method: str, path: str, **more: Any) -> httpx.Response:
    began = time.monotonic()
    answer = httpx.request(method, server.address + path, timeout=LATEST, **more)
    if method != "HEAD":
        check(server, path.partition("?")[0], answer.status_code, answer.text, began)
    return answer


def post_json(server: Server, path: str, body: Any) -> httpx.Response:
    content = json.dumps(body).encode()  # with NaN and lone surrogates, as they may come over the wire
    return send(server, "POST", path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("path", POSTS)
def test_any_value_in_any_field(server: Server, path: str) -> None:
    """A valid body in which some of the documented fields, or unknown ones, have any value."""
    document = get(server, "/openapi.json").json()
    described = document["paths"][path]["post"].get("requestBody")
    fields: list[str] = []
    if described is not None:
        reference = described["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = sorted(document["components"]["schemas"][reference]["properties"])
    small = {"max_tokens": 2, "max_output_tokens": 2}

    @thorough()
    @given(more=st.dictionaries(st.sampled_from(fields or ["x"]) | st.text(max_size=4), JSON, max_size=3), model=JSON)
    def ask(more: dict[str, Any], model: Any) -> None:
        body = {**({"model": "one"} if "model" in fields else {}), **PLAIN[path], **more}
        body |= {name: value for name, value in small.items() if name in fields and isinstance(body.get(name), int)}
        post_json(server, path, body)
        if "model" in fields:
            post_json(server, path, {**PLAIN[path], "model": model})

    ask()


@pytest.mark.parametrize("path", POSTS)
def test_any_bytes_as_a_body(server: Server, path: str) -> None:
    valid = json.dumps({"model": "one", **PLAIN[path]}).encode()
    packed = gzip.compress(valid), zlib.compress(valid)
    bodies = st.binary(max_size=300) | st.sampled_from(
        [valid, *packed, valid[:-1], b"", b"null", b"[]", b"\xef\xbb\xbf" + valid]
    )
    encodings = st.sampled_from([None, "gzip", "deflate", "identity", "br", "gzip, gzip", "\xff"])
    kinds = st.sampled_from(
        ["application/json", "text/plain", "application/json; charset=utf-16", "x", "multipart/form-data", ""]
    )
    keys = st.sampled_from([None, "Bearer", "Bearer x", "Basic eA==", "\xff" * 50])

    @thorough(0.5)
    @given(body=bodies, encoding=encodings, kind=kinds, key=keys, cut=st.integers(0, 40))
    def ask(body: bytes, encoding: str | None, kind: str, key: str | None, cut: int) -> None:
        headers = {"Content-Type": kind, "X-Request-Id": "\xe9" * cut}
        headers |= {name: value for name, value in (("Content-Encoding", encoding), ("Authorization", key)) if value}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        send(server, "POST", path, content=body[cut:] if cut % 2 else body, headers=raw)

    ask()


def test_any_method_and_path(server: Server) -> None:
    paths = st.sampled_from(
        [*POSTS, *GETS, "/v1/models/one", "/v1/models/" + "x" * 3000, "/v1/../v1/models", "/page/../app.py"]
    )
    odd = st.text(st.characters(codec="latin-1", exclude_characters="#"), max_size=20).map(lambda text: f"/{text}")
    methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FROB"])

    @thorough(4)
    @given(
        path=paths | odd, method=methods, query=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9)
    )
    def ask(path: str, method: str, query: str) -> None:
        url = httpx.URL(server.address).copy_with(raw_path=_raw(path) + (b"?" + query.encode() if query else b""))
        began = time.monotonic()
        answer = httpx.request(method, url, timeout=LATEST)
        counted["any path"] += 1
        assert answer.status_code < 500, (method, path, answer.text[:300])
        assert time.monotonic() - began < LATEST

    ask()


def _raw(path: str) -> bytes:
    allowed = b"/.-_~abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    return b"".join(bytes([byte]) if byte in allowed else b"%%%02X" % byte for byte in path.encode("latin-1"))


def test_any_bytes_on_a_connection(server: Server) -> None:
    """Requests that are not HTTP, or end too early: the server closes the connection, or answers with an error."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({"model": "one", **PLAIN["/v1/completions"]}).encode()
    whole = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    request = whole % (len(body), body)

    @thorough()
    @given(cut=st.integers(0, len(request) - 1), noise=st.binary(max_size=40), at=st.integers(0, len(request)))
    def ask(cut: int, noise: bytes, at: int) -> None:
        for data in (request[:cut], request[:at] + noise + request[at:], noise + b"\r\n\r\n"):
            counted["raw connection"] += 1
            with socket.create_connection((host, int(port)), timeout=LATEST) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                status = connection.recv(16)
                assert not status.startswith(b"HTTP/1.1 5"), (data, status)

    ask()
    assert get(server, "/health").status_code == 200
    wait_until(lambda: is_idle(server))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_requests_made_from_the_description(server: Server, mode: schemathesis.GenerationMode) -> None:
    """Schemathesis: requests that fit /openapi.json, and requests that break it."""
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]
        if mode is schemathesis.GenerationMode.NEGATIVE and not operation.body:
            continue

        @thorough()
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            began = time.monotonic()
            answer = case.call(base_url=server.address, timeout=LATEST)
            check(server, case.operation.path, answer.status_code, answer.text, began)

        ask()


def test_any_key_file_is_read_or_refused(tmp_path: Path) -> None:
    """A reload with any file of keys either uses it or reports an error; the old keys stay in force then."""
    file = tmp_path / "keys.yaml"
    key = run(KeySettings(name="admin", admin=True, output=file))["key"]
    good = file.read_bytes()
    settings_ = settings_for(save_models(tmp_path), api_keys=file)
    with served(settings_, read_keys(file, {})) as server:
        head = {"Authorization": f"Bearer {key}"}

        @thorough(0.25)
        @given(noise=st.binary(max_size=60), at=st.integers(0, len(good)))
        def ask(noise: bytes, at: int) -> None:
            file.write_bytes(good[:at] + noise + good[at:])
            answer = send(server, "POST", "/v1/reload", headers=head)
            if answer.status_code != 200:
                assert get(server, "/v1/models", headers=head).status_code == 200
            file.write_bytes(good)
            server.keys.replace(read_keys(file, {}))

        ask()
