"""Tasks that run together."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def first(*works: Awaitable[Any]) -> Any:
    """Wait until one of several is done; what that gives or raises, the earlier named where several are.

    Coroutines are started here, and ended here; tasks are their owner's, and go on.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await next(task for task in tasks if task in done)
    finally:
        await ended(*(task for task, work in zip(tasks, works, strict=True) if task is not work))


async def ended(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
