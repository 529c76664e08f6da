"""What supervisor and workers tell each other through shared memory, and what becomes metrics of it."""

from pathlib import Path

from rrrserve.metrics.supervision import SupervisionCollector
from rrrserve.state.shared_state import FIRST_VERSION, Phase, SharedState

MODELS = ("a", "b")


def test_workers_and_supervisor_see_one_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    parent = SharedState.create(path, MODELS, workers=2)
    workers = [SharedState.open(path, slot).of_version(FIRST_VERSION, MODELS) for slot in (1, 2)]
    assert [parent.slots, workers[1].slot] == [3, 2]
    workers[0].add(3)
    workers[1].add(2)
    workers[1].add(-1)
    assert {state.total() for state in (parent, *workers)} == {4}
    workers[1].note_answer("b")
    workers[1].beat()
    assert parent.since_answer("a") == float("inf")
    assert workers[0].since_answer("b") < 60
    assert (parent.since_beat(1), parent.since_beat(2) < 60) == (float("inf"), True)
    parent.clear(2)
    assert (parent.total(), parent.since_beat(2)) == (3, float("inf"))
    assert parent.since_answer("b") < 60, "what a dead worker has seen still counts"
    parent.forget_answers()
    assert workers[1].since_answer("b") == float("inf")
    parent.service.phase, parent.triton.up, parent.triton.generation = Phase.DRAINING, True, 5
    assert (workers[0].service.phase, workers[0].draining) == (Phase.DRAINING, True)
    assert (workers[0].triton.up, workers[0].triton.generation) == (True, 5)
    assert [path.stat().st_size for path in (path, path.with_name("state-1"))] == [
        8 * (8 + 3 * 5),
        8 * (4 + 3 * 2 * 2),
    ]


def test_without_a_supervisor_the_state_is_the_workers_own() -> None:
    state = SharedState.in_process(MODELS)
    state.add(1)
    assert (state.slots, state.total(), state.triton.up, state.draining) == (1, 1, True, False)
    assert not state.answers("a")
    state.note_answer("a")
    assert state.answers("a")
    state.note_failure("a")
    assert not state.answers("a")


def test_a_version_is_in_use_until_its_last_worker_changed_over(tmp_path: Path) -> None:
    parent = SharedState.create(tmp_path / "state", MODELS, workers=2)
    parent.service.version = FIRST_VERSION
    workers = [SharedState.open(tmp_path / "state", slot) for slot in (1, 2)]
    assert [worker.use_current_version() for worker in workers] == [1, 1]
    changed = parent.new_version(2, ["c"])
    parent.service.version = 2
    workers[0].use_version(2)
    assert changed.versions_in_use() == {1, 2}
    workers[0].of_version(2, ["c"]).note_answer("c")
    assert (changed.since_answer("c") < 60, parent.since_answer("a")) == (True, float("inf"))
    changed.clear(2)
    assert changed.versions_in_use() == {2}
    changed.forget_version(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "state-2"]


def test_restarts_and_the_breaker_are_metrics_with_closed_labels() -> None:
    collector = SupervisionCollector()
    assert list(collector.collect()) == []
    state = collector.state = SharedState.in_process(MODELS)
    state.service.restarts_worker += 1
    samples = {
        (sample.name, *sample.labels.values()): sample.value for m in collector.collect() for sample in m.samples
    }
    assert samples["rrr_restarts_total", "triton"] == 0
    assert samples["rrr_restarts_total", "worker"] == 1
    assert samples[("rrr_triton_up",)] == 1
