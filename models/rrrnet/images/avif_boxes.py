"""The pictures inside an AVIF, measured before the decoder is let at them.

An AVIF tells its size twice: in a box, which Pillow reads, and in the AV1 sequence header of each picture, which
decides what decoding costs. A file of one kilobyte that claims 64 x 64 pixels may hold 16384 x 16384. (libheif sees to
this itself.)

Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items), AV1 bitstream specification 5.3 to 5.5.
"""

from collections.abc import Iterator

# A layered image has 4 at most.
MAX_FRAMES = 8
# Boxes in a box, items, parts of them, units of one; a grid has up to 256 tiles, twice with alpha.
MAX_PARTS = 2048
# What a picture may have, however small the image: a tile may be larger.
LEAST_PIXELS = 256 * 256
# Of all pictures together, in multiples of what one may have: tiles of a grid overlap its edges, and alpha has its own.
_MOST_TOGETHER = 8
_MOST_HEADER_BYTES = 1024
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6

Span = tuple[int, int]


def problem_of(data: bytes, width: int, height: int) -> tuple[str, str] | None:
    """What makes decoding cost out of proportion, as code and message of an `ImageError`; None if nothing does.

    Args:
        data: the file.
        width: as its box says.
        height: likewise.
    """
    most = max(width * height, LEAST_PIXELS)
    try:
        boxes = _unique(data, 0, len(data))
        if b"moov" in boxes:
            return "unsupported_image", "an AVIF that is a film is not taken: save one picture of it"
        together = 0
        for item in _coded_items(data, boxes[b"meta"]):
            frames = 0
            for kind, body in _units(item):
                frames += kind in (_FRAME_HEADER, _FRAME)
                if kind == _SEQUENCE_HEADER:
                    wide, high = _largest_frame(body)
                    together += wide * high
                    if wide * high > most or together > _MOST_TOGETHER * most:
                        what = f"the AVIF holds a picture of {wide} x {high} pixels"
                        return "bad_image", f"{what}, and claims to be {width} x {height}"
            if frames > MAX_FRAMES:
                return "bad_image", f"the AVIF has a picture of more than {MAX_FRAMES} frames"
    except (ValueError, KeyError):
        return "bad_image", "the AVIF header cannot be read"
    return None


def cut_short(data: bytes) -> bool:
    """Whether the last box of an AVIF or HEIC file ends beyond the file."""
    place = 0
    for _ in range(MAX_PARTS):
        size = int.from_bytes(data[place : place + 4])
        size = int.from_bytes(data[place + 8 : place + 16]) if size == 1 else size
        if size < 8 or place + size >= len(data):
            break
        place += size
    return place + size > len(data)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, Span]]:
    """Kind, and first and last place of the content, of each box."""
    for _ in range(MAX_PARTS):
        if start + 8 > end:
            return
        size, head = _number(data, start, 4, end), 8
        if size == 1:
            size, head = _number(data, start + 8, 8, end), 16
        elif size == 0:
            size = end - start
        if size < head or start + size > end:
            raise ValueError("a box that ends beyond its parent")
        yield data[start + 4 : start + 8], (start + head, start + size)
        start += size
    raise ValueError("too many boxes")


def _unique(data: bytes, start: int, end: int) -> dict[bytes, Span]:
    """Boxes by kind, of which a decoder might take the first or the last where there are two."""
    found = list(_boxes(data, start, end))
    for kind in (b"meta", b"iinf", b"iloc", b"idat"):
        if sum(kind == other for other, _ in found) > 1:
            raise ValueError("a box that is there twice")
    return dict(found)


def _coded_items(data: bytes, meta: Span) -> Iterator[bytes]:
    """The AV1 data of each picture."""
    boxes = _unique(data, meta[0] + 4, meta[1])
    coded = {item for item, kind in _item_kinds(data, boxes[b"iinf"]) if kind == b"av01"}
    taken = 0
    for item, extents in _item_places(data, boxes[b"iloc"], boxes.get(b"idat", (0, 0))):
        if item not in coded:
            continue
        taken += sum(end - start for start, end in extents)
        if taken > len(data):
            raise ValueError("pictures that share their data")
        yield b"".join(data[start:end] for start, end in extents)


def _item_kinds(data: bytes, iinf: Span) -> Iterator[tuple[int, bytes]]:
    start, end = iinf
    for kind, (first, last) in _boxes(data, start + (6 if data[start] == 0 else 8), end):
        if kind == b"infe":
            width = 4 if data[first] == 3 else 2
            yield _number(data, first + 4, width, last), data[first + 6 + width : first + 10 + width]


def _item_places(data: bytes, iloc: Span, idat: Span) -> Iterator[tuple[int, list[Span]]]:
    """Number of each item, and where in `data` its parts lie."""
    place, end = iloc
    version, sizes = data[place], _number(data, place + 4, 2, end)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    place += 6

    def take(size: int) -> int:
        nonlocal place
        place += size
        return _number(data, place - size, size, end)

    left = MAX_PARTS
    for _ in range(take(wide)):
        item = take(wide)
        first, last = idat if version and take(2) & 15 == 1 else (0, len(data))
        take(2)
        base, parts, extents = take(base_size), take(2), []
        left -= 1 + parts
        if left < 0:
            raise ValueError("too many parts")
        for _ in range(parts):
            take(index_size)
            start = first + base + take(offset_size)
            length = take(length_size) or max(last - start, 0)
            if start + length > last:
                raise ValueError("an item beyond the end")
            extents.append((start, start + length))
        yield item, extents


def _number(data: bytes, start: int, size: int, end: int) -> int:
    if start + size > end:
        raise ValueError("a number beyond the end")
    return int.from_bytes(data[start : start + size])


def _units(item: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each open bitstream unit."""
    place = 0
    for _ in range(MAX_PARTS):
        if place >= len(item):
            return
        head = item[place]
        place += 2 if head & 4 else 1
        size, shift = len(item) - place, 0
        if head & 2:
            size = 0
            while True:
                byte = _number(item, place, 1, len(item))
                size |= (byte & 127) << shift
                place, shift = place + 1, shift + 7
                if byte < 128 or shift > 56:
                    break
        if size < 0 or place + size > len(item):
            raise ValueError("a unit beyond the end")
        yield head >> 3 & 15, item[place : min(place + size, place + _MOST_HEADER_BYTES)]
        place += size
    raise ValueError("too many units")


def _largest_frame(body: bytes) -> tuple[int, int]:
    """Width and height that a sequence header allows its frames."""
    bits, place, length = int.from_bytes(body), 0, 8 * len(body)

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > length:
            raise ValueError("a header that is cut short")
        return bits >> (length - place) & ((1 << count) - 1)

    take(4)  # profile, still_picture
    if take(1):  # reduced_still_picture_header
        take(5)
    else:
        delay_bits = 0
        if take(1):  # timing_info
            take(64)
            if take(1):  # equal_picture_interval: an exponential-Golomb number
                zeros = 0
                while not take(1):
                    zeros += 1
                take(zeros)
            if take(1):  # decoder_model_info
                delay_bits = take(5) + 1
                take(42)
        display_delay = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
            if delay_bits and take(1):
                take(2 * delay_bits + 1)
            if display_delay and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
