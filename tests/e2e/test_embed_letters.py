"""Embeddings of letters that a network has learnt: the same over HTTP as in PyTorch, and of use to a search."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.service import Service
from rrrbench.neighbours import nearest_alike, pixels_of
from rrrbuild.build import build_engine
from rrrbuild.heldout import held_out_images
from rrrbuild.repository import write_repository
from rrrnet.checkpoint import read_checkpoint
from rrrnet.inference import embedder
from rrrserve import Client, Embedding

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


def test_the_nearest_letter_by_embedding_is_of_its_class_more_often_than_by_pixels(
    letters: Any, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(letters.root / "learnt")
    held_out = held_out_images(checkpoint, None, limit=400)
    assert held_out.labels is not None
    build_engine(checkpoint.path, "openvino-fp32", out=tmp_path / "engine", embed=True)
    write_repository([tmp_path / "engine"], tmp_path / "repository", backends=frozenset({"python"}))

    with (
        Service(tmp_path / "log", str(tmp_path / "repository"), "--workers", "1", "--drain", "0") as served,
        Client(served.url) as client,
    ):
        answers = list(client.embed_many(list(held_out.images)))

    vectors = np.array([answer.vector for answer in answers if isinstance(answer, Embedding)], np.float32)
    assert len(vectors) == len(held_out.images)
    assert np.abs(vectors - embedder(checkpoint)(held_out.images)).max() <= 1e-3
    by_embedding = nearest_alike(vectors, held_out.labels)
    by_pixels = nearest_alike(pixels_of(held_out.images), held_out.labels)
    assert by_embedding > by_pixels + 0.05, (by_embedding, by_pixels)
    assert by_embedding > 0.5, by_embedding
