"""Clients of a running service: `Client` waits for its answers, `AsyncClient` is for an event loop."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlsplit

import httpx

from rrrnet.errors import ImageError, UsageError
from rrrserve.client import talk
from rrrserve.client.answers import Answer, Embedding, Model, NoAnswerError, answer_of, embedding_of
from rrrserve.client.talk import Result, Send, Talk, Wait
from rrrserve.net.tls import client_trust, failure

if TYPE_CHECKING:
    from rrrnet.data.given import ImageLike

DEFAULT_URL = "http://127.0.0.1:3000"
# Beyond the deadline, which the service keeps itself: its own error tells more.
_GRACE_SECONDS = 2.0

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class Asking(TypedDict, total=False):
    """What may be asked for beside an image; left out or None, the service decides (docs/http.md).

    `model`: a model's name. `top_k`: labels in each answer. `members`: each member's own label too. `effort`: "fast",
    "auto" or "full". `coverage`: a set of labels that holds the right one so often, such as 0.95.
    """

    model: str | None
    top_k: int | None
    members: bool | None
    effort: str | None
    coverage: float | None


class _Service(Generic[Http]):
    """What both clients know of a service."""

    _kind: type[Http]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: where `rrr serve` listens.
            token: for a service that asks for one.
            timeout: seconds for each request, in which one that is refused as too much (429) or not ready (503) is
                sent again; the service is told what is left of it.
            ca: PEM certificates to trust instead of those of the machine.

        Raises:
            UsageError: an address that is none, or `ca` holds no certificate.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the address is {url!r}: expected http://HOST:PORT or https://HOST:PORT")
        if not 0 < timeout < float("inf"):
            raise UsageError(f"the timeout is {timeout}: expected a number of seconds above 0")
        self.url, self._timeout = url.rstrip("/"), timeout
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        trust = client_trust(None if ca is None else Path(ca))
        self._http: Http = self._kind(headers=headers, verify=trust, trust_env=False)

    def _request(self, name: str, asking: Asking) -> Send:
        model = asking.get("model")
        path = f"/v1/{name}" if model is None else f"/v1/models/{quote(model, safe='')}/{name}"
        query = {key: _text(value) for key, value in asking.items() if key != "model" and value is not None}
        return Send(path, self._timeout, query)

    def _arguments(self, step: Send) -> dict[str, Any]:
        """Of a call of httpx."""
        left = max(0.001, step.seconds)
        found: dict[str, Any] = {
            "method": "POST" if step.images else "GET",
            "url": self.url + step.path,
            "params": step.query,
        }
        headers = {"X-Request-Timeout-Ms": str(max(1, int(left * 1000)))}
        if step.path.endswith("_batch"):
            found["files"] = [("images", ("image", data, "application/octet-stream")) for data in step.images]
        elif step.images:
            found["content"] = step.images[0]
            headers["Content-Type"] = "application/octet-stream"
        return {**found, "headers": headers, "timeout": left + _GRACE_SECONDS}

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            reason = failure(error) or str(error) or type(error).__name__
            raise NoAnswerError(f"no answer from {self.url} ({reason})") from error
        except httpx.InvalidURL as error:
            raise UsageError(f"the address is {self.url!r}: {error}") from error


class Client(_Service[httpx.Client]):
    """Asks a service and waits for its answer. Connections are kept; many threads may use one client.

    `with Client(url) as client` closes the connections at the end of the block. All methods raise `ServiceError` where
    the service refuses, `NoAnswerError` where none answers, and `ImageError` or `UsageError` for what cannot be sent.
    """

    _kind = httpx.Client

    def predict(self, image: "ImageLike", **asking: Unpack[Asking]) -> Answer:
        """What is on an image: a path, encoded bytes, a uint8 array (H, W, 3) of RGB or (H, W) of grey, a PIL image."""
        (answer,) = self._run(talk.ask_one(self._request("predict", asking), image, answer_of))
        return answer

    def predict_many(self, images: "ImageLike | Iterable[ImageLike]", **asking: Unpack[Asking]) -> Iterator[Result]:
        """What is on any number of images, in batches that the service takes, as the answers come and in their order.

        An image that cannot be used has an `ImageError` in its place: its `code` tells why.
        """
        return self._run(talk.ask_many(self._request("predict_batch", asking), images, answer_of))

    def embed(self, image: "ImageLike", *, model: str | None = None) -> Embedding:
        """The embedding of an image, of a model that was built with --embed; images as of `predict`."""
        (answer,) = self._run(talk.ask_one(self._request("embed", {"model": model}), image, embedding_of))
        return answer

    def embed_many(
        self, images: "ImageLike | Iterable[ImageLike]", *, model: str | None = None
    ) -> Iterator[Embedding | ImageError]:
        """The embeddings of any number of images; see `predict_many`."""
        return self._run(talk.ask_many(self._request("embed_batch", {"model": model}), images, embedding_of))

    def models(self) -> tuple[Model, ...]:
        """The models that the service holds."""
        (answer,) = self._run(talk.ask_models(self._timeout))
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, steps: Talk[T]) -> Iterator[T]:
        answer: httpx.Response | None = None
        with self._reaching():
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration:
                    return
                answer = None
                if isinstance(step, Send):
                    answer = self._http.request(**self._arguments(step))
                elif isinstance(step, Wait):
                    time.sleep(step.seconds)
                else:
                    yield step


class AsyncClient(_Service[httpx.AsyncClient]):
    """As `Client`, for an event loop: `async with AsyncClient(url) as client`, `await client.predict(image)`."""

    _kind = httpx.AsyncClient

    async def predict(self, image: "ImageLike", **asking: Unpack[Asking]) -> Answer:
        """See `Client.predict`."""
        found = self._run(talk.ask_one(self._request("predict", asking), image, answer_of))
        (answer,) = [item async for item in found]
        return answer

    def predict_many(
        self, images: "ImageLike | Iterable[ImageLike]", **asking: Unpack[Asking]
    ) -> AsyncIterator[Result]:
        """See `Client.predict_many`; for `async for`."""
        return self._run(talk.ask_many(self._request("predict_batch", asking), images, answer_of))

    async def embed(self, image: "ImageLike", *, model: str | None = None) -> Embedding:
        """See `Client.embed`."""
        found = self._run(talk.ask_one(self._request("embed", {"model": model}), image, embedding_of))
        (answer,) = [item async for item in found]
        return answer

    def embed_many(
        self, images: "ImageLike | Iterable[ImageLike]", *, model: str | None = None
    ) -> AsyncIterator[Embedding | ImageError]:
        """See `Client.embed_many`; for `async for`."""
        return self._run(talk.ask_many(self._request("embed_batch", {"model": model}), images, embedding_of))

    async def models(self) -> tuple[Model, ...]:
        """See `Client.models`."""
        (answer,) = [item async for item in self._run(talk.ask_models(self._timeout))]
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, steps: Talk[T]) -> AsyncIterator[T]:
        answer: httpx.Response | None = None
        with self._reaching():
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration:
                    return
                answer = None
                if isinstance(step, Send):
                    answer = await self._http.request(**self._arguments(step))
                elif isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                else:
                    yield step


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
