"""A network with random weights to be timed: it answers every image alike, so that no gate on labels meets chance."""

import shutil
from pathlib import Path

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, read_checkpoint, read_weights, write_checkpoint

_CLASSIFIER = ("fc.weight", "fc.bias")
# So small that all probabilities are alike, which verification takes for ties; not zero, of which INT8 has no range.
_SMALL = 1e-3


def make_indifferent(path: Path) -> None:
    """Shrink the classifiers of the checkpoint at `path`.

    Random answers depend on every rounding: INT8 would be refused, or be given a slower form, for no reason.
    """
    checkpoint = read_checkpoint(path)
    weights = {
        name: array * _SMALL if name.endswith(_CLASSIFIER) else array
        for name, array in read_weights(checkpoint).items()
    }
    with sealed.staged(path, document=DOCUMENT) as folder:
        shutil.copyfile(path / SPLIT, folder / SPLIT)
        write_checkpoint(checkpoint, weights, folder)
