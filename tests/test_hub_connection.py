"""Whether the hub answers, whatever answers in its place."""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from tailora.core.hub_connection import hub_problem


def test_a_certificate_that_only_the_hubs_library_knows_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python from python.org has no certificates on macOS, and a company's may be known to `requests` alone."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "unable to get local issuer certificate"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert hub_problem("https://huggingface.co", 1.0) is None


def test_a_proxy_that_python_does_not_know_is_left_to_the_hubs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Tunnel connection failed")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "socks5h://127.0.0.1:1080")
    assert hub_problem("https://huggingface.co", 1.0) is None
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1080")
    problem = "https://huggingface.co cannot be reached (Tunnel connection failed)"
    assert hub_problem("https://huggingface.co", 1.0) == problem


def test_a_server_of_another_kind_is_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert hub_problem(endpoint, 5.0) == f"{endpoint} cannot be reached (SSH-2.0-OpenSSH_9.6\r\n)"
        thread.join()


def test_an_address_whose_port_is_not_a_number_cannot_be_reached() -> None:
    problem = hub_problem("http://127.0.0.1:hub", 1.0)
    assert problem == "http://127.0.0.1:hub cannot be reached (nonnumeric port: 'hub')"
