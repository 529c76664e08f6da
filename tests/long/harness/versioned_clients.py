"""Clients of a service whose repository is switched under them: each answer must be wholly one version's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.clients import Clients, difference, essence

# Right answers of each version: by its digest, for each image.
Goldens = dict[str, list[dict[str, float]]]


class VersionedClients(Clients):
    """Clients that know every version's answers.

    Attributes:
        answered_by: how many right answers each version gave.
    """

    def __init__(
        self, url: str, bodies: Sequence[bytes], goldens: Goldens, deadline_seconds: float, *, headers: str = ""
    ) -> None:
        """Prepare; see `Clients`. Where `url` is a batch route, each body holds all the images of the goldens."""
        super().__init__(url, bodies, (), deadline_seconds, headers=headers)
        self._goldens = goldens
        self.answered_by: Counter[str] = Counter()

    def fault(self, answer: Mapping[str, Any], index: int) -> str:
        """What is wrong; an answer that another version would have given is wrong too."""
        version = answer["model"]["repository"]
        if version not in self._goldens:
            return f"answered by {version}, which was never installed"
        golden = self._goldens[version]
        items, expected = ([answer], [golden[index]]) if "predictions" in answer else (answer["results"], golden)
        faults = [difference(essence(item), right) for item, right in zip(items, expected, strict=True)]
        fault = "; ".join(fault for fault in faults if fault)
        self.answered_by[version] += not fault
        return fault


def distinct(goldens: Goldens) -> bool:
    """Whether every two versions answer every image differently, so that an answer tells who gave it."""
    versions = list(goldens.values())
    return all(
        difference(first, second)
        for index, one in enumerate(versions)
        for other in versions[index + 1 :]
        for first, second in zip(one, other, strict=True)
    )
