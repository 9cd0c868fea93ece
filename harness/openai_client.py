"""Requests to an OpenAI-compatible server: many at once, paced, and tried again where that may help."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from qwen_model import ModelError
from tasks.json_text import parse

Value = TypeVar("Value")

KEY = "OPENAI_API_KEY"
"""The environment variable with the key, which is sent and never kept."""
RETRIED = (408, 409, 429, 500, 502, 503, 504)
BROKEN = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading an answer raises that is none."""
ATTEMPTS = 8
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds behind the first failure, doubled behind each further one."""
TIMEOUT = httpx2.Timeout(600.0, connect=20.0)


class Client:
    """Use as an async context manager."""

    def __init__(self, base_url: str, *, concurrency: int, per_minute: int | None) -> None:
        """`base_url` such as http://localhost:8000/v1; at most `concurrency` requests under way."""
        self.base_url = base_url.rstrip("/")
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=concurrency)
        self._http = httpx2.AsyncClient(headers=headers, timeout=TIMEOUT, limits=limits)
        self._slots = asyncio.Semaphore(concurrency)
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        """When the next request may begin: the rate, and what the server asked for."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, read: Callable[[Any], Value]) -> Value:
        """What `read` makes of the answer, as `post` does."""
        return await self._asked("GET", path, None, read)

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Value]) -> Value:
        """What `read` makes of the answer.

        Broken answers, time-outs, lost connections and the statuses of RETRIED are tried ATTEMPTS times, with
        exponential back-off or what Retry-After says, which holds for all requests. Raises ModelError after that, and
        at once, with the server's own words, for any other status.
        """
        return await self._asked("POST", path, body, read)

    async def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], Value]
    ) -> Value:
        url = f"{self.base_url}/{path}"
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            async with self._slots:
                await self._turn()
                try:
                    response = await self._http.request(method, url, json=body)
                except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                    raise ModelError(
                        f"--base-url: {self.base_url}: {error}; give such as http://host:8000/v1"
                    ) from error
                except httpx2.TransportError as error:  # time-outs among them
                    why = str(error) or type(error).__name__
                    continue
            if response.status_code == 200:
                try:
                    return read(parse(response.content))
                except BROKEN as error:
                    why = f"an answer that is none ({type(error).__name__}: {error})"
                    continue
            why = f"status {response.status_code}: {_words(response)}"
            if response.status_code not in RETRIED:
                hint = f"set {KEY}" if response.status_code in (401, 403) else "mend the request or the server"
                raise ModelError(f"{url}: {why}; {hint}")
            self._next = max(self._next, time.monotonic() + _retry_after(response))
        raise ModelError(f"{url}: {ATTEMPTS} times in vain, last {why}; the same command continues when it is back")

    async def _turn(self) -> None:
        """Wait until the next request may begin."""
        while (left := self._next - time.monotonic()) > 0:
            if self._interval:  # take a place in the queue
                self._next += self._interval
                await asyncio.sleep(left)
                return
            await asyncio.sleep(left)
        if self._interval:
            self._next = time.monotonic() + self._interval


def _words(response: httpx2.Response) -> str:
    """What the server says of its refusal, on one line."""
    try:
        said = parse(response.content)
        said = said.get("error", said)
        text = str(said.get("message", said))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:300] or "no words"


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait, by a number or a date."""
    asked = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
