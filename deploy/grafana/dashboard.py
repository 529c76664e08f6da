"""The Grafana dashboard as a table of panels; `python deploy/grafana/dashboard.py > deploy/grafana/rrr.json` writes it.

Fields are those of Grafana 10 and 11. Queries use $__rate_interval, so that they fit any scrape interval.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24  # of Grafana's grid
_SINGLE = 'route=~".*/predict",outcome="ok"'  # good answers to single images, as in the recording rules
_HTTP = f'rrr_request_duration_seconds_bucket{{{_SINGLE},model=~"$model"}}'
_TRITON = 'rrr_inference_duration_seconds_bucket{model=~"$model"}'
_STAGE = 'rrr_stage_duration_seconds_bucket{model=~"$model"}'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        queries: pairs of PromQL and the legend of its series.
        unit: Grafana's name of the unit: s, reqps, percentunit, bytes, short.
        kind: Grafana's name of the panel's type.
        width: columns of 24.
        description: how to read it; shown behind the panel's (i).
        stacked: whether the series add up.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: str = "timeseries"
    width: int = 8
    description: str = ""
    stacked: bool = False


def _quantiles(series: str, labels: str, legend: str) -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le, {labels}) (rate({series}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"{legend} p{q[2:]:0<2}") for q in ("0.5", "0.95", "0.99"))


def _mean(metric: str, labels: str, match: str = 'model=~"$model"') -> str:
    total, count = (
        f"sum by ({labels}) (rate({metric}_{part}{{{match}}}[$__rate_interval]))" for part in ("sum", "count")
    )
    return f"{total} / {count}"


def _speedup(metric: str, match: str) -> str:
    baseline, model = (
        f"histogram_quantile(0.5, sum by ({labels}) (rate({metric}_bucket{{{match}{which}}}[$__rate_interval])))"
        for labels, which in (("le", 'model="$baseline"'), ("le, model", 'model=~"$model"'))
    )
    return f"{baseline} / on () group_right () {model}"


def _per_inference(counter: str) -> str:
    """Mean of one of Triton's counters over its inferences."""
    match = '{model=~"$model"}[$__rate_interval]'
    return f"sum by (model) (rate({counter}{match})) / sum by (model) (rate(nv_inference_request_success{match}))"


PANELS = (
    Panel(
        "Speed-up over $baseline, median",
        (
            (_speedup("rrr_inference_duration_seconds", ""), "{{model}} at Triton"),
            (_speedup("rrr_request_duration_seconds", f"{_SINGLE},"), "{{model}} over HTTP"),
        ),
        "suffix:x",
        width=12,
        description="How many times as fast as the baseline. Buckets are 25 % wide: rrr verify decides claims.",
    ),
    Panel(
        "Latency over HTTP",
        ((f"sum by (le) (increase({_HTTP}[$__rate_interval]))", "{{le}}"),),
        "s",
        kind="heatmap",
        width=12,
        description="Good answers to single images; each row of cells is a bucket of the histogram.",
    ),
    Panel("Latency over HTTP by model", _quantiles(_HTTP, "model", "{{model}}"), "s", width=12),
    Panel("Latency at Triton by model", _quantiles(_TRITON, "model", "{{model}}"), "s", width=12),
    Panel("Latency of each stage", _quantiles(_STAGE, "model, stage", "{{model}} {{stage}}"), "s", width=12),
    Panel(
        "Where the time goes, mean",
        ((_mean("rrr_stage_duration_seconds", "model, stage"), "{{model}} {{stage}}"),),
        "s",
        width=12,
        stacked=True,
    ),
    Panel(
        "Time of each member, mean",
        ((_mean("rrr_member_duration_seconds", "model, member"), "{{model}} {{member}}"),),
        "s",
        description="Only engines of plan split time their members. They run at the same time: do not add them up.",
    ),
    Panel(
        "Disagreement of the members, mean",
        ((_mean("rrr_disagreement", "model"), "{{model}}"),),
        "percentunit",
        description="Share of members whose label is not the ensemble's. A rise without labels is a sign of drift.",
    ),
    Panel(
        "Disagreement",
        (('sum by (le) (increase(rrr_disagreement_bucket{model=~"$model"}[$__rate_interval]))', "{{le}}"),),
        "percentunit",
        kind="heatmap",
    ),
    Panel(
        "Requests by outcome",
        (
            (
                'sum by (model, outcome) (rate(rrr_request_duration_seconds_count{route=~".*/predict.*"}'
                "[$__rate_interval])) > 0",
                "{{model}} {{outcome}}",
            ),
        ),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Rejections and errors by reason",
        (("sum by (reason) (rate(rrr_requests_rejected_total[$__rate_interval])) > 0", "{{reason}}"),),
        "reqps",
        stacked=True,
        description="The codes are those of docs/http.md.",
    ),
    Panel("Requests in flight", (("sum by (instance) (rrr_in_flight_requests)", "{{instance}}"),), "short"),
    Panel(
        "Triton: time in the queue, mean",
        ((f"{_per_inference('nv_inference_queue_duration_us')} / 1e6", "{{model}}"),),
        "s",
    ),
    Panel(
        "Triton: requests in the queue",
        (('sum by (model) (nv_inference_pending_request_count{model=~"$model"})', "{{model}}"),),
        "short",
    ),
    Panel(
        "Triton: mean batch",
        (
            (
                'sum by (model) (rate(nv_inference_count{model=~"$model"}[$__rate_interval]))'
                ' / sum by (model) (rate(nv_inference_exec_count{model=~"$model"}[$__rate_interval]))',
                "{{model}}",
            ),
        ),
        "short",
        description="Images that Triton ran together.",
    ),
    Panel("Models that answer", (('min by (model) (rrr_model_ready{model=~"$model"})', "{{model}}"),), "short"),
    Panel(
        "HTTP workers: memory",
        (('process_resident_memory_bytes{job="rrr"}', "{{instance}} {{worker}}"),),
        "bytes",
    ),
    Panel(
        "HTTP workers: processor time",
        (('rate(process_cpu_seconds_total{job="rrr"}[$__rate_interval])', "{{instance}} {{worker}}"),),
        "percentunit",
    ),
)


def _place(panels: tuple[Panel, ...]) -> list[dict[str, int]]:
    """Grid positions, row by row from the left."""
    positions, x, y, height = [], 0, 0, 8
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + height
        positions.append({"x": x, "y": y, "w": panel.width, "h": height})
        x += panel.width
    return positions


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    heat_map = panel.kind == "heatmap"
    targets = [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "format": "heatmap" if heat_map else "time_series",
            "legendFormat": legend,
            "range": True,
            "refId": chr(ord("A") + index),
        }
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    if heat_map:
        # Prometheus's buckets are cells already: `calculate` would make others of them.
        options: dict[str, Any] = {
            "calculate": False,
            "cellGap": 0,
            "color": {"mode": "scheme", "scheme": "Spectral", "steps": 64, "exponent": 0.5, "reverse": True},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "unit": panel.unit},
        }
        defaults: dict[str, Any] = {}
    else:
        options = {
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        custom = {"fillOpacity": 30 if panel.stacked else 0, "lineWidth": 1, "showPoints": "auto", "stacking": stacking}
        defaults = {"unit": panel.unit, "min": 0, "custom": custom}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": position,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _variable(name: str, label: str, query: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "hide": 0,
        "options": [],
        **more,
    }


def document() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    variables = [
        {**source, "refresh": 1, "options": [], "current": {}, "includeAll": False, "multi": False},
        _variable(
            "model", "Models", "label_values(rrr_model_info, model)", multi=True, includeAll=True, current=everything
        ),
        _variable(
            "baseline", "Baseline", "label_values(rrr:baseline:info, model)", multi=False, includeAll=False, current={}
        ),
    ]
    places = _place(PANELS)
    return {
        "uid": "rrr-net",
        "title": "RRR-Net serving",
        "tags": ["rrr-net"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables},
        "panels": [_panel(1 + index, panel, places[index]) for index, panel in enumerate(PANELS)],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
