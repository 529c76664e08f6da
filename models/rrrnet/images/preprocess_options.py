"""The options of `rrr train` that say how the network sees images, and the rule that they make."""

import math
from dataclasses import dataclass

from rrrnet.errors import UsageError
from rrrnet.images.preprocess import (
    FILTERS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_RESIZE,
    MAX_SIZE,
    MIN_SIZE,
    MODES,
    Preprocess,
)

DEFAULT_SIZE = 128
# What most networks trained on ImageNet were given.
DEFAULT_RESIZE, DEFAULT_CROP = 256, 224

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PreprocessOptions:
    """What was asked for; None where nothing was. `mean` and `std` are texts such as "0.485,0.456,0.406"."""

    preprocess: str | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    bgr: bool | None = None


def choose_preprocess(options: PreprocessOptions, size: int | None, source: Preprocess | None = None) -> Preprocess:
    """The rule that the options make.

    Args:
        options: see `PreprocessOptions`.
        size: `--size`.
        source: the rule of the checkpoint that training goes on from. It gives what the options leave open, but for the
            size of a squashed image.

    Raises:
        UsageError: a value that is not allowed, or options that exclude each other.
    """
    mode, resize, crop = _geometry(options, size, source)
    chosen = options.interpolation or (source.resize if source else FILTERS[0])
    if chosen not in FILTERS:
        raise UsageError(f"--interpolation {chosen}: allowed are {', '.join(FILTERS)}")
    _refuse_byte_scale(options)
    mean = _triple("--mean", options.mean) if options.mean else source.mean if source else IMAGENET_MEAN
    std = _triple("--std", options.std) if options.std else source.std if source else IMAGENET_STD
    if min(std) <= 0:
        raise UsageError(f"--std {options.std}: allowed are numbers above 0")
    return Preprocess(
        size=crop,
        resize=chosen,
        mean=mean,
        std=std,
        jpeg_oversize=0 if mode == "crop" else Preprocess.jpeg_oversize,
        mode=mode,
        resize_size=resize,
        bgr=options.bgr if options.bgr is not None else source is not None and source.bgr,
    )


def _geometry(options: PreprocessOptions, size: int | None, source: Preprocess | None) -> tuple[str, int | None, int]:
    """Mode, size of the shorter side (None: squash) and the network's size."""
    resize, crop, mode = options.resize, options.crop, options.preprocess
    if mode is not None and mode not in MODES:
        raise UsageError(f"--preprocess {mode}: allowed are {', '.join(MODES)}")
    given = resize is not None or crop is not None
    if mode == "squash" and given:
        raise UsageError("--preprocess squash goes without --resize and --crop: its size is --size")
    if mode is None and not given and source is not None and source.mode == "crop":
        if size is not None:
            rule = f"--resize {source.resize_size} --crop {source.size}"
            raise UsageError(
                f"--size {size}: the checkpoint in --weights was trained with {rule}; leave --size out to keep that, "
                "give another --resize and --crop, or --preprocess squash"
            )
        return source.mode, source.resize_size, source.size
    if mode != "crop" and not given:
        size = DEFAULT_SIZE if size is None else size
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise UsageError(f"--size {size}: allowed are {MIN_SIZE} to {MAX_SIZE} pixels")
        return "squash", None, size
    if size is not None:
        raise UsageError(
            f"--size {size}: it excludes --preprocess crop, whose --crop is the network's size: --crop {size}"
        )
    if (resize is None) != (crop is None):
        missing = "--crop" if crop is None else "--resize"
        example = f"--resize {DEFAULT_RESIZE} --crop {DEFAULT_CROP}"
        raise UsageError(f"{missing} is missing: give both, as the network was trained, e.g. {example}")
    resize, crop = resize or DEFAULT_RESIZE, crop or DEFAULT_CROP
    if not MIN_SIZE <= crop <= MAX_SIZE:
        raise UsageError(f"--crop {crop}: allowed are {MIN_SIZE} to {MAX_SIZE} pixels")
    if not crop <= resize <= MAX_RESIZE:
        raise UsageError(f"--resize {resize}: allowed are {crop} (the --crop) to {MAX_RESIZE} pixels")
    return "crop", resize, crop


def _triple(flag: str, text: str) -> Triple:
    """Three numbers of RGB."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text}: expected three numbers, of red, green and blue: 0.485,0.456,0.406") from None
    if not all(map(math.isfinite, (red, green, blue))) or min(red, green, blue) < 0:
        raise UsageError(f"{flag} {text}: allowed are numbers from 0 to 1, of red, green and blue")
    return red, green, blue


def _refuse_byte_scale(options: PreprocessOptions) -> None:
    """Refuse means and deviations of pixels from 0 to 255; the message has the ones of pixels from 0 to 1."""
    given = {flag: text for flag, text in (("--mean", options.mean), ("--std", options.std)) if text}
    large = [flag for flag, text in given.items() if max(_triple(flag, text)) > 1]
    if not large:
        return
    # A deviation of 1 beside means of 0 to 255 is on their scale too.
    divided = given if "--mean" in large else {"--std": given["--std"]}
    mend = " ".join(f"{flag} {_divided(flag, text)}" for flag, text in divided.items())
    seen = " ".join(f"{flag} {given[flag]}" for flag in large)
    raise UsageError(
        f"{seen}: allowed are numbers from 0 to 1, these look like pixels from 0 to 255; divided by 255: {mend}"
    )


def _divided(flag: str, text: str) -> str:
    return ",".join(f"{value / 255:.6g}" for value in _triple(flag, text))


def flags_of(rule: Preprocess) -> dict[str, str | int | bool]:
    """The options that make a rule: `choose_preprocess` read backwards. What is as by default is left out."""
    flags: dict[str, str | int | bool] = {"size": rule.size}
    if rule.resize_size is not None:
        flags = {"resize": rule.resize_size, "crop": rule.size}
    if rule.resize != FILTERS[0]:
        flags["interpolation"] = rule.resize
    for name, values, usual in (("mean", rule.mean, IMAGENET_MEAN), ("std", rule.std, IMAGENET_STD)):
        if values != usual:
            flags[name] = ",".join(map(repr, values))
    if rule.bgr:
        flags["bgr"] = True
    return flags
