"""What the operator of the HTTP port may not have meant, and where the reason of its end is told."""

import ipaddress
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrrnet.errors import RRRError
from rrrserve.config.service_config import ServiceConfig
from rrrserve.net import tls

log = logging.getLogger("rrrserve")


def warn_of_what_is_open(host: str, config: ServiceConfig, token_file: Path | None) -> None:
    """Log what the operator may not have meant.

    Args:
        host: the IP address that is listened at, or localhost.
        config: how it serves.
        token_file: what the tokens were read from; None where they come from a variable.
    """
    for path in (token_file, config.tls.key if config.tls else None):
        if path is not None and tls.readable_by_others(path):
            log.warning("every user of this machine can read %s: chmod o-r", path)
    if "*" in config.cors and not config.token_digests:
        log.warning(
            "any page in a browser that reaches %s may use this service: name origins in place of --cors '*'",
            host,
        )
    if host == "localhost" or ipaddress.ip_address(host).is_loopback:
        return
    if not config.token_digests:
        log.warning("whoever reaches %s may use this service: --token-file FILE asks for a token", host)
    elif config.tls is None:
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
