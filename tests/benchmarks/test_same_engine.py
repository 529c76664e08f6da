"""Our service beside peers that run its engine: figures paired by round, bars, and the peer's answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from performance import PARTS
from rrrbench.classifiers import EngineClassifier, classifier_of
from rrrbench.same_engine import FASTAPI, difference_ms, same_engine_bars, same_engine_table, throughput_share
from rrrbuild.build import build_engine
from rrrbuild.engine import load_engine
from rrrbuild.manifest import BatchRange
from rrrnet.checkpoint import Checkpoint
from rrrnet.images.preprocess import image_to_array
from rrrserve.api.answer import uncertainty

LEVEL = "concurrency-1"


def row(p50_ms: list[float], throughput: list[float]) -> dict[str, Any]:
    rounds = [
        {"p50_ms": p50, "p99_ms": 2 * p50, "throughput": rate} for p50, rate in zip(p50_ms, throughput, strict=True)
    ]
    return {LEVEL: {"p50_ms": p50_ms[0], "p99_ms": 2 * p50_ms[0], "rounds": rounds}}


OURS, THEIRS = row([10.0, 20.0, 30.0], [90.0, 45.0, 30.0]), row([9.2, 19.2, 29.2], [100.0, 50.0, 100 / 3])
DOCUMENT = {
    "environment": {},
    "same_engine": [
        {"target": "openvino-fp32", "pixels": 64, "rows": {"rrr serve, openvino-fp32": OURS, FASTAPI: THEIRS}}
    ],
}


def test_what_our_way_costs_is_paired_by_round_so_that_drift_does_not_widen_it() -> None:
    assert difference_ms(OURS, THEIRS, LEVEL) == pytest.approx((0.8, 0.8, 0.8))
    assert throughput_share(OURS, THEIRS, LEVEL) == pytest.approx((0.9, 0.9, 0.9))


def test_the_bars_allow_a_millisecond_and_ask_for_97_percent_of_the_answers() -> None:
    near, few = same_engine_bars(DOCUMENT).splitlines()[2:]
    assert near.endswith("| at most 1 | 0.80 (0.80 to 0.80) | met |")
    assert few.endswith("64 px, 1 requests | at least 0.97 | 0.90 (0.90 to 0.90) | falls short |")


def test_the_table_tells_size_and_requests_under_way_in_every_line() -> None:
    ours, theirs = same_engine_table(DOCUMENT).splitlines()[2:]
    assert ours == "| `openvino-fp32` | 64 | 1 | rrr serve | 10.00 | 20.00 | 45.0 |  |  |"
    assert theirs.startswith("| `openvino-fp32` | 64 | 1 | FastAPI + the same engine | 9.20 | 18.40 | 50.0 | 0.80 (")


def test_the_page_shows_a_file_in_which_the_other_peers_were_not_measured() -> None:
    tables, bars, _ = PARTS["peers"]
    assert list(tables(DOCUMENT)) == ["The same engine behind each"]
    assert len(bars(DOCUMENT).splitlines()) == 4


def test_the_peer_prepares_asks_and_tells_what_our_service_does(
    checkpoints: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    build_engine(checkpoints[0].path, "openvino-fp32", batch=BatchRange(1, 2, 2), out=folder, images=8)
    peer = classifier_of({"PEER_CLASSIFIER": EngineClassifier.__name__, "PEER_ENGINE": str(folder)})
    engine = load_engine(folder)
    path = tmp_path / "image.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path)
    pixels = image_to_array(path.read_bytes(), engine.manifest.preprocess)
    assert (peer.decode(path.read_bytes()) == pixels).all()
    (found,) = peer.infer([pixels])
    (expected,) = engine(pixels[None])
    assert np.allclose(found, expected, atol=1e-5)
    mean = expected.mean(axis=0)
    told = peer.answer(found)
    assert told["predictions"][0]["label"] == engine.manifest.labels[mean.argmax()]
    assert told["uncertainty"] == pytest.approx(uncertainty(mean, expected, int(mean.argmax())), abs=1e-4)
    assert told["members"] == len(expected)
