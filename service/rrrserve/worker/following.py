"""What a worker does again and again to answer from the version that is served, whatever goes wrong meanwhile."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger("rrrserve")

_POLL_SECONDS = 0.05
# The supervisor then starts another worker, which begins with the version that is served.
_MOST_SECONDS_BEHIND = 5.0


async def keep_following(look: Callable[[], Awaitable[None]]) -> None:
    """Call `look` for ever; when it keeps failing, end this worker by SIGTERM.

    To stop looking would mean to answer from an old version for ever.

    Args:
        look: sees which version is served now, and changes over to it.
    """
    failed_since: float | None = None
    while True:
        try:
            await look()
            failed_since = None
        except Exception:  # whatever it is (descriptors used up, a folder gone), requests go on from the old version
            now = time.monotonic()
            if failed_since is None:
                failed_since = now
                log.exception("this worker cannot change to the version that is served now: it tries again")
            elif now - failed_since > _MOST_SECONDS_BEHIND:
                log.critical("this worker could not change to the version that is served: it ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return
        await asyncio.sleep(_POLL_SECONDS)
