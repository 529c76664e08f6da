"""The one number of benchmarks/method/embed.py."""

import numpy as np

from rrrbench.neighbours import nearest_alike, pixels_of


def test_the_nearest_other_vector_is_by_angle_and_never_the_vector_itself() -> None:
    vectors = np.array([[1, 0], [9, 1], [0, 1], [1, 9]], np.float32)
    assert nearest_alike(vectors, np.array([0, 0, 1, 1])) == 1
    assert nearest_alike(vectors, np.array([0, 1, 0, 1])) == 0


def test_pixels_are_compared_without_their_brightness() -> None:
    dark = np.zeros((1, 2, 2, 3), np.uint8)
    dark[0, 0] = 10
    (one, other) = pixels_of(np.concatenate([dark, dark + 100]))
    assert np.allclose(one, other)
