"""Intervals of shares of images: figures from the tables of Wilson's and Newcombe's methods."""

import pytest

from rrrnet.proportions import changed, difference, proportion

ALPHA = 0.05


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (8, 10, 0.4902, 0.9433), (256, 256, 0.9852, 1.0), (0, 20, 0.0, 0.1611)],
)
def test_the_interval_of_a_share_is_wilsons(hits: int, images: int, low: float, high: float) -> None:
    found = proportion(hits, images, ALPHA)
    assert found == pytest.approx((hits / images, low, high), abs=1e-4)
    assert (found.low == 0, found.high == 1) == (hits == 0, hits == images)  # rounding leaves no 1e-17


def test_the_interval_of_a_difference_between_shares_of_different_images_is_newcombes() -> None:
    found = difference((56, 70), (48, 80), ALPHA)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert str(found) == "0.200 (0.052 to 0.334)"


def test_the_interval_of_a_difference_on_the_same_images_is_agresti_and_mins() -> None:
    """From their formula."""
    same = changed(0, 0, 256, ALPHA)
    assert (same.value, same.high) == pytest.approx((0.0, 0.0076), abs=1e-4)
