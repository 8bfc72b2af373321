"""One event loop for everything that waits, in a thread of its own, so that it works inside a running one too."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def run_together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What the coroutines return, run at the same time; works inside a running event loop too, as in a notebook."""
    future = asyncio.run_coroutine_threadsafe(together(coroutines), _event_loop(os.getpid()))
    try:
        return future.result()
    finally:
        future.cancel()


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What the coroutines return, run at the same time; where one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@functools.cache
def _event_loop(process_id: int) -> asyncio.AbstractEventLoop:
    """The one loop of this process, so that a client that keeps connections open finds them again at the next step."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="grpo_adapters.huggingface", daemon=True).start()
    return loop


def is_async(function: Any) -> bool:
    """Whether a call of it has to be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def called(
    function: Callable[..., Any], *arguments: Any, timeout: float | None, named: Mapping[str, Any] | None = None
) -> Any:
    """What a function returns, one that blocks in a thread of its own, or what it returns returns once it is awaited.

    A thread that is still busy after ``timeout`` seconds is left to itself: it ends with the process at the latest.
    With None, a function may take for ever.

    Args:
        function: what is called.
        arguments: of it, by place.
        timeout: seconds that it may take.
        named: its arguments by name.

    Raises:
        TimeoutError: if it takes longer.
        RuntimeError: if it ends the process, as ``sys.exit`` does, which would end the event loop instead, or raises a
            TimeoutError of its own.
    """
    call = functools.partial(function, *arguments, **(named or {}))
    return await asyncio.wait_for(_contained(call() if is_async(function) else in_thread(call)), timeout)


async def _contained(awaited: Awaitable[Any]) -> Any:
    try:
        result: Any = await awaited
        return await result if inspect.isawaitable(result) else result
    except (SystemExit, KeyboardInterrupt, TimeoutError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


async def in_thread(call: Callable[[], T]) -> T:
    """What a function returns, called in a thread of its own, which is left to itself if nobody waits any more."""
    loop = asyncio.get_running_loop()
    settled: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not settled.done():
            settled.set_result((result, error))

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(call)
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    result, error = await settled
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
