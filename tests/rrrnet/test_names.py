"""Names: refused where they are given, with what is allowed and a name that is."""

from pathlib import Path

import pytest

from rrrnet.data.labels import read_labels
from rrrnet.data.layout import list_files
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.names import allowed_name, check_model_name, is_text, name_and_version
from rrrnet.training.options import Options
from rrrnet.training.resuming import check_out


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("my model!", "my-model"),
        ("Größe 2", "Groe-2"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a/b\n", "a-b"),
        ("模型", "model"),
        ("..", "model"),
        ("x" * 70, "x" * 64),
        ("mine\udcff", "mine"),
    ],
)
def test_a_model_name_that_triton_or_a_url_could_not_hold_is_refused_with_one_that_is_allowed(
    name: str, allowed: str
) -> None:
    assert allowed_name(name) == allowed
    check_model_name(allowed, remedy=str)
    with pytest.raises(UsageError, match=r"cannot be a model's name: letters, digits.*at most 64; .*give ") as caught:
        check_model_name(name, remedy=lambda good: f"give {good}")
    assert str(caught.value).endswith(f"give {allowed}")


@pytest.mark.parametrize("name", ["a", "1", "glyphs-ensemble8", "A.b_c-9", "x" * 64])
def test_what_is_allowed_is_let_pass(name: str) -> None:
    check_model_name(name, remedy=str)


def test_a_version_stands_behind_the_name_and_is_a_whole_number_from_1() -> None:
    assert [name_and_version(name) for name in ("net", "net@2", "net@100")] == [
        *(("net", "1"), ("net", "2"), ("net", "100"))
    ]
    for name in ("net@", "net@0", "net@01", "net@1.5", "net@next", "a@1@2"):
        with pytest.raises(UsageError, match=r"a version is a whole number from 1, as in (net|a)@2"):
            name_and_version(name)


def test_train_refuses_the_name_before_any_work_with_the_flag_to_paste(tmp_path: Path) -> None:
    out = tmp_path / "my models" / "my model!"
    with pytest.raises(UsageError, match="cannot be a model's name") as caught:
        check_out(Options(data=tmp_path, out=out, weights="none"))
    assert str(caught.value).endswith(f"give --out '{tmp_path}/my models/my-model'")
    assert not out.parent.exists()


def test_labels_of_a_file_and_of_folders_are_lines_of_text(tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('["cat", "d\\u001bog"]')
    with pytest.raises(ArtifactError, match=r"'d\\x1bog' cannot be a label: .*; rename it, e\.g\. to 'd og'"):
        read_labels(labels)
    for name in ("cat", "big\ndog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.jpg").touch()
    with pytest.raises(ArtifactError, match=r"'big\\ndog' cannot be a label: .*'big dog'"):
        list_files(tmp_path / "set")


@pytest.mark.parametrize("label", ["tench, Tinca tinca", "क्‍ष", "a b", "猫", "\U0001f408"])
def test_letters_of_all_scripts_and_their_joiners_are_text(label: str) -> None:
    assert is_text(label)
