"""Generated pictures as a client would send them."""

import io

from PIL import Image

from rrrbuild.heldout import generated_images
from rrrbuild.repository_document import ServedModel


def jpegs(model: ServedModel, count: int = 16) -> list[bytes]:
    """Generated pictures of the model's size."""
    bodies = []
    for pixels in generated_images(model.preprocess, count):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        bodies.append(buffer.getvalue())
    return bodies
