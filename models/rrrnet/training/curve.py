"""The learning curve of a training, as csv for programs and png for people."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

CSV_NAME = "learning_curve.csv"
PNG_NAME = "learning_curve.png"
COLUMNS = ("epoch", "loss", "train_accuracy", "val_accuracy", "seconds")


def write_curve(
    folder: Path, name: str, history: Sequence[Mapping[str, float | None]], test_accuracy: float | None
) -> None:
    """Write `learning_curve.csv` and `learning_curve.png` into `folder`.

    Args:
        folder: where.
        name: the network's name, for the title.
        history: one row for each epoch, with `COLUMNS`; `val_accuracy` is None where it was not measured.
        test_accuracy: of the finished network, drawn as a line; None if it was not measured.
    """
    with (folder / CSV_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)
    if not history:
        return
    from matplotlib.figure import Figure

    epochs = [float(row["epoch"] or 0) for row in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss_axis = figure.subplots()
    loss_axis.plot(epochs, [float(row["loss"] or 0) for row in history], color="#b3442e", label="loss, mean of members")
    loss_axis.set(xlabel="epoch", ylabel="cross-entropy (nats)", title=f"{name}: training", ylim=(0, None))
    accuracy_axis = loss_axis.twinx()
    for column, style, label in (
        ("train_accuracy", ":", "accuracy on augmented training images, mean of members"),
        ("val_accuracy", "-", "accuracy on validation images, ensemble"),
    ):
        known = [
            (epoch, 100 * value)
            for epoch, row in zip(epochs, history, strict=True)
            if (value := row[column]) is not None
        ]
        if known:
            accuracy_axis.plot(
                [at for at, _ in known], [value for _, value in known], style, color="#2a6f97", label=label
            )
    if test_accuracy is not None:
        label = f"ensemble on test images: {100 * test_accuracy:.1f} %"
        accuracy_axis.axhline(100 * test_accuracy, color="#2a6f97", linestyle="--", linewidth=1, label=label)
    accuracy_axis.set(ylabel="accuracy (%)", ylim=(0, 101))
    lines = [*loss_axis.get_lines(), *accuracy_axis.get_lines()]
    figure.legend(handles=lines, loc="outside lower center", frameon=False, fontsize=8, ncols=1)
    figure.savefig(folder / PNG_NAME, dpi=120)
