"""Images that lie elsewhere, by URI (s3://, gs://, hdfs://, file://), through pyarrow's file systems."""

from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from rrrnet.errors import ImageError, IncompatibleError, UsageError
from rrrnet.installing import install_line

SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "file")


def is_uri(source: str) -> bool:
    """Whether a source is a URI that pyarrow has a file system for."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def files_below(uri: str) -> Iterator[tuple[str, str]]:
    """The files below a folder, sorted, or the one file: URIs, and what comes behind the folder ("" of one file).

    Raises:
        UsageError: there is nothing.
        IncompatibleError: pyarrow is not installed.
    """
    from pyarrow.fs import FileSelector, FileType

    system, path, root = _place(uri)
    try:
        found = system.get_file_info(path)
        if found.type == FileType.File:
            yield uri, ""
            return
        listed = system.get_file_info(FileSelector(path, recursive=True)) if found.type == FileType.Directory else []
    except OSError as error:
        raise UsageError(f"{uri} cannot be listed: {error}") from error
    if not listed:
        raise UsageError(f"{uri} does not exist or is empty: give a folder or a file")
    folder = path.rstrip("/") + "/"
    for name in sorted(info.path for info in listed if info.type == FileType.File):
        yield root + name.removeprefix(_base(root)[1].rstrip("/") + "/"), name.removeprefix(folder)


def read(uri: str) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it is missing, or cannot be read.
    """
    system, path, _ = _place(uri)
    try:
        with system.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise ImageError("missing_image", "the file is missing") from error
    except OSError as error:
        raise ImageError("unreadable_file", f"the file cannot be read ({error})") from error


def _place(uri: str) -> tuple[Any, str, str]:
    """The file system, the path in it, and the URI of its root with a slash behind it."""
    # Not by pyarrow itself, which takes no URI with spaces or percent signs as object stores have them.
    parts = urlsplit(uri, allow_fragments=False)
    root = f"{parts.scheme}://{parts.netloc}/"
    system, base = _base(root)
    return system, f"{base.rstrip('/')}/{uri[len(root) :]}", root


@cache
def _base(root: str) -> tuple[Any, str]:
    try:
        from pyarrow.fs import FileSystem
    except ModuleNotFoundError as error:
        raise IncompatibleError(
            f"{root} is read by pyarrow, which is not installed: {install_line('batch')}"
        ) from error
    try:
        found: tuple[Any, str] = FileSystem.from_uri(root)
    except (OSError, ValueError) as error:
        raise UsageError(f"{root} cannot be opened: {error}") from error
    return found
