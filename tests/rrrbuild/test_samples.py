"""Sample images of a repository: which are taken, what becomes of them, and that they are sealed like all else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrrbuild.manifest import Manifest, write_manifest
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import Repository, read_repository
from rrrbuild.samples import read_samples
from rrrnet.checkpoint import SPLIT
from rrrnet.data.dataset import read_split
from rrrnet.errors import ArtifactError
from rrrserve.cli import run
from rrrserve.stamps.stamp import files_compared
from rrrserve.versions.version import copy_repository

PYTHON = frozenset({"python"})


@pytest.fixture
def sampled(tmp_path: Path, openvino_engine: Manifest) -> Repository:
    """A repository that `rrr repository` put six samples into."""
    command = ["repository", str(openvino_engine.path), "--out", str(tmp_path / "repository"), "--samples", "6"]
    assert run([*command, "--backends", "python"]) == 0
    return read_repository(tmp_path / "repository")


def test_samples_are_test_images_of_every_class_with_their_bytes(
    sampled: Repository, openvino_engine: Manifest, data: Path
) -> None:
    parts = read_split(openvino_engine.path / SPLIT)
    tests = {(data / file).read_bytes(): file.split("/")[0] for file, part in parts.items() if part == "test"}
    samples = read_samples(sampled)
    assert sorted(sample.label for sample in samples) == ["blue", "blue", "green", "green", "red", "red"]
    assert [tests[sample.path.read_bytes()] for sample in samples] == [sample.label for sample in samples]
    assert {sample.model for sample in samples} == {"duo"}


def test_a_changed_sample_is_found_and_claims_do_not_depend_on_them(sampled: Repository) -> None:
    assert not [path for path in files_compared(sampled, sampled.models[0]) if "/samples/" in path]
    labels = sampled.path / "duo" / "samples" / "labels.csv"
    labels.write_text(labels.read_text().replace("red", "blue"))
    with pytest.raises(ArtifactError, match=r"duo/samples/labels\.csv"):
        read_repository(sampled.path)


def test_a_service_whose_triton_is_elsewhere_has_the_samples_all_the_same(sampled: Repository, tmp_path: Path) -> None:
    copy = copy_repository(sampled, tmp_path / "version", with_engines=False)
    assert not (copy.path / "duo" / "1").exists()
    there, here = ([(each.label, each.path.read_bytes()) for each in read_samples(one)] for one in (sampled, copy))
    assert here == there


def test_a_large_image_is_written_smaller_and_what_no_browser_shows_as_jpeg(
    tmp_path: Path, openvino_engine: Manifest
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 2400, 3), np.uint8)
    large, avif = tmp_path / "large.png", tmp_path / "small.avif"
    Image.fromarray(noise).save(large)
    Image.fromarray(noise[:64, :64]).save(avif)
    written = write_repository(
        [openvino_engine.path], tmp_path / "repository", backends=PYTHON, samples=[(large, "red"), (avif, "green")]
    )
    shapes = []
    for sample in read_samples(written):
        with Image.open(sample.path) as image:
            shapes.append((image.format, image.size))
    assert shapes == [("JPEG", (1024, 512)), ("JPEG", (64, 64))]


def test_samples_without_known_test_images_need_a_folder(
    tmp_path: Path, openvino_engine: Manifest, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(openvino_engine.path, engine)
    (engine / SPLIT).unlink()
    write_manifest(replace(openvino_engine, path=engine, data=None), engine)
    out = tmp_path / "repository"
    words = ["repository", str(engine), "--out", str(out), "--backends", "python"]
    assert run([*words, "--samples", "3"]) == 2
    assert "does not tell which images its model was trained on: give others with --data DIR" in capsys.readouterr().err
    assert run([*words, "--data", str(data)]) == 2
    assert "--data is where --samples N takes its images from" in capsys.readouterr().err
    assert not out.exists()
    assert run([*words, "--data", str(data), "--samples", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    assert [sample.label for sample in read_samples(read_repository(out))] == ["blue", "green", "red"]
