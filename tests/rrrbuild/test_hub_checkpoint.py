"""A checkpoint goes to the hub by its own upload, and `rrr build hf://OWNER/NAME` builds from there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.fake_hub import FakeHub
from rrrbuild.calibration import calibration_images
from rrrbuild.evaluation import open_model, predict
from rrrbuild.heldout import held_out_images
from rrrbuild.manifest import read_engine
from rrrnet.checkpoint import Checkpoint, local_checkpoint, read_checkpoint
from rrrnet.data.copies import used_files
from rrrnet.data.remembered import remembered_images
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.robust.measure import images_of
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def uploaded(fake_hub: FakeHub, checkpoint: Checkpoint) -> str:
    """The commit of `me/duo`, as `hf upload me/duo FOLDER` makes it."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=fake_hub.url, token="hf_of_nobody")
    api.create_repo("me/duo", exist_ok=True)
    return str(api.upload_folder(repo_id="me/duo", folder_path=checkpoint.path).oid)


def test_what_was_uploaded_comes_back_whole_and_again_without_the_hub(
    uploaded: str, fake_hub: FakeHub, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    folder = local_checkpoint(Path("hf://me/duo"), said.append)
    assert folder.name == uploaded
    assert read_checkpoint(folder).labels == checkpoint.labels
    assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.path.iterdir()}
    assert open_model(folder).source.name == "duo"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_checkpoint(Path("hf://me/duo"), said.append) == folder
    assert said[-1].startswith("note: the hub is out of reach (")


def test_a_page_edited_on_the_hub_changes_nothing_and_damage_is_found(
    uploaded: str, fake_hub: FakeHub, checkpoint: Checkpoint
) -> None:
    files = dict(fake_hub.commits["me/duo"][uploaded])
    fake_hub.put("me/duo", files | {"README.md": b"# ours"})
    read_checkpoint(local_checkpoint(Path("hf://me/duo"), lambda _: None))
    fake_hub.put("me/duo", files | {"model.safetensors": b"damaged"})
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed after it was written"):
        read_checkpoint(local_checkpoint(Path("hf://me/duo"), lambda _: None))
    read_checkpoint(local_checkpoint(Path(f"hf://me/duo@{uploaded}"), lambda _: None))


def test_folders_of_whoever_uploaded_it_are_not_read_here_even_where_there_are_such(
    uploaded: str, checkpoint: Checkpoint, data: Path
) -> None:
    folder = local_checkpoint(Path("hf://me/duo"), lambda _: None)
    found = read_checkpoint(folder)
    assert Path(found.training["data"]["path"]).is_dir()
    held_out = held_out_images(found, None, limit=2)
    assert held_out.labels is None
    assert held_out.source == "generated patterns: its images are not on this machine, so no accuracy is known"
    refused: tuple[Callable[[], object], ...] = (
        lambda: predict(open_model(folder), None, "test"),
        lambda: calibration_images(found, None, limit=2),
        lambda: remembered_images(found, None),
        lambda: images_of(found, None),
    )
    for read in refused:
        with pytest.raises(UsageError, match=r"comes from the hub, and its images are not here.* --data DIR"):
            read()
    assert not any(path.is_file() for path in used_files(found, ("train", "test")))
    mine = read_checkpoint(checkpoint.path)
    assert held_out_images(mine, None, limit=2).labels is not None
    mine.training["data"]["path"] = "/nowhere"
    with pytest.raises(UsageError, match="tell where they are with --data DIR"):
        held_out_images(mine, None, limit=2)
    assert held_out_images(read_checkpoint(folder), data, limit=2).labels is not None


def test_rrr_build_takes_the_name_and_records_the_commit(uploaded: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "engine"
    options = ["--target", "onnxruntime-fp32", "--plan", "merged", "--batch", "1,1,1", "--images", "4"]
    assert run(["build", "hf://me/duo", *options, "--out", str(out)]) == 0
    assert "downloading model.json of hf://me/duo" in capsys.readouterr().err
    manifest = read_engine(out)
    assert manifest.name == "duo"
    assert manifest.data is not None
    assert (manifest.data["path"], manifest.data["name"]) == (None, "colours")
    assert manifest.command.startswith(f"rrr build hf://me/duo@{uploaded} --target onnxruntime-fp32 ")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("hf://me/nowhere", 2, "there is no repository me/nowhere on the hub"),
        ("hf://me/duo@v2", 2, "me/duo has no revision v2"),
        ("hf://me/duo:model.json", 2, "a checkpoint is the whole repository: leave out :model.json"),
        ("hf://duo", 2, "no name of a repository of the hub"),
        ("hf://me/other", 3, "holds no checkpoint of rrr train (no model.json, but model.safetensors)"),
    ],
)
@pytest.mark.usefixtures("uploaded")
def test_names_that_lead_to_no_checkpoint_are_told_in_a_line(
    fake_hub: FakeHub, name: str, code: int, words: str, capsys: Capture
) -> None:
    fake_hub.put("me/other", {"model.safetensors": b""})
    for command in (["build", name], ["evaluate", name], ["describe", name]):
        assert run(command) == code
        assert words in capsys.readouterr().err


def test_describe_and_evaluate_take_the_name(uploaded: str, data: Path, capsys: Capture) -> None:
    assert run(["describe", "hf://me/duo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["red", "green", "blue"]
    assert run(["evaluate", "hf://me/duo", "--data", str(data), "--split", "all"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: rrr build hf://me/duo@{uploaded}"
