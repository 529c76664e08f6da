"""The markers of a JPEG, counted as its decoder meets them, before the decoder is let at them.

A marker costs the file two bytes and the decoder, or Pillow's reader of headers, much more: a scan is a pass over the
whole picture.
"""

import re

# A progressive JPEG has some ten scans.
MAX_SCANS = 100
# Metadata of 10 MB take 160 segments of 64 KB.
MAX_SEGMENTS = 2048
# Between the segments of a header; Pillow steps over them one by one.
MAX_STRAY_BYTES = 64 * 1024

_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_SCAN_BYTES = b"\xff\xda"
# Coded data never look like one: there 0xFF is followed by 0. Restart markers, of which a scan may have any number, and
# fill bytes are passed over. No repetition in the pattern: a long run of 0xFF would take the square of its length.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def problem_of(data: bytes) -> str | None:
    """What makes decoding cost out of proportion, in words; None if nothing does.

    What follows the end of the image, such as the film that a phone appends, is no part of it and holds any bytes.
    """
    if len(data) <= MAX_STRAY_BYTES and data.count(_SCAN_BYTES) <= MAX_SCANS:
        return None
    position, stray, segments, scans = 2, 0, 0, 0
    while (found := _MARKER.search(data, position)) is not None:
        kind = data[found.start() + 1]
        segments += 1
        if not scans:
            stray += found.start() - position
        if kind == _END_OF_IMAGE:
            return None
        if kind == _START_OF_SCAN:
            scans += 1
        if scans > MAX_SCANS:
            return f"the JPEG has more than {MAX_SCANS} scans"
        if segments > MAX_SEGMENTS or stray > MAX_STRAY_BYTES:
            return "the JPEG has too many segments, or too much between them"
        position = found.end()
        # The others have no length: the decoder goes on right behind them, or gives up.
        if (0xC0 <= kind < 0xF0 and kind != _START_OF_IMAGE) or kind == _COMMENT:
            position += int.from_bytes(data[position : position + 2])
    return None
