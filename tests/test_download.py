"""Fetching from a local server: whole, cut short, wrong, absent, unreachable."""

from __future__ import annotations

import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailora.core.errors import DataError, OfflineError
from tailora.data import download

BODY = b"mr,ref\nname[X],A.\n" * 5000


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("TAILORA_CACHE", str(tmp_path))
    data_set = download.DataSet("", {"trainset.csv": hashlib.sha256(BODY).hexdigest()}, "none")
    monkeypatch.setattr(download, "DATA_SETS", {"e2e": data_set})
    servers = []
    asked = []

    def start(
        body: Any = BODY,
        length: Any = None,
        status: int = 200,
        cuts: tuple[Any, ...] = (),
        ranges: bool = False,
        failures: tuple[Any, ...] = (),
        headers: tuple[Any, ...] = (),
    ) -> str:
        """A server; returns its address.

        `cuts`: after how many bytes each of the first answers breaks off; `ranges`: whether Range is honoured;
        `failures`: statuses of the first answers, which have no file; `headers`: sent with those.
        """
        left = list(cuts)
        failing = list(failures)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                asked.append(wanted)
                if failing:
                    self.send_response(failing.pop(0))
                    for header in headers:
                        self.send_header(*header)
                    self.send_header("Content-Length", "4")
                    self.end_headers()
                    self.wfile.write(b"busy")
                    return
                first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
                self.send_response(206 if first else status)
                self.send_header("Content-Length", str((length or len(body)) - first))
                self.end_headers()
                self.wfile.write(body[first : first + left.pop(0)] if left else body[first:])

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    start.asked = asked  # type: ignore[attr-defined]
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_whole_then_from_the_cache(serve: Any) -> None:
    folder = download.fetch("e2e", base_url=serve())
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert download.fetch("e2e", base_url="http://127.0.0.1:9") == folder


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"body": BODY[:100], "length": len(BODY)}, OfflineError, r"^trainset.csv cannot be downloaded: .* \(http"),
        ({"body": b"other"}, DataError, "its SHA-256 is not that of the official file"),
        ({"status": 404}, DataError, "responded 404"),
    ],
)
def test_broken_downloads_leave_nothing(serve: Any, tmp_path: Path, answer: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        download.fetch("e2e", base_url=serve(**answer))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(serve: Any, ranges: bool) -> None:
    folder = download.fetch("e2e", base_url=serve(cuts=(1000, 500), ranges=ranges))
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert serve.asked == [None, "bytes=1000-", "bytes=1500-" if ranges else "bytes=500-"]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_that_is_busy_or_failing_is_asked_again(
    serve: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    folder = download.fetch("e2e", base_url=serve(failures=(status, status)))
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert len(serve.asked) == 3


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_stays_busy_is_no_fault_of_the_data(
    serve: Any, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    with pytest.raises(OfflineError, match=rf"the server responded {status} .*three times.*bundled samples"):
        download.fetch("e2e", base_url=serve(failures=(status,) * 9))
    assert len(serve.asked) == 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_file_that_is_not_there_is_asked_for_once(serve: Any, status: int) -> None:
    with pytest.raises(DataError, match=f"the server responded {status}"):
        download.fetch("e2e", base_url=serve(failures=(status,) * 9))
    assert len(serve.asked) == 1


def test_a_break_after_a_failure_is_taken_up_where_it_broke(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    folder = download.fetch("e2e", base_url=serve(failures=(503,), cuts=(1000,), ranges=True))
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert serve.asked == [None, None, "bytes=1000-"]


@pytest.mark.parametrize(("asked", "waited"), [("0", 0.0), ("2", 2.0), ("9999", 30.0), ("Fri, 31 Dec 1999", 1.0)])
def test_a_server_says_how_long_to_wait(serve: Any, asked: str, waited: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[Any] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    download.fetch("e2e", base_url=serve(failures=(429,), headers=[("Retry-After", asked)]))
    assert pauses == [waited]


def test_offline_says_what_works(serve: Any) -> None:
    with pytest.raises(OfflineError, match="bundled samples"):
        download.fetch("e2e", base_url="http://127.0.0.1:9")


def test_a_connection_that_breaks_after_the_last_byte_is_no_failure(serve: Any) -> None:
    folder = download.fetch("e2e", base_url=serve(length=len(BODY) + 5))
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert serve.asked == [None]


@pytest.mark.parametrize("address", ["data.example.org/e2e", "/srv/data", "C:\\data", "ftps://x"])
def test_an_address_that_is_not_one_is_one_error(
    serve: Any, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    monkeypatch.setenv("TAILORA_DATA_URL", address)
    with pytest.raises((DataError, OfflineError), match=r"trainset\.csv"):
        download.fetch("e2e")


def test_certificates_do_not_depend_on_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python from python.org has none on macOS; the hub's library brings certifi."""
    pytest.importorskip("certifi")
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    context = download.certificates.__wrapped__()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) > 50
