"""Repositories of the hub: their names, what is downloaded of them, and what is said where that is not possible."""

from pathlib import Path

import pytest

from harness.fake_hub import FakeHub
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub import download
from rrrnet.hub.reference import Reference, named, parse, parse_weights
from rrrnet.weights.repositories import download_weights, downloaded

NET = Reference("me/net")
FILES = {"config.json": b"{}", "model.safetensors": b"new", "pytorch_model.bin": b"old", "README.md": b"# net"}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf://me/net", NET),
        ("hf:/me/net", NET),  # what a path makes of it
        ("hf://me/net@v1.0", Reference("me/net", "v1.0")),
        ("hf://me/net@refs/pr/1:sub/best.pth", Reference("me/net", "refs/pr/1", "sub/best.pth")),
        ("timm/resnet50.a1_in1k", Reference("timm/resnet50.a1_in1k")),
        ("resnet50.a1_in1k", Reference("timm/resnet50.a1_in1k")),
        ("net.pth", None),
        ("resnet50.pth", None),
        ("artifacts/models/mine", None),
        ("imagenet", None),
    ],
)
def test_a_repository_is_named_by_hf_or_as_timm_does(text: str, reference: Reference | None) -> None:
    assert parse_weights(text) == reference
    if reference is not None and text.startswith("hf://"):
        assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["hf://net", "hf://me/net/config.json", "hf://me/net@", "hf://me/../net", "hf://me/a--b"]
)
def test_what_only_begins_like_a_repository_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"no name of a repository of the hub; allowed are hf://OWNER/NAME, "):
        parse(text)


def test_a_file_of_that_name_comes_before_an_id_of_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet50.a1_in1k").touch()
    assert parse_weights("resnet50.a1_in1k") is None


def test_weights_are_brought_once_and_the_commit_is_known_by_name(fake_hub: FakeHub) -> None:
    commit = fake_hub.put("me/net", FILES)
    said: list[str] = []
    download_weights(NET, said.append)
    file = downloaded(NET)
    assert (file.name, file.read_bytes()) == ("model.safetensors", b"new")
    assert named(file) == f"hf://me/net@{commit}:model.safetensors"
    assert named(file.parent) == f"hf://me/net@{commit}"
    assert said == [
        "downloading config.json of hf://me/net (0.0 MB)",
        "downloading model.safetensors of hf://me/net (0.0 MB)",
    ]
    assert not (file.parent / "README.md").exists()
    fake_hub.asked.clear()
    download_weights(NET, said.append)
    assert fake_hub.asked == ["GET /api/models/me/net/revision/main"]
    assert len(said) == 2


def test_another_revision_and_another_file_are_what_was_asked_for(fake_hub: FakeHub) -> None:
    first = fake_hub.put("me/net", FILES)
    fake_hub.put("me/net", {"pytorch_model.bin": b"newest"})
    for reference, content in (
        (Reference("me/net", first), b"new"),
        (Reference("me/net", first, "pytorch_model.bin"), b"old"),
        (NET, b"newest"),
    ):
        download_weights(reference, lambda _: None)
        assert downloaded(reference).read_bytes() == content


@pytest.mark.parametrize("offline", [True, False])
def test_out_of_reach_what_was_downloaded_before_is_taken_and_told(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, *, offline: bool
) -> None:
    from huggingface_hub import constants

    commit = fake_hub.put("me/net", FILES)
    download_weights(NET, lambda _: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not offline:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said: list[str] = []
    download_weights(NET, said.append)
    assert said[0].startswith("note: the hub is out of reach (")
    assert said[0].endswith(f": taking hf://me/net as it was downloaded, commit {commit}")
    with pytest.raises(ArtifactError, match=r"hf://me/other is neither cached nor reachable .*hf download me/other"):
        download_weights(Reference("me/other"), said.append)


def test_a_hub_that_does_not_answer_is_given_up_after_the_time_that_is_set(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: __import__("time").sleep(0.5))
    with pytest.raises(ArtifactError, match=r"neither cached nor reachable from here \(no answer within 0\.05 s\)"):
        download.look(NET, lambda _: None)


def test_refusals_of_the_hub_are_told_in_words(fake_hub: FakeHub) -> None:
    fake_hub.put("me/net", FILES)
    fake_hub.put("me/gated", FILES)
    fake_hub.gated.add("me/gated")
    fake_hub.put("me/text", {"config.json": b"{}", "tf_model.h5": b""})
    fake_hub.put("me/rrr", {"model.json": b"{}", "model.safetensors": b""})
    for text, kind, words in (
        ("me/nowhere", UsageError, r"there is no repository me/nowhere on the hub, or it is private: .*hf auth login"),
        ("me/net@v9", UsageError, "me/net has no revision v9"),
        ("me/net:best.pth", UsageError, "me/net has no file best.pth; it holds config.json, model.safetensors"),
        ("me/gated", ArtifactError, r"hf://me/gated is gated: accept its conditions at http://.*/me/gated, then"),
        ("me/text", ArtifactError, r"has no weights that can be read \(model\.safetensors or .*it holds config\.json"),
        ("me/rrr", ArtifactError, r"is a checkpoint of rrr train: rrr build takes it .*hf download me/rrr --local-dir"),
    ):
        reference = parse(f"hf://{text}")
        assert reference is not None
        with pytest.raises(kind, match=words):
            download_weights(reference, lambda _: None)
