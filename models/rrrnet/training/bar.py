"""The progress bar of a training: what `fit` tells, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rrrnet import output
from rrrnet.stopping import Stopping

if TYPE_CHECKING:
    from rrrnet.training.train import Report
    from rrrnet.training.training_state import Progress


@contextmanager
def training_bar(
    requested: Stopping | None = None, *, reads_images: bool
) -> "Iterator[tuple[Callable[[int, int], None], Report]]":
    """Show a bar while the block runs; gives `started` and `report` as `fit` calls them.

    Args:
        requested: is `running` from the first step to the end of the block.
        reads_images: whether there is a data set; without one a network is imported.
    """
    with output.progress_bar() as bar:
        doing, reading = ("training", "reading images") if reads_images else ("importing", "reading weights")
        task = bar.add_task(doing, total=None, text=reading)

        def started(epochs: int, steps: int) -> None:
            bar.update(task, total=epochs * steps, text="")

        def report(progress: "Progress", steps: int) -> None:
            if requested:
                requested.running = True
            text = f"epoch {progress.epoch + 1}  loss {progress.loss:.3f}  accuracy {progress.accuracy:.3f}"
            if progress.val_accuracy is not None:
                text += f"  val {progress.val_accuracy:.3f}"
            bar.update(task, completed=progress.epoch * steps + progress.step, text=text)

        try:
            yield started, report
        finally:
            if requested:
                requested.running = False
