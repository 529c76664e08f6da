"""The bar of a training, which knows when there is work that a signal has to wait for."""

from rrrnet.stopping import Stopping
from rrrnet.training.bar import training_bar
from rrrnet.training.training_state import Progress


def test_a_signal_waits_from_the_first_step_to_the_end_of_the_bar() -> None:
    requested, seen = Stopping(), list[bool]()
    with training_bar(requested, reads_images=True) as (started, report):
        started(1, 2)
        seen.append(requested.running)
        report(Progress(step=1), 2)
        seen.append(requested.running)
    assert [*seen, requested.running] == [False, True, False]
