"""Command lines that must be refused before anything is started: exit code 2, one line, nothing listening."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Stand for the path of a sound repository, one of its engines, and a port that is in use.
REPOSITORY, ENGINE, BUSY = "REPOSITORY", "ENGINE", "BUSY"


@dataclass(frozen=True)
class Broken:
    """One such command line.

    Attributes:
        what: is wrong, in words.
        arguments: of `rrr`, with the stand-ins above.
        says: regular expression that the one line must hold.
        environment: variables.
    """

    what: str
    arguments: tuple[str, ...]
    says: str
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _serve(what: str, *flags: str, says: str, **environment: str) -> Broken:
    arguments = ("serve", REPOSITORY, *(flags if "--port" in flags else (*flags, "--port", "0")))
    return Broken(what, arguments, says, MappingProxyType(environment))


CONFIGURATIONS = (
    _serve("an unknown flag", "--nonsense", says="--nonsense"),
    Broken("a second repository", ("serve", REPOSITORY, "other"), "extra argument.*other"),
    Broken("an unknown command", ("server", REPOSITORY), "No such command 'server'"),
    _serve("a port that is not a number", "--port", "http", says="--port"),
    _serve("a negative port", "--port", "-1", says="--port is -1: allowed are 1024 to 65535"),
    _serve("a privileged port", "--port", "80", says="--port is 80: allowed are 1024 to 65535"),
    _serve("a port that does not exist", "--port", "70000", says="--port is 70000: allowed are 1024 to 65535"),
    _serve("a port in use", "--port", BUSY, says="is in use: stop what listens there"),
    _serve("a host name", "--host", "no.such.host", says="--host is 'no.such.host': expected an IP address"),
    _serve("no IP address", "--host", "256.0.0.1", says="--host is '256.0.0.1': expected an IP address"),
    _serve("another machine's address", "--host", "192.0.2.1", says="not an address of this machine"),
    _serve("no workers", "--workers", "0", says="--workers"),
    _serve("workers in words", "--workers", "two", says="--workers"),
    _serve("a negative grace", "--grace", "-1", says="--grace"),
    _serve("an endless drain", "--drain", "inf", says="--drain"),
    _serve("a drain of no number", "--drain", "nan", says="--drain"),
    _serve("no time to start", "--start-timeout", "0", says="--start-timeout"),
    _serve("a negative number of restarts", "--restarts", "-1", says="--restarts"),
    _serve("nothing may be in flight", "--max-in-flight", "0", says="--max-in-flight"),
    _serve("a default model that is not there", "--default", "nobody", says="default model is 'nobody': .* holds "),
    _serve("a Triton without a port", "--triton-url", "triton", says="--triton-url is 'triton': expected HOST:PORT"),
    _serve("a Triton as a URL", "--triton-url", "http://a:1", says="--triton-url is 'http://a:1': expected HOST:PORT"),
    _serve("a variable of another type", RRR_MAX_PIXELS="many", says="RRR_MAX_PIXELS is 'many': expected a whole"),
    _serve("a variable out of range", RRR_MAX_BODY_BYTES="1", says="RRR_MAX_BODY_BYTES is '1': expected a whole"),
    _serve("no threads", RRR_DECODE_THREADS="0", says="RRR_DECODE_THREADS is '0': expected a whole number from 1"),
    _serve("deadlines that contradict", RRR_REQUEST_TIMEOUT_MS="90000", says="more than RRR_MAX_REQUEST_TIMEOUT_MS"),
    _serve("a Triton in a variable", RRR_TRITON_URL="bad", says="RRR_TRITON_URL is 'bad'|triton-url is 'bad'"),
    _serve("a default model in a variable", RRR_DEFAULT_MODEL="nobody", says="default model is 'nobody'"),
    Broken("two models of one name", ("repository", ENGINE, ENGINE, "--out", "two"), "are both named"),
    Broken(
        "a name that is a path",
        ("repository", ENGINE, "--name", "../a", "--out", "two"),
        r"'\.\./a' cannot be a model's name",
    ),
    Broken("no service to reload", ("reload", "--pid", "1"), "no rrr serve of this user is ready|no such service"),
)
