"""benchmarks/scale.py: what is drawn of what was measured, what is computed of it, and a page that is its file's."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scale
from rrrbench.pages import marks
from rrrbench.scale import tables
from rrrbench.scale.beyond import beyond, head_room, replicas_for, simulated_row
from rrrbench.scale.demands import (
    EngineTimes,
    cold_of,
    cost_of,
    costs_of,
    demands_of,
    overlap_of,
    pace_of,
    slowdown_of,
    spread_of,
)
from rrrbench.scale.load import Load, RoundRobin
from rrrbench.scale.measure import case_of, load_of

ROOT = Path(__file__).resolve().parents[2]
# Milliseconds: the engine 2 and 4 an image, the front 3 a request and 1 a batch, Triton 1 a request, the client 0.5.
ENGINE: dict[str, Any] = {
    "target": "openvino-fp32",
    "alone_ms": {"1": [4.0, 4.0, 4.0], "2": [6.0, 6.0, 6.0], "8": [18.0, 18.0, 18.0]},
    "both_ms": {"1": [4.4, 4.4], "8": [19.8, 19.8]},
}


def run(requests: int, batches: int, p50_ms: float, **more: Any) -> dict[str, Any]:
    engine_ms = 2 * requests + 2 * batches + 0.5 * batches
    spent_ms = {"front": 3 * requests + 1 * batches, "triton": 1 * requests, "model": engine_ms, "other": 0.0}
    cpu_seconds = {name: ms / 1000 for name, ms in spent_ms.items()}
    cpu_seconds["front"] += 0.01 * 5.0  # what it spends when nobody asks
    told = {"requests": requests, "batches": batches, "p50_ms": p50_ms, "throughput": 100.0, "seconds": 5.0}
    return {**told, "cpu_seconds": cpu_seconds, "client_cpu_ms": 0.5, "one_client_ms": [7.0, 7.0, 7.0], **more}


SERVICE: dict[str, Any] = {
    "target": "openvino-fp32",
    "light": run(200, 200, 10.3, decode_ms=[1.0, 2.0], preprocess_ms=[0.25, 0.25]),
    "pair": run(200, 200, 20.0),
    "loaded": run(400, 100, 60.0),
    "calm": run(100, 100, 12.0),
    "idle_cpu_share": {"front": 0.01, "triton": 0.0, "model": 0.0, "other": 0.0},
    "memory_mb": 500.0,
    "repository_bytes": 33_000_000,
    "wire_bytes": {
        "drawn letter": {"request": 6000.0, "answer": 1000.0},
        "photo": {"request": 60000.0, "answer": 1000.0},
        "pixels": 150_600,
    },
}


def test_costs_of_requests_and_batches_are_told_apart_by_two_runs() -> None:
    runs = [{"requests": 100, "batches": 100}, {"requests": 400, "batches": 50}]
    assert cost_of(runs, [300.0, 850.0]) == pytest.approx((2.0, 1.0))
    assert cost_of(runs, [100.0, 500.0]).batch == 0.0, "no process gives time back for a batch"
    costs = costs_of(ENGINE, SERVICE)
    assert costs["front"] == pytest.approx((3.0, 1.0))
    assert costs["triton"] == pytest.approx((1.0, 0.0))
    assert costs["model"] == pytest.approx((0.0, 0.5))


def test_what_a_request_costs_more_after_idling_is_told_by_a_calm_run() -> None:
    costs = costs_of(ENGINE, SERVICE)
    assert cold_of(ENGINE, SERVICE, costs) == pytest.approx((0.0, 0.0, 0.0)), "it costs what the others cost"
    calm = run(100, 100, 12.0, client_cpu_ms=1.0)
    calm["cpu_seconds"] |= {"front": calm["cpu_seconds"]["front"] + 0.1, "model": calm["cpu_seconds"]["model"] + 0.2}
    # 20 a second: 1 - 0.24 of them find it idle, since 50 ms on average.
    share = 0.76 / (1 + 20 * 0.045)
    assert cold_of(ENGINE, {**SERVICE, "calm": calm}, costs) == pytest.approx((0.5 / share, 1.0 / share, 2.0 / share))
    rounds = [(ENGINE, SERVICE), (ENGINE, {**SERVICE, "calm": calm})]
    assert demands_of(ENGINE, SERVICE, rounds).cold_engine == pytest.approx(0.001 / share), "the mean of the rounds"
    assert demands_of(ENGINE, SERVICE, rounds, client=False).cold_client == 0.0, "the client is elsewhere"


def test_what_requests_cost_that_overlap_is_told_by_two_clients_beside_one() -> None:
    assert overlap_of(ENGINE, SERVICE) == (0.0, 0.0), "it costs what the others cost"
    pair, loaded = run(200, 200, 20.0), run(400, 100, 60.0)
    for each, requests, batches in ((pair, 200, 200), (loaded, 400, 100)):
        each["cpu_seconds"] |= {
            "front": each["cpu_seconds"]["front"] + 0.0002 * requests,
            "triton": each["cpu_seconds"]["triton"] + 0.0001 * requests,
            "model": each["cpu_seconds"]["model"] + 0.0004 * batches,
        }
    service = {**SERVICE, "pair": pair, "loaded": loaded}
    overlap = overlap_of(ENGINE, service)
    assert overlap == pytest.approx((0.3, 0.4))
    assert costs_of(ENGINE, service, overlap)["model"] == pytest.approx((0.0, 0.5)), "as without"
    demands = demands_of(ENGINE, service)
    assert (demands.overlap_front, demands.overlap_engine) == pytest.approx((0.0003, 0.0004))


def test_a_load_is_simulated_at_the_pace_of_the_machine_around_it() -> None:
    slow = {"one_client_ms": [8.4, 8.4, 9.0]}
    assert pace_of(SERVICE, slow) == pytest.approx(1.2)
    assert demands_of(ENGINE, SERVICE, around=slow).client == pytest.approx(0.0006)
    calm = {**run(100, 100, 12.0), **slow, "client_cpu_ms": 0.6}
    calm["cpu_seconds"] = {part: 1.2 * seconds for part, seconds in calm["cpu_seconds"].items()}
    calm["cpu_seconds"]["front"] -= 0.2 * 0.05  # what it spends when nobody asks
    found = cold_of(ENGINE, {**SERVICE, "calm": calm}, costs_of(ENGINE, SERVICE))
    assert found == pytest.approx((0.0, 0.0, 0.0), abs=1e-9), "what a slow machine costs is no cold start"


def test_an_inference_spreads_as_that_of_one_client_did_hiccups_too() -> None:
    assert spread_of({"one_client_ms": [8.0, 10.0, 10.0, 12.0, 25.0]}) == [0.8, 1.0, 1.0, 1.2, 2.5]


def test_the_engines_time_between_two_measured_sizes_is_interpolated() -> None:
    times = EngineTimes({"1": [4.0, 5.0], "4": [10.0, 14.0]})
    assert [times.quantile_ms(0.0, size) for size in (1, 2, 4)] == [4.0, 6.0, 10.0]
    assert [times.quantile_ms(0.99, size) for size in (1, 2, 4)] == [5.0, 8.0, 14.0]
    assert times.largest == 4
    spread = EngineTimes({"1": [4.0], "4": [10.0, 14.0, 14.0]}, spread=[1.0, 1.5])
    drawn = {spread.seconds(np.random.default_rng(seed), 4) for seed in range(20)}
    assert drawn == {0.014, 0.021}, "the median, as many times as the service's calls were drawn"


def test_a_replica_alone_takes_as_long_in_the_simulation_as_it_was_measured() -> None:
    demands = demands_of(ENGINE, SERVICE)
    assert slowdown_of(ENGINE) == pytest.approx(1.1)
    # 10.3 less 0.5 of the client, 4.5 of the model's process, 4 of the front and 1 of Triton.
    assert demands.wait == pytest.approx(0.0003)
    row = simulated_row("1 replica", {"clients": 1, "requests": 300}, demands, 1.0)
    assert row["p50_ms"] == pytest.approx(10.3, abs=0.51), "decoding takes half a millisecond more or less"
    assert row["throughput"] == pytest.approx(1000 / 10.3, rel=0.02)
    assert row["mean_batch"] == 1.0


def test_two_replicas_do_twice_as_much_but_for_what_their_cores_take_from_each_other() -> None:
    demands = demands_of(ENGINE, SERVICE)
    rates = [
        simulated_row(name, {"clients": clients, "requests": 600}, demands, 1.1)["throughput"]
        for name, clients in (("1 replica", 16), ("2 replicas", 32))
    ]
    # 6.5 ms of a core each, beside a client that has another; then 7 ms with the client, on cores a tenth slower.
    assert rates[1] / rates[0] == pytest.approx(2 * 6.5 / (7.0 * 1.1), rel=0.03)


def test_the_arrivals_of_a_measured_open_loop_are_those_of_its_simulation() -> None:
    load = Load(500, 2.0, rate_per_second=40.0, seed=3)
    due = load.due_seconds()
    row = {"rate_per_second": 40.0, "seed": 3, "most_seconds": 2.0, "requests": len(due)}
    assert load_of(row).due_seconds().tolist() == due.tolist()
    assert 40 < len(due) < 120
    assert due[-1] < 2.0


def test_what_a_section_is_reckoned_from_is_asked_for_by_its_command() -> None:
    assert case_of({"engine": [ENGINE]}, "engine", "openvino-fp32") == ENGINE
    with pytest.raises(SystemExit, match="--only engine --targets openvino-int8 measures it"):
        case_of({"engine": [ENGINE]}, "engine", "openvino-int8")


def test_a_stricter_goal_leaves_less_of_a_replica() -> None:
    found = beyond(ENGINE, SERVICE, [30.0, 100.0, 5.0], balancers=False, requests=800)
    strict, loose, impossible = (goal["rate"] for goal in found["goals"])
    assert 0 < strict < loose < found["capacity"]
    assert impossible == 0.0
    few, many, _ = (goal["under_way"] for goal in found["goals"])
    assert 0.2 < few < many, "Little's law: the rate times the mean latency"
    assert (replicas_for(10_000, 250.0), replicas_for(10_001, 250.0), replicas_for(1, 0.0)) == (40, 41, None)


def test_head_room_is_the_growth_until_a_new_replica_answers() -> None:
    assert head_room(60, 60) == 2.0
    assert head_room(30, 60) == pytest.approx(1.414, abs=1e-3)


def document() -> dict[str, Any]:
    told: dict[str, Any] = {"requests": 900, "batches": 300, "queue_ms": 1.5}
    told["stages_ms"] = {stage: [0.25, 1.0] for stage in ("read", "decode", "preprocess", "inference")}
    rows = [{"clients": 1, "throughput": 90.0, "p50_ms": 10.0, "p99_ms": 20.0, **told}]
    rows += [{"rate_per_second": 50.0, "throughput": 50.0, "p50_ms": 11.0, "p99_ms": 40.0, **told, "batches": None}]
    near = [{"throughput": 95.0, "p50_ms": 10.5, "p99_ms": 24.0}, {"throughput": 50.0, "p50_ms": 12.2, "p99_ms": 40.0}]
    starts = {"start_seconds": [5.0, 7.0], "first_answer_ms": [12.0, 14.0], "later_answers_ms": [10.0, 10.0]}
    goals = [{"p99_ms": goal, "rate": rate, "under_way": 2.5} for goal, rate in ((100.0, 80.0), (5.0, 0.0))]
    balancers = {"round robin": 85.0, "random": 80.0, "least requests": 90.0}
    case = {"target": "openvino-fp32"}
    return {
        "engine": [ENGINE],
        "service": [SERVICE],
        "replicas": [{**case, "round": number, "topologies": {"2 replicas": rows}} for number in range(2)],
        "simulated": [{**case, "round": number, "topologies": {"2 replicas": near}} for number in range(2)],
        "start": [{**case, "1 core": starts}],
        "beyond": [{**case, "capacity": 100.0, "goals": goals, "balancers": balancers, "together": 8}],
    }


def test_tables_say_what_the_figures_say() -> None:
    told = document()
    assert "| `openvino-fp32` | 444.4 (batch 8) | 100.0 | 2.2 | 10.0 | 0.62 | 2.78 | 10.3 | 500 |" in tables.cost_table(
        told
    )
    assert tables.cost_table(told, 0.5).endswith("| 500 | 1.39 |")
    assert "| 2 replicas, `openvino-fp32` | 2 | 90.0 | 1 client | 6.17 |" in tables.topology_table(told)
    checked = tables.check_table(told)
    assert (
        "| 1 client | 1800 | 90.0 | 95.0 | +6 % (+6 to +6) | 10.0 | 10.5 | +5 % (+5 to +5) | 20.0 | 24.0 | +20 % "
        in checked
    )
    assert (
        "| 50.0/s | 1800 | 50.0 | 50.0 | +0 % (+0 to +0) | 11.0 | 12.2 | +11 % (+11 to +11) | 40.0 | 40.0 | " in checked
    )
    assert [line.split(" | ")[-1] for line in checked.splitlines()[2:4]] == ["yes |", "no |"]
    assert "1 of 2 are within 10 % of answers/s and p50 and 25 % of p99." in checked
    stages = tables.stages_table(told)
    assert "| 1 client | 0.25 | 0.25 | 0.25 | 0.25 | 1.5 | 3.0 |" in stages
    assert "| 50.0/s | 0.25 | 0.25 | 0.25 | 0.25 |  |  |" in stages
    assert tables.engine_table(told).endswith("| `openvino-fp32` | 4.0 (4.0) | 6.0 (6.0) | 18.0 (18.0) | 1.10 |")
    assert "| `openvino-fp32` | 100 | 80.0 | 80 % | 2.5 | 125 | 12,500 |" in tables.beyond_table(told)
    assert "| `openvino-fp32` | 5 | none |  |  | none | none |" in tables.beyond_table(told)
    assert tables.balancer_table(told).splitlines()[2:] == [
        "| random | 80.0 | 80 % |",
        "| round robin | 85.0 | 85 % |",
        "| least requests | 90.0 | 90 % |",
    ]
    assert "| JPEG in, a photo | 60,000 | 4.8 Gbit/s | 480.0 Gbit/s |" in tables.wire_table(told)
    assert "| `openvino-fp32` | 33.0 MB | 0.004 TB | 0.412 TB |" in tables.storage_table(told)
    assert "| `openvino-fp32`, 1 core | 6.0 (7.0) | 13.0 | 10.0 | 0.0 |" in tables.start_table(told)
    assert "| 1 min | 67 | 2.17 | 46 % |" in tables.head_room_table(told)


def test_the_page_is_that_of_its_file() -> None:
    kept = json.loads(scale.RESULT.read_text()) if scale.RESULT.is_file() else {}
    page = scale.PAGE.read_text()
    for name in tables.BLOCKS:
        begin, end = marks(name, scale.SCRIPT)
        assert page.split(begin)[1].split(end)[0].strip() == scale.block(name, kept), (
            f"{sys.executable} {scale.SCRIPT} --tables writes it"
        )


def test_a_client_of_several_replicas_asks_them_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Asked:
        def __init__(self, url: str, *_: object, **__: object) -> None:
            self.url = url

        async def ask(self, ticket: int) -> float:
            asked.append((self.url, ticket))
            return 0.0

    monkeypatch.setattr("rrrbench.scale.load.HttpClient", Asked)
    client = RoundRobin(["a", "b"], [b"image"])

    async def three() -> None:
        for ticket in range(3):
            await client.ask(ticket)

    asyncio.run(three())
    assert asked == [("a", 0), ("b", 1), ("a", 2)]


@pytest.mark.nightly
def test_the_scale_benchmark_measures_every_section_and_writes_its_page(tmp_path: Path) -> None:
    page, out = tmp_path / "scale.md", tmp_path / "scale.json"
    page.write_text(scale.PAGE.read_text())
    words = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), "--save", str(out), "--page", str(page)]
    for more in (["--quick", "--cache", str(tmp_path / "cache")], ["--tables"]):
        done = subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    for section in ("replicas", "simulated"):
        shapes = [[len(rows) for rows in case["topologies"].values()] for case in found[section]]
        assert shapes == [[3, 3, 2], [3, 3, 2]], section
    assert found["service"][0]["wire_bytes"]["pixels"] > 32 * 32 * 3
    assert scale.NOTHING not in page.read_text()
    assert re.search(r"\d+ of 8 are within", page.read_text())
