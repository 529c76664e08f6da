"""The Dockerfile: clean, and each of its images says what it is, checks itself, and runs as little as it can."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")
LABELS = ("title", "description", "version", "revision", "created", "source", "licenses", "base.name")
# Whether each serves.
IMAGES = {"cpu": True, "gpu": True, "train": False}


def stages() -> dict[str, str]:
    """The text of each stage by name."""
    parts = re.split(r"^FROM .* AS ([\w-]+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def linted(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    required = [f"--require-label=org.opencontainers.image.{name}:text" for name in LABELS]
    return subprocess.run([HADOLINT, *required, dockerfile], capture_output=True, text=True)


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    done = linted(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hadolint_would_say_it(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("PIP_NO_CACHE_DIR=1 ", "") + "RUN cd /tmp && sudo true\n")
    done = linted(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert {"DL3042", "DL3003", "DL3004"} <= set(re.findall(r"\b(DL\d{4})\b", done.stdout))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_labelled_locked_up_and_has_a_first_process_that_counts_out_orphans(name: str) -> None:
    stage = stages()[name]
    assert re.findall(r"org\.opencontainers\.image\.([\w.]+)=", stage) == list(LABELS)
    assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["dumb-init", "--single-child", "--", "rrr"' in stage
    assert re.findall(r"^COPY (.*)$", stage, re.MULTILINE) == [f"--from={name}-builder /opt/rrr /opt/rrr"], "no more"
    assert ("/readyz" in stage) == IMAGES[name], "/livez says nothing about models"
    assert ("HEALTHCHECK NONE" in stage) != IMAGES[name]


def test_a_build_fetches_locked_packages_and_nothing_else() -> None:
    steps = re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE)
    assert re.findall(r"\b(apt-get|apt|curl|wget|git|ADD)\b", steps) == []


def test_what_is_built_unasked_is_the_last_stage_and_what_make_builds() -> None:
    *_, last = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert last == ("cpu", "serving")
    assert "IMAGE_TARGET ?= cpu\n" in makefile
    for name in ("VERSION", "REVISION", "CREATED", "SOURCE"):
        assert re.search(rf"--build-arg ['\"]{name}=", makefile), name
        assert DOCKERFILE.count(f"\nARG {name}=\n") == len(IMAGES)


def test_make_image_names_what_it_builds() -> None:
    def command(*words: str) -> str:
        asked = ["make", "--no-print-directory", "image", "IMAGE_BUILD=echo", *words]
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    said = command()
    assert re.search(
        r"--target cpu .*REVISION=([0-9a-f]{40}(-dirty)?)? .*CREATED=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", said
    )
    assert said.endswith(f"--tag rrrnet-serving:{version} .\n")
    assert command("IMAGE_TARGET=gpu").endswith(f"--tag rrrnet-serving:{version}-gpu .\n")
    assert command("IMAGE_TARGET=with-models").endswith(f"--tag rrrnet-serving:{version} .\n")


def test_the_sizes_on_the_page_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/image.json").read_text())
    measured = {case["image"]: case["gb"] for case in result["sizes"]}
    assert measured["cpu"] <= 0.75
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]+) GB", (ROOT / "docs/containers.md").read_text(), re.MULTILINE)
    assert {name: float(size) for name, size in rows} == {
        name: round(measured[name], 2) for name in IMAGES if name in measured
    }
