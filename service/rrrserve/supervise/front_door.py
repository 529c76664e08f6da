"""Who may use the HTTP port and what is told about it: tokens, TLS and log, as the flags of `rrr serve` say.

All of it is checked before anything listens, and reaches the HTTP workers through their environment.
"""

import ipaddress
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrrnet.errors import RRRError
from rrrserve.api import access
from rrrserve.net import tls
from rrrserve.process import logs

log = logging.getLogger("rrrserve")


def prepare(
    *, token_file: Path | None, certificate: Path | None, key: Path | None, log_format: str, access_log: bool
) -> tls.TlsFiles | None:
    """Check the settings, set up the log, and leave the settings in the environment.

    Args:
        token_file: one token a line.
        certificate: PEM file; see `TlsFiles`.
        key: PEM file.
        log_format: one of `logs.FORMATS`.
        access_log: whether each request is logged.

    Returns:
        The TLS files; None for plain HTTP.

    Raises:
        UsageError: something of it is unusable; says what.
    """
    logs.configure(log_format)
    os.environ[logs.FORMAT_VARIABLE] = log_format
    os.environ[logs.ACCESS_VARIABLE] = "1" if access_log else "0"
    if token_file is not None:
        os.environ[access.FILE_VARIABLE] = str(token_file.absolute())
    access.tokens_of(os.environ)
    files = tls.files_of(certificate, key)
    if files is not None:
        os.environ[tls.CERTIFICATE_VARIABLE] = str(files.certificate.absolute())
        os.environ[tls.KEY_VARIABLE] = str(files.key.absolute())
    return files


def warn_of_what_is_open(host: str, files: tls.TlsFiles | None) -> None:
    """Log what the operator may not have meant.

    Args:
        host: the IP address that is listened at, or localhost.
        files: of TLS.
    """
    token_file = os.environ.get(access.FILE_VARIABLE, "")
    for path in (Path(token_file) if token_file else None, files.key if files else None):
        if path is not None and tls.readable_by_others(path):
            log.warning("every user of this machine can read %s: chmod o-r", path)
    if host == "localhost" or ipaddress.ip_address(host).is_loopback:
        return
    has_token = bool(token_file or os.environ.get(access.TOKEN_VARIABLE))
    if not has_token:
        log.warning("whoever reaches %s may use this service: --token-file FILE asks for a token", host)
    elif files is None:
        log.warning(
            "the token crosses the network in the clear: use --tls-cert and --tls-key, or a proxy that does TLS"
        )


@contextmanager
def failures_in_log(log_format: str) -> Iterator[None]:
    """Where the log is JSON the reason of the end is too; else the command line reports it, as for every command."""
    try:
        yield
    except RRRError as error:
        if log_format != "json":
            raise
        log.critical("%s", error)
        sys.exit(error.exit_code)
