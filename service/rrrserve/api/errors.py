"""HTTP errors: one exception, one table of codes, one shape of answer.

`ERRORS` is the closed set of codes that a client can meet. The error metric's labels, the OpenAPI document and
docs/http.md are made from it, so a code that is not in it cannot be sent.
"""

from typing import Any, NamedTuple

from rrrnet.errors import ImageError
from rrrnet.images.image_formats import IN_WORDS


class ErrorKind(NamedTuple):
    """The HTTP status of a code, and what it tells the client."""

    status: int
    meaning: str


ERRORS: dict[str, ErrorKind] = {
    "missing_image": ErrorKind(400, "no image in the request"),
    "not_a_file": ErrorKind(400, "the multipart field is text (a URL, say) instead of an uploaded file"),
    "too_many_images": ErrorKind(400, "more than one image on a route that takes one"),
    "bad_multipart": ErrorKind(400, "the multipart body cannot be parsed: boundary missing or wrong, or cut short"),
    "bad_json": ErrorKind(400, "the body is not JSON, not UTF-8, or holds NaN or Infinity"),
    "bad_request": ErrorKind(400, "a field, parameter or header that is unknown or has a value that is not allowed"),
    "bad_http": ErrorKind(400, "the bytes are not a request of HTTP/1.1"),
    "unauthorized": ErrorKind(401, "no bearer token, or a wrong one, where the service wants one"),
    "not_found": ErrorKind(404, "no such path"),
    "unknown_model": ErrorKind(404, "the repository holds no model of that name"),
    "no_embedding": ErrorKind(404, "the model was built without --embed, and gives no embeddings"),
    "method_not_allowed": ErrorKind(405, "the path exists, but not for this method; see the header Allow"),
    "request_timeout": ErrorKind(408, "the header or the body did not arrive in time"),
    "body_too_large": ErrorKind(413, "the body is larger than the limit, or in too many chunks"),
    "field_too_large": ErrorKind(413, "a multipart text field is larger than 64 KiB"),
    "batch_too_large": ErrorKind(413, "more images than one request may hold"),
    "too_many_pixels": ErrorKind(413, "width x height of the image is over the limit"),
    "target_too_long": ErrorKind(414, "path and query together are longer than the limit"),
    "unsupported_media_type": ErrorKind(415, "a Content-Type that is not read here"),
    "encoding_not_supported": ErrorKind(
        415, "a body with a Content-Encoding, or a Transfer-Encoding other than chunked"
    ),
    "unsupported_image": ErrorKind(415, f"not {IN_WORDS}, judged by the first bytes"),
    "empty_image": ErrorKind(422, "an image of 0 bytes"),
    "truncated_image": ErrorKind(422, "image data that end too early"),
    "bad_image": ErrorKind(422, "damaged image data"),
    "overloaded": ErrorKind(429, "as much is being worked on as is allowed; see the header Retry-After"),
    "header_too_large": ErrorKind(431, "header fields that are too many or too large"),
    "internal_error": ErrorKind(500, "a fault of ours; the request id finds it in the log"),
    "bad_model_output": ErrorKind(500, "the model answered with a wrong shape, NaN, or no probabilities"),
    "not_ready": ErrorKind(503, "the models have not answered a real inference yet"),
    "shutting_down": ErrorKind(503, "the service is stopping and takes no more requests: ask another instance"),
    "backend_unavailable": ErrorKind(503, "the inference server cannot be reached or failed"),
    "deadline_exceeded": ErrorKind(504, "no answer before the deadline"),
}

RETRY_AFTER_SECONDS = 1


class APIError(Exception):
    """An error with a code from `ERRORS`; it becomes the HTTP answer.

    Attributes:
        code: a key of `ERRORS`.
        message: what was wrong, the value seen and what is allowed; holds no path or library message.
        headers: extra headers of the answer, such as Allow.
    """

    def __init__(self, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = ERRORS[code].status
        self.headers = dict(headers or {})
        if self.status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The one error shape."""
        return {"error": {"code": self.code, "message": self.message, "request_id": request_id}}

    def to_kserve(self, request_id: str) -> dict[str, Any]:  # noqa: ARG002  in the header X-Request-ID, as in /v1
        """The shape of KServe v2, of all paths under /v2."""
        return {"error": self.message}


def from_image_error(error: ImageError) -> APIError:
    """The HTTP form of an image that cannot be used."""
    return APIError(error.code, str(error))
