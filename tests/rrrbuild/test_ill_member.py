"""A member that gives NaN, fails or sleeps, in a running service: answers go on with the others, and say so."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from harness.damage import with_ill_member
from harness.service import Service, wait_for
from rrrbuild.engine import load_engine
from rrrbuild.plan_runner import Probabilities
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import ServedModel, read_repository

IMAGES = 12
DEADLINE_SECONDS = 6.0  # the service's own question, which may come first, is answered without the sleeper after 4.75 s


@dataclass
class Ward:
    """A service with a member that can be made ill.

    Attributes:
        service: runs.
        model: its only or first one.
        illness: a file that says what the member does.
        others: members used while it gives NaN or fails, and while it sleeps.
        well: what all members say of each image, shape (IMAGES, M, C).
    """

    service: Service
    model: ServedModel
    illness: Path
    others: dict[str, list[int]]
    well: Probabilities

    def ask(self, image: bytes, **query: str) -> dict[str, Any]:
        """The answer to one image."""
        headers = {"X-Request-Timeout-Ms": f"{1000 * DEADLINE_SECONDS:.0f}"}
        asked = {"effort": "full", "members": "true", **query}
        answer = self.service.ask(f"/v1/predict?{httpx.QueryParams(asked)}", content=image, headers=headers)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def failures(self) -> dict[tuple[str, str], float]:
        """Images that were answered without a member, by member and reason, where there are any."""
        found = {}
        for member in range(self.model.members):
            for reason in ("nan", "error", "late"):
                labels = f'{{member="{member}",model="{self.model.name}",reason="{reason}"}}'
                text = self.service.ask("/metrics").text.split(f"rrr_member_failures_total{labels} ")[1]
                if value := float(text.split()[0]):
                    found[str(member), reason] = value
        return found


@pytest.fixture(scope="module", params=["split", pytest.param("cascade", marks=pytest.mark.nightly)])
def ward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, picture: Any) -> Iterator[Ward]:
    """Three members side by side, or a cascade of two and two."""
    folder = tmp_path_factory.mktemp("ward")
    if request.param == "split":
        sound: Path = request.getfixturevalue("repository")
        others = {"nan": [0, 2], "fails": [0, 2], "sleeps": [0, 2]}
    else:
        engine = request.getfixturevalue("cascade_engine")
        sound = folder / "sound"
        write_repository([engine.path], sound, backends=frozenset({"python"}), threads=1)
        first, ill = engine.cascade["order"][: engine.cascade["k"]], engine.cascade["order"][engine.cascade["k"]]
        # The others share a call: if that fails or comes too late, all of them are left out.
        others = {"nan": sorted({0, 1, 2, 3} - {ill}), "fails": sorted(first), "sleeps": sorted(first)}
    illness = folder / "illness"
    illness.touch()
    with_ill_member(sound, folder / "repository", illness)
    model = read_repository(sound).models[0]
    engine = load_engine(sound / model.name / model.version)
    well = engine(np.stack([picture(seed) for seed in range(IMAGES)]), effort="full")
    with Service(folder / "serve.log", str(folder / "repository"), "--drain", "0", "--workers", "1") as service:
        yield Ward(service, model, illness, others, well)


@pytest.mark.parametrize(("illness", "reason"), [("nan", "nan"), ("fails", "error"), ("sleeps", "late")])
def test_every_label_is_that_of_the_mean_of_the_members_that_the_answer_names(
    ward: Ward, png: Any, illness: str, reason: str
) -> None:
    used, before = ward.others[illness], ward.failures()
    left_out = sorted(set(range(ward.model.members)) - set(used))
    ward.illness.write_text(illness)
    start = time.monotonic()
    answers = [ward.ask(png(seed)) for seed in range(IMAGES)]
    took, after = time.monotonic() - start, ward.failures()
    first_alone = ward.ask(png(0), effort="fast")
    ward.illness.write_text("")

    labels = [ward.model.labels[best] for best in ward.well[:, used].mean(axis=1).argmax(axis=1)]
    assert [answer["predictions"][0]["label"] for answer in answers] == labels
    if ward.model.cascade is None:  # a cascade's parts depend on what was timed
        of_all = ward.well.mean(axis=1).argmax(axis=1)
        assert labels != [ward.model.labels[best] for best in of_all], "it is of no consequence"
    for answer, of_members in zip(answers, ward.well, strict=True):
        assert (answer["partial"], answer["members_used"]) == (True, len(used))
        own = [(item["member"], item["label"]) for item in answer["members"]]
        assert own == [(member, ward.model.labels[of_members[member].argmax()]) for member in used]
    if illness == "sleeps":
        # Somebody waits for it until a deadline; who comes later does not, as long as it sleeps.
        assert took < 3 * DEADLINE_SECONDS
    rises = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert rises == {(str(member), reason): IMAGES for member in left_out}
    # The first members of a cascade are whole by themselves; side by side all are asked.
    assert first_alone["partial"] is (ward.model.cascade is None)
    wait_for(lambda: not ward.ask(png(0))["partial"])
