"""OpenVINO's streams: how a batch is shared out among them, and what is done with a row that is left over."""

import time

import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.engine import load_engine
from rrrbuild.manifest import Manifest
from rrrbuild.runtime_openvino import _Network


@pytest.mark.parametrize("slow", [False, True])
def test_a_row_that_is_left_over_goes_the_way_that_took_less_time(slow: bool) -> None:
    network = object.__new__(_Network)
    network._streams, network._one_by_one = 2, False
    network._shared = lambda *_: None  # type: ignore[assignment]
    tried: list[int] = []

    def run(rows: int) -> None:
        tried.append(rows)
        time.sleep(0.005 if network._left_alone is slow else 0.0)

    network.settle(run)

    assert network._left_alone is not slow
    assert set(tried) == {3}


def test_a_batch_of_any_size_gets_the_answers_of_its_images(
    openvino_engine: Manifest, images: npt.NDArray[np.uint8]
) -> None:
    engine = load_engine(openvino_engine.path, threads=2)
    rows = np.concatenate([images, images[::-1]])
    alone = np.concatenate([engine(rows[index : index + 1]) for index in range(len(rows))])
    for size in range(1, len(rows) + 1):
        assert np.abs(engine(rows[:size]) - alone[:size]).max() < 1e-5
