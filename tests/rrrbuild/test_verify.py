import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.heldout import HeldOut
from rrrbuild.manifest import BatchRange
from rrrbuild.plan_runner import Embeddings, Probabilities, WithEmbedding
from rrrbuild.targets import TARGETS
from rrrbuild.verify import compare, run_all, run_all_embedding
from rrrnet.errors import CheckFailedError

FP32, BF16 = TARGETS["openvino-fp32"], TARGETS["openvino-bf16"]


@pytest.fixture
def reference() -> Probabilities:
    """400 images, 2 members, 4 classes; the label of image n is n % 4 with 0.7."""
    rows = np.full((400, 2, 4), 0.1, np.float32)
    rows[np.arange(400), :, np.arange(400) % 4] = 0.7
    return rows


def held_out(count: int = 400) -> HeldOut:
    return HeldOut(np.zeros((count, 32, 32, 3), np.uint8), np.arange(count) % 4, "test split of squares")


def flipped(reference: Probabilities, count: int) -> Probabilities:
    """The first `count` images get the next class."""
    found = reference.copy()
    found[:count] = np.roll(found[:count], 1, axis=2)
    return found


def test_equal_outputs_are_verified_with_zero_error_and_both_accuracies(reference: Probabilities) -> None:
    result = compare(reference, reference, held_out(), FP32, max_drop=0.5)

    assert result["max_abs_error"] == result["max_relative_error"] == result["mean_abs_error"] == 0
    assert result["label_agreement"] == result["accuracy"] == result["reference_accuracy"] == 1
    assert result["images"] == 400
    assert result["source"] == "test split of squares"


def test_errors_are_the_largest_absolute_relative_and_the_mean(reference: Probabilities) -> None:
    found = reference.copy()
    found[0, 0, 0] += 0.0005

    result = compare(found, reference, held_out(), FP32, max_drop=0.5)

    assert result["max_abs_error"] == pytest.approx(0.0005, rel=1e-3)
    assert result["max_relative_error"] == pytest.approx(0.0005 / 0.7, rel=1e-3)
    assert result["mean_abs_error"] == pytest.approx(0.0005 / 800, rel=1e-3)


def test_nan_is_reported_first_with_the_number_of_images(reference: Probabilities) -> None:
    found = reference.copy()
    found[3:5, 1, 2] = np.nan

    with pytest.raises(CheckFailedError, match="NaN or infinity on 2 of 400 images"):
        compare(found, reference, held_out(), FP32, max_drop=0.5)


def test_another_shape_is_refused(reference: Probabilities) -> None:
    with pytest.raises(CheckFailedError, match=r"\(400, 1, 4\), PyTorch's has \(400, 2, 4\)"):
        compare(reference[:, :1], reference, held_out(), FP32, max_drop=0.5)


def test_one_probability_outside_the_tolerance_is_refused_with_both_numbers(reference: Probabilities) -> None:
    found = reference.copy()
    found[0, 0, 0] += 0.002

    with pytest.raises(CheckFailedError, match=r"by 0\.002 on 400 images; allowed is 0\.001"):
        compare(found, reference, held_out(), FP32, max_drop=0.5)


def test_a_small_error_everywhere_is_refused(reference: Probabilities) -> None:
    with pytest.raises(CheckFailedError, match=r"on average over 400 images; allowed is 0\.05"):
        compare(reference + np.float32(0.06), reference, held_out(), BF16, max_drop=0.5)


def test_labels_that_differ_on_more_images_than_allowed_are_refused(reference: Probabilities) -> None:
    near = np.full_like(reference, 0.25)
    near[:, :, 0] += 0.04
    found = near.copy()
    found[:9, :, 1] += 0.08

    with pytest.raises(CheckFailedError, match=r"97\.75% of 400 labels .* at least 98\.00%"):
        compare(found, near, held_out(), BF16, max_drop=100)


def test_lost_accuracy_is_refused_beyond_max_drop(reference: Probabilities) -> None:
    near = reference * 0 + np.float32(0.25)
    near[np.arange(400), :, np.arange(400) % 4] += 0.04
    found = flipped(near, 3)

    assert compare(found, near, held_out(), BF16, max_drop=0.75)["accuracy"] == pytest.approx(397 / 400)
    with pytest.raises(CheckFailedError, match=r"falls by 0\.75 percentage points .* allowed is 0\.50"):
        compare(found, near, held_out(), BF16, max_drop=0.5)


def test_one_flipped_image_of_a_small_set_is_no_reason_to_refuse() -> None:
    near = np.full((10, 1, 4), 0.25, np.float32)
    near[np.arange(10), :, np.arange(10) % 4] += 0.04

    assert compare(flipped(near, 1), near, held_out(10), BF16, max_drop=0.5)["label_agreement"] == pytest.approx(0.9)
    with pytest.raises(CheckFailedError, match=r"80\.00% of 10 labels"):
        compare(flipped(near, 2), near, held_out(10), BF16, max_drop=0.5)


def test_every_batch_size_of_the_range_is_run_and_no_image_is_lost() -> None:
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    sizes: list[int] = []

    def runner(part: npt.NDArray[np.uint8]) -> Probabilities:
        sizes.append(len(part))
        return part.astype(np.float32)

    assert np.array_equal(run_all(runner, images, BatchRange(1, 3, 8)).ravel(), np.arange(20))
    assert sizes == [1, 3, 8, 8]
    sizes.clear()
    assert run_all(runner, images[:2], BatchRange(1, 3, 8)).shape == (2, 1, 1, 1)
    assert sizes == [1, 1]


def test_embeddings_come_from_the_calls_that_give_the_probabilities() -> None:
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    sizes: list[int] = []

    def both(part: npt.NDArray[np.uint8]) -> tuple[Probabilities, Embeddings]:
        sizes.append(len(part))
        return part.astype(np.float32), -part[:, :, 0, 0].astype(np.float32)

    probabilities, embeddings = run_all_embedding(WithEmbedding(both), images, BatchRange(1, 3, 8))

    assert sizes == [1, 3, 8, 8]
    assert np.array_equal(probabilities.ravel(), np.arange(20))
    assert np.array_equal(embeddings, -np.arange(20)[:, None])


def test_a_label_that_pytorch_itself_hardly_prefers_is_a_tie_and_no_error() -> None:
    reference = np.full((400, 1, 4), 0.25, np.float32)
    reference[:, :, 0] += 0.004
    found = np.full((400, 1, 4), 0.25, np.float32)
    found[:, :, 1] += 0.004

    result = compare(found, reference, held_out(), BF16, max_drop=0.5)

    assert (result["label_agreement"], result["ties"]) == (0.0, 400)
