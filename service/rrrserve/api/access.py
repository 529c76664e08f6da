"""Who is answered: whoever sends one of the service's bearer tokens (RFC 6750), where it has any."""

import hmac
from collections.abc import Mapping

from rrrserve.api.errors import APIError
from rrrserve.net.tokens import digest_of

# Probes of an orchestrator carry no token, and a browser that opens a page neither; the two first routes tell nothing
# but yes or no and a model's name, and the page nothing: it asks for a token, and then for /docs.json.
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/docs"})

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rrr"'}
_WRONG = {"WWW-Authenticate": 'Bearer realm="rrr", error="invalid_token"'}


class Access:
    """Decides who is answered. Keeps digests: the tokens themselves are in no log, dump or representation of it."""

    def __init__(self, digests: tuple[str, ...] = ()) -> None:
        self._digests = digests

    @property
    def needs_token(self) -> bool:
        """Whether requests must carry a token."""
        return bool(self._digests)

    def check(self, template: str, headers: Mapping[bytes, bytes]) -> None:
        """Pass, or raise.

        Args:
            template: the route's.
            headers: the request's, by lower-case name.

        Raises:
            APIError: `unauthorized`.
        """
        if not self._digests or template in OPEN_ROUTES:
            return
        sent = headers.get(b"authorization")
        if sent is None:
            raise APIError("unauthorized", "send the header Authorization: Bearer TOKEN", headers=_CHALLENGE)
        scheme, _, token = sent.partition(b" ")
        digest = digest_of(token.strip())
        # All are compared, each in the same time whatever it is: neither tells how near a guess was.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise APIError("unauthorized", "the token is not one of this service's", headers=_WRONG)
