"""The few errors a user can meet, each tied to the exit code of the `rrr` command.

A message says what was wrong, the value seen, what is allowed, and the command or setting that mends it.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RRRError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code = 1


class CheckFailedError(RRRError):
    """A check ran and its answer is no."""

    exit_code = 1


class UsageError(RRRError):
    """A command, flag or setting that cannot be carried out as given."""

    exit_code = 2


class ArtifactError(RRRError):
    """Bad input or a damaged artifact; refused before any parser saw it."""

    exit_code = 3


class IncompatibleError(RRRError):
    """An engine or package that does not work on this machine."""

    exit_code = 4


class NoSpaceError(RRRError):
    """The disk is full; nothing was left behind at the final name."""

    exit_code = 5


class ImageError(ArtifactError):
    """One image that cannot be used. `code` is the word that the HTTP answer carries."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Turn ENOSPC, EDQUOT and EFBIG from the operating system into `NoSpaceError`.

    Raises:
        NoSpaceError: naming `path` and how to go on.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            message = f"no space left while writing {path}: free some space or choose another --out, then run it again"
            raise NoSpaceError(message) from error
        raise
