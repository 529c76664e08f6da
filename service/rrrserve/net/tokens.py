"""The optional bearer tokens of the HTTP port (RFC 6750), from a file or the environment, never from the command line.

A command line can be read by every user of the machine; a file and the environment only by their owner.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from rrrnet.errors import UsageError

TOKEN_VARIABLE = "RRR_TOKEN"  # noqa: S105  the variable's name
FILE_VARIABLE = "RRR_TOKEN_FILE"

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,1024}=*")
_SHAPE = "16 to 1024 letters, digits or . _ ~ + / - (openssl rand -hex 32 makes one)"
_MOST_TOKENS = 16
_MOST_BYTES = 64 * 1024


def tokens_of(environ: Mapping[str, str], token_file: Path | None = None) -> tuple[str, ...]:
    """The tokens that are set; none if neither variable is.

    Args:
        environ: RRR_TOKEN is one token; RRR_TOKEN_FILE names a file with one a line, so that an old and a new one can
            be allowed at the same time.
        token_file: comes before RRR_TOKEN_FILE.

    Raises:
        UsageError: both are set, the file cannot be read, or what is set is no token; never holds the value.
    """
    token, path = environ.get(TOKEN_VARIABLE, ""), str(token_file or environ.get(FILE_VARIABLE, ""))
    if token and path:
        raise UsageError(f"{TOKEN_VARIABLE} and a token file are both set: set one of them")
    if not path:
        found, origin = ([token] if token else []), TOKEN_VARIABLE
    else:
        found, origin = _lines(Path(path)), path
        if not 1 <= len(found) <= _MOST_TOKENS:
            raise UsageError(f"the token file {path} holds {len(found)} tokens: allowed are 1 to {_MOST_TOKENS}")
    for number, item in enumerate(found, 1):
        if not _TOKEN.fullmatch(item):
            raise UsageError(
                f"token {number} of {origin} has {len(item)} characters or a wrong one: allowed are {_SHAPE}"
            )
    return tuple(found)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"the token file {path} is larger than {_MOST_BYTES} bytes: it holds one token a line")
    # Bytes that are no ASCII become characters that no token may have.
    return [line for line in map(str.strip, data.decode("ascii", errors="replace").splitlines()) if line]


def client_token(environ: Mapping[str, str], token_file: Path | None = None) -> str | None:
    """What a client sends along: the first token that is set, or None.

    Args:
        environ: see `tokens_of`.
        token_file: comes before the variables.

    Raises:
        UsageError: see `tokens_of`.
    """
    tokens = tokens_of(environ if token_file is None else {FILE_VARIABLE: str(token_file)})
    return tokens[0] if tokens else None


def client_headers(environ: Mapping[str, str], token_file: Path | None = None) -> dict[str, str]:
    """The same as a header, or nothing."""
    token = client_token(environ, token_file)
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def digest_of(token: bytes) -> str:
    """What a service keeps of a token."""
    return hashlib.sha256(token).hexdigest()


def digests_of(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """What a service keeps of its tokens."""
    return tuple(digest_of(token.encode()) for token in tokens)
