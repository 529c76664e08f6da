"""What it saves to decode JPEGs at 1/2, 1/4 or 1/8 of their size, and what it does to pixels and labels.

.venv/bin/python benchmarks/decoding.py
.venv/bin/python benchmarks/decoding.py --table     # the tables of docs/tuning.md from the result file

libjpeg-turbo can leave out the high frequencies of each 8 x 8 block (DCT scaling). `full` decodes all of them; `at
least 2x` is `rrrnet.preprocess` with `jpeg_oversize=2`: the smallest scale that leaves twice the network's height and
width to be resized. The yardstick is the change that JPEG's own losses make to the same resized image.

Photos are drawn: noise of the 1/f spectrum of natural images, hard edges and a sensor's noise. Letters are drawn large,
and read by the trained networks of the cache (random ones if there are none).
"""

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.turns import median_interval, ratio, take_turns
from rrrnet.glyph_options import GlyphOptions
from rrrnet.glyph_picture import render_glyph
from rrrnet.preprocess import Preprocess, Uint8Array, image_to_array, to_array

PHOTOS: Sequence[tuple[int, int]] = ((224, 224), (500, 375), (640, 480), (1024, 768), (1920, 1080), (4032, 3024))
LETTERS: Sequence[int] = (256, 512, 1024)
SECTIONS = ("photos", "letters")
TARGET = "openvino-fp32"
OVERSIZES = (1, 2, 4)
QUALITY = 90  # with Pillow's default of half the chroma resolution, as cameras have it


@cache
def photo(width: int, height: int) -> Image.Image:
    """A picture with a photo's frequencies, edges and noise; the same every time."""
    random = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    spectrum = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    channels = []
    for deviation in (45, 15, 15):  # luminance, and two differences of colour
        phases = np.exp(2j * np.pi * random.random(spectrum.shape))
        field = np.fft.irfft2(spectrum * phases, (height, width))
        channels.append(field * (deviation / field.std()))
    light, red, blue = channels
    pixels = np.stack([light + red, light - (red + blue) / 2, light + blue], axis=2) + 120
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        corners = random.random((3, 2)) * 0.3 + random.random(2) * 0.8
        color = tuple(random.integers(0, 256, 3).tolist())
        draw.polygon([(x * width, y * height) for x, y in corners.tolist()], fill=color)
    noisy = np.asarray(image) + random.normal(0, 3, (height, width, 3)).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def difference(found: Uint8Array, expected: Uint8Array) -> dict[str, float]:
    """Largest and mean absolute difference of pixels, of 255."""
    absolute = np.abs(found.astype(int) - expected)
    return {"max": float(absolute.max()), "mean": float(absolute.mean())}


def ways(pixels: int) -> dict[str, Preprocess]:
    """What is compared, by name; `full` first."""
    sizes = {"full": 0} | {f"{times}x": times for times in OVERSIZES}
    return {name: Preprocess(pixels, jpeg_oversize=times) for name, times in sizes.items()}


def measure_photo(width: int, height: int, pixels: int, seconds: float) -> dict[str, Any]:
    """Times and differences of one picture at one size of the network."""
    original = photo(width, height)
    data = encoded(original)
    calls = {name: partial(image_to_array, data, preprocess) for name, preprocess in ways(pixels).items()}
    arrays = {name: call() for name, call in calls.items()}
    return {
        "kilobytes": len(data) / 1000,
        "scale": {name: preprocess.jpeg_scale(width, height) for name, preprocess in ways(pixels).items()},
        "times_ms": take_turns(calls, seconds=seconds),
        "difference": {name: difference(array, arrays["full"]) for name, array in arrays.items()},
        "jpeg_difference": difference(arrays["full"], to_array(original, Preprocess(pixels))),
    }


@cache
def letters_of(names: tuple[str, ...], size: int, per_class: int) -> list[Image.Image]:
    """Letters of each class, (size, size), none of which was trained on: that was seed 0."""
    options = GlyphOptions(size=size, seed=2)
    characters = [chr(int(name.removeprefix("U+"), 16)) for name in names]
    return [render_glyph(character, options, index)[0] for character in characters for index in range(per_class)]


def measure_letters(networks: Networks, size: int, pixels: int, per_class: int) -> dict[str, Any]:
    """What a network answers to the same letters, decoded in each way and never compressed."""
    engine = networks.engine(ENSEMBLE, pixels, TARGET)
    letters = letters_of(engine.manifest.labels, size, per_class)
    files = [encoded(letter) for letter in letters]
    images = {"uncompressed": [to_array(letter, Preprocess(pixels)) for letter in letters]}
    for name, preprocess in ways(pixels).items():
        images[name] = [image_to_array(data, preprocess) for data in files]
    answers = {name: _probabilities(engine, arrays) for name, arrays in images.items()}
    expected, labels = answers["full"].argmax(1), np.arange(len(letters)) // per_class
    return {
        "images": len(letters),
        "scale": {name: preprocess.jpeg_scale(size, size) for name, preprocess in ways(pixels).items()},
        "accuracy": {name: float((found.argmax(1) == labels).mean()) for name, found in answers.items()},
        "labels_changed": {name: int((found.argmax(1) != expected).sum()) for name, found in answers.items()},
        "probability_change": {name: float(np.abs(found - answers["full"]).max()) for name, found in answers.items()},
        "mean_difference": {name: _mean_difference(arrays, images["full"]) for name, arrays in images.items()},
    }


def _probabilities(engine: Any, images: Sequence[Uint8Array]) -> npt.NDArray[np.float32]:
    """Averaged over the members, shape (N, classes)."""
    return np.concatenate([engine(np.stack(images[at : at + 32])).mean(1) for at in range(0, len(images), 32)])


def _mean_difference(images: Sequence[Uint8Array], expected: Sequence[Uint8Array]) -> float:
    return float(np.mean([difference(*pair)["mean"] for pair in zip(images, expected, strict=True)]))


def tables(document: Mapping[str, Any]) -> str:
    """The result file as two Markdown tables; a cell is empty where nothing would be scaled."""
    names = [f"{times}x" for times in OVERSIZES]
    titles = " | ".join(f"at least {name}" for name in names)
    lines = [f"| photo | network | full | {titles} | JPEG's own change |", "|---" * (4 + len(names)) + "|"]
    for case in document.get("photos", []):
        full = case["times_ms"]["full"]
        cells = [case["source"], f"{case['pixels']}", f"{median_interval(full).value:.1f} ms"]
        for name in names:
            faster = ratio(full, case["times_ms"][name]).text(2, "x")
            text = f"1/{case['scale'][name]}: {faster}, {_change(case['difference'][name])}"
            cells.append(text if case["scale"][name] > 1 else "")
        lines.append("| " + " | ".join([*cells, _change(case["jpeg_difference"])]) + " |")
    lines += ["", f"| letters | network | full | {titles} | never compressed |", "|---" * (4 + len(names)) + "|"]
    for case in document.get("letters", []):
        cells = [f"{case['images']} of {case['source']}", f"{case['pixels']}", f"{case['accuracy']['full']:.1%}"]
        for name in [*names, "uncompressed"]:
            text = (
                f"{case['accuracy'][name]:.1%}, {case['labels_changed'][name]} labels, "
                f"{case['probability_change'][name]:.3f}, {case['mean_difference'][name]:.2f}"
            )
            cells.append(text if case["scale"].get(name) != 1 else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _change(found: Mapping[str, float]) -> str:
    return f"{found['max']:.0f} / {found['mean']:.2f}"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--pixels", type=int, nargs="+", default=[128, 224], help="sizes of the networks")
    parser.add_argument("--seconds", type=float, default=1.5, help="for the times of each photo")
    parser.add_argument("--per-class", type=int, default=20, help="letters of each class")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of networks")
    parser.add_argument("--out", type=Path, default=RESULTS / "decoding.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few pictures, to see that it runs")
    parser.add_argument("--table", action="store_true", help="only print the tables of --out")
    options = parser.parse_args()
    if options.table:
        print(tables(json.loads(options.out.read_text())))
        return
    photos, letters, sizes = PHOTOS, LETTERS, options.pixels
    if options.quick:
        photos, letters, sizes, options.seconds, options.per_class = ((200, 160),), (128,), [32], 0.05, 1
    networks = Networks(options.cache, tiny=options.quick)
    result = ResultFile(options.out)
    for width, height in photos if "photos" in options.only else ():
        for pixels in sizes:
            key = {"source": f"{width} x {height}", "pixels": pixels}
            result.measure("photos", key, partial(measure_photo, width, height, pixels, options.seconds))
    for size in letters if "letters" in options.only else ():
        for pixels in sizes:
            key = {"source": f"{size} x {size}", "pixels": pixels}
            result.measure("letters", key, partial(measure_letters, networks, size, pixels, options.per_class))
    print(tables(result.document))


if __name__ == "__main__":
    main()
