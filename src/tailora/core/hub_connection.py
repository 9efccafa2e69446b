"""Whether the Hugging Face hub answers, because its libraries retry for minutes before they give up."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request

LARGEST_ADAPTER = 256 << 20
"""Bytes of the largest adapter that is downloaded from the hub."""
HUB_DOWN = (500, 502, 503, 504)
"""HTTP statuses of a hub that cannot be used."""


def hub_problem(endpoint: str, timeout: float) -> str | None:
    """Return in a clause why the hub cannot be used; None if it answers.

    Args:
        endpoint: the address of the hub.
        timeout: seconds to wait for its answer.
    """
    try:
        proxy = urllib.request.getproxies().get(urllib.parse.urlsplit(endpoint).scheme, "")
        if proxy.startswith("socks"):
            return None  # the hub's library may know such a proxy, and Python does not
        request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "tailora"})
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError as error:
        if error.code in HUB_DOWN:
            return f"{endpoint} answers with status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return None  # it answers, and the hub's library has its own list of certificates
        return f"{endpoint} cannot be reached ({reason})"
    return None
