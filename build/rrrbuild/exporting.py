"""Checkpoint to an ONNX file for other programs, which is written once ONNX Runtime answers by it as PyTorch does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrrbuild import lazy, machine
from rrrbuild.heldout import held_out_images
from rrrbuild.job import Report
from rrrnet.checkpoint import read_checkpoint
from rrrnet.errors import CheckFailedError, UsageError, reporting_full_disk
from rrrnet.files import check_writable, write_atomically

TOLERANCE = 1e-4  # of a probability; both compute in FP32
DEFAULT_IMAGES = 32


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: of it.
        verified: number and source of the `images` it was compared on, `max_abs_error` and `tolerance`.
        metadata: its `metadata_props`.
        opset: of its operators.
        output_shape: of its answers, -1 for N.
    """

    path: Path
    verified: dict[str, Any]
    metadata: dict[str, str]
    opset: int
    output_shape: tuple[int, ...]


def export_model(
    checkpoint_path: Path,
    out: Path,
    *,
    members: bool = False,
    license_: str | None = None,
    data: Path | None = None,
    images: int = DEFAULT_IMAGES,
    overwrite: bool = False,
    report: Report = lambda _: None,
) -> Exported:
    """Export, compare with PyTorch and write; nothing is written if any step fails.

    Args:
        checkpoint_path: what to export.
        out: the file, which ends with .onnx.
        members: whether it answers with each member's probabilities, (N, M, C), and not their mean, (N, C).
        license_: what its metadata name as licence; None is what the training was given.
        data: images to compare on; None is those that the checkpoint remembers, made ones where these are gone.
        images: the most to compare on.
        overwrite: whether a file at `out` is replaced.
        report: is told each step in words.

    Raises:
        UsageError: `out` cannot be written or is there, or there are no images in `data`.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: a package is missing.
        CheckFailedError: ONNX Runtime answers otherwise than PyTorch.
    """
    if out.suffix != ".onnx":
        raise UsageError(f"--out is {out}: name a file that ends with .onnx")
    check_writable(out, option="--out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: replace it with --overwrite, or choose another --out")
    if images < 1:
        raise UsageError(f"--images is {images}: at least 1 is needed")
    checkpoint = read_checkpoint(checkpoint_path)
    for package, extra in (("onnx", "build"), ("onnxruntime", "build"), ("torch", "train")):
        machine.require(package, extra=extra)
    report(f"exporting {checkpoint.name} to ONNX")
    license_ = license_ or checkpoint.training.get("license")
    model, metadata, opset = lazy.onnx_file(checkpoint, members=members, license_=license_)
    held_out = held_out_images(checkpoint, data, limit=images, or_made=True)
    report(f"comparing ONNX Runtime with PyTorch on {len(held_out.images)} images ({held_out.source})")
    reference = lazy.predictor(checkpoint)(held_out.images)
    expected = reference if members else reference.mean(axis=1)
    found = lazy.onnx_answers(model, held_out.images)
    error = float(np.abs(found - expected).max())
    if not error <= TOLERANCE:  # NaN too
        raise CheckFailedError(
            f"a probability of the ONNX file differs from PyTorch's by {error:.3g} on {len(found)} images; allowed is "
            f"{TOLERANCE:g}; nothing was written"
        )
    with reporting_full_disk(out):
        write_atomically(out, model)
    verified = {
        "images": len(found),
        "source": held_out.source,
        "max_abs_error": error,
        "tolerance": TOLERANCE,
    }
    return Exported(out, verified, metadata, opset, (-1, *found.shape[1:]))
