"""What conv1's edge filters are worth from scratch: the same short training with and without them, several seeds.

    .venv/bin/python benchmarks/edge_filters.py

trains the reduced network (one member) on 20 x 200 generated letters of 64 pixels and writes
benchmarks/results/edge_filters.json, which docs/training.md quotes. Some minutes on 2 cores.
"""

import argparse
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from rrrnet import architecture as shapes
from rrrnet.dataset import load_arrays, select, split_dataset
from rrrnet.edges import start_from_edges
from rrrnet.ensemble import RRRNet, normalise
from rrrnet.glyph_options import GlyphOptions
from rrrnet.glyphs import generate_glyphs
from rrrnet.metrics import score
from rrrnet.preprocess import Preprocess, Uint8Array
from rrrnet.recipes import RECIPES
from rrrnet.train import Int64Array, Plan, Training

OUT = Path(__file__).parent / "results" / "edge_filters.json"
SIZE = 64


def accuracy(parts: dict[str, tuple[Uint8Array, Int64Array]], seed: int, epochs: int, *, edges: bool) -> float:
    """Test accuracy of one training."""
    torch.manual_seed(seed)
    model = RRRNet(shapes.reduced(20))
    if edges:
        start_from_edges(model)
    plan = Plan(replace(RECIPES["quick"], epochs=epochs), epochs, seed, (), Preprocess(SIZE), "cpu", True)
    training = Training(model, plan, *parts["train"])
    training.run(lambda _progress, _steps: None, lambda: False)
    network = training.result().eval()
    images, labels = parts["test"]
    with torch.inference_mode():
        batches = [
            network(normalise(torch.from_numpy(images[i : i + 100]), plan.preprocess)) for i in range(0, 1000, 100)
        ]
    return float(score(torch.cat(batches).softmax(2).numpy(), labels[:1000])["accuracy"])


def main() -> None:
    """Train all, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4, help="passes over the 2 000 training images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = generate_glyphs(Path(folder) / "letters", GlyphOptions(per_class=200))
        split = dict(zip(images.files, split_dataset(images, seed=0), strict=True))
        parts = {
            "train": load_arrays(select(images, split, "train"), Preprocess(SIZE)),
            "test": load_arrays(select(images, split, "test"), Preprocess(SIZE)),
        }
    # The test set is in the order of the classes: its first 1 000 images must not be half of them.
    order = np.random.default_rng(0).permutation(len(parts["test"][1]))
    parts["test"] = (parts["test"][0][order], parts["test"][1][order])
    found: dict[str, list[float]] = {"random": [], "edges": []}
    for seed in track(range(arguments.seeds), "training"):
        for name, values in found.items():  # in turns, so that a noisy machine meets both alike
            values.append(accuracy(parts, seed, arguments.epochs, edges=name == "edges"))
    result = {
        "images_seen": 2000 * arguments.epochs,
        "image_size": SIZE,
        "test_images": 1000,
        "test_accuracy": found,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    for name, values in found.items():
        print(f"conv1 from {name}: test accuracy {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
