"""deploy/kubernetes: rendered by Kustomize it passes the schemas of every version, and a slip in it does not."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import prometheus_rule
from harness.manifests import KUBERNETES, Manifest, compose, faults, of_kind, pods, render, rendered, versions
from prometheus_install import find
from rrrserve.metrics import instruments

PROMETHEUS = KUBERNETES.parent / "prometheus"
FOLDERS = ("base", "overlays/cpu", "overlays/gpu", "overlays/monitoring", "kserve")
COMPONENTS = ("repository-image", "repository-bucket", "monitoring", "autoscaling")
ADAPTER = yaml.safe_load((KUBERNETES / "components/autoscaling/prometheus-adapter.yaml").read_text())


def all_faults(manifests: list[Manifest], version: str) -> list[str]:
    return [fault for manifest in manifests for fault in faults(manifest, version)]


def test_there_are_schemas_of_several_versions() -> None:
    assert {"1.30", "1.33", "1.36"} <= set(versions())


def test_every_folder_that_can_be_rendered_is_tested() -> None:
    kinds = {
        path.parent.relative_to(KUBERNETES).as_posix(): yaml.safe_load(path.read_text())["kind"]
        for path in KUBERNETES.rglob("kustomization.yaml")
    }
    assert {name for name, kind in kinds.items() if kind == "Kustomization"} == set(FOLDERS)
    assert {name for name, kind in kinds.items() if kind == "Component"} == {
        f"components/{name}" for name in COMPONENTS
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_rendered_passes_the_schemas_of_every_version(folder: str) -> None:
    found = {version: all_faults(rendered(folder), version) for version in versions()}
    assert found == {version: [] for version in versions()}


@pytest.mark.parametrize("resource", ["overlays/cpu", "overlays/gpu"])
@pytest.mark.parametrize("repository", ["repository-image", "repository-bucket"])
def test_so_does_any_overlay_with_the_components(tmp_path: Path, resource: str, repository: str) -> None:
    manifests = compose(tmp_path, resource, [repository, "monitoring", "autoscaling"])
    found = {version: all_faults(manifests, version) for version in versions()}
    bad = found.pop("1.30")
    assert found == {version: [] for version in found}
    if repository == "repository-image":  # such volumes came with 1.31
        assert all("'image' was unexpected" in fault for fault in bad)
        assert len(bad) == (2 if resource == "overlays/gpu" else 1)
    else:
        assert bad == []


def test_the_overlay_of_the_page_is_rendered_as_the_page_says(tmp_path: Path) -> None:
    page = (KUBERNETES.parents[1] / "docs" / "kubernetes.md").read_text()
    (text,) = re.findall(r"^# mine/kustomization\.yaml\n(.*?)^```", page, re.M | re.S)
    here = os.path.relpath(KUBERNETES, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(text.replace("../deploy/kubernetes", here))
    manifests = render(tmp_path)
    assert all_faults(manifests, versions()[-1]) == []
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"vision"}
    (monitor,) = of_kind(manifests, "ServiceMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    containers = {name: pod["initContainers"] + pod["containers"] for name, pod in pods(manifests).items()}
    images = {name: [each["image"].partition("@")[0] for each in found] for name, found in containers.items()}
    assert [image.partition(":")[0] for image in images["rrr"]] == [
        "rclone/rclone",
        "registry.example.com/rrrnet-serving",
    ]
    assert [image.partition(":")[0] for image in images["rrr-triton"]] == [
        "rclone/rclone",
        "nvcr.io/nvidia/tritonserver",
    ]


def broken(change: Callable[[Any], object], kind: str, folder: str = "overlays/monitoring") -> list[str]:
    """The faults of an object after a slip."""
    manifest = copy.deepcopy(next(item for item in rendered(folder) if item["kind"] == kind))
    change(manifest["spec"])
    return list(faults(manifest, "1.30"))


def first_container(spec: Any) -> Any:
    return (spec if "containers" in spec else spec["template"]["spec"])["containers"][0]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("Deployment", lambda spec: spec.update(replicas="two"), "spec.replicas: 'two' is not of type 'integer'"),
        ("Deployment", lambda spec: spec.pop("selector"), "'selector' is a required property"),
        ("Deployment", lambda spec: first_container(spec).update(port=[]), "'port' was unexpected"),
        ("NetworkPolicy", lambda spec: spec.update(policyType=["Egress"]), "'policyType' was unexpected"),
        ("HorizontalPodAutoscaler", lambda spec: spec.pop("maxReplicas"), "'maxReplicas' is a required property"),
        ("PodDisruptionBudget", lambda spec: spec.update(maxUnavailable=[1]), "spec.maxUnavailable: [1] is not"),
        (
            "ServiceMonitor",
            lambda spec: spec["endpoints"][0].update(interval="soon"),
            "interval: 'soon' does not match",
        ),
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(ports="http"), "'ports' was unexpected"),
        ("PrometheusRule", lambda spec: spec["groups"][0]["rules"][0].pop("expr"), "'expr' is a required property"),
        (
            "PrometheusRule",
            lambda spec: spec["groups"][-1]["rules"][0].update({"for": "5 min"}),
            "'5 min' does not match",
        ),
        ("ServingRuntime", lambda spec: first_container(spec).pop("name"), "'name' is a required property"),
        ("ServingRuntime", lambda spec: first_container(spec).update(arg=[]), "'arg' was unexpected"),
        (
            "InferenceService",
            lambda spec: spec["predictor"]["model"].update(storageURI="x"),
            "'storageURI' was unexpected",
        ),
        ("InferenceService", lambda spec: spec["predictor"].update(minReplicas="2"), "'2' is not of type 'integer'"),
    ],
)
def test_a_slip_is_a_fault(kind: str, change: Callable[[Any], object], message: str) -> None:
    folder = "kserve" if kind in ("ServingRuntime", "InferenceService") else "overlays/monitoring"
    (fault,) = broken(change, kind, folder)
    assert fault.startswith(kind)
    assert message in fault


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("base/deployment.yaml", "replicas: 2", "replicas: two", "spec.replicas: 'two' is not of type 'integer'"),
        ("base/deployment.yaml", "readinessProbe:", "readyProbe:", "'readyProbe' was unexpected"),
        (
            "overlays/gpu/triton.yaml",
            "apiVersion: apps/v1",
            "apiVersion: apps/v2",
            "Couldn't find schema for kind Deployment",
        ),
        ("overlays/gpu/kustomization.yaml", "path: front.yaml", "path: fronts.yaml", "no such file or directory"),
        ("overlays/gpu/front.yaml", "name: rrr", "name: front", "no matches for Id Deployment"),
        ("overlays/gpu/kustomization.yaml", "value: metrics-triton", "value: other", "testing value"),
    ],
)
def test_a_broken_file_is_caught(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    copied = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    text = (copied / file).read_text()
    assert text.count(old) >= 1
    (copied / file).write_text(text.replace(old, new, 1))
    try:
        found = " ".join(all_faults(render(copied / "overlays/gpu"), "1.30"))
    except AssertionError as refused:
        found = str(refused)
    assert message in found


def test_rules_and_alerts_are_those_of_prometheus() -> None:
    written = prometheus_rule.TARGET.read_text()
    assert written == prometheus_rule.manifest(), "run make rules"
    files = [yaml.safe_load((PROMETHEUS / name).read_text()) for name in ("rules.yml", "alerts.yml")]
    assert yaml.safe_load(written)["spec"]["groups"] == [group for file in files for group in file["groups"]]


def test_promtool_accepts_the_rules_as_they_are_rendered(tmp_path: Path) -> None:
    (rule,) = of_kind(rendered("overlays/monitoring"), "PrometheusRule").values()
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    ran = subprocess.run(
        [find("promtool"), "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    count = sum(len(group["rules"]) for group in rule["spec"]["groups"])
    assert f"{count} rules found" in ran.stdout


def adapters_query(metric: str, namespace: str, names: list[str]) -> str:
    """What prometheus-adapter asks Prometheus when the autoscaler wants a metric of some pods."""
    (rule,) = [item for item in ADAPTER["rules"]["custom"] if item["seriesQuery"].startswith(f"{metric}{{")]
    label_of = {item["resource"]: label for label, item in rule["resources"]["overrides"].items()}
    labels = f'{label_of["namespace"]}="{namespace}",{label_of["pod"]}=~"{"|".join(names)}"'
    values = {"<<.Series>>": metric, "<<.LabelMatchers>>": labels, "<<.GroupBy>>": label_of["pod"]}
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], rule["metricsQuery"])


def test_the_autoscaler_gets_the_mean_of_a_minute_for_each_pod(tmp_path: Path) -> None:
    (scaler,) = of_kind(rendered("overlays/monitoring"), "HorizontalPodAutoscaler").values()
    (wanted,) = scaler["spec"]["metrics"]
    metric = wanted["pods"]["metric"]["name"]
    assert [metric] == [family.name for family in instruments.IN_FLIGHT.collect()]
    query = adapters_query(metric, "vision", ["rrr-a", "rrr-b"])
    series = {"rrr-a": "0 0 0 0 2 12 6 4", "rrr-b": "9x7", "rrr-c": "99x7"}  # every 15 s
    of_a, of_b = (2 + 12 + 6 + 4) / 4, 9.0
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f'{metric}{{namespace="vision",pod="{pod}",job="rrr"}}', "values": values}
                    for pod, values in series.items()
                ]
                + [{"series": f'{metric}{{namespace="other",pod="rrr-a",job="rrr"}}', "values": "50x7"}],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "119s",
                        "exp_samples": [
                            {"labels": '{pod="rrr-a"}', "value": of_a},
                            {"labels": '{pod="rrr-b"}', "value": of_b},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "adapter.yml").write_text(json.dumps(test))
    ran = subprocess.run(
        [find("promtool"), "test", "rules", "adapter.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # ceil(pods x mean of the pods / wanted): two pods with 6 and 9 requests under way become four.
    assert -(-(of_a + of_b) // float(wanted["pods"]["target"]["averageValue"])) == 4
