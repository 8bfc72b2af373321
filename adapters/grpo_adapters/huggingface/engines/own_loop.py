"""Asynchronous work from code that is not, also where an event loop runs already, as in a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run by an event loop in a thread of its own.

    An interruption of the caller, as by Ctrl-C, cancels it.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="engine", daemon=True)
    thread.start()
    try:
        result: Future[T] = asyncio.run_coroutine_threadsafe(_alone(work), loop)
        try:
            return result.result()
        except BaseException:
            result.cancel()
            raise
    finally:
        asyncio.run_coroutine_threadsafe(_rest_cancelled(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _alone(work: Coroutine[Any, Any, T]) -> T:
    return await work


async def _rest_cancelled() -> None:
    """Cancel what still runs, and let it clean up."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; where one fails, the others are cancelled, and its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
