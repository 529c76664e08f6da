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


def test_the_table_gives_the_ratio_to_resnet152(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "--members", "8"]) == 0
    out = capsys.readouterr().out
    assert "7.24x" in out
    assert "6.88x" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--members", "0"], 2, "members is 0: allowed are 1 to 256"),
        (["--size", "16"], 2, "--size 16: allowed are 32 to 1024"),
        (["--classes", "1"], 2, "needs at least 2"),
        (["nowhere"], 3, "nowhere does not exist: expected a checkpoint"),
        (["nowhere", "--members", "2"], 2, "not both"),
        (["--nonsense"], 2, "No such option"),
    ],
)
def test_wrong_requests_get_one_line_and_their_exit_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["describe", *words]) == code
    assert message in capsys.readouterr().err
