"""What comes in place of an image by mistake, and the one sentence that helps; and base64 in all its spellings."""

import base64
import binascii
from typing import NamedTuple

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
# A JPEG, a PNG and a WebP in base64.
_IMAGES_IN_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"UklGR")
_JSON = (b"{", b"[")
_ADDRESSES = (b"http:", b"https:", b"ftp:", b"file:", b"s3:", b"gs:")
_FORM_FIELDS = (b"image=", b"images=", b"images[]=", b"file=", b"data=")
_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"  # a byte order mark, and white space
_MOST_SHOWN = 40
NOTHING_IS_FETCHED = "the service fetches nothing"


class NearMiss(NamedTuple):
    """Why a body is no image: a key of `ERRORS`, and the sentence."""

    code: str
    message: str


def in_body(body: bytes, kind: bytes, field: str) -> NearMiss | None:
    """What a body is that should be an image, where it can be told.

    Args:
        body: the whole body.
        kind: its media type, in lower case; empty where there is none.
        field: `image` or `images`, as the route has it.
    """
    if body.startswith(_IMAGES):
        return None
    start = body[:_MOST_SHOWN].lstrip(_BEFORE_JSON).lower()
    label = f"as {shown(kind.decode('latin-1'))}" if kind else "without a Content-Type"
    if start.startswith(_JSON):
        return NearMiss("unsupported_media_type", f"the body is JSON, but came {label}: {as_json(field)}")
    if start.startswith(_FORM_FIELDS):
        what = "the body is a form that cannot hold files (application/x-www-form-urlencoded)"
        return NearMiss("unsupported_media_type", f"{what}: {as_form(field)}")
    if start.startswith(_ADDRESSES):
        return NearMiss("unsupported_image", f"the body is an address, and {NOTHING_IS_FETCHED}: {as_raw(field)}")
    if start.startswith(b"data:") or body.startswith(_IMAGES_IN_BASE64):
        what = "a data: URL" if start.startswith(b"data:") else "base64"
        return NearMiss("unsupported_image", f"the body is {what}: {as_raw(field)}, or {as_json(field)}")
    if start.startswith(b"--") and b"content-disposition:" in body[:1024].lower():
        help_ = f"let the client write the header Content-Type itself ({as_form(field)})"
        return NearMiss("unsupported_media_type", f"the body is multipart/form-data, but came {label}: {help_}")
    return None


def in_json(body: bytes, field: str) -> str | None:
    """What a body is that should be JSON, where it can be told."""
    if body.startswith(_IMAGES):
        return f"the body is an image, but came as application/json: {as_raw(field)}"
    if body.startswith(_IMAGES_IN_BASE64) or body.startswith(b"data:"):
        return f"the body is base64 alone: {as_json(field)}"
    return None


def in_text(text: str, field: str) -> str:
    """What a text is that should be an image in base64."""
    start = text[:_MOST_SHOWN].lstrip().lower().encode("utf-8", "replace")
    if start.startswith(_ADDRESSES):
        return f"{field} is an address, and {NOTHING_IS_FETCHED}: send the image itself, in base64"
    if start.startswith(b"data:"):
        return f"{field} is a data: URL that is not base64 (data:image/jpeg;base64,...)"
    return f"{field} is not valid base64"


def in_field(data: bytes, field: str) -> str:
    """What a form's text field is that should be an uploaded file."""
    start = data[:_MOST_SHOWN].lstrip().lower()
    what = f"an address, and {NOTHING_IS_FETCHED}" if start.startswith(_ADDRESSES) else "text, without a filename"
    return f"the field {field} must be an uploaded file, and is {what}: {as_form(field)}"


def as_form(field: str) -> str:
    """How an image is sent in a form."""
    files = "-F image=@cat.jpg" if field == "image" else "-F images=@a.jpg -F images=@b.jpg"
    return f"curl {files} URL"


def as_raw(field: str) -> str:
    """How an image is sent as it is; several go in a form."""
    return "curl -T cat.jpg URL" if field == "image" else as_form(field)


def shape(field: str) -> str:
    """The JSON of a route."""
    return '{"image": "<base64>"}' if field == "image" else '{"images": ["<base64>", ...]}'


def as_json(field: str) -> str:
    """How an image is sent as JSON."""
    return f"curl -H 'Content-Type: application/json' -d '{shape(field)}' URL"


def from_base64(text: str) -> bytes:
    """The bytes of base64: also of a data: URL, in lines, without padding, or in the alphabet for URLs.

    Raises:
        ValueError: it is none of these.
    """
    if not len(text) % 4 and not text.endswith("==="):  # b64decode passes over padding that is too long
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            pass  # a spelling that is seldom
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise binascii.Error
    text = "".join(text.split()).replace("-", "+").replace("_", "/")
    if not text.endswith("="):
        text += "=" * (-len(text) % 4)
    if len(text) % 4 or text.endswith("==="):
        raise binascii.Error
    return base64.b64decode(text, validate=True)


def shown(name: str) -> str:
    """A client's own word in a message: short, and in ASCII, since JSON can hold halves of characters."""
    return ascii(name if len(name) <= _MOST_SHOWN else name[:_MOST_SHOWN] + "...")
