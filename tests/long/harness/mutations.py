"""Requests that went wrong on the way: good ones, changed at random in the image, the form, the JSON or the HTTP."""

import base64
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from harness.raw_http import FORM, JSON, chunked, file_part, form, request

_PATHS = (
    "/v1/predict",
    "/v1/predict_batch",
    "/predict",
    "/predict_batch",
    "/v1/models/nobody/predict",
    "/v1/models",
    "/livez",
    "/readyz",
    "/metrics",
    "/docs.json",
    "/docs/start.js",
    "/schema.json",
    "/",
    "/v1/predict?top_k=1&members=true",
)
_METHODS = ("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get", "")
_HEADERS = (
    ("Content-Length", ("0", "1", "-1", "99", "1e3", "+5", "18446744073709551617", "5, 5", " ")),
    ("Transfer-Encoding", ("chunked", "gzip", "chunked, chunked", "identity", "Chunked", "x")),
    ("Content-Encoding", ("gzip", "identity", "br", "deflate, gzip", "")),
    ("Content-Type", (FORM, JSON, "image/png", "multipart/form-data", "text/xml", "application/x-www-form-urlencoded")),
    ("Expect", ("100-continue", "200-ok")),
    ("Connection", ("close", "keep-alive", "Upgrade", "upgrade, close", "x" * 99)),
    ("Upgrade", ("websocket", "h2c", "TLS/1.0")),
    ("Host", ("", "a", "a:99999", "[::1]", "x" * 999)),
    ("X-Request-ID", ("a", "a b", "x" * 65, "\xe9", "")),
    ("X-Request-Timeout-Ms", ("1", "0", "-5", "99999999999", "NaN", "1.5")),
    ("Range", ("bytes=0-1",)),
    ("X-Long", ("x" * 20_000,)),
)
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_JSON_VALUES = (
    "null", "true", "0", "-0", "1e999", "NaN", "[]", "{}", '""', '"\\ud800"', "9" * 5000, "[" * 300, '"\\u0000"', "1.5",
)  # fmt: skip


def seed_images() -> list[bytes]:
    """Small pictures in every accepted format, and in modes of some rarity."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (20, 20), np.uint16))
    frames = [picture, picture.rotate(90), picture.rotate(180)]
    variants: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (picture, "JPEG", {"quality": 80}),
        (picture, "JPEG", {"progressive": True, "exif": exif}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture, "PNG", {"exif": exif}),
        (picture.convert("P"), "PNG", {}),
        (picture.convert("LA"), "PNG", {}),
        (wide, "PNG", {}),
        (picture, "PNG", {"save_all": True, "append_images": frames}),
        (picture, "WEBP", {"lossless": True}),
        (picture.convert("RGBA"), "WEBP", {"quality": 50}),
        (picture, "WEBP", {"save_all": True, "append_images": frames}),
        (picture, "AVIF", {"speed": 10}),
        (Image.merge("RGBA", (*picture.split(), picture.getchannel(0))), "AVIF", {"speed": 10}),
    ]
    images = []
    for image, kind, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        images.append(buffer.getvalue())
    return images


class Mutator:
    """An endless source of requests; the same seed gives the same ones.

    Args:
        seed: of the random numbers.
        timeout_ms: deadline sent with each request, where the mutation leaves it alone.
    """

    def __init__(self, seed: int, *, timeout_ms: int) -> None:
        self._random = random.Random(seed)
        self._timeout = ("X-Request-Timeout-Ms", str(timeout_ms))
        self._images = seed_images()
        self.kinds: dict[str, Callable[[], bytes]] = {
            "image": self._image,
            "form": self._form,
            "json": self._json,
            "headers": self._headers,
            "chunks": self._chunks,
            "http": self._http,
        }

    def draw(self) -> tuple[str, bytes]:
        """The kind of the mutation, and the bytes to send."""
        kind = self._random.choice(list(self.kinds))
        return kind, self.kinds[kind]()

    def good(self) -> bytes:
        """A request that must be answered with 200."""
        return self._request(self._images[0])

    def _request(self, body: bytes, *, path: str = "/v1/predict", content_type: str | None = None) -> bytes:
        return request(body, path=path, content_type=content_type, headers=[self._timeout])

    def _image(self) -> bytes:
        return self._request(self.mutated(self._random.choice(self._images)))

    def _form(self) -> bytes:
        parts = [
            file_part(self._random.choice(self._images), name=self._random.choice(("image", "images", "", "x\0y")))
            for _ in range(self._random.choice((0, 1, 1, 1, 2, 33)))
        ]
        body = form(*parts)
        path = self._random.choice(_PATHS[:4])
        if self._random.random() < 0.7:
            body = self.mutated(body)
        return self._request(body, path=path, content_type=self._random.choice((FORM, FORM, self._type())))

    def _type(self) -> str:
        return self.mutated(FORM.encode()).decode("latin-1").translate({0: None, 10: None, 13: None})

    def _json(self) -> bytes:
        text = base64.b64encode(self._random.choice(self._images)).decode()
        document = self._random.choice(({"image": text}, {"images": [text]}, {"image": text, "x": 1}, [text], text))
        body = json.dumps(document)
        if self._random.random() < 0.5:
            value = self._random.choice(_JSON_VALUES)
            body = self._random.choice(
                (f'{{"image": {value}}}', f'{{"images": [{value}]}}', f'{{"image": "", "image": {value}}}', value)
            )
        data = body.encode()
        if self._random.random() < 0.5:
            data = self.mutated(data)
        return self._request(data, path=self._random.choice(_PATHS[:4]), content_type=JSON)

    def _headers(self) -> bytes:
        chosen = self._random.sample(_HEADERS, self._random.randint(1, 3))
        headers = [(name, self._random.choice(values)) for name, values in chosen]
        if self._random.random() < 0.1:
            headers += [(f"X-{index}", "a") for index in range(self._random.choice((50, 99, 101, 500)))]
        if not any(name == self._timeout[0] for name, _ in headers):
            headers.append(self._timeout)
        return request(
            self._random.choice((b"", *self._images)),
            method=self._random.choice(_METHODS),
            path=self._random.choice((*_PATHS, "/" + "x" * self._random.choice((10, 8000, 9000)), "/%00/%ff", "*")),
            headers=headers,
        )

    def _chunks(self) -> bytes:
        body = chunked(self._random.choice(self._images), self._random.choice((1, 7, 100, 100_000)))
        if self._random.random() < 0.7:
            body = self.mutated(body)
        return request(body, headers=[("Transfer-Encoding", "chunked"), self._timeout])

    def _http(self) -> bytes:
        good = self._request(self._random.choice(self._images))
        head, separator, body = good.partition(b"\r\n\r\n")
        choice = self._random.random()
        if choice < 0.1:
            return self._random.randbytes(self._random.randint(1, 2000))
        if choice < 0.3:
            return good * self._random.randint(2, 5)
        if choice < 0.8:
            return self.mutated(head) + separator + body
        return self.mutated(good)

    def mutated(self, data: bytes) -> bytes:
        """`data` with one to eight changes."""
        changed = bytearray(data)
        for _ in range(self._random.choice((1, 1, 2, 4, 8))):
            self._change(changed)
        return bytes(changed)

    def _change(self, data: bytearray) -> None:
        where = self._random.randrange(len(data) + 1)
        length = self._random.choice((1, 1, 2, 4, 16, 256))
        match self._random.randrange(8):
            case 0 if where < len(data):
                data[where] ^= 1 << self._random.randrange(8)
            case 1 if where < len(data):
                data[where] = self._random.randrange(256)
            case 2:
                del data[where:]
            case 3:
                del data[where : where + length]
            case 4:
                data[where:where] = self._random.randbytes(length)
            case 5:
                data[where:where] = data[where : where + length] * self._random.choice((1, 2, 50))
            case 6:
                width = self._random.choice((1, 2, 4))
                number = self._random.choice(_NUMBERS) % 256**width
                data[where : where + width] = number.to_bytes(width, self._random.choice(("big", "little")))
            case _:
                data[where : where + length] = (
                    self._random.choice((b"\0", b"\xff", b"\r\n", b"--", b"{", b'"')) * length
                )
