"""Ctrl-C and SIGTERM end work in an event loop in order: it is cancelled, and ends its children."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Found = TypeVar("Found")


async def unless_interrupted(work: Coroutine[Any, Any, Found]) -> Found:
    """Cancel `work` on SIGTERM and Ctrl-C; only a process's main thread is told of them.

    Raises:
        asyncio.CancelledError: it was interrupted.
    """
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    for number in signals:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
