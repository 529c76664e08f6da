"""`rrr describe`: the paper's numbers as JSON and as a table."""

import json

import pytest

from rrrserve.cli import run


def test_json_holds_parameters_macs_widths_and_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "--members", "8", "--classes", "20", "--size", "128", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert round(document["parameters"] / 1e6, 3) == 8.034
    assert round(document["macs"] / 1e6, 1) == 546.1
    assert document["widths"] == [79, 170]
    assert round(document["baseline"]["parameters"] / 1e6, 3) == 58.185
    assert round(document["baseline"]["macs"] / 1e6, 1) == 3758.9
    total = document["stem"]["macs"] + 8 * document["member"]["macs"]
    assert total == document["macs"]


@pytest.mark.parametrize(
    ("backbone", "parameters", "macs"),
    [
        ("resnet50", 23_549_012, 1_334_616_064),
        ("resnet101", 42_541_140, 2_546_769_920),
        ("resnet152", 58_184_788, 3_758_923_776),
    ],
)
def test_the_baseline_is_the_backbone_that_is_named(
    capsys: pytest.CaptureFixture[str], backbone: str, parameters: int, macs: int
) -> None:
    assert run(["describe", "--backbone", backbone, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["backbone"] == backbone
    assert document["baseline"] == {"parameters": parameters, "macs": macs}
    assert document["ratio"]["macs"] == macs / document["macs"]
    assert run(["describe", "--backbone", backbone]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" / all") == 1
    assert f"--members 8 --backbone {backbone}" in printed


def test_the_table_gives_the_ratios_to_all_backbones_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "--members", "8"]) == 0
    rows = {" ".join(line.split()[:3]): line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    assert rows["ResNet50 / all"] == ["2.93x", "2.44x"]
    assert rows["ResNet101 / all"] == ["5.30x", "4.66x"]
    assert rows["ResNet152 / all"] == ["7.24x", "6.88x"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--members", "0"], 2, "members is 0: allowed are 1 to 256"),
        (["--size", "16"], 2, "--size 16: allowed are 32 to 1024"),
        (["--classes", "1"], 2, "needs at least 2"),
        (["nowhere"], 3, "nowhere does not exist: expected a checkpoint"),
        (["nowhere", "--members", "2"], 2, "not both"),
        (["nowhere", "--backbone", "resnet50"], 2, "not both"),
        (["--backbone", "resnet34"], 2, "no such backbone; allowed are resnet50, resnet101, resnet152"),
        (["--nonsense"], 2, "No such option"),
    ],
)
def test_wrong_requests_get_one_line_and_their_exit_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["describe", *words]) == code
    assert message in capsys.readouterr().err
