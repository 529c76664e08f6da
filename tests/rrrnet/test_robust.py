"""`rrr robust`: corruptions, the attack, sensitivity, factors, and what is left when somebody stops."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from rrrnet.checkpoint import SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.commands import robust as robust_command
from rrrnet.commands.robust import robust
from rrrnet.data.dataset import read_dataset, split_dataset, write_split
from rrrnet.data.layout import list_columns
from rrrnet.errors import UsageError
from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.images.preprocess import Preprocess
from rrrnet.inference import load_model
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.network.ensemble import RRRNet, export_weights, normalise
from rrrnet.robust import attack, corruptions, sensitivity
from rrrnet.robust.factors import by_factor, ends
from rrrnet.robust.measure import images_of, measure, pieces
from rrrnet.robust.questions import Questions, eps_of
from rrrnet.stopping import Stopping

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two members that know nothing, and 3 x 12 letters with their factors, half of them to test on."""
    root = tmp_path_factory.mktemp("robust")
    generate_glyphs(root / "letters", GlyphOptions(classes=3, per_class=12, size=32))
    images = read_dataset(root / "letters")
    torch.manual_seed(0)
    model = RRRNet(Architecture(3, REDUCED_BLOCKS, 2, (8, 8)))
    with torch.no_grad():
        for tail in model.tails():
            tail.get_submodule("fc").weight.mul_(3)  # type: ignore[operator]  # a tensor
    data = {"name": images.name, "path": str(images.root), "sha256": images.sha256}
    made = Checkpoint(
        root / "net", "net", "ensemble", model.architecture, images.classes, Preprocess(32), {"data": data}, "tests"
    )
    made.path.mkdir()
    write_split(made.path / SPLIT, images, split_dataset(images, seed=0, test_fraction=0.5, val_fraction=0))
    write_checkpoint(made, dict(export_weights(model)), made.path)
    return read_checkpoint(made.path)


@pytest.fixture(scope="module")
def pictures() -> Images:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_a_corruption_goes_further_from_the_image_with_each_severity_and_is_the_same_each_time(
    name: str, pictures: Images
) -> None:
    small = [Image.fromarray(picture[:9, :9] // 2) for picture in pictures]
    smooth = np.stack([np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR)) for picture in small])
    found = [corruptions.corrupt(smooth, name, severity, seed=1) for severity in corruptions.SEVERITIES]
    distances = [float(np.abs(image.astype(float) - smooth).mean()) for image in found]

    assert [(image.shape, str(image.dtype)) for image in found] == [(smooth.shape, "uint8")] * 5
    assert 0 <= distances[0] < distances[4]  # at 64 pixels the weakest blur changes no byte
    assert distances == sorted(distances) or name in ("JPEG", "pixelate")  # blocks may fall well
    assert np.array_equal(found[2], corruptions.corrupt(smooth, name, 3, seed=1))


def test_an_attack_stays_in_the_ball_and_raises_the_loss_of_the_ensemble(
    checkpoint: Checkpoint, pictures: Images
) -> None:
    model = load_model(checkpoint).requires_grad_(False)
    images, labels = torch.from_numpy(pictures), torch.tensor([0, 1, 2])

    def loss(inputs: torch.Tensor) -> float:
        return float(attack.mean_nll(model(normalise(inputs, checkpoint.preprocess)), labels).mean())

    found = attack.attacked(model, checkpoint.preprocess, images, labels, eps=8.0, seed=0, steps=10)

    assert float((found - images).abs().max()) <= 8
    assert 0 <= float(found.min()) <= float(found.max()) <= 255
    random = (images + 16 * torch.rand(images.shape) - 8).clamp(0, 255)
    assert loss(found) > max(loss(images), loss(random)) + 0.01


def test_the_loss_attacked_is_that_of_the_mean_of_the_members() -> None:
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
    mean = logits.softmax(2).mean(1)
    assert float(attack.mean_nll(logits, torch.tensor([1]))[0]) == pytest.approx(-float(mean[0, 1].log()))


def test_weights_moved_against_the_network_raise_its_loss_and_are_put_back(
    checkpoint: Checkpoint, pictures: Images
) -> None:
    model = load_model(checkpoint).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = normalise(torch.from_numpy(pictures), checkpoint.preprocess)
    modules = sensitivity.modules_of(model)

    rises = [sensitivity.rise(model, part.module, inputs, inputs, torch.tensor([0, 1, 2])) for part in modules]

    assert [(part.stage, part.member) for part in modules] == [
        ("conv1", None),
        ("layer1", None),
        ("layer2", None),
        *((stage, member) for member in (0, 1) for stage in ("layer3", "layer4", "fc")),
    ]
    assert [part.stage for part, (attacked, _) in zip(modules, rises, strict=True) if attacked <= 0] == []
    assert [clean for _, clean in rises] == [attacked for attacked, _ in rises]  # the same images were given for both
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_factors_are_told_by_quartile_and_by_value_with_intervals_and_what_tells_nothing_is_named() -> None:
    count = 80
    columns = {
        "ROTATION": [str(index - 40) for index in range(count)],
        "FONT": ["serif"] * 40 + ["sans"] * 38 + ["mono"] * 2,
        "INK": ["black"] * count,
        "ID": [f"x{index}" for index in range(count)],
    }
    right = np.arange(count) >= 40

    told, left_out = by_factor(columns, right)

    rotation, font = told
    assert (rotation["column"], rotation["kind"], font["kind"]) == ("ROTATION", "quartiles", "values")
    assert [(group["value"], group["images"], group["accuracy"]) for group in rotation["groups"]] == [
        ("-40 to -20.2", 20, 0.0),
        ("-20.2 to -0.5", 20, 0.0),
        ("-0.5 to 19.2", 20, 1.0),
        ("19.2 to 39", 20, 1.0),
    ]
    assert [(group["value"], group["images"]) for group in font["groups"]] == [
        ("sans", 38),
        ("serif", 40),
        ("1 others", 2),
    ]
    assert rotation["differs"]
    assert left_out == {
        "INK": "the same for all images (black)",
        "ID": "80 values, none of which 10 images have",
    }


def test_a_few_images_that_are_all_wrong_do_not_hide_that_two_large_groups_are_apart() -> None:
    groups = {"plain": (150, 200), "shapes": (100, 200), "noise": (0, 1)}
    cells = [value for value, (_, count) in groups.items() for _ in range(count)]
    right = np.concatenate([np.arange(count) < hits for hits, count in groups.values()])

    (background,), _ = by_factor({"BACKGROUND": cells}, right)

    assert background["differs"]
    assert [group["value"] for group in ends(background["groups"])] == ["shapes", "plain"]
    alike, _ = by_factor({"BACKGROUND": cells}, np.arange(len(cells)) % 2 == 0)
    assert not alike[0]["differs"]
    assert [group["accuracy"] for group in ends(alike[0]["groups"])] == [0.5, 1.0]  # the one of noise is right


def test_every_section_answers_about_the_test_images_alone(checkpoint: Checkpoint) -> None:
    told: list[str] = []
    questions = Questions(images=6, eps=(1.0, 8.0), steps=2)
    images = images_of(checkpoint, None)

    found = measure(checkpoint, images, questions, step=lambda text, _: told.append(text), check=lambda: None)

    assert (found["complete"], found["test_images"], len(told)) == (True, 18, pieces(checkpoint, questions))
    assert [row["eps"] for row in found["attack"]] == [0, 1, 8]
    assert {row["images"] for row in found["corruptions"]} == {6}
    assert len(found["corruptions"]) == 1 + 6 * 5
    assert [len(row["members"]) for row in found["attack"]] == [2, 2, 2]
    assert found["factors"]["images"] == 18
    columns = set(list_columns(images.root))
    assert {column["column"] for column in found["factors"]["columns"]} | set(found["factors"]["left_out"]) == columns
    assert not columns & {"FILE_NAME", "CATEGORY", "SUPER_CATEGORY"}
    assert (found["sensitivity"]["images"], len(found["sensitivity"]["modules"])) == (6, 9)


def ask(*words: str) -> Any:
    app = typer.Typer()
    app.command()(robust)
    return CliRunner().invoke(app, list(words))


def test_the_command_tells_tables_and_what_they_mean_and_the_next_step(checkpoint: Checkpoint) -> None:
    answer = ask(str(checkpoint.path), "--images", "2", "--eps", "1", "--steps", "1")

    assert answer.exit_code == 0, answer.output
    for words in (
        "accuracy by factor, 18 test images",
        "accuracy under corruptions, 2 test images",
        "accuracy under attack (PGD on the ensemble), 2 test images",
        "MRS-style sensitivity",
        "the answer hangs most on",
        f"next: rrr build {checkpoint.path}",
    ):
        assert words in answer.stdout


def test_ctrl_c_ends_with_what_was_measured(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Images] = corruptions.corrupt
    requested = Stopping()  # a signal's work is done by hand: a worker of pytest-xdist does not survive SIGINT

    def interrupting(images: Images, name: str, severity: int, seed: int) -> Images:
        requested.stop = severity == 3
        return real(images, name, severity, seed)

    monkeypatch.setattr(robust_command, "stop_requested", lambda _: nullcontext(requested))
    monkeypatch.setattr(corruptions, "corrupt", interrupting)
    answer = ask(str(checkpoint.path), "--images", "4", "--only", "corruptions", "--json")

    assert answer.exit_code == 130
    document = json.loads(answer.stdout)
    assert document["complete"] is False
    assert [row["severity"] for row in document["corruptions"]] == [0, 1, 2]
    assert "stopped: this is what was measured" in answer.stderr


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"only": ("attacks",)}, "--only attacks: allowed are factors, corruptions, attack, sensitivity"),
        ({"eps": (8.0, 4.0)}, "--eps is '8,4': give ascending numbers above 0"),
        ({"images": 0}, "--images is 0 and --steps 10: at least 1"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_with_what_can(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Questions(**wrong)


def test_radii_that_are_no_numbers_are_refused_with_an_example() -> None:
    with pytest.raises(UsageError, match="--eps is '1,two': give numbers with commas between"):
        eps_of("1,two")


def test_a_checkpoint_without_images_asks_for_some(checkpoint: Checkpoint, tmp_path: Path) -> None:
    homeless = replace(checkpoint, training={"data": {"path": str(tmp_path / "gone"), "name": "x"}})
    with pytest.raises(UsageError, match=r"gone, which is no folder any more: give labelled ones with --data DIR"):
        images_of(homeless, None)
