"""A claims file is read strictly: each mistake is refused with its line, the value seen and what is allowed."""

from pathlib import Path

import pytest

from rrrnet.errors import ArtifactError
from rrrserve.claims.claims_file import read_claims
from rrrserve.claims.kinds import KINDS, Speedup, Throughput
from rrrserve.claims.reasons import REASONS
from rrrserve.cli import run

ROOT = Path(__file__).parents[2]
GOOD = """\
version: 1
claims:
  - name: five times
    kind: speedup
    model: glyphs
    baseline: resnet152
    at_least: 5
  - name: busy
    kind: throughput
    model: glyphs
    at_least_per_second: 50
    p99_ms: 100
"""


def read(folder: Path, text: str) -> object:
    """Read a claims file of this text."""
    path = folder / "claims.yaml"
    path.write_text(text)
    return read_claims(path)


def test_a_good_file_has_its_claims_in_order_with_defaults(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(GOOD)
    found = read_claims(tmp_path / "claims.yaml")
    first, second = found.claims
    assert (found.confidence, len(found.sha256)) == (0.95, 64)
    assert isinstance(first, Speedup)
    assert isinstance(second, Throughput)
    assert (first.level, first.statistic, first.bound.to_json()) == ("http", "mean", {"at_least": 5.0})
    assert first.sentence == "glyphs is at least 5 times as fast as resnet152 (mean, http)"
    assert (second.concurrency, second.models, second.unit) == (4, ("glyphs",), "1/s")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("at_least: 5\n", "at_leest: 5\n", 7, "unknown field 'at_leest' of a speedup claim"),
        ("at_least: 5\n", "at_leest: 5\n", 7, "Did you mean 'at_least'?"),
        ("kind: speedup", "kind: speed_up", 4, "kind is 'speed_up': allowed are speedup, latency,"),
        ("kind: speedup", "kind: speed_up", 4, "Did you mean 'speedup'?"),
        ("    kind: speedup\n", "", 3, "kind is missing: allowed are"),
        ("    baseline: resnet152\n", "", 3, "a speedup claim needs the field 'baseline'"),
        ("    at_least: 5\n", "", 3, "nothing is claimed: give at_least or at_most"),
        ("at_least: 5\n", "at_least: five\n", 7, "at_least is 'five': it should be a valid number"),
        ("at_least: 5\n", "at_least: .nan\n", 7, "at_least is nan: it should be"),
        ("at_least: 5\n", "at_least: -5\n", 7, "at_least is -5: it should be greater than 0"),
        ("at_least: 5\n", "at_least: true\n", 7, "at_least is True: it should be a valid number"),
        ("at_least: 5\n", "at_least: 5\n    at_most: 4\n", 3, "the lower limit 5 is above the upper limit 4"),
        ("at_least: 5\n", "at_least: 5\n    statistic: p98\n", 8, "statistic is 'p98': it should be 'mean', 'p50'"),
        ("at_least: 5\n", "at_least: 5\n    level: htpp\n", 8, "Did you mean 'http'?"),
        ("at_least: 5\n", "at_least: 5\n    at_least: 6\n", 8, 'found duplicate key "at_least" with value "6"'),
        ("baseline: resnet152", "baseline: glyphs", 3, "a model is not compared with itself"),
        ("name: busy", "name: five times", 8, "the name 'five times' was given before, in line 3"),
        ("version: 1", "version: 2", 1, "version is 2: this rrr reads 1"),
        ("version: 1\n", "", 1, "version is missing"),
        ("version: 1", "version: 1\nconfidence: 95", 2, "confidence is 95: allowed are numbers from 0.5 to 0.9999"),
        ("version: 1", "version: 1\nclams: []", 2, "unknown field 'clams': allowed are version, confidence, claims."),
        ("    model: glyphs\n    baseline", "    model: [glyphs]\n    baseline", 5, "model is ['glyphs']: it should"),
        (
            "at_least: 5\n",
            "at_least: !!python/object/apply:os.getcwd []\n",
            7,
            "the tag tag:yaml.org,2002:python/object/apply:os.getcwd is not allowed here",
        ),
        ("at_least: 5\n", "at_least: 2026-13-45\n", 7, "'2026-13-45' cannot be read as"),
        ("at_least: 5\n", 'at_least: !!float ""\n', 7, "'' cannot be read as tag:yaml.org,2002:float"),
        ("at_least: 5\n", 'at_least: !!int ""\n', 7, "'' cannot be read as tag:yaml.org,2002:int"),
        ("at_least: 5\n", "at_least: !!bool maybe\n", 7, "'maybe' cannot be read as tag:yaml.org,2002:bool"),
        ("at_least: 5\n", "at_least: !!timestamp x\n", 7, 'failed to construct timestamp from "x"'),
        ("at_least: 5\n", "at_least: 1:30\n", 7, "at_least is '1:30': it should be a valid number."),
        ("at_least: 5\n", 'at_least: "5"\n', 7, "at_least is '5': it should be a valid number."),
        ("p99_ms: 100", "p99_ms: 100\n    concurrency: 1e1", 13, "concurrency is 10.0: it should be a valid integer"),
        ("baseline: resnet152", "7: resnet152", 6, "a key must be a word"),
        ("baseline: resnet152", "<<: {baseline: resnet152}", 6, "a key must be a word"),
        ("at_least: 5\n", "at_least: {5\n", 8, "not YAML"),
        ("name: five times\n", "name: &a five times\n    baseline: *a\n", 4, "an alias (*name) is not read here"),
        ("  - name: five times", "  - 5\n  - name: five times", 3, "a claim has fields such as name and kind"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ArtifactError) as raised:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert str(raised.value).startswith(f"{tmp_path / 'claims.yaml'}:{line}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "claims.yaml:1: the file is empty"),
        (b"# version: 1\n\n# claims\n", "claims.yaml:1: the file is empty"),
        (b"PK\x03\x04\x14\x00", "claims.yaml:1: not YAML: unacceptable character #x0003"),
        (b"- 1\n", "claims.yaml:1: expected version, confidence, claims as keys, not [1]"),
        (b"version: 1\nclaims: []\n", "claims.yaml:2: claims is []: expected a list of at least one claim"),
        (b"version: 1\n\xff\n", "claims.yaml:2: byte 0xff is not UTF-8"),
        (b"a: 1\n---\nb: 1\n", "claims.yaml:2: not YAML"),
        (b"version: 1\nclaims: " + b"[" * 1000, "claims.yaml:"),
        (b"#" * (10 << 20), "has 10485760 bytes: a file of claims has at most"),
    ],
)
def test_a_file_that_is_no_list_of_claims_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as raised:
        read_claims(path)
    assert message in str(raised.value)


def test_an_empty_word_has_no_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        read(tmp_path, GOOD.replace("model: glyphs", 'model: ""', 1))
    assert str(raised.value).endswith(":5: claim 'five times': model is '': it should have at least 1 character.")


def test_numbers_with_a_point_an_exponent_or_a_leading_zero_are_numbers(tmp_path: Path) -> None:
    points = (("0.5", 0.5), ("00.5", 0.5), ("2.5e-1", 0.25))
    for text, value in (*points, ("1.0e+3", 1000.0), ("1e3", 1000.0), ("1_000", 1000.0), ("010", 10.0)):
        (tmp_path / "claims.yaml").write_text(GOOD.replace("at_least: 5\n", f"at_least: {text}\n"))
        assert read_claims(tmp_path / "claims.yaml").claims[0].bound.low == value


def test_a_typo_ends_the_command_with_code_3_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(GOOD.replace("baseline:", "basline:"))
    assert run(["verify", "--claims", str(path)]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{path}:6: claim 'five times': unknown field 'basline'" in said.err
    assert run(["verify", "--claims", str(tmp_path / "none.yaml")]) == 3
    assert "none.yaml cannot be read: No such file or directory; rrr claims init writes" in capsys.readouterr().err


def test_the_readmes_claims_are_read_and_every_kind_is_documented() -> None:
    assert len(read_claims(ROOT / "benchmarks" / "claims.yaml").claims) >= 5
    page = (ROOT / "docs" / "claims.md").read_text()
    for reason, meaning in REASONS.items():
        assert f"| `{reason}` | {meaning} |" in page
    for name, kind in KINDS.items():
        assert f"`{name}`" in page
        for field in kind.model_fields:
            assert f"`{field}`" in page, f"docs/claims.md does not explain the field {field} of {name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say where the evidence is, with --scrape"),
        (["--drive"], "--drive needs to know whom to ask"),
        (["--scrape", "localhost:3000"], "--scrape is 'localhost:3000': expected http://HOST:PORT"),
        (["--prometheus", "http://h:1", "--range", "5 minutes"], "--range is '5 minutes': expected a duration such as"),
        (["--prometheus", "http://h:1", "--scrape", "http://h:2"], "together need --drive"),
        (["--scrape", "http://127.0.0.1:99999"], "--scrape is 'http://127.0.0.1:99999': a port is from 1 to 65535"),
        (["--prometheus", "http://127.0.0.1:99999"], "--prometheus is 'http://127.0.0.1:99999': a port is from 1 to"),
        (["--scrape", "http://127.0.0.1:0"], "a port is from 1 to 65535"),
        (["--scrape", f"http://{'a' * 70}:3000"], "label too long"),
        (["--bench", "x.json", "--scrape", "http://h:2"], "--bench is evidence of its own"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("version: 1\nclaims: [{name: it, kind: latency, model: quick, at_most_ms: 1}]\n")
    assert run(["verify", "--claims", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_name_of_a_claim_is_one_line_of_text(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text('version: 1\nclaims:\n  - {name: "a\\nb", kind: latency, model: m, at_most_ms: 5}\n')
    with pytest.raises(ArtifactError, match=r"claims\.yaml:3: claim 'a\\nb': 'a\\nb' cannot be a name: .* 'a b'"):
        read_claims(path)
