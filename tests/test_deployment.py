"""deploy/kubernetes and deploy/systemd keep the service locked up, and fit the code's defaults and one another."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.manifests import Manifest, of_kind, pods, rendered
from rrrserve.commands import serve
from rrrserve.config.service_config import ServiceConfig
from rrrserve.triton.server import EXIT_TIMEOUT_SECONDS

ROOT = Path(__file__).parents[1]
DEFAULTS = ServiceConfig()
TO_SPARE_SECONDS = 5  # refusing and closing take less
OPTIONS = set(re.findall(r"(?<=    )[a-z_]+(?=: Annotated)", inspect.getsource(serve.serve)))
FOLDERS = ("base", "overlays/cpu", "overlays/gpu", "overlays/monitoring", "kserve")
MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
# Every pod of what is rendered: the folder, and the name of what makes it.
PODS = [(folder, "kserve" if folder == "kserve" else "rrr") for folder in FOLDERS] + [("overlays/gpu", "rrr-triton")]
FRONTS = [(folder, name) for folder, name in PODS if name != "rrr-triton"]


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Values of each setting by name."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/systemd/rrr.service").read_text(), re.M):
        found.setdefault(name, []).append(value)
    return found


def pod(folder: str, name: str) -> Manifest:
    return pods(rendered(folder))[name]


def container(folder: str, name: str) -> Any:
    (found,) = pod(folder, name)["containers"]
    return found


def flags(words: list[str]) -> dict[str, str]:
    """Values of long options by name, written --name VALUE or --name=VALUE."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    found = [(word.removeprefix("--").partition("="), following) for word, following in pairs if word.startswith("--")]
    return {name.replace("-", "_"): value if separator else following for (name, separator, value), following in found}


def seconds(option: str, given: dict[str, str], default: float) -> float:
    return float(given.get(option, default))


@pytest.mark.parametrize(("folder", "name"), FRONTS)
def test_the_image_its_user_and_its_ports_are_those_of_this_version(folder: str, name: str) -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    dockerfile = (ROOT / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+):(\d+)", dockerfile, re.M)
    assert version is not None
    assert user is not None
    front = container(folder, name)
    assert front["image"] == f"rrrnet-serving:{version[1]}"
    ports = [port["containerPort"] for port in front["ports"]]
    exposed = {int(port) for port in re.findall(r"^EXPOSE (\d+)", dockerfile, re.M)}
    assert ports == [*exposed, int(flags(front["args"])["metrics_port"])]
    security = pod(folder, name)["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))
    if "command" in front:  # the image's own, with KServe's place for models
        own = re.findall(r"^ENTRYPOINT \[(.+)\]$", dockerfile, re.M)[-1].replace('"', "").split(", ")
        assert front["command"][-4:] == ["/mnt/models" if word == "/models" else word for word in own[-4:]]


@pytest.mark.parametrize(("folder", "name"), FRONTS)
def test_every_flag_exists(folder: str, name: str) -> None:
    assert flags(container(folder, name)["args"]).keys() <= OPTIONS


def test_every_flag_of_the_unit_exists(unit: dict[str, list[str]]) -> None:
    assert flags(unit["ExecStart"][0].split()).keys() <= OPTIONS


@pytest.mark.parametrize(("folder", "name"), FRONTS)
def test_probes_are_apart_and_wait_as_long_as_the_service_does(folder: str, name: str) -> None:
    front = container(folder, name)
    probes = {probe: front[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    paths = [probe["httpGet"]["path"] for probe in probes.values()]
    assert paths == ["/readyz", "/readyz", "/livez"]
    start_seconds = seconds("start_timeout", flags(front["args"]), DEFAULTS.start_timeout_seconds)
    startup = probes["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > start_seconds, "it tells itself why it is not ready"
    assert probes["readinessProbe"]["timeoutSeconds"] > 5, "an inference for the probe may take 5 s"


def test_the_front_waits_for_triton_as_long_as_triton_may_take() -> None:
    triton = container("overlays/gpu", "rrr-triton")["startupProbe"]
    given = flags(container("overlays/gpu", "rrr")["args"])
    assert float(given["start_timeout"]) >= triton["periodSeconds"] * triton["failureThreshold"]


@pytest.mark.parametrize(("folder", "name"), FRONTS)
def test_the_prestop_pause_drain_grace_and_tritons_exit_fit_into_the_pods_grace_period(folder: str, name: str) -> None:
    front = container(folder, name)
    given = flags(front["args"])
    withdrawn = front["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert withdrawn >= 5, "every node must have learned that the pod takes no more connections"
    drain = seconds("drain", given, DEFAULTS.drain_seconds)
    grace = seconds("grace", given, DEFAULTS.grace_seconds)
    needed = withdrawn + drain + grace + EXIT_TIMEOUT_SECONDS + TO_SPARE_SECONDS
    assert needed <= pod(folder, name)["terminationGracePeriodSeconds"] <= needed + 30


def test_tritons_own_grace_fits_too() -> None:
    triton = container("overlays/gpu", "rrr-triton")
    withdrawn = triton["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = withdrawn + float(flags(triton["args"])["exit_timeout_secs"]) + TO_SPARE_SECONDS
    assert pod("overlays/gpu", "rrr-triton")["terminationGracePeriodSeconds"] >= needed


def test_the_units_grace_covers_what_stopping_takes(unit: dict[str, list[str]]) -> None:
    needed = DEFAULTS.drain_seconds + DEFAULTS.grace_seconds + EXIT_TIMEOUT_SECONDS + TO_SPARE_SECONDS
    assert int(unit["TimeoutStopSec"][0]) >= needed
    assert unit["KillMode"] == ["mixed"], "the service ends its children itself, in order"


@pytest.mark.parametrize(("folder", "name"), PODS)
def test_a_pod_can_do_nothing_but_serve(folder: str, name: str) -> None:
    found = pod(folder, name)
    assert found["automountServiceAccountToken"] is found["enableServiceLinks"] is False
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    only = container(folder, name)
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= only["resources"]["limits"].keys(), "threads are counted by the limit"
    writable = {mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}  # noqa: S108  the two that the service writes to
    volumes = {volume["name"]: volume for volume in found["volumes"]}
    assert {mount["name"] for mount in only["volumeMounts"]} == volumes.keys()
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    if name != "rrr-triton":
        assert volumes["token"]["secret"]["defaultMode"] == 0o440


def chosen(manifests: list[Manifest], selector: Manifest) -> Iterator[Manifest]:
    """The Deployments whose pods a selector matches."""
    for item in of_kind(manifests, "Deployment").values():
        labels = item["spec"]["template"]["metadata"]["labels"]
        if selector.items() <= labels.items():
            yield item


@pytest.mark.parametrize("folder", ["base", "overlays/cpu", "overlays/gpu", "overlays/monitoring"])
def test_what_names_something_finds_it(folder: str) -> None:
    manifests = rendered(folder)
    deployments = of_kind(manifests, "Deployment")
    for service in of_kind(manifests, "Service").values():
        (found,) = chosen(manifests, service["spec"]["selector"])
        ports = {port["name"] for port in pods(manifests)[found["metadata"]["name"]]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for name, item in deployments.items():
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"] == labels
        assert of_kind(manifests, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == labels
        spread = item["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [each["labelSelector"]["matchLabels"] for each in spread] == [labels] * len(spread)
        assert "kubernetes.io/hostname" in {each["topologyKey"] for each in spread}
        policy = of_kind(manifests, "NetworkPolicy")[name]["spec"]
        assert policy["podSelector"]["matchLabels"] == labels
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]
        scaled = deployments[target["name"]]
        assert (target["apiVersion"], target["kind"]) == (scaled["apiVersion"], scaled["kind"])
        assert "replicas" not in scaled["spec"], "each apply would undo what the autoscaler did"


@pytest.mark.parametrize(("folder", "name"), PODS)
def test_only_clients_reach_the_api_only_monitoring_the_metrics_and_nothing_gets_out(folder: str, name: str) -> None:
    policies = of_kind(rendered(folder), "NetworkPolicy")
    policy = policies["rrr-kserve" if name == "kserve" else name]["spec"]
    ports = container(folder, name)["ports"]
    by_name = {port["name"]: port["containerPort"] for port in ports}
    inward = {
        by_name.get(port["port"], port["port"]): rule.get("from")
        for rule in policy["ingress"]
        for port in rule["ports"]
    }
    api, metrics = (port["containerPort"] for port in ports)
    clients: dict[str, Any] = {
        "rrr": [{"podSelector": {"matchLabels": {"rrr-client": "yes"}}}],
        "rrr-triton": [{"podSelector": {"matchLabels": {"app": "rrr"}}}],
        "kserve": None,  # its gateway may be anywhere; the token decides
    }
    assert inward == {api: clients[name], metrics: [MONITORING]}
    if name == "kserve":
        assert policy["policyTypes"] == ["Ingress"], "KServe's own container fetches the repository"
    elif (folder, name) == ("overlays/gpu", "rrr"):
        to_triton, names = policy["egress"]
        assert to_triton["to"] == [{"podSelector": {"matchLabels": {"app": "rrr-triton"}}}]
        assert [port["port"] for port in (*to_triton["ports"], *names["ports"])] == [8001, 53, 53]
        assert container(folder, name)["args"][-2:] == ["--triton-url", "dns:///rrr-triton:8001"]
    else:
        assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def targets(manifests: list[Manifest], monitor: Manifest) -> Iterator[tuple[str, str, str, int]]:
    """What Prometheus Operator makes of a ServiceMonitor: job, path, Deployment, port of its pods."""
    (selected,) = monitor["spec"]["selector"]["matchExpressions"]
    for service in of_kind(manifests, "Service").values():
        if service["metadata"]["labels"].get(selected["key"]) not in selected["values"]:
            continue
        (found,) = chosen(manifests, service["spec"]["selector"])
        name = found["metadata"]["name"]
        numbers = {port["name"]: port["containerPort"] for port in pods(manifests)[name]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            for endpoint in monitor["spec"]["endpoints"]:
                if endpoint["port"] == port["name"]:
                    (job,) = (item["replacement"] for item in endpoint["relabelings"] if item["targetLabel"] == "job")
                    yield job, endpoint["path"], name, numbers[port["targetPort"]]


def test_the_jobs_are_those_that_the_alerts_go_by_whoever_tells_tritons_metrics() -> None:
    (monitor,) = of_kind(rendered("overlays/monitoring"), "ServiceMonitor").values()
    front = {("rrr", "/metrics", "rrr", 9464)}
    cpu, gpu = (set(targets(rendered(folder), monitor)) for folder in ("overlays/cpu", "overlays/gpu"))
    assert cpu == front | {("triton", "/metrics/triton", "rrr", 9464)}
    assert gpu == front | {("triton", "/metrics", "rrr-triton", 8002)}
    configuration = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {(job["job_name"], job.get("metrics_path", "/metrics")) for job in configuration["scrape_configs"]}
    assert jobs == {(job, path) for job, path, _, _ in cpu}


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
