"""Files of a repository in the hub's cache: downloaded where they are not there, soon given up where it is silent.

The library `huggingface_hub` keeps the cache, the token and `HF_ENDPOINT`; what it raises is told in words here.
"""

import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rrrnet.errors import FULL_DISK, ArtifactError, IncompatibleError, NoSpaceError, RRRError, UsageError
from rrrnet.files import write_atomically
from rrrnet.hub.reference import Reference
from rrrnet.installing import missing
from rrrnet.output import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_SECONDS = 4.0  # until the hub is taken for unreachable, name lookup included

Say = Callable[[str], None]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit.

    Attributes:
        reference: what was asked for.
        folder: of that commit in the cache; need not exist yet.
        sizes: bytes of each file, by its path; 0 where the hub does not tell. Of a hub out of reach those in the cache.
    """

    reference: Reference
    folder: Path
    sizes: Mapping[str, int]

    def bring(self, names: Iterable[str], say: Say) -> None:
        """Download those that are not in the cache, the largest last, with a bar.

        Raises:
            UsageError, ArtifactError: the hub refuses, or the download breaks off.
            NoSpaceError: the disk is full.
        """
        from huggingface_hub import hf_hub_download

        missing = [name for name in sorted(names, key=self.sizes.__getitem__) if not (self.folder / name).is_file()]
        if not missing:
            return
        size = sum(self.sizes[name] for name in missing)
        say(f"downloading {', '.join(missing)} of {self.reference} ({size / 1e6:.1f} MB)")
        try:
            with progress_bar() as bar:
                told: Any = told_to(bar, bar.add_task("downloading, MB", total=None, text=""))
                for name in missing:
                    hf_hub_download(
                        self.reference.repository,
                        name,
                        revision=self.folder.name,
                        etag_timeout=PATIENCE_SECONDS,
                        tqdm_class=told,
                    )
        except Exception as error:  # of HTTP libraries that differ from version to version, and of the system
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise NoSpaceError(
                    f"no space left to download {self.reference}: set HF_HOME to a larger disk"
                ) from error
            raise refusal(error, self.reference) or ArtifactError(
                f"{self.reference}: the download broke off ({short(error)}): run it again, it goes on from there"
            ) from error

    def remember(self) -> None:
        """Note which commit the revision is, for the time when the hub is out of reach."""
        if self.folder.name != self.reference.revision:
            ref = self.folder.parents[1] / "refs" / self.reference.revision
            if not ref.is_file() or ref.read_text().strip() != self.folder.name:  # a cache may be read-only
                ref.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(ref, self.folder.name.encode())


def look(reference: Reference, say: Say) -> Listing:
    """What files a repository has; if the hub is out of reach, those that were downloaded before, which is told.

    Raises:
        UsageError: there is no such repository or revision.
        ArtifactError: the hub refuses to tell, or is out of reach and nothing is in the cache.
        IncompatibleError: its library is not installed.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.logging import set_verbosity_error
    except ModuleNotFoundError as error:
        raise IncompatibleError(missing(error, "train") or str(error)) from error

    set_verbosity_error()  # its retries are not news; our own error tells how it ended
    try:
        info = within_patience(
            lambda: HfApi().model_info(
                reference.repository, revision=reference.revision, timeout=PATIENCE_SECONDS, files_metadata=True
            )
        )
    except Exception as error:  # as above
        if (refused := refusal(error, reference)) is not None:
            raise refused from error
        before = cached(reference)
        if before is None:
            raise ArtifactError(
                f"{reference} is neither cached nor reachable from here ({short(error)}): download it elsewhere "
                f"(hf download {reference.repository} --local-dir DIR) and give the path"
            ) from error
        reason = f"note: the hub is out of reach ({short(error)})"
        say(f"{reason}: taking {reference} as it was downloaded, commit {before.folder.name}")
        return before
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Listing(reference, _cache_of(reference) / "snapshots" / str(info.sha), sizes)


def cached(reference: Reference) -> Listing | None:
    """What of a repository was downloaded before; asks nothing of the network. None if nothing was."""
    root = _cache_of(reference)
    ref = root / "refs" / reference.revision
    folder = root / "snapshots" / (ref.read_text().strip() if ref.is_file() else reference.revision)
    if not folder.is_dir():
        return None
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return Listing(reference, folder, {path.relative_to(folder).as_posix(): path.stat().st_size for path in files})


def _cache_of(reference: Reference) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{reference.repository.replace('/', '--')}"


def within_patience(ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` returns or raises; asked in a thread, for a lookup of the hub's name can hang for longer.

    Raises:
        TimeoutError: nothing within `PATIENCE_SECONDS`.
    """
    answers: list[_Answer] = []
    errors: list[Exception] = []

    def answer() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # raised again where the answer is awaited
            errors.append(error)

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {PATIENCE_SECONDS:g} s")
    return answers[0]


def refusal(error: Exception, reference: Reference) -> RRRError | None:
    """What the hub's answer means, where it answered and the answer is no; None where it is out of reach."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    repository, log_in = reference.repository, "hf auth login, or HF_TOKEN"
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{repository}"
        return ArtifactError(f"{reference} is gated: accept its conditions at {page}, then say who you are ({log_in})")
    if isinstance(error, RevisionNotFoundError):
        return UsageError(
            f"{repository} has no revision {reference.revision}: {constants.ENDPOINT}/{repository} lists them"
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 500
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return UsageError(
            f"there is no repository {repository} on the hub, or it is private: check the name; for a private one say "
            f"who you are ({log_in})"
        )
    if status == 403:
        return ArtifactError(f"the hub does not give {reference} to you (403): say who you are ({log_in})")
    return None


def short(error: Exception) -> str:
    """The error's first line; its text can be a page."""
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    text = "HF_HUB_OFFLINE is set" if offline and "ffline" in str(error) else str(error).strip().partition("\n")[0]
    return text[:120].rstrip(".") or type(error).__name__


def told_to(bar: "Progress", task: "TaskID") -> Callable[..., Any]:
    """What makes a tqdm that draws nothing but moves our bar.

    Its own is silent without a terminal, and at one it would be lost under the bar of the training.
    """
    from huggingface_hub.utils import tqdm

    class Told(tqdm):  # type: ignore[misc]  # a class of a package without types
        def display(self, *_: Any, **__: Any) -> bool:
            if self.total is None or self.total >= 1e6:  # a smaller file is there before a bar is drawn
                bar.update(task, completed=self.n / 1e6, total=self.total and self.total / 1e6)
            return True

    return partial(Told, file=io.StringIO())
