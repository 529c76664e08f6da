"""What a figure is, and the pictures of a network: its shape, its members, its calibration, its engines' errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from rrrserve.report.svg import Chart, Drawing, Scale, number, room, short

_SHOWN_MEMBERS = 8


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        key: its id on the page.
        title: what is shown.
        svg: the drawing.
        caption: how to read it.
        legend: (CSS class of the mark, its name).
        wide: whether it takes the page's whole width.
    """

    key: str
    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[tuple[str, str]] = field(default=())
    wide: bool = False


def network(model: Mapping[str, Any]) -> Figure:
    """The path of an image: stem, members side by side, mean."""
    members, size, classes = model["members"], model["image_size"], model["num_classes"]
    rows = min(members, _SHOWN_MEMBERS)
    words = f"{size} by {size} pixel image, shared stem, {members} member(s), {classes} classes"
    height = max(150, 30 * rows + 34)
    middle = height / 2
    drawing = Drawing(880, height, f"The network: {words}")
    blocks, widths = model["blocks"], model["widths"]
    _box(drawing, 6, middle, 104, 58, "box", (f"{size} × {size} × 3", "uint8 image"))
    stem = (f"layer1: {blocks[0]} · layer2: {blocks[1]}", f"{model['costs']['stem']['macs'] / 1e6:,.0f} M MACs")
    _box(drawing, 146, middle, 168, 78, "box strong", ("stem, shared" if members > 1 else "first stages", *stem))
    _box(drawing, 666, middle, 92, 58, "box", ("mean", f"of {members}") if members > 1 else ("softmax",))
    _box(drawing, 794, middle, 80, 58, "box", (f"{classes}", "classes"))
    drawing.line((110, middle), (146, middle), "flow")
    drawing.line((758, middle), (794, middle), "flow")
    for row in range(rows):
        y = middle + 30 * (row - (rows - 1) / 2)
        hidden = members > rows and row == rows - 2
        drawing.path([(314, middle), (338, middle), (358, y), (376, y)], "flow")
        drawing.path([(604, y), (622, y), (642, middle), (666, middle)], "flow")
        index = members - 1 if members > rows and row == rows - 1 else row
        text = f"… {members - rows + 1} more …" if hidden else f"{widths[0]} → {widths[1]} channels"
        text = text if members > 1 else ""
        name = "" if hidden else f"member {index}" if members > 1 else f"layer3: {blocks[2]} · layer4: {blocks[3]}"
        drawing.bar(376, y - 12, 228, 24, f"box m{index % 8}")
        drawing.text((388, y + 4.5), name, "t strong")
        drawing.text((594, y + 4.5), text, "tick", "end")
    cost = model["costs"]["member"]
    caption = (
        f"Each member has {cost['parameters'] / 1e6:.3g} M parameters, {cost['macs'] / 1e6:.3g} M multiply-accumulates "
        "and a classifier of its own."
        if members > 1
        else ""
    )
    return Figure("network", "How an image becomes an answer", drawing.markup(), caption, wide=True)


def _box(
    drawing: Drawing, left: float, middle: float, width: float, height: float, css: str, lines: Sequence[str]
) -> None:
    drawing.bar(left, middle - height / 2, width, height, css)
    for index, words in enumerate(lines):
        y = middle + 4.5 + 17 * (index - (len(lines) - 1) / 2)
        drawing.text((left + width / 2, y), words, "tick" if index else "t strong", "middle")


def members(scores: Mapping[str, Any]) -> Figure:
    """The members and their ensemble by accuracy, NLL and calibration error, each on a scale of its own."""
    metrics = (
        ("accuracy", "accuracy, %", 100.0),
        ("nll", "negative log-likelihood", 1.0),
        ("ece", "ECE, points", 100.0),
    )
    told = ", ".join(f"{name} {factor * scores[key]:.4g}" for key, name, factor in metrics)
    chart = Drawing(440, 270, f"Ensemble: {told}; and its {len(scores['members'])} members")
    for row, (key, name, factor) in enumerate(metrics):
        y = 46 + 84 * row
        values = [factor * member[key] for member in scores["members"]]
        own = factor * scores[key]
        scale = room([*values, own], 20, 420)
        chart.text((20, y - 22), name, "t strong")
        chart.line((20, y), (420, y), "axis")
        for tick in scale.ticks():
            chart.line((scale(tick), y - 4), (scale(tick), y + 4), "axis")
            chart.text((scale(tick), y + 19), number(tick), "tick", "middle")
        for index, value in enumerate(values):
            chart.dot((scale(value), y), "f1 see", f"member {index}: {value:.4g}", 5)
        x = scale(own)
        chart.shape("path", "f0", f"ensemble: {own:.4g}", d=f"M{x:.1f} {y - 10:.1f}l8 10l-8 10l-8 -10z")
    return Figure(
        "members",
        "The ensemble and its members",
        chart.markup(),
        "Accuracy: right is better. NLL and calibration error: left is better.",
        (("f0", "ensemble"), ("f1", "members")),
    )


def reliability(bins: Sequence[Mapping[str, Any]], ece: float) -> Figure:
    """Accuracy against confidence, with the number of images below."""
    full = [row for row in bins if row["images"]]
    told = "; ".join(
        f"{row['images']} images of confidence {row['confidence']:.2f}: accuracy {row['accuracy']:.2f}" for row in full
    )
    chart = Chart(f"Accuracy by confidence. {told}", height=340)
    split = chart.bottom - 62
    x = Scale(0, 1, chart.left, chart.right)
    y = Scale(0, 1, split - 12, chart.top)
    chart.y_axis(y, "accuracy, %", percent=True)
    chart.x_axis(x, "confidence, %", percent=True)
    largest = max(row["images"] for row in full)
    for row in full:
        left, width = x(row["low"]) + 1, x(row["high"]) - x(row["low"]) - 2
        tip = f"{row['images']} images: confidence {row['confidence']:.3f}, accuracy {row['accuracy']:.3f}"
        accuracy, confidence = y(row["accuracy"]), y(row["confidence"])
        lower = max(accuracy, confidence)  # places grow downwards
        chart.bar(left, lower, width, y(0) - lower, "f0 soft", tip)
        chart.bar(left, min(accuracy, confidence), width, abs(accuracy - confidence), "gap", tip)
        chart.line((left, accuracy), (left + width, accuracy), "s0 thick")
        tall = 50 * row["images"] / largest
        chart.bar(left, chart.bottom - tall, width, tall, "f2 soft", tip)
    chart.line((x(0), y(0)), (x(1), y(1)), "ideal")
    chart.text((chart.left + 5, split + 14), f"images (at most {largest:,} in a bin)", "tick")
    return Figure(
        "reliability",
        "Reliability",
        chart.markup(),
        "On the dashed line, a confidence of 80 % is right 80 % of the time. "
        f"Mean gap (ECE, 15 bins): {100 * ece:.1f} points.",
        (("f0", "accuracy (thick line)"), ("gap", "gap between it and the confidence"), ("f2 soft", "images")),
    )


def coverage(found: Mapping[str, Any]) -> Figure:
    """Accuracy when only the surest images are answered."""
    shares, curves = found["shares"], found["coverage"]
    told = "; ".join(f"by {name}: " + ", ".join(f"{value:.3f}" for value in curve) for name, curve in curves.items())
    chart = Chart(
        f"Accuracy on the surest {', '.join(f'{share:.0%}' for share in shares)} of images, {told}", height=340
    )
    values = [value for curve in curves.values() for value in curve]
    x = Scale(shares[0], 1, chart.left + 6, chart.right)
    low = min(values)
    y = Scale(low - 0.08 * (1 - low) - 0.001, 1 + 0.04 * (1 - low), chart.bottom, chart.top)
    chart.y_axis(y, "accuracy, %", percent=True)
    chart.x_axis(x, "share of images answered, %", percent=True)
    for index, (name, curve) in enumerate(curves.items()):
        places = [(x(share), y(value)) for share, value in zip(shares, curve, strict=True)]
        chart.path(places, f"s{index} line")
        for place, share, value in zip(places, shares, curve, strict=True):
            chart.dot(place, f"f{index}", f"surest {share:.0%} by {name}: {value:.4f}")
    return Figure(
        "coverage",
        "Answering only when sure",
        chart.markup(),
        "Images ranked by how sure the network is. A curve that rises to the left means that doubt is a usable signal.",
        [(f"f{index}", f"by {name}") for index, name in enumerate(curves)],
    )


def errors(engines: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Each verified engine's largest and mean error of a probability, and what its target allows."""
    rows = [engine for engine in engines if engine["verified"]]
    if not rows:
        return None
    told = "; ".join(
        f"{row['target']}: largest {row['verified']['max_abs_error']:.2g}, "
        f"mean {row['verified']['mean_abs_error']:.2g}, allowed {row['verified']['tolerance']['max_abs_error']:g}"
        for row in rows
    )
    chart = Chart(f"Errors of probabilities against PyTorch. {told}", height=78 + 40 * len(rows), left=134)
    keys = ("mean_abs_error", "max_abs_error")
    values = [max(row["verified"][key], 1e-8) for row in rows for key in keys]
    values += [row["verified"]["tolerance"]["max_abs_error"] for row in rows]
    x = room(values, chart.left + 8, chart.right - 8, log=True)
    decades = [10.0**power for power in range(-9, 1) if x.low <= 10.0**power <= x.high]
    chart.x_axis(x, "difference of a probability (log)", ticks=decades if len(decades) > 1 else ())
    for index, row in enumerate(rows):
        found, y = row["verified"], chart.top + 24 + 40 * index
        mean, largest = (x(max(found[key], 1e-8)) for key in keys)
        limit = x(found["tolerance"]["max_abs_error"])
        chart.text((chart.left - 8, y + 4.5), short(row["target"], 19), "t", "end")
        chart.line((mean, y), (largest, y), "s0 thick")
        chart.dot((mean, y), "f1", f"mean {found['mean_abs_error']:.3g}", 5)
        chart.dot((largest, y), "f0", f"largest {found['max_abs_error']:.3g}", 5)
        chart.line((limit, y - 11), (limit, y + 11), "bound")
    return Figure(
        "errors",
        "Engines against PyTorch",
        chart.markup(),
        "Left of its mark an engine is within what its target allows.",
        (("f0", "largest"), ("f1", "mean"), ("bound", "allowed (largest)")),
    )


def claim_interval(claim: Mapping[str, Any]) -> Markup | None:
    """A claim's estimate and interval beside its bound, small enough for a table's cell."""
    if claim["estimate"] is None:
        return None
    interval = claim["interval"] or (claim["estimate"], claim["estimate"])
    bounds = list(claim["bound"].values())
    scale = room([*interval, claim["estimate"], *bounds], 8, 152)
    told = f"{claim['measured']}" + "".join(
        f", {key.replace('_', ' ')} {value:g}" for key, value in claim["bound"].items()
    )
    drawing = Drawing(160, 30, told)
    drawing.line((4, 15), (156, 15), "grid")
    for bound in bounds:
        drawing.line((scale(bound), 4), (scale(bound), 26), "bound")
    drawing.line((scale(interval[0]), 15), (scale(interval[1]), 15), f"v-{claim['verdict']} interval")
    drawing.dot((scale(claim["estimate"]), 15), f"v-{claim['verdict']}", told, 4.5)
    return drawing.markup()
