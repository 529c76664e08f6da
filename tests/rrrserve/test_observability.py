"""Prometheus's rules and Grafana's dashboard, on a real Prometheus that scraped the real service under load."""

import asyncio
import json
import math
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from prometheus_install import find
from rrrnet import __version__
from rrrnet.errors import UsageError
from rrrserve.evidence.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana" / "rrr.json").read_text())
OBSERVE = runpy.run_path(str(PROMETHEUS / "observe.py"))
QUERIES = [
    (panel["title"], target["refId"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]
# Blocks hold queries that are set apart by an empty line.
DOCUMENTED = [
    query.strip()
    for block in re.findall(r"```promql\n(.*?)```", METRICS_PAGE, re.DOTALL)
    for query in block.split("\n\n")
]
# Their windows begin half an hour ago, before there was a service.
BEFORE_THE_TEST = {"model:rrr_disagreement_count:increase1d", "model:rrr_disagreement:mean1d"}


def rules_of(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


RECORDS = sorted({rule["record"] for rule in rules_of("rules.yml")})
ALERTS = [rule["alert"] for rule in rules_of("alerts.yml")]
# Neither model is a cascade, and no member fails.
NOT_OF_THESE_MODELS = {
    *(name for name in RECORDS if re.search("auto_answers|early_answers|member_failures", name)),
    *("Settled by the first members", "Members missing from answers", "Drift"),
}


def promtool(*arguments: str) -> str:
    """What promtool says; it must be content."""
    ran = subprocess.run([find("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def filled(expression: str) -> str:
    """A dashboard's query as Grafana sends it, with all models chosen and a window that holds the whole load."""
    values = {"$__rate_interval": "12s", "$model": "(single|tiny)", "$baseline": "single"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def finite(found: dict[Any, float]) -> list[float]:
    return [value for value in found.values() if math.isfinite(value)]


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", "prometheus.yml")
    assert f"{len(rules_of('rules.yml'))} rules found" in said
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.parametrize("file", ["rules.yml", "alerts.yml", "days.yml"])
def test_the_rules_give_the_right_values_on_known_series(file: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", f"tests/{file}")


def test_every_rule_has_a_unit_test_and_every_alert_a_runbook() -> None:
    files = [path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml")]
    tested = "".join(files)
    assert [name for name in RECORDS if f"expr: round({name}" not in tested] == []
    tests = [test for text in files for test in yaml.safe_load(text)["tests"]]
    checks = [check for test in tests for check in test.get("alert_rule_test", ())]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(ALERTS)
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    assert headings == ALERTS
    for rule in rules_of("alerts.yml"):
        assert rule["annotations"]["runbook"] == f"docs/observability.md#{rule['alert'].lower()}"


def test_prometheus_scraped_both_jobs_and_its_rules_are_healthy(observed: Any) -> None:
    assert {dict(labels)["job"]: value for labels, value in observed.query("up").items()} == {"rrr": 1, "triton": 1}
    rules = [rule for group in observed.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    assert {rule["name"] for rule in rules} == {*RECORDS, *ALERTS}


def test_the_newest_sample_is_found_among_metrics_of_many_names(observed: Any) -> None:
    async def newest(*models: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await Prometheus(client, observed.url).last_sample(models)

    assert asyncio.run(newest(*observed.answers)) > observed.started
    assert asyncio.run(newest("nobody")) == 0


def test_prometheus_counted_what_the_clients_did(observed: Any) -> None:
    for model, answers in observed.answers.items():
        series = f'sum(rrr_request_duration_seconds_count{{model="{model}",outcome="ok",route=~".*/predict"}})'
        (before,), (after,) = (observed.query(series, at).values() for at in (observed.started, observed.ended))
        assert after - before == answers > 20


@pytest.mark.parametrize("record", [name for name in RECORDS if name not in BEFORE_THE_TEST | NOT_OF_THESE_MODELS])
def test_every_recorded_series_is_there(observed: Any, record: str) -> None:
    assert finite(observed.query(record))


def test_the_recorded_speedup_is_the_ratio_of_the_recorded_latencies(observed: Any) -> None:
    def value(query: str) -> float:
        (found,) = observed.query(query).values()
        return float(found)

    single, tiny = (
        value(f'model_level:rrr_latency_seconds:mean5m{{model="{model}",level="triton"}}')
        for model in ("single", "tiny")
    )
    speedup = value('model_level:rrr_speedup:mean5m{model="tiny",level="triton",baseline="single"}')
    assert speedup == pytest.approx(single / tiny, rel=0.05)  # a rule sees others' values of its own last turn


@pytest.mark.parametrize("query", DOCUMENTED)
def test_every_documented_query_finds_something(observed: Any, query: str) -> None:
    named = query.replace("resnet152", "single").replace("glyphs", "tiny").replace("[1m]", "[5m]")
    assert finite(observed.query(named)), named


@pytest.mark.parametrize(
    ("title", "reference", "expression"), [query for query in QUERIES if query[0] not in NOT_OF_THESE_MODELS]
)
def test_every_panel_shows_something(observed: Any, title: str, reference: str, expression: str) -> None:
    assert finite(observed.query(filled(expression))), filled(expression)


def test_the_dashboards_variables_find_the_models(observed: Any) -> None:
    for variable, values in {"model": ["single", "tiny"], "baseline": ["single"]}.items():
        (found,) = [item for item in DASHBOARD["templating"]["list"] if item["name"] == variable]
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", found["query"]["query"]).groups()  # type: ignore[union-attr]
        assert observed.get(f"label/{label}/values", **{"match[]": metric}) == values


def test_the_dashboards_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert all(item["datasource"] == source for item in [*DASHBOARD["panels"], *targets])


def test_the_compose_file_and_grafanas_provisioning_name_files_that_are_here() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["rrr"]["image"] == f"rrrnet-serving:{__version__}"
    mounts = [volume.split(":") for service in services.values() for volume in service["volumes"]]
    places = {source: target for source, target, *_ in mounts if source.startswith("./")}
    assert set(places) == {"./prometheus", "./grafana/provisioning", "./grafana/rrr.json"}
    assert all((DEPLOY / source).exists() for source in places)
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rrr.yaml").read_text())["providers"]
    assert places["./grafana/rrr.json"] == f"{provider['options']['path']}/rrr.json"


def test_without_a_service_it_says_so_and_ctrl_c_leaves_nothing(start_observing: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        service = f"http://127.0.0.1:{free.getsockname()[1]}"
    before = set((ROOT / "artifacts").glob("prometheus-*"))
    process, log, url = start_observing(tmp_path, service)
    (folder,) = set((ROOT / "artifacts").glob("prometheus-*")) - before
    children = psutil.Process(process.pid).children(recursive=True)
    assert [child.name() for child in children] == ["prometheus"]
    assert log.read_text().startswith(f"nothing answers at {service} yet: its targets are down until rrr serve runs")
    assert httpx.get(f"{url}/graph", follow_redirects=True, trust_env=False).status_code == 200

    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not folder.exists()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "127.0.0.1:3000"], "--url is '127.0.0.1:3000': expected the service's address, such as http://"),
        (["--interval", "fast"], "--interval is 'fast': expected a whole number of ms, s or m, such as 15s"),
    ],
)
def test_a_bad_argument_of_observe_is_exit_2(arguments: list[str], message: str) -> None:
    ran = subprocess.run([sys.executable, str(PROMETHEUS / "observe.py"), *arguments], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"observe: {message}")


def test_a_port_in_use_is_exit_2_and_tells_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        command = [sys.executable, str(PROMETHEUS / "observe.py"), "--port", str(port), "--url", "http://127.0.0.1:1"]
        ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr == (
        f"observe: 127.0.0.1 port {port} is in use: stop what listens there, or choose another --port "
        "(make observe PROMETHEUS_PORT=PORT)\n"
    )


def test_the_baseline_is_the_rules_own_else_the_largest_model_else_the_one_that_is_asked_for(tmp_path: Path) -> None:
    rules = OBSERVE["rules"]
    small, large = {"name": "small", "macs": 1}, {"name": "large", "macs": 2}

    def baseline(models: list[dict[str, Any]], name: str | None = None) -> list[str]:
        return re.findall('rrr_model_info{model=~"(.*?)"', rules(models, name))[:1]

    own = ["(.*-)?resnet(50|101|152)"]
    assert baseline([]) == own
    for whole in ("cats-resnet152", "resnet50", "cats-resnet101"):
        assert baseline([small, {"name": whole, "macs": 1}]) == own
    assert baseline([{"name": "resnet50", "macs": 4}, {"name": "resnet152", "macs": 12}]) == ["resnet152"]
    assert baseline([small, large]) == ["large"]
    assert baseline([small, large], "small") == ["small"]
    assert baseline([], "any-v1.2") == [r"any-v1\\.2"]
    (tmp_path / "rules.yml").write_text(rules([], "any-v1.2"))
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "rules.yml"))
    with pytest.raises(UsageError, match="--baseline is 'nobody': the service has small, large"):
        rules([small, large], "nobody")


def test_prometheus_is_given_the_token_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens").write_text("first-token-01234\nsecond-token-01234\n")
    monkeypatch.setenv("RRR_TOKEN_FILE", str(tmp_path / "tokens"))
    path = OBSERVE["write_configuration"](tmp_path, "http://127.0.0.1:1", interval="5s", rules_text="")
    jobs = yaml.safe_load(path.read_text())["scrape_configs"]
    assert [job["authorization"] for job in jobs] == [{"credentials_file": str(tmp_path / "token")}] * 2
    assert (tmp_path / "token").read_text() == "first-token-01234"
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
