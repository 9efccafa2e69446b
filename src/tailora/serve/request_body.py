"""The body of a request as bytes: read up to a limit, decompressed up to the same limit, and checked to be text
without repeated keys."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import TypeVar

from starlette.types import Receive

from tailora.data.readers.json_text import RepeatedKeyError, unique_keys
from tailora.serve.api_error import ApiError

T = TypeVar("T")
LARGE = 1 << 16  # bytes of a body above which work on it leaves the event loop's thread
_GZIP, _ZLIB, _RAW_DEFLATE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS  # what zlib calls them
_ENCODINGS = ("gzip", "x-gzip", "deflate")


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """Return the whole body, decompressed.

    Args:
        receive: of ASGI.
        headers: with names in lower case.
        limit: largest number of bytes, both as sent and decompressed.

    Raises:
        ApiError: the body is too large, not in the encoding that its header names, or not text.
    """
    encoding = _encoding(headers)
    body = await _receive(receive, headers, limit)
    return await off_loop(len(body) if not encoding else limit, _decoded, body, encoding, limit)


async def off_loop(size: int, function: Callable[..., T], *arguments: object) -> T:
    """Call a function, in another thread if its input is large (in bytes), so that other requests are not delayed."""
    return function(*arguments) if size < LARGE else await asyncio.to_thread(function, *arguments)


def _encoding(headers: dict[bytes, bytes]) -> str:
    """The name of the body's compression; empty without any."""
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in _ENCODINGS:
        message = f"Content-Encoding {encoding!r} is not supported; send the body with gzip, deflate or uncompressed"
        raise ApiError(415, message, headers={"Accept-Encoding": "gzip, deflate, identity"})
    return encoding


async def _receive(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """Return the body as it was sent; a body over the limit is refused before it is read."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit:,} bytes; split the request, or raise the server's setting `max_body`"
    return ApiError(413, message, code="body_too_large")


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding and body:
        body = _decompressed(body, encoding, limit)
    _check_text(body)
    _check_keys(body)
    return body


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress no further than the limit, so that a small body never takes more memory than a large one."""
    if encoding == "deflate":  # RFC 9110: zlib's format; some clients send the bare one
        window = _ZLIB if body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0 else _RAW_DEFLATE
    else:
        window = _GZIP
    stream = zlib.decompressobj(window)
    try:
        text = stream.decompress(body, limit + 1)
    except zlib.error as error:
        message = f"the body is not valid {encoding} data ({error}); compress it again, or send it uncompressed"
        raise ApiError(400, message) from error
    if len(text) > limit:
        raise _too_large(limit)
    if not stream.eof or stream.unused_data:
        what = "continues after its end" if stream.eof else "ends too early"
        raise ApiError(400, f"the {encoding} data of the body {what}; send it as one stream, or send it uncompressed")
    return text


def _check_text(body: bytes) -> None:
    r"""Refuse bytes that are not UTF-8, and JSON with half of a surrogate pair (\ud800 alone), which is not text."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"the body is not valid UTF-8 (byte {error.start + 1}); encode the JSON as UTF-8"
        raise ApiError(400, message) from error
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "an escape in the body is half of a surrogate pair; send whole characters"
        raise ApiError(400, message) from error
    except (ValueError, RecursionError):  # not valid JSON, which the route reports
        return


def _check_keys(body: bytes) -> None:
    """Refuse an object that has a key twice, of which the route would see the last one only."""
    try:
        json.loads(body, object_pairs_hook=unique_keys)
    except RepeatedKeyError as error:
        raise ApiError(400, f"{error}; send it once") from error
    except (ValueError, RecursionError):  # not valid JSON, which the route reports
        return
