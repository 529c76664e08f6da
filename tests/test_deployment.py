"""deploy/kubernetes and deploy/systemd: they can be read, keep the service locked up, and fit the code's defaults."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rrrserve.commands import serve
from rrrserve.config.service_config import ServiceConfig
from rrrserve.triton.server import EXIT_TIMEOUT_SECONDS

ROOT = Path(__file__).parents[1]
START_SECONDS = ServiceConfig().start_timeout_seconds
# From SIGTERM to the end: refusing and closing take less than the 5 s to spare.
STOP_SECONDS = ServiceConfig().drain_seconds + ServiceConfig().grace_seconds + EXIT_TIMEOUT_SECONDS + 5
OPTIONS = set(re.findall(r"--[a-z-]+|(?<=    )[a-z_]+(?=: Annotated)", inspect.getsource(serve.serve)))


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Documents by kind."""
    text = (ROOT / "deploy/kubernetes/rrr.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Values of each setting by name."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/systemd/rrr.service").read_text(), re.M):
        found.setdefault(name, []).append(value)
    return found


def flags(arguments: str) -> set[str]:
    return {word.removeprefix("--").replace("-", "_") for word in arguments.split() if word.startswith("--")}


def test_the_image_and_the_port_are_those_of_this_version(container: dict[str, Any], manifests: dict[str, Any]) -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert version is not None
    assert container["image"] == f"rrrnet-serving:{version[1]}"
    assert {port["containerPort"] for port in container["ports"]} == {
        int(port) for port in re.findall(r"^EXPOSE (\d+)", dockerfile, re.M)
    }
    user = re.search(r"^USER (\d+):(\d+)", dockerfile, re.M)
    assert user is not None
    security = manifests["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))


def test_every_flag_exists(container: dict[str, Any], unit: dict[str, list[str]]) -> None:
    known = {option.removeprefix("--").replace("-", "_") for option in OPTIONS}
    assert flags(" ".join(container["args"])) <= known
    assert flags(unit["ExecStart"][0]) <= known


def test_probes_are_apart_and_wait_long_enough(container: dict[str, Any]) -> None:
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > START_SECONDS
    assert container["readinessProbe"]["timeoutSeconds"] > 5, "an inference for the probe may take 5 s"


def test_the_grace_periods_cover_what_stopping_takes(
    container: dict[str, Any], pod: dict[str, Any], unit: dict[str, list[str]]
) -> None:
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 5
    assert pod["terminationGracePeriodSeconds"] >= before + STOP_SECONDS
    assert int(unit["TimeoutStopSec"][0]) >= STOP_SECONDS
    assert unit["KillMode"] == ["mixed"], "the service ends its children itself, in order"


def test_a_pod_can_do_nothing_but_serve(
    container: dict[str, Any], pod: dict[str, Any], manifests: dict[str, Any]
) -> None:
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}  # noqa: S108  the two that the service writes to
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert volumes["token"]["secret"]["defaultMode"] == 0o440
    policy = manifests["NetworkPolicy"]["spec"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
    assert len(policy["ingress"]) == 1
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels == manifests["Service"]["spec"]["selector"]


def test_the_unit_locks_the_service_up(unit: dict[str, list[str]]) -> None:
    wanted = {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "UMask": "0077",
        "LimitCORE": "0",
        "CapabilityBoundingSet": "",
        "SystemCallFilter": "@system-service",
    }
    assert {name: "".join(unit[name]) for name in wanted} == wanted
    assert any("BENTOML_DO_NOT_TRACK=True" in line for line in unit["Environment"])
    assert "127.0.0.1" in unit["ExecStart"][0]
    secrets = [line for line in unit["Environment"] + unit["ExecStart"] if "TOKEN" in line or "token" in line]
    assert secrets == ["RRR_TOKEN_FILE=%d/token"]
