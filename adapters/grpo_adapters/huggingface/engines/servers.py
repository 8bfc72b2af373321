"""Servers that share the work, also where one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from grpo_adapters.huggingface.engines.errors import EngineUnreachableError
from grpo_adapters.huggingface.engines.server import NoAnswerError, Server, StatusError
from grpo_adapters.huggingface.engines.synchronised import Synchronised, WeightsLostError
from grpo_adapters.huggingface.event_loop import together

REST_SECONDS = 5.0  # that a server which failed is not asked, as long as there is another
POLLING_SECONDS = 0.5


class Servers:
    """The servers of an engine.

    Args:
        members: at least one.
        weights: sees to it that they have the policy's.
        patience: seconds to wait where none answers.
    """

    def __init__(self, members: Sequence[Server], weights: Synchronised, patience: float) -> None:
        self.members = members
        self.weights = weights
        self.patience = patience
        self.failures = 0  # after which something was done again
        self._choosing = asyncio.Lock()

    async def begin(self) -> None:
        """Bring the weights to all that answer."""
        await together(self._begin(server) for server in self.members)

    async def _begin(self, server: Server) -> None:
        try:
            await self.weights.prepare(server)
        except (NoAnswerError, StatusError, WeightsLostError):
            self.rest(server)

    async def end(self) -> None:
        """Let go of those that were used."""
        for server in self.members:
            if server.is_ready:
                with suppress(NoAnswerError, StatusError):
                    await self.weights.dialect.end(server)

    async def next(self) -> Server:
        """The server with the fewest requests, of those that do not rest; where all do, one is waited for.

        Raises:
            EngineUnreachableError: if none answers for ``patience`` seconds.
        """
        async with self._choosing:
            now = asyncio.get_running_loop().time()
            awake = [server for server in self.members if server.rests_until <= now]
            if not awake:
                awake = [await self._first_to_answer()]
        return min(awake, key=lambda server: server.requests)

    async def _first_to_answer(self) -> Server:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while True:
            failures = []
            for server in self.members:
                try:
                    await server.check_health()
                except (NoAnswerError, StatusError) as error:
                    failures.append(str(error))
                else:
                    server.rests_until = 0.0
                    return server
            if loop.time() >= deadline:
                raise EngineUnreachableError(
                    f"no inference server answered for {self.patience:g} seconds ({'; '.join(failures)}): start one, "
                    f"or raise patience"
                )
            await asyncio.sleep(POLLING_SECONDS)

    def rest(self, server: Server) -> None:
        """Ask others for a while; the server's weights are looked at before it is asked again."""
        self.failures += 1
        server.is_ready = False
        server.rests_until = asyncio.get_running_loop().time() + REST_SECONDS
