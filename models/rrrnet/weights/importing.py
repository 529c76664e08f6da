"""`rrr train --method full --epochs 0 --labels FILE` without `--data`: a network of elsewhere, as it is."""

import platform
from typing import TYPE_CHECKING

import torch

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, write_checkpoint
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network import architecture as shapes
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.weights.start import Origin, Say, start

if TYPE_CHECKING:
    from rrrnet.training.options import Options


def check_no_data(options: "Options") -> None:
    """Require `--data` of all but an import.

    Raises:
        UsageError: there is no `--data`, and no whole network and labels instead.
    """
    if options.data is not None:
        return
    whole = options.method in ("full", "head") and options.weights not in ("none", "imagenet")
    if not whole or options.epochs != 0 or options.labels is None:
        raise UsageError(
            "--data is missing: give the folder of the images; only an import may leave it out: "
            "--method full --epochs 0 --weights FILE --labels FILE"
        )


def import_network(options: "Options", labels: tuple[str, ...], preprocess: Preprocess, say: Say) -> Checkpoint:
    """Write a checkpoint of the network in `options.weights`, which never saw data here: no split and no accuracy.

    Raises:
        UsageError, ArtifactError, NoSpaceError: see the message.
    """
    model = RRRNet(shapes.full(len(labels), backbone=options.backbone or shapes.DEFAULT_BACKBONE))
    origin, fresh = start(model, Origin(options.weights, options.weights_key, labels, True, False, preprocess), say)
    say("no --data: the accuracy is not known; rrr build will verify engines on made images")
    checkpoint = Checkpoint(
        path=options.out.absolute(),
        name=options.out.absolute().name,
        method=options.method,
        architecture=model.architecture,
        labels=labels,
        preprocess=preprocess,
        training={
            "complete": True,
            "data": None,
            "split": None,
            "recipe": None,
            "epochs": 0,
            "epochs_done": 0,
            "seed": options.seed,
            "frozen": [],
            "weights": {"origin": origin, "fresh_tensors": fresh},
            "device": "cpu",
            "mixed_precision": False,
            "metrics": {},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        },
        command=options.command,
    )
    with sealed.staged(options.out, document=DOCUMENT) as folder:
        write_checkpoint(checkpoint, dict(export_weights(model)), folder)
    return checkpoint
