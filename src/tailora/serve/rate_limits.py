"""Requests and tokens a minute of each API key, with the headers of OpenAI's API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tailora.serve.api_error import ApiError
from tailora.serve.keys import Key

Clock = Callable[[], float]


class Bucket:
    """An amount that is refilled at a constant rate, up to what one minute brings.

    Args:
        per_minute: the largest amount, and what a minute brings.
        clock: returns the time in seconds.
    """

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._at = float(per_minute), clock()

    @property
    def level(self) -> float:
        """What is left; negative if more was taken than there was."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take an amount, whether it is there or not."""
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        """Return in how many seconds an amount is there; 0 if it is there already."""
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


class KeyLimits:
    """The limits of one API key, and what is left of them.

    A request is counted when it arrives, its prompts when its texts begin, and each token when it is written. A text
    that has begun is not cut off, so a key may owe tokens, which later requests wait for.

    Args:
        key: with its limits.
        clock: returns the time in seconds.
    """

    def __init__(self, key: Key, clock: Clock = time.monotonic) -> None:
        self._name = key.name
        self._requests = None if key.requests_per_minute is None else Bucket(key.requests_per_minute, clock)
        self._tokens = None if key.tokens_per_minute is None else Bucket(key.tokens_per_minute, clock)

    def begin_request(self) -> None:
        """Count a request.

        Raises:
            ApiError: the key has sent too many within the last minute.
        """
        bucket = self._requests
        if bucket is None:
            return
        if seconds := bucket.seconds_until(1):
            raise self._exceeded(f"{bucket.per_minute:,} requests", seconds)
        bucket.take(1)

    def begin_texts(self, prompt_tokens: int) -> None:
        """Count the tokens of a request's prompts.

        Raises:
            ApiError: the key has used too many tokens within the last minute, or the prompts alone have more than it
                may use in one.
        """
        bucket = self._tokens
        if bucket is None:
            return
        if prompt_tokens > bucket.per_minute:
            message = (
                f"the prompts have {prompt_tokens:,} tokens, and the API key {self._name!r} may use "
                f"{bucket.per_minute:,} tokens a minute; shorten them, or split the request"
            )
            raise ApiError(429, message, code="rate_limit_exceeded")
        if seconds := bucket.seconds_until(max(1, prompt_tokens)):
            raise self._exceeded(f"{bucket.per_minute:,} tokens", seconds)
        bucket.take(prompt_tokens)

    def count_tokens(self, count: int) -> None:
        """Count tokens that were written."""
        if self._tokens is not None:
            self._tokens.take(count)

    @property
    def headers(self) -> dict[str, str]:
        """The limits and what is left of them, as OpenAI's API reports them."""
        named = {"requests": self._requests, "tokens": self._tokens}
        return {
            name: value
            for kind, bucket in named.items()
            if bucket is not None
            for name, value in (
                (f"x-ratelimit-limit-{kind}", str(bucket.per_minute)),
                (f"x-ratelimit-remaining-{kind}", str(max(0, math.floor(bucket.level + 1e-6)))),
                (f"x-ratelimit-reset-{kind}", _duration(bucket.seconds_until(bucket.per_minute))),
            )
        }

    def _exceeded(self, limit: str, seconds: float) -> ApiError:
        wait = math.ceil(seconds)
        message = f"the API key {self._name!r} may use {limit} a minute; try again in {wait} s"
        return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(wait)})


class RateLimits:
    """The limits of all keys, whose state a reload of the keys keeps unless it changes the limits.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._of_key: dict[tuple[object, ...], KeyLimits] = {}

    def of(self, key: Key | None) -> KeyLimits | None:
        """Return the limits of a key; None if it has none."""
        if key is None or (key.requests_per_minute is None and key.tokens_per_minute is None):
            return None
        identity = (key.sha256, key.requests_per_minute, key.tokens_per_minute)
        if identity not in self._of_key:
            self._of_key[identity] = KeyLimits(key, self._clock)
        return self._of_key[identity]


def _duration(seconds: float) -> str:
    """Return a duration as OpenAI's API writes it, such as 20ms, 1.5s or 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
