"""A ResNet152 fine-tuned elsewhere, with a preprocessing of its own, answers over HTTP as it did in plain torch."""

import io
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from harness.service import RRR, Service
from rrrnet.network import architecture as shapes
from rrrnet.network.ensemble import RRRNet

CLASSES = 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZES = [
    *((640, 480), (480, 640), (641, 479), (1024, 768), (224, 224), (256, 256), (255, 257), (100, 80), (37, 200)),
    *((1500, 300), (300, 1500), (1, 1), (2000, 1333), (223, 500), (60, 60)),
]


def rrr(*words: str | Path) -> str:
    done = subprocess.run([str(RRR), *map(str, words)], check=False, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def photos() -> list[bytes]:
    """30 pictures: JPEG and PNG of each size; every third JPEG lies on its side."""
    random, bodies = np.random.default_rng(0), []
    for index, (width, height) in enumerate(SIZES):
        soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((width, height), 3)
        noisy = np.asarray(soft) + random.normal(0, 10, (height, width, 3))
        image, exif = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), Image.Exif()
        exif[0x0112] = 6 if index % 3 == 0 else 1
        for kind in ("JPEG", "PNG"):
            buffer = io.BytesIO()
            image.save(buffer, kind, exif=exif if kind == "JPEG" else None)
            bodies.append(buffer.getvalue())
    return bodies


def fine_tuned() -> RRRNet:
    """A ResNet152 of random weights, whose activations neither grow nor vanish, with answers that differ."""
    torch.manual_seed(0)
    model = RRRNet(shapes.full(CLASSES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(0.3)
        model.load_state_dict({**model.state_dict(), "fc.weight": torch.randn(CLASSES, 2048) * 0.05})
    return model


def plain_input(body: bytes) -> torch.Tensor:
    """torchvision's Resize(256), CenterCrop(224), ToTensor and Normalize in Pillow's and torch's words, then BGR."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    width, height = image.size
    long = int(256 * max(width, height) / min(width, height))
    image = image.resize((256, long) if width <= height else (long, 256), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1) / 255
    inputs = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return inputs[[2, 1, 0]]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_an_imported_network_answers_over_http_as_plain_torch_does(tmp_path: Path) -> None:
    model, bodies = fine_tuned(), photos()
    torch.save(dict(model.state_dict()), tmp_path / "mine.pth")
    for index, body in enumerate(bodies[: 4 * CLASSES]):
        path = tmp_path / "data" / f"class{index % CLASSES}" / f"{index}.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".png" if index % 2 else ".jpg").write_bytes(body)
    rule = ("--resize", "256", "--crop", "224", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3", "--bgr")
    whole = ("--method", "full", "--weights", tmp_path / "mine.pth", "--epochs", "0")
    rrr("train", "--data", tmp_path / "data", "--out", tmp_path / "models" / "mine", *whole, *rule)
    told = "shorter side to 256 (bilinear), centre crop 224 x 224; BGR, mean 0.5 0.4 0.3, std 0.2 0.25 0.3"
    assert told in " ".join(rrr("describe", tmp_path / "models" / "mine").split())
    engine = tmp_path / "engines" / "mine" / "openvino-fp32"
    rrr("build", tmp_path / "models" / "mine", "--target", "openvino-fp32", "--batch", "1,1,1", "--out", engine)
    rrr("repository", engine, "--out", tmp_path / "repository")

    with torch.no_grad():
        expected = model(torch.stack([plain_input(body) for body in bodies])).softmax(2)[:, 0].numpy()
    found = np.empty_like(expected)
    with Service(tmp_path / "log", str(tmp_path / "repository")) as service:
        for index, body in enumerate(bodies):
            answer = httpx.post(f"{service.url}/v1/predict", content=body, timeout=60, trust_env=False)
            assert answer.status_code == 200, answer.text
            for item in answer.json()["predictions"]:
                found[index, int(item["label"].removeprefix("class"))] = item["probability"]
    assert np.ptp(expected, axis=0).max() > 0.05, "the pictures get different answers"
    assert np.abs(found - expected).max() < 1e-3
