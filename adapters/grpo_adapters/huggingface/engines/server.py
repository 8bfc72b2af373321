"""One server of an inference engine, spoken to by HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

HEALTH_SECONDS = 10.0  # that a server may take to say that it is there


class NoAnswerError(Exception):
    """A server was not reached, took too long, or was cut off."""


class StatusError(Exception):
    """A server answered with an error.

    Attributes:
        status: the HTTP status, at least 400.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Server:
    """A server, and what is known of it while it is used.

    Attributes:
        http: the client.
        url: where it is, without a path.
        timeout: seconds that an answer may take.
        is_new: whether it has had none of the weights of this sampler, as after it was started again.
        is_ready: whether it has the weights that are wanted.
        rests_until: it is not asked before, on the clock of the event loop, since it has failed.
        requests: that are under way.
        lock: held while its weights are looked after.
    """

    http: httpx.AsyncClient
    url: str
    timeout: float
    is_new: bool = True
    is_ready: bool = False
    rests_until: float = 0.0
    requests: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, path: str) -> Any:
        """What a route answers, read from JSON; None where that is empty.

        Raises:
            NoAnswerError: if there is none, or not all of it.
            StatusError: if it is an error.
        """
        return await self._send("GET", path, self.timeout)

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """As :meth:`get`, of a route that is sent JSON and a query."""
        return await self._send("POST", path, self.timeout, json=body, params=query or None)

    async def check_health(self) -> None:
        """Raise NoAnswerError or StatusError unless the server says that it works."""
        await self._send("GET", "/health", min(HEALTH_SECONDS, self.timeout))

    async def _send(self, method: str, path: str, seconds: float, **content: Any) -> Any:
        try:
            async with asyncio.timeout(seconds):
                response = await self.http.request(method, self.url + path, **content)
        except TimeoutError:
            raise NoAnswerError(f"{self.url}{path} did not answer within {seconds:g} seconds") from None
        except httpx.TransportError as error:
            raise NoAnswerError(f"{self.url}{path}: {type(error).__name__} {error}".strip()) from error
        if response.is_error:
            told = _told(response)
            raise StatusError(f"{self.url}{path} answered {response.status_code}: {told}", response.status_code)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise NoAnswerError(f"{self.url}{path} was cut off in its answer, after {response.text[-40:]!r}") from None


def _told(response: httpx.Response) -> str:
    """What an error says: its message where it is JSON, as those of vLLM are."""
    try:
        return str(response.json()["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return response.text[:500]
