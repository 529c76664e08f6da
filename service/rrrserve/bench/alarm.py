"""A timer for the event loop that is right to some 0.1 ms.

The event loop's own timers are in whole milliseconds (epoll's and libuv's unit): requests sent by them would be up to a
millisecond late, which is half of a fast model's latency. Linux's timerfd wakes the loop at the very moment.
"""

import asyncio
import ctypes
import os
import time
from types import TracebackType

_TFD_TIMER_ABSTIME = 1
_NANOSECONDS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class Alarm:
    """Waits for moments of `time.perf_counter()`, which is Linux's CLOCK_MONOTONIC, one after the other."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # TFD_NONBLOCK and TFD_CLOEXEC have the values of O_NONBLOCK and O_CLOEXEC.
        self._file = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "timerfd_create")
        self._rung: asyncio.Future[None] | None = None

    def __enter__(self) -> "Alarm":
        asyncio.get_running_loop().add_reader(self._file, self._ring)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)

    async def until(self, moment: float) -> None:
        """Wait until `moment`; gives way to other tasks once, even if it has passed."""
        if moment <= time.perf_counter():
            await asyncio.sleep(0)
            return
        seconds, nanoseconds = divmod(int(moment * _NANOSECONDS), _NANOSECONDS)
        setting = _Itimerspec(it_value=_Timespec(seconds, nanoseconds))
        self._rung = asyncio.get_running_loop().create_future()
        if self._libc.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "timerfd_settime")
        await self._rung

    def _ring(self) -> None:
        os.read(self._file, 8)
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)
