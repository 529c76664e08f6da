"""Generate a data set of distorted printed letters in Meta-Album layout, in the manner of OmniPrint.

`images/` holds the pictures, `labels.csv` the class (code point), script, font and every factor of each, `info.json`
Meta-Album's description, `glyphs.json` the options, versions and command that make it again.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rrrnet import __version__
from rrrnet.data.dataset import ImageSet, read_dataset
from rrrnet.data.labels_csv import IMAGES, LABELS
from rrrnet.data.layout import INFO
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.glyphs.picture import render_glyph
from rrrnet.sealed import staged

DOCUMENT = "glyphs.json"
FORMAT_VERSION = 1
_PACKAGES = ("numpy", "pillow", "matplotlib")  # another version of one may change pixels


def generate_glyphs(out: Path, options: GlyphOptions, *, progress: Callable[[int], None] | None = None) -> ImageSet:
    """Write a data set to `out`, which appears complete or not at all, and read it back.

    Args:
        out: the folder; one that holds an earlier generated data set is replaced.
        options: what to generate.
        progress: called after each picture with the number of pictures so far.

    Raises:
        UsageError: `out` holds something else.
        IncompatibleError: matplotlib (its fonts) is missing.
        NoSpaceError: the disk is full; `out` is as it was.
    """
    with staged(out, document=DOCUMENT) as folder:
        (folder / IMAGES).mkdir()
        rows = []
        for letter, script in options.letters():
            for index in range(options.per_class):
                name = f"{script}_{ord(letter):04X}_{index:04d}.jpg"
                image, factors = render_glyph(letter, options, index)
                image.save(folder / IMAGES / name, quality=92, subsampling=0)
                category = f"U+{ord(letter):04X}"
                rows.append({"FILE_NAME": name, "CATEGORY": category, "SUPER_CATEGORY": script.title(), **factors})
                if progress is not None:
                    progress(len(rows))
        with (folder / LABELS).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        _write_json(folder / INFO, _info(options))
        _write_json(folder / DOCUMENT, _document(out, options))
    return read_dataset(out)


def _info(options: GlyphOptions) -> dict[str, Any]:
    """Meta-Album's info.json."""
    scripts = list(dict.fromkeys(script for _, script in options.letters()))
    return {
        "dataset_name": f"rrr_glyphs_{'_'.join(scripts) if len(scripts) <= 3 else 'mixed'}",
        "dataset_description": (
            f"Printed {', '.join(script.title() for script in scripts)} characters in the manner of OmniPrint: random "
            f"font, rotation +-{options.rotation:g} degrees, shear +-{options.shear:g}, jittered shape, perspective, "
            "translation, random colours and backgrounds. Meta-Album layout."
        ),
        "total_categories": options.classes,
        "total_super_categories": len(scripts),
        "uniform_number_of_images_per_category": True,
        "minimum_images_per_category": options.per_class,
        "median_images_per_category": float(options.per_class),
        "maximum_images_per_category": options.per_class,
        "has_super_categories": True,
        "image_column_name": "FILE_NAME",
        "category_column_name": "CATEGORY",
        "super_category_column_name": "SUPER_CATEGORY",
    }


def _document(out: Path, options: GlyphOptions) -> dict[str, Any]:
    """How to make it again; also the mark by which a folder is known as generated and may be replaced."""
    return {
        "format_version": FORMAT_VERSION,
        "command": options.command(out),
        "options": asdict(options),
        "versions": {"rrr": __version__, **{name: version(name) for name in _PACKAGES}},
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
