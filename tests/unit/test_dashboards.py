"""The dashboard and the alerts name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from perdure.domain.instruments import Counter, Histogram, instruments_of
from perdure.domain.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
REFERENCE = DEPLOY.parent / "docs" / "reference" / "metrics.md"
OF_PROMETHEUS = {"job", "instance", "le"}
OTHERS = {"up"}


def exported() -> dict[str, set[str]]:
    """The labels of every series by its name."""
    found: dict[str, set[str]] = {}
    for each in instruments_of(Metrics()):
        labels = set(each.labels)
        if isinstance(each, Histogram):
            found |= {f"{each.name}{end}": labels for end in ("_bucket", "_sum", "_count")}
        else:
            found[each.name + ("_total" if isinstance(each, Counter) else "")] = labels
    return found


def expressions(value: Any) -> list[str]:
    """All queries in a dashboard or in rules."""
    if isinstance(value, dict):
        own = [str(value["expr"])] if "expr" in value else []
        return own + [each for part in value.values() for each in expressions(part)]
    return [each for part in value for each in expressions(part)] if isinstance(value, list) else []


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "perdure.json").read_text())


def alerts() -> Any:
    return yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:perdure|process|python)_\w+|\bup\b", query))


@pytest.mark.parametrize("source", [dashboard, alerts])
def test_every_query_is_about_metrics_that_exist_and_their_labels(source: Any) -> None:
    series, queries = exported(), expressions(source())
    assert len(queries) > 15
    documented = set(re.findall(r"`(process_\w+|python_\w+)`", REFERENCE.read_text()))
    for query in queries:
        names = names_in(query)
        assert names, query
        assert names <= series.keys() | documented | OTHERS, query
        known = OF_PROMETHEUS.union(*(series.get(name, set()) for name in names))
        used = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', query))
        for by in re.findall(r"\bby \(([^)]*)\)", query):
            used |= {label.strip() for label in by.split(",")}
        assert used <= known, query


def test_the_dashboard_shows_every_metric_and_the_reference_explains_each() -> None:
    shown = set().union(*map(names_in, expressions(dashboard())))
    ends = re.compile(r"_(bucket|sum|count|total)$")
    missing = {each.name for each in instruments_of(Metrics())} - {ends.sub("", name) for name in shown}
    assert missing == {"perdure_info"}
    text = REFERENCE.read_text()
    for each in instruments_of(Metrics()):
        assert f"**`{each.name}" in text


def test_legends_name_labels_of_their_queries() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            legends = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert all(label in target["expr"] for label in legends), target


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alerts() -> None:
    file = str(DEPLOY / "prometheus" / "alerts.yml")
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
