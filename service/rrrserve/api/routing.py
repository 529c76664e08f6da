"""Which model a request goes to: the one that it names, or one of those that a route divides requests among."""

import random
from collections.abc import Sequence

from rrrserve.api.requests import Headers
from rrrserve.config.routes import Route
from rrrserve.metrics.instruments import ROUTE_SHARE, ROUTED

ROUTE_KEY_HEADER = "X-Route-Key"
_HEADER = ROUTE_KEY_HEADER.lower().encode()
# Of all steps the one that leaves the smallest gaps: places k times this, of 1, are spread evenly for every k.
_GOLDEN = (5**0.5 - 1) / 2


class Routing:
    """Chooses, and counts what it chose.

    A request without a key takes the next place of an even sequence that never repeats itself. So shares hold to a few
    requests, where drawn ones would be off by their square root, and no rhythm of the clients can meet it.

    Args:
        routes: to begin with.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._place = random.random()  # noqa: S311  workers begin at different places, which are no secret
        self.use(routes)

    def use(self, routes: Sequence[Route]) -> None:
        """Choose by these from now on."""
        self.routes = {route.name: route for route in routes}
        for route in routes:
            for model, share in route.shares.items():
                ROUTED.labels(route.name, model)
                ROUTE_SHARE.labels(route.name, model).set(share)

    def chosen(self, name: str, headers: Headers) -> str:
        """The name of the model that answers, which is `name` where that is no route's.

        Args:
            name: that the request asks for.
            headers: of the request; an X-Route-Key always gets the same model.
        """
        route = self.routes.get(name)
        if route is None:
            return name
        key = headers.get(_HEADER)
        if key:  # a proxy that knows no user may send an empty one
            model = route.by_key(key)
        else:
            self._place = (self._place + _GOLDEN) % 1.0
            model = route.by_place(self._place)
        ROUTED.labels(route.name, model).inc()
        return model

    def first(self, name: str) -> str:
        """The model that a route is described by; `name`, where it is that of no route."""
        route = self.routes.get(name)
        return name if route is None else next(iter(route.weights))
