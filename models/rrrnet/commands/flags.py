"""Flags that several commands have: of the data that a network learns from."""

from pathlib import Path
from typing import Annotated

import typer

TestData = Annotated[Path | None, typer.Option(help="A second data folder, of the same classes, to test on.")]
Groups = Annotated[
    str | None, typer.Option(help="Column of labels.csv: images with the same cell stay on one side of the split.")
]
MinPerClass = Annotated[int | None, typer.Option(help="Drop classes with fewer usable images.")]
