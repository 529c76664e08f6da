"""Routes of several models: what is read, which model a request gets, and how workers follow a change."""

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest

from rrrbuild.repository_document import Repository, ServedModel
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.routing import Routing
from rrrserve.config.routes import Route, routes_of
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics.instruments import ROUTE_SHARE, ROUTED
from rrrserve.state.shared_state import STATE, SharedState
from rrrserve.versions.catalogue import asked_by_default
from rrrserve.versions.routing import Routes, RoutesControl, RoutesFile, read_routes, write_routes

DRAWS = 10_000
KEYS = [f"user-{number}".encode() for number in range(DRAWS)]
(CANARY,) = routes_of(["default=resnet152:90,ensemble:10"])
(THREE,) = routes_of(["three=a:5,b:3,c:2"])


@pytest.mark.parametrize("text", ["r=a:90,b:10", "r=a:1,b:1", "r=a:5,b:3,c:2", "r=a:0,b:7", "r=a:99.5,b:.5"])
def test_weights_hold_within_one_point_over_10000_requests_with_keys_and_without(text: str) -> None:
    (route,) = routes_of([text])
    routing = Routing([route])
    before = {name: ROUTED.labels("r", name)._value.get() for name in route.weights}
    unkeyed = Counter(routing.chosen("r", {}) for _ in range(DRAWS))
    counted = {name: ROUTED.labels("r", name)._value.get() - before[name] for name in route.weights}
    keyed = Counter(routing.chosen("r", {b"x-route-key": key}) for key in KEYS)
    for name, share in route.shares.items():
        assert abs(keyed[name] / DRAWS - share) < 0.01
        assert abs(unkeyed[name] / DRAWS - share) < 0.001, "an even sequence, not drawn"
        assert counted[name] == unkeyed[name]
        assert ROUTE_SHARE.labels("r", name)._value.get() == share


@pytest.mark.parametrize("period", [2, 3, 5, 10, 100])
def test_shares_hold_for_clients_that_come_in_turns(period: int) -> None:
    routing = Routing([CANARY])
    turns = [Counter[str]() for _ in range(period)]
    for number in range(1000 * period):
        turns[number % period][routing.chosen("default", {})] += 1
    assert all(abs(turn["ensemble"] / 1000 - 0.1) < 0.01 for turn in turns)


def test_a_key_keeps_its_model_and_an_empty_one_is_none() -> None:
    one, other = Routing([CANARY]), Routing([CANARY])
    for key in KEYS[:200]:
        headers = {b"x-route-key": key}
        assert {one.chosen("default", headers), other.chosen("default", headers)} == {CANARY.by_key(key)}
    assert {one.chosen("default", {b"x-route-key": b""}) for _ in range(50)} == {"resnet152", "ensemble"}
    assert one.chosen("resnet152", {}) == "resnet152"
    assert (one.first("default"), one.first("nobody")) == ("resnet152", "nobody")


@pytest.mark.parametrize(("route", "model"), [(CANARY, "ensemble"), (THREE, "b"), (THREE, "c")])
def test_as_a_share_rises_keys_move_to_that_model_alone_and_back_as_it_falls(route: Route, model: str) -> None:
    keys, had = KEYS[2000:4000], {key: route.with_share(model, 0).by_key(key) for key in KEYS[2000:4000]}
    assert model not in had.values()
    chosen = dict(had)
    for percent in (1, 10, 25, 50, 99, 100):
        now = {key: route.with_share(model, percent / 100).by_key(key) for key in keys}
        moved = [key for key in keys if now[key] != chosen[key]]
        assert {now[key] for key in moved} <= {model}
        assert abs(sum(name == model for name in now.values()) / len(keys) - percent / 100) < 0.03
        chosen = now
    assert set(chosen.values()) == {model}
    assert {key: route.with_share(model, 0).by_key(key) for key in keys} == had


def test_the_others_keep_their_proportions_and_somebody_must_be_left() -> None:
    moved = THREE.with_share("c", 0.5)
    assert moved.text() == "three=a:31.25,b:18.75,c:50"
    assert moved.told() == "a 31.25 %, b 18.75 %, c 50 %"
    assert routes_of([moved.text()]) == (moved,)
    alone = CANARY.with_share("ensemble", 1)
    assert alone.weights == {"resnet152": 0, "ensemble": 100}
    with pytest.raises(ValueError, match="ensemble has all of default"):
        alone.with_share("ensemble", 0.5)
    assert Route("r", {"a": 0.1, "b": 0.2}).by_place(1 - 1e-17) == "b"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["default"], "--route is 'default': expected NAME=MODEL:WEIGHT,MODEL:WEIGHT, as in default=resnet152:90"),
        (["default="], "--route is 'default='"),
        (["=a:1"], "'' cannot be a model's name"),
        (["a b=a:1"], "call the route a-b, as in --route a-b="),
        (["r=a"], r"--route r has 'a': expected .*; a weight is a number from 0 to 1e\+06"),
        (["r=a:1,b:-1"], "--route r has 'b:-1'"),
        (["r=a:nan"], "--route r has 'a:nan'"),
        (["r=a:1,a:2"], "--route r names a twice"),
        (["r=a:0,b:0"], "--route r gives no model any weight"),
        (["r=a:1", "r=b:1"], "--route r is given twice"),
    ],
)
def test_what_is_no_route_is_refused_with_what_is_allowed(texts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        routes_of(texts)


def test_flags_and_variable_say_the_same_and_the_first_of_default_is_the_default_model() -> None:
    by_flag = ServiceConfig.from_environment({}, route=["default=a:90,b:10", "other=b:1"])
    by_variable = ServiceConfig.from_environment({"RRR_ROUTE": "default=a:90,b:10 other=b:1"})
    assert by_flag.routes == by_variable.routes == routes_of(["default=a:90,b:10", "other=b:1"])
    assert (by_flag.default_model, ServiceConfig.from_environment({}).routes) == ("a", ())
    with pytest.raises(UsageError, match=r"--default \(RRR_DEFAULT_MODEL\) is 'b', and --route default says"):
        ServiceConfig.from_environment({"RRR_DEFAULT_MODEL": "b"}, route=["default=a:90,b:10"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"route": ["default=a:1,c:1"]}, "a model of --route default is 'c': .* holds a, b"),
        ({"route": ["a=b:1"]}, "--route a has the name of a model of "),
        ({"shadow": "c"}, r"--shadow \(RRR_SHADOW\) is 'c': .* holds a, b"),
        ({"shadow": "a"}, r"--shadow \(RRR_SHADOW\) is 'a', which /v1/predict asks anyway: name another"),
    ],
)
def test_a_repository_must_hold_what_routes_and_shadow_name(
    settings: dict[str, object], says: str, tmp_path: Path
) -> None:
    models = tuple(
        ServedModel(name, "1", "t", "python", 2, 4, ("x", "y"), Preprocess(32), 32, 1, 1, ("probabilities",))
        for name in ("a", "b")
    )
    repository = Repository(tmp_path, models, {}, "0" * 64)
    for good in ({"shadow": "b"}, {"shadow": "a", "route": ["default=a:1,b:1"]}, {"route": ["other=a:1"]}):
        assert asked_by_default(repository, ServiceConfig.from_environment({}, **good)).name == "a"
    assert asked_by_default(repository, ServiceConfig.from_environment({}, route=["default=b:1,a:1"])).name == "b"
    with pytest.raises(UsageError, match=says):
        asked_by_default(repository, ServiceConfig.from_environment({}, **settings))


def test_a_change_is_done_when_every_worker_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Routes(1, {CANARY.name: CANARY, THREE.name: THREE})
    write_routes(tmp_path, first)
    parent = SharedState.create(tmp_path / STATE, ["a"], workers=3)
    workers = [(SharedState.open(tmp_path / STATE, slot), RoutesFile(tmp_path)) for slot in (1, 2)]
    over, control = threading.Event(), RoutesControl(tmp_path)

    def follow(state: SharedState, file: RoutesFile) -> None:
        while not over.wait(0.01):
            if (changed := file.changed()) is not None:
                state.use_routing(changed.number)

    for state, file in workers:
        assert (file.changed(), file.changed()) == (first, None)
        state.use_routing(1)
    threads = [threading.Thread(target=follow, args=worker) for worker in workers]
    for thread in threads:
        thread.start()
    moved = CANARY.with_share("ensemble", 0.25)
    with control.held():
        asyncio.run(control.change(moved))
        assert parent.routings_in_use() == {2}, "there is no worker in slot 3 now"
        assert read_routes(tmp_path) == Routes(2, {"default": moved, "three": THREE})
        with pytest.raises(CheckFailedError, match="another rrr promote"), RoutesControl(tmp_path).held():
            pass
        over.set()
        for thread in threads:
            thread.join()
        monkeypatch.setattr("rrrserve.versions.routing._FOLLOW_SECONDS", 0.1)
        with pytest.raises(CheckFailedError, match="a worker does not follow within 0 s"):
            asyncio.run(control.change(CANARY))
    for slot in (1, 2):
        parent.clear(slot)
    assert parent.routings_in_use() == set()
    (tmp_path / "routing.json").unlink()
    assert workers[0][1].changed() is None
