"""Connecting to a Ray cluster."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from rrrnet.cluster import connected
from rrrnet.errors import CheckFailedError


def fake_ray(*resources: dict[str, float]) -> Any:
    """A cluster of machines with these resources."""
    nodes = [{"Alive": True, "Resources": found} for found in resources]
    return SimpleNamespace(
        init=lambda **_: None,
        nodes=lambda: nodes,
        shutdown=lambda: None,
        exceptions=SimpleNamespace(RayError=type("RayError", (Exception,), {})),
    )


def test_machines_without_cores_are_left_out_and_a_cluster_of_such_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", fake_ray({"CPU": 4.0}, {"GPU": 1.0}))
    with connected("head:6379") as cluster:
        assert cluster.cores == (4,)
    monkeypatch.setitem(sys.modules, "ray", fake_ray({"GPU": 1.0}))
    says = "--ray head:6379: the machines of this cluster offer 0 CPU cores: ray start"
    with pytest.raises(CheckFailedError, match=says), connected("head:6379"):
        pass
