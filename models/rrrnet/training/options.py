"""What a training is asked for, checked before anything is read."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrrnet.data.dataset import MAX_PIXELS
from rrrnet.data.training_data import DataOptions
from rrrnet.errors import UsageError
from rrrnet.images.preprocess_options import PreprocessOptions, choose_preprocess
from rrrnet.names import is_text
from rrrnet.network import architecture as shapes
from rrrnet.network.branches import SLICES, Slices
from rrrnet.training.balance import BALANCES
from rrrnet.training.devices import find_device
from rrrnet.training.recipes import AUGMENTATIONS, METHODS, Method, find_recipe
from rrrnet.training.teacher import check_teacher
from rrrnet.weights.importing import check_no_data
from rrrnet.weights.pretrained import check_source

_MOST_MINUTES = 7 * 24 * 60
_PRECISIONS = ("auto", "fp32", "bf16")
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Options:
    """What `rrr train` is asked for; see its help for the meaning of each."""

    data: Path | None
    out: Path
    method: Method = "ensemble"
    members: int = 8
    aligned: bool = False
    slices: Slices = "first"
    weights: str = "imagenet"
    weights_given: bool = True
    weights_key: str | None = None
    backbone: str | None = None
    labels: Path | None = None
    recipe: str = "quick"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    augmentation: str | None = None
    size: int | None = None
    minutes: float | None = None
    balance: str = "none"
    early_stopping: bool = True
    teacher: Path | None = None
    teacher_temperature: float | None = None
    teacher_weight: float | None = None
    unlabelled: Path | None = None
    preprocess: PreprocessOptions = field(default_factory=PreprocessOptions)
    max_pixels: int = MAX_PIXELS
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    license: str | None = None
    command: str = "rrr train"
    data_options: DataOptions = field(default_factory=DataOptions)

    def __post_init__(self) -> None:
        most = shapes.MAX_MEMBERS
        for wrong, says in (
            (self.method not in METHODS, f"method {self.method}: no such method; allowed are {', '.join(METHODS)}"),
            (self.epochs is not None and self.epochs < 0, f"epochs {self.epochs}: allowed are 0 and more"),
            (
                self.batch_size is not None and self.batch_size < 2,
                f"batch-size {self.batch_size}: BN needs at least 2 images",
            ),
            (self.lr is not None and not 0 < self.lr < 1, f"lr {self.lr}: allowed is a number between 0 and 1"),
            (self.precision not in _PRECISIONS, f"precision {self.precision}: allowed are {', '.join(_PRECISIONS)}"),
            (self.device not in _DEVICES, f"device {self.device}: allowed are {', '.join(_DEVICES)}"),
            (self.max_pixels < 1, f"max-pixels {self.max_pixels}: allowed are 1 and more"),
            (
                self.minutes is not None and not 0 < self.minutes <= _MOST_MINUTES,
                f"minutes {self.minutes}: allowed is a number above 0, of at most {_MOST_MINUTES} (a week)",
            ),
            (
                self.minutes is not None and self.epochs is not None,
                f"minutes {self.minutes} chooses the epochs: leave out --minutes or --epochs {self.epochs}",
            ),
            (
                self.augmentation not in (None, *AUGMENTATIONS),
                f"augmentation {self.augmentation}: no such one; allowed are {', '.join(AUGMENTATIONS)}",
            ),
            (
                self.balance not in BALANCES,
                f"balance {self.balance}: no such way; allowed are {', '.join(BALANCES)}",
            ),
            (self.slices not in SLICES, f"slices {self.slices}: no such ones; allowed are {', '.join(SLICES)}"),
            (
                not 1 <= self.members <= most,
                f"members {self.members}: members is {self.members}, allowed are 1 to {most}",
            ),
            (
                self.license is not None and not (self.license.strip() and is_text(self.license)),
                f"license {self.license!r}: allowed is a word that the hub knows, like apache-2.0, mit or other",
            ),
            (not 0 <= self.seed < 2**32, f"seed {self.seed}: allowed are 0 to {2**32 - 1}"),
        ):
            if wrong:
                raise UsageError(f"--{says}")
        if self.backbone is not None:
            shapes.check_backbone_name(self.backbone)
        choose_preprocess(self.preprocess, self.size)
        find_recipe(self.recipe)
        check_source(self.weights, key=self.weights_key)
        check_no_data(self)
        check_teacher(self)
        find_device(self.device)

    def settings(self) -> dict[str, Any]:
        """What a resumed training must have in common with the stopped one."""
        left_out = (
            *("data", "out", "labels", "resume", "overwrite", "command", "precision", "device"),
            *("teacher", "teacher_temperature", "teacher_weight", "unlabelled"),  # see `teacher.settings`
            *("data_options", "preprocess", "max_pixels", "weights_given", "backbone"),
        )
        own = {key: value for key, value in asdict(self).items() if key not in left_out}
        return own | asdict(self.preprocess) | self.data_options.settings()
