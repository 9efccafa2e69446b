"""Fetching from a local server: whole, cut short, wrong, absent, unreachable."""

import hashlib
import http.server
import threading

import pytest

from tailora.data import download
from tailora.errors import DataError, OfflineError

BODY = b"mr,ref\nname[X],A.\n" * 5000


@pytest.fixture
def serve(monkeypatch, tmp_path):
    monkeypatch.setenv("TAILORA_CACHE", str(tmp_path))
    data_set = download.DataSet("", {"trainset.csv": hashlib.sha256(BODY).hexdigest()}, "none")
    monkeypatch.setattr(download, "DATA_SETS", {"e2e": data_set})
    servers = []
    asked = []

    def start(body=BODY, length=None, status=200, cuts=(), ranges=False):
        """`cuts`: after how many bytes each of the first answers breaks off; `ranges`: whether Range is honoured."""
        left = list(cuts)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                asked.append(wanted)
                first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
                self.send_response(206 if first else status)
                self.send_header("Content-Length", str((length or len(body)) - first))
                self.end_headers()
                self.wfile.write(body[first : first + left.pop(0)] if left else body[first:])

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    start.asked = asked
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_whole_then_from_the_cache(serve):
    folder = download.fetch("e2e", base_url=serve())
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert download.fetch("e2e", base_url="http://127.0.0.1:9") == folder


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"body": BODY[:100], "length": len(BODY)}, OfflineError, "cannot be fetched"),
        ({"body": b"other"}, DataError, "another SHA-256"),
        ({"status": 404}, DataError, "answered 404"),
    ],
)
def test_broken_downloads_leave_nothing(serve, tmp_path, answer, error, message):
    with pytest.raises(error, match=message):
        download.fetch("e2e", base_url=serve(**answer))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(serve, ranges):
    folder = download.fetch("e2e", base_url=serve(cuts=(1000, 500), ranges=ranges))
    assert (folder / "trainset.csv").read_bytes() == BODY
    assert serve.asked == [None, "bytes=1000-", "bytes=1500-" if ranges else "bytes=500-"]


def test_offline_says_what_works(serve):
    with pytest.raises(OfflineError, match="bundled samples"):
        download.fetch("e2e", base_url="http://127.0.0.1:9")
