"""Where the evidence of claims about time comes from: the options of `rrr verify`, and whether they fit together."""

import shlex
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrrbuild.repository_document import Repository
from rrrnet.errors import UsageError
from rrrnet.files import shown
from rrrserve.claims.kinds import AnyClaim, Timed
from rrrserve.evidence.prometheus import duration_seconds
from rrrserve.judge.labelled import SplitName
from rrrserve.net.addresses import check_url


@dataclass(frozen=True)
class Source:
    """Where the evidence of claims about time, and about answers, comes from.

    Attributes:
        scrape: URLs of services to scrape.
        prometheus: URL of a server to ask instead.
        bench: result file to read instead.
        range_text: how far back to ask Prometheus, as PromQL writes it.
        seconds: how long to scrape or drive at most.
        drive: send the load too.
        concurrency: requests under way in the turns that claims on latency are judged by.
        image: encoded image to send; None for a generated one of each model's size.
        allow_resets: leave blocks out in which a counter was reset, rather than refuse.
        repository: for claims about artifacts.
        engines: likewise.
        headers: sent to the services, not to Prometheus.
        image_path: where the image was read from.
        ca_path: where `trust` was read from.
        trust: for https, of services and of Prometheus; None for the certificates that this machine trusts.
        data: labelled images: what claims about answers are judged on, and what --drive sends; None is, for the
            claims, the data set that the model was trained on.
        split: which of them, `test` or `all`; see `labelled.labelled_images`.
        effort: that --drive asks for; None leaves it to the service.
        stamped: what the verdicts are to be stamped on: services that serve anything else are not driven.
    """

    scrape: tuple[str, ...]
    prometheus: str | None
    bench: Path | None
    range_text: str
    seconds: float
    drive: bool
    concurrency: int
    image: bytes | None
    allow_resets: bool
    repository: Path
    engines: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    image_path: Path | None = None
    ca_path: Path | None = None
    trust: ssl.SSLContext | None = None
    data: Path | None = None
    split: SplitName = "test"
    effort: str | None = None
    stamped: Repository | None = None

    def to_json(self) -> dict[str, Any]:
        """For the document."""
        if self.bench is not None:
            return {"kind": "bench", "path": shown(self.bench)}
        how: dict[str, Any] = (
            {"seconds": self.seconds, "drive": self.drive, "concurrency": self.concurrency} if self.scrape else {}
        )
        how |= {} if self.effort is None else {"effort": self.effort}
        how |= {} if self.data is None else {"data": shown(self.data), "split": self.split}
        if self.prometheus is not None:
            return {
                "kind": "prometheus",
                "url": self.prometheus,
                "range": self.range_text,
                "scrape": list(self.scrape),
                **how,
            }
        if self.scrape:
            return {"kind": "scrape", "url": ", ".join(self.scrape), **how}
        return {"kind": "artifacts", "path": shown(self.repository)}

    def command(self, claims: Path) -> str:
        """What measures again, as a shell takes it; a token is not in it."""
        words = ["rrr", "verify", "--claims", shown(claims)]
        for url in self.scrape:
            words += ["--scrape", url]
        if self.prometheus is not None:
            words += ["--prometheus", self.prometheus]
        words += ["--seconds", f"{self.seconds:g}", "--concurrency", str(self.concurrency)]
        words += [option for option, given in (("--drive", self.drive), ("--allow-resets", self.allow_resets)) if given]
        for option, path in (("--image", self.image_path), ("--ca", self.ca_path), ("--data", self.data)):
            if path is not None:
                words += [option, shown(path)]
        words += [] if self.split == "test" else ["--split", self.split]
        words += [] if self.effort is None else ["--effort", self.effort]
        return shlex.join(words)

    def check(self, claims: Sequence[AnyClaim]) -> None:
        """Check that the options fit together and are enough.

        Raises:
            UsageError: they are not.
        """
        if self.bench is not None and (self.scrape or self.prometheus):
            raise UsageError("--bench is evidence of its own: leave out --scrape and --prometheus")
        if self.drive and not self.scrape:
            raise UsageError("--drive needs to know whom to ask: give --scrape http://HOST:PORT of the service")
        if self.prometheus is not None and self.scrape and not self.drive:
            raise UsageError(
                "--prometheus and --scrape together need --drive: the service is driven, Prometheus is asked"
            )
        if self.effort is not None and not self.drive:
            raise UsageError("--effort is what --drive asks for: claims about answers name their own effort")
        if self.data is not None and self.image is not None:
            raise UsageError("--data and --image are both given: leave one of them out")
        if self.prometheus is not None:
            check_url("--prometheus", self.prometheus)
            duration_seconds(self.range_text)
        timed = [claim.name for claim in claims if isinstance(claim, Timed)]
        if timed and not (self.scrape or self.prometheus or self.bench):
            raise UsageError(
                f"{len(timed)} claims are about time ({timed[0]}): say where the evidence is, with --scrape "
                "http://HOST:PORT (and --drive to send load), --prometheus URL, or --bench FILE.json"
            )
