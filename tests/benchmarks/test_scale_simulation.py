"""The simulation against queueing theory, within its mean's interval, and in small cases that can be counted."""

from collections.abc import Callable

import numpy as np
import pytest
import simpy
from scipy import stats

from rrrbench.scale.beyond import one_of_many
from rrrbench.scale.machine import Core, Machine, Thread
from rrrbench.scale.simulation import BURST_WEIGHT, ENGINE_WEIGHT, Demands, Process, Random, Simulation, Topology

RUNS, REQUESTS = 12, 1500
CONFIDENCE = 0.999
Service = Callable[[Random, int], float]


def exponential(random: Random, _: int) -> float:
    return float(random.exponential(1.0))


def constant(_: Random, __: int) -> float:
    return 1.0


def interval_of_mean_wait(topology: Topology, service: Service, rate: float) -> tuple[float, float]:
    """Of the mean wait, from runs with other draws; each is counted from its middle, when it has settled."""
    means = []
    for seed in range(RUNS):
        due = np.cumsum(np.random.default_rng([seed, 1]).exponential(1 / rate, REQUESTS))
        found = Simulation(topology, Demands(engine=service), seed=seed).opened(due.tolist())
        means.append(float(np.mean(found.latencies[REQUESTS // 4 :])) - 1.0)  # the mean service takes 1 s
    low, high = stats.t.interval(CONFIDENCE, RUNS - 1, np.mean(means), stats.sem(means))
    return float(low), float(high)


def erlang_c(servers: int, load: float) -> float:
    """The probability that an arrival has to wait (A. K. Erlang, 1917)."""
    terms = [1.0]
    for count in range(1, servers + 1):
        terms.append(terms[-1] * load / count)
    last = terms[-1] * servers / (servers - load)
    return last / (sum(terms[:-1]) + last)


@pytest.mark.parametrize("rate", [0.3, 0.7])
@pytest.mark.parametrize(("service", "half"), [(exponential, 1.0), (constant, 0.5)], ids=["M/M/1", "M/D/1"])
def test_the_mean_wait_before_one_engine_is_that_of_pollaczek_and_khinchine(
    service: Service, half: float, rate: float
) -> None:
    low, high = interval_of_mean_wait(one_of_many(1.0), service, rate)
    assert low < half * rate / (1 - rate) < high
    assert high - low < 0.5 * half * rate / (1 - rate), "an interval that everything is within says nothing"


@pytest.mark.parametrize("servers", [2, 4])
def test_the_mean_wait_before_several_engines_is_erlangs(servers: int) -> None:
    load = 0.75 * servers
    topology = Topology(fronts=(0,), tritons=(tuple(range(servers)),), cores=servers)
    low, high = interval_of_mean_wait(topology, exponential, load)
    assert low < erlang_c(servers, load) / (servers - load) < high


def job(env: simpy.Environment, core: Core, begin: float, latencies: list[float]) -> Process:
    yield env.timeout(begin)
    yield core.work(1.0)
    latencies.append(env.now - begin)


def test_a_shared_core_takes_as_long_as_processor_sharing_whatever_the_service_times() -> None:
    means = []
    for seed in range(RUNS):
        env, latencies = simpy.Environment(), list[float]()
        due = np.cumsum(np.random.default_rng(seed).exponential(2.0, REQUESTS))
        (core,) = Machine(env, 1).cores
        for begin in due.tolist():
            env.process(job(env, core, begin, latencies))
        env.run()
        means.append(float(np.mean(latencies)))
    low, high = stats.t.interval(CONFIDENCE, RUNS - 1, np.mean(means), stats.sem(means))
    assert low < 1 / (1 - 0.5) < high


def finished(env: simpy.Environment, events: dict[str, simpy.Event]) -> dict[str, float]:
    """When each of these events happened."""
    times: dict[str, float] = {}

    def note(name: str, event: simpy.Event) -> Process:
        yield event
        times[name] = env.now

    for name, event in events.items():
        env.process(note(name, event))
    env.run()
    return times


def test_a_core_is_shared_by_weight() -> None:
    env = simpy.Environment()
    (core,) = Machine(env, 1).cores
    times = finished(env, {"heavy": core.work(3.0, 3.0), "light": core.work(3.0, 1.0), "nothing": core.work(0.0)})
    # The heavy one gets three quarters until it is done at 4 s; the light one has done 1 s by then.
    assert times == {"nothing": 0.0, "heavy": pytest.approx(4.0), "light": pytest.approx(6.0)}


def test_a_burst_of_the_front_goes_before_the_engine() -> None:
    env = simpy.Environment()
    (core,) = Machine(env, 1).cores
    front = Thread(env, lambda: core, weight=BURST_WEIGHT)
    times = finished(env, {"engine": core.work(10.0, ENGINE_WEIGHT), "first": front.do(1.0), "second": front.do(1.0)})
    assert times == {"first": pytest.approx(1.0), "second": pytest.approx(2.0), "engine": pytest.approx(12.0)}


def test_two_busy_cores_slow_each_other_down() -> None:
    env = simpy.Environment()
    first, second = Machine(env, 2, slowdown=1.5).cores
    times = finished(env, {"long": first.work(4.0), "short": second.work(2.0)})
    # Together at two thirds of the speed until the short one is done at 3 s; then 2 s are left of the long one.
    assert times == {"short": pytest.approx(3.0), "long": pytest.approx(5.0)}


def test_what_waits_while_the_engine_runs_goes_into_the_next_batch_up_to_the_largest() -> None:
    demands = Demands(engine=lambda _, size: 10.0 + size, max_batch=3)
    found = Simulation(one_of_many(1.0), demands, seed=0).opened([0.0, 1.0, 2.0, 3.0, 4.0])
    assert dict(found.batches) == {1: 2, 3: 1}
    # The first alone until 11; three until 24, which came at 1, 2 and 3; the last, which came at 4, until 35.
    assert sorted(found.latencies) == pytest.approx([11.0, 21.0, 22.0, 23.0, 31.0])
    assert found.seconds == pytest.approx(35.0)


def test_a_request_that_comes_while_its_replica_is_at_another_costs_its_front_and_that_batch_more() -> None:
    demands = Demands(engine=lambda _, size: 10.0 * size, front=lambda _: 1.0, overlap_front=0.5, overlap_engine=3.0)
    found = Simulation(one_of_many(1.0), demands, seed=0).opened([0.0, 4.0])
    # 1 of the front and 10 of the engine, which the second's front interrupts for 1.5 and disturbs for 3; then 10.
    assert found.latencies == pytest.approx([15.5, 21.5])


def test_whether_triton_turns_to_the_next_batch_before_a_burst_of_the_front_is_chance() -> None:
    """Two clients: the answer to one is written, and its next image read, before the other's batch begins, or after."""
    demands = Demands(engine=lambda _, size: 10.0 * size, front=lambda _: 1.0, between=0.1, max_batch=8)
    found = Simulation(one_of_many(1.0), demands, seed=0).closed(2, 400)
    assert found.batches[1] > 50
    assert found.batches[2] > 50


def test_every_part_of_a_request_is_counted_once() -> None:
    demands = Demands(
        engine=lambda _, __: 8.0,
        front=lambda _: 4.0,
        front_after=2.0,
        front_batch=0.5,
        triton=1.0,
        client=0.2,
        wait=0.1,
    )
    topology = Topology(fronts=(0,), tritons=((1,),), cores=2)
    found = Simulation(topology, demands, seed=0).closed(1, 3)
    assert found.latencies == [pytest.approx(15.8)] * 3
    assert found.throughput == pytest.approx(1 / 15.8)


def test_a_closed_loop_of_many_is_bound_by_the_busiest_core() -> None:
    demands = Demands(engine=lambda _, size: 0.004 * size, front=lambda _: 0.003, front_after=0.002, max_batch=8)
    one = Simulation(one_of_many(1.0), demands, seed=0).closed(16, 800).throughput
    apart = Simulation(Topology((0,), ((1,),), 2), demands, seed=0).closed(16, 800).throughput
    assert one == pytest.approx(1 / 0.009, rel=0.02)
    assert apart == pytest.approx(1 / 0.005, rel=0.02)


@pytest.mark.parametrize("balancer", ["round robin", "least requests"])
def test_two_replicas_take_two_requests_at_the_same_time(balancer: str) -> None:
    topology, demands = one_of_many(1.0, 2), Demands(engine=lambda _, __: 10.0)
    found = Simulation(topology, demands, seed=0, balancer=balancer).opened([0.0, 0.5])
    assert found.latencies == pytest.approx([10.0, 10.0])


def test_least_requests_passes_over_a_replica_that_is_slow() -> None:
    draws = iter([100.0, 1.0, 1.0, 1.0])
    demands = Demands(engine=lambda _, __: next(draws))
    topology = one_of_many(1.0, 2)
    found = Simulation(topology, demands, seed=0, balancer="least requests").opened([0.0, 1.0, 3.0, 5.0])
    assert sorted(found.latencies) == pytest.approx([1.0, 1.0, 1.0, 100.0])


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [Simulation(one_of_many(1.0), Demands(engine=exponential), seed=3).closed(2, 50) for _ in range(2)]
    assert runs[0].latencies == runs[1].latencies
