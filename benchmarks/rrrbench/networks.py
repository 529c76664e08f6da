"""Networks to be timed: checkpoints with random weights and their engines, kept in a cache under artifacts/.

The weights do not change the speed: convolution takes as long for any numbers, provided they are neither denormal nor
infinite, which BN statistics estimated from the images see to. To time a trained network, put its checkpoint into the
cache under the name of the random one.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from rrrbuild.build import build_engine
from rrrbuild.engine import Engine, load_engine
from rrrbuild.manifest import MANIFEST, BatchRange
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.data.dataset import load_arrays, read_dataset, select, split_dataset, write_split
from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.images.preprocess import Preprocess
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import BACKBONES, Architecture
from rrrnet.network.edges import start_from_edges
from rrrnet.network.ensemble import RRRNet, export_weights, normalise

CACHE = Path("artifacts/benchmarks")
CLASSES = 20
_STATISTICS_IMAGES, _STATISTICS_PIXELS = 64, 64
# Random weights are nearly indifferent between the classes: labels and accuracy say nothing about an engine's speed.
_MAX_DROP = 100.0


def architecture_named(name: str, *, tiny: bool = False) -> Architecture:
    """The network of a name; `tiny` has a few channels, for a smoke test."""
    members = 1 if name in BACKBONES else int(name.removeprefix("members-"))
    if tiny:
        return Architecture(4, shapes.REDUCED_BLOCKS, members, (8, 8))
    return shapes.full(CLASSES, backbone=name) if name in BACKBONES else shapes.ensemble(CLASSES, members)


class Networks:
    """Checkpoints and engines by name and image size, made when first asked for."""

    def __init__(self, cache: Path = CACHE, *, tiny: bool = False, largest_batch: int = 32) -> None:
        """Nothing is made yet.

        Args:
            cache: the folder.
            tiny: few channels, for a smoke test.
            largest_batch: of the engines; larger ones are run in parts, as everywhere.
        """
        self.cache = cache
        self._tiny = tiny
        self._largest_batch = largest_batch

    def data(self) -> Path:
        """Generated letters: they set BN statistics, and INT8 is calibrated on them."""
        folder = self.cache / "letters"
        if not (folder / "labels.csv").is_file():
            classes, per_class = (4, 16) if self._tiny else (CLASSES, 40)
            generate_glyphs(folder, GlyphOptions(classes=classes, per_class=per_class, size=128))
        return folder

    def jpegs(self, pixels: int) -> list[bytes]:
        """Some JPEG files of so many pixels, to be sent to services."""
        folder = self.cache / f"jpegs-{pixels}"
        if not (folder / "labels.csv").is_file():
            generate_glyphs(folder, GlyphOptions(classes=8, per_class=4, size=pixels, seed=1))
        return [path.read_bytes() for path in sorted((folder / "images").iterdir())]

    def checkpoint(self, name: str, pixels: int) -> Checkpoint:
        """The checkpoint of a network for one image size."""
        folder = self.cache / str(pixels) / name
        if not (folder / DOCUMENT).is_file():
            self._make(name, pixels, folder)
        return read_checkpoint(folder)

    def engine_folder(self, name: str, pixels: int, target: str) -> Path:
        """The engine of a network, built and verified by `rrr build`'s own steps if it is not there yet."""
        folder = self.cache / str(pixels) / f"{name}.{target}.{self._largest_batch}"
        if not (folder / MANIFEST).is_file():
            checkpoint = self.checkpoint(name, pixels)
            print(f"building {name}, {pixels} px, {target}", flush=True)
            build_engine(
                checkpoint.path,
                target,
                batch=BatchRange(1, 8, self._largest_batch),
                images=32,
                max_drop=_MAX_DROP,
                out=folder,
            )
        return folder

    def engine(self, name: str, pixels: int, target: str) -> Engine:
        """The loaded engine."""
        return load_engine(self.engine_folder(name, pixels, target))

    def forget_engines(self) -> None:
        """Remove all engines, so that they are built anew; checkpoints stay."""
        for manifest in self.cache.glob(f"*/*/{MANIFEST}"):
            shutil.rmtree(manifest.parent)

    def _make(self, name: str, pixels: int, folder: Path) -> None:
        images = read_dataset(self.data())
        parts = split_dataset(images, seed=0, val_fraction=0)
        train = select(images, dict(zip(images.files, parts, strict=True)), "train")
        every = max(1, len(train.files) // _STATISTICS_IMAGES)
        train = replace(train, files=train.files[::every], labels=train.labels[::every])
        arrays, _ = load_arrays(train, Preprocess(_STATISTICS_PIXELS))
        torch.manual_seed(0)
        model = RRRNet(architecture_named(name, tiny=self._tiny))
        start_from_edges(model)
        _set_statistics(model, normalise(torch.from_numpy(arrays), Preprocess(_STATISTICS_PIXELS)))
        checkpoint = Checkpoint(
            path=folder.absolute(),
            name=name,
            method="full" if name in BACKBONES else "ensemble",
            architecture=model.architecture,
            labels=images.classes,
            preprocess=Preprocess(pixels),
            training={
                "complete": True,
                "data": {"name": images.name, "path": str(images.root), "sha256": images.sha256},
                "weights": {"origin": "none: random", "fresh_tensors": 0},
            },
            command="benchmarks: random weights",
        )
        with sealed.staged(folder, document=DOCUMENT) as stage:
            write_split(stage / SPLIT, images, parts)
            write_checkpoint(checkpoint, dict(export_weights(model)), stage)


def _set_statistics(model: RRRNet, images: torch.Tensor) -> None:
    """BN statistics from one batch (N, 3, H, W), so that activations stay near 1 in every layer."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(images)
    model.eval()
