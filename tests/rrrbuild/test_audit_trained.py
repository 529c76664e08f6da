"""The audit of networks that were really trained: by heart on random labels, and not at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrrbuild.audit.audit import audit
from rrrnet.data.training_data import DataOptions
from rrrnet.training.fit import fit
from rrrnet.training.options import Options

pytestmark = pytest.mark.nightly  # a network that learns by heart takes half a minute


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes of 12 random images: a label says nothing about an image, so it can only be learned by heart."""
    root, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(6)
    for label in "abcdefghij":
        (root / label).mkdir()
        for index in range(12):
            tiles = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(tiles.repeat(4, axis=0).repeat(4, axis=1)).save(root / label / f"{index}.png")
    return root


def train(data: Path, out: Path, epochs: int) -> Path:
    options = Options(
        data,
        out,
        members=2,
        weights="none",
        epochs=epochs,
        size=32,
        batch_size=12,
        augmentation="none",
        precision="fp32",
        data_options=DataOptions(test_fraction=0.5),
    )
    silent = {"report": lambda *_: None, "say": lambda _: None, "started": lambda *_: None}
    return fit(options, stop=lambda: False, **silent).checkpoint.path  # type: ignore[arg-type]  # one type for three


def test_random_labels_learned_by_heart_are_found_in_nine_pairs_of_ten(noise: Path, tmp_path: Path) -> None:
    found = audit(train(noise, tmp_path / "byheart", epochs=15))
    assert found["accuracy"]["train"] > 0.95
    assert found["accuracy"]["held_out"] < 0.3
    rows = {row["attack"]: row for row in found["attacks"]}
    assert rows["loss"]["pairs"]["value"] >= 0.9
    assert rows["loss"]["single_images"]["value"] >= 0.9
    assert found["privacy"]["value"] <= 0.2
    assert found["utility"]["low"] == 0.0


def test_a_network_of_no_epochs_is_at_one_half_within_its_interval(noise: Path, tmp_path: Path) -> None:
    found = audit(train(noise, tmp_path / "untrained", epochs=0))
    assert "no gradient step of rrr train was taken on these images: --epochs 0" in found["notes"]
    for row in found["attacks"]:
        assert row["pairs"]["low"] <= 0.5 <= row["pairs"]["high"], row["attack"]
        assert row["single_images"]["low"] <= 0.5 <= row["single_images"]["high"], row["attack"]
