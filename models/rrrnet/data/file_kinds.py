"""What a file is, by its first bytes: to tell in words what is not taken from a data set, and what mends that."""

import re

from rrrnet.installing import install_line, pip_install

HEAD_BYTES = 4096
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".jxl", ".svg"),
)
_CONVERT = "convert them to JPEG, PNG or WebP"
_RESTORE = "restore or remove them"

# What mends it, by kind. The first table holds pictures, the second all else.
PICTURES = {
    "HEIC": f"{install_line('heif')} lets them be read, or convert them to JPEG",
    "AVIF": f"{pip_install('--upgrade', 'pillow')} lets them be read if they are no films, or convert them to JPEG",
    **dict.fromkeys(
        ("BMP", "GIF", "TIFF", "PPM", "JPEG 2000", "JPEG XL", "SVG", "Photoshop", "icon", "camera raw", "DICOM"),
        _CONVERT,
    ),
}
REMEDIES = {
    **PICTURES,
    "PDF": "export their pages as JPEG or PNG",
    "video": "take single frames out of them (ffmpeg -i VIDEO frame_%04d.png)",
    "text": "they are no images: move them elsewhere",
    "web page": "pages saved in place of images: download them again",
    "Git LFS pointer": "git lfs pull fetches the images",
    "archive": "unpack them",
    "empty": "they have 0 bytes: " + _RESTORE,
    "damaged": _RESTORE,
    # Another program may read what our decoders do not.
    **dict.fromkeys(("damaged HEIC", "damaged AVIF"), "restore them, or convert those that open elsewhere to JPEG"),
    "too large": "make them smaller, or allow more with --max-pixels",
    "missing": "restore them, or remove their rows or links",
    "unreadable": "mend their permissions",
    "special file": "no regular files: remove them",
    "unknown": "they are no images: move them elsewhere",
    "not listed": "labels.csv does not list them: add rows for them, or remove them",
    "without a class": "they lie in no folder of a class: move them into one, or remove them",
    "hidden": "their names begin with a dot: rename or remove them",
    "named not in UTF-8": "rename them, e.g. convmv -r -f latin1 -t utf8 --notest DIR",
}

_MAGIC = (
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "icon"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"%PDF", "PDF"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\0\0\x01\xba", "video"),
    (b"\0\0\x01\xb3", "video"),
    (b"FLV", "video"),
    (b"PK\x03\x04", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"BZh", "archive"),
    (b"\xfd7zXZ\0", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"Rar!", "archive"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_ACCEPTED = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"))
_HEIC_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2", b"miaf")
)

_JUNK_FILES = {
    name.lower(): name
    for name in (
        *(".DS_Store", "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r", ".localized"),
        *(".directory", "Picasa.ini", ".picasa.ini", ".nomedia", ".gitkeep", ".gitignore", ".gitattributes"),
    )
}
_JUNK_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found")
)


def kind_of(head: bytes) -> str:
    """The kind of a file that begins with these bytes: a key of `REMEDIES`, or JPEG, PNG, WEBP."""
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "video"}.get(head[8:12], "unknown")
    for magic, kind in (*_ACCEPTED, *_MAGIC):
        if head.startswith(magic):
            return kind
    if re.match(rb"P[1-7]\s", head):
        return "PPM"
    if head[128:132] == b"DICM":
        return "DICOM"
    return _kind_of_text(head)


def _kind_of_boxes(head: bytes) -> str:
    """HEIC, AVIF, camera raw or video: what ISO base media files say by their brands."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    return "camera raw" if b"crx " in brands else "video"


def _kind_of_text(head: bytes) -> str:
    """Text, a web page or SVG; "unknown" if it is no text."""
    try:
        text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").lower()
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < len(head) - 3:  # else a character is cut by the end of the head
            return "unknown" if re.search(rb"[\0-\x08\x0e-\x1a]", head) else "text"
        text = head[: error.start].decode("utf-8-sig").lower()
    if "\0" in text:
        return "unknown"
    if "<svg" in text:
        return "SVG"
    return "web page" if "<html" in text or "<!doctype html" in text else "text"


def is_picture(name: str, head: bytes) -> bool:
    """Whether a file would be missed: it is a picture of any kind, or is named like one."""
    return name.lower().endswith(_IMAGE_SUFFIXES) or kind_of(head) in (*PICTURES, "JPEG", "PNG", "WEBP")


def junk_file(name: str) -> str | None:
    """The name under which a file is counted as what systems leave beside images; None if it is none of that."""
    return "._*" if name.startswith("._") else _JUNK_FILES.get(name.lower())


def is_junk_folder(name: str) -> bool:
    """Hidden folders, and those that archivers, NAS and file systems make."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS
