"""What those see who watch over an installation: metrics that can be read, and a dashboard and rules that fit them."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from support.aws import Account
from support.installation import READY_SERVICE, Installation, batchyard
from support.waiting import soon

MONITORING: Final = Path(__file__).parents[2] / "deploy" / "monitoring"
PAGE: Final = Path(__file__).parents[2] / "docs" / "monitoring.md"
NAME: Final = re.compile(r"\bbatchyard_[a-z_]+")
ENDINGS: Final = ("_total", "_bucket", "_sum", "_count")

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(installation: Installation) -> list[Metric]:
    """Return all metrics of all services, also those that have no sample yet."""
    return [metric for url in installation.monitoring_urls.values() for metric in metrics_at(url)]


def metrics_at(url: str) -> list[Metric]:
    """Return what a scraper reads."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        return list(text_string_to_metric_families(response.read().decode()))


def samples_of(installation: Installation) -> Samples:
    """Return all values of all services, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in scraped(installation)
        for sample in metric.samples
        if sample.name.startswith("batchyard_") and "method" not in sample.labels
    }


def family_of(name: str) -> str:
    """Return the name of the metric that a series belongs to."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def test_jobs_are_counted_by_queue_and_state(installation: Installation, account: Account) -> None:
    account.make_queue()
    account.define()
    one = account.submit()
    array = account.submit(["sleep", "600"], arrayProperties={"size": 3}, dependsOn=[{"jobId": one}])
    account.wait(one)
    place = {"account": account.access_key, "job_queue": "queue"}

    def value(name: str, **labels: str) -> float | None:
        return samples_of(installation).get((name, frozenset({**place, **labels}.items())))

    try:
        assert value("batchyard_jobs_submitted_total") == 4
        assert value("batchyard_job_state_changes_total", state="SUCCEEDED") == 1
        assert value("batchyard_job_run_seconds_count") == 1
        soon(
            lambda: (
                sum(value("batchyard_jobs", state=state) or 0 for state in ("RUNNABLE", "STARTING", "RUNNING")) == 3
            ),
            "the children of the array among the jobs that are counted",
        )
    finally:
        account.batch.terminate_job(jobId=array, reason="over")
    account.wait(array)
    soon(lambda: value("batchyard_jobs", state="RUNNING") in (None, 0), "a count of nothing that runs")


def test_the_fleet_shows_in_the_metrics(installation: Installation) -> None:
    samples = samples_of(installation)
    assert samples["batchyard_scheduler_leads", frozenset()] == 1
    capacity = {
        dict(labels)["resource"]: value
        for (name, labels), value in samples.items()
        if name == "batchyard_agent_capacity"
    }
    assert capacity == {"vcpus": 8, "memory_mib": 16 * 1024, "gpus": 0}
    assert [value for (name, _), value in samples.items() if name == "batchyard_agent_connected"] == [1]


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "alerts.yml"])
def test_what_plots_and_rules_ask_for_is_measured(installation: Installation, account: Account, file: str) -> None:
    account.make_queue()
    account.define()
    account.wait(account.submit())
    text = (MONITORING / file).read_text()
    asked = {family_of(name) for name in NAME.findall(text)}
    assert asked
    assert asked <= {metric.name for metric in scraped(installation)}
    assert asked <= {family_of(name) for name in NAME.findall(with_whole_names(PAGE.read_text()))}


SERVICES: Final = {"job store": "jobstore", "scheduler": "scheduler", "logs": "logs", "gateway": "gateway"}


@pytest.mark.parametrize("installation", ["six processes"], indirect=True)
def test_each_metric_of_the_page_is_had_from_the_service_that_it_names(installation: Installation) -> None:
    urls = {**installation.monitoring_urls, "gateway": installation.http_url}
    measured = {name: {metric.name for metric in metrics_at(url)} for name, url in urls.items()}
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", with_whole_names(PAGE.read_text()), re.MULTILINE)
    told = {family_of(name): place for names, place in rows for name in NAME.findall(names)}
    assert len(told) >= 20
    for name, place in told.items():
        for service in urls if place == "all" else [SERVICES[place]]:
            assert name in measured[service], f"{name} from {service}"
    everywhere = {name for name, place in told.items() if place == "all"}
    known = {name for names in measured.values() for name in names if name.startswith("batchyard_")}
    assert known - everywhere <= set(told), "a metric of which the page does not tell"


TOKEN: Final = re.compile(
    r"""\s+|\d+(\.\d+)?|"[^"]*"|[a-zA-Z_][a-zA-Z0-9_]*|\[(\d+[smhd]|\$__rate_interval)\]|=~|!~|!=|>=|<=|==|[-+*/=<>,(){}]"""
)
FUNCTIONS: Final = {
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "rate",
    "increase",
    "histogram_quantile",
    "clamp_min",
    "absent",
}
KEYWORDS: Final = {"by", "without", "on", "and", "or", "unless", "ignoring", "group_left", "bool"}


def check_promql(expression: str) -> None:
    """Fail with what is no expression of Prometheus's language; of that, only what is used here is known."""
    place, open_brackets, tokens = 0, [], []
    while place < len(expression):
        match = TOKEN.match(expression, place)
        assert match, f"{expression}: {expression[place:]!r}"
        token, place = match[0], match.end()
        if token in "({":
            open_brackets.append(token)
        elif token in ")}":
            assert open_brackets, expression
            assert open_brackets.pop() + token in ("()", "{}"), expression
        if not token.isspace():
            tokens.append(token)
    assert not open_brackets, expression
    for name, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if re.fullmatch("[a-z_]+", name) and following == "(":
            assert name in FUNCTIONS | KEYWORDS, f"{expression}: {name}"
        if following.startswith("["):
            assert NAME.fullmatch(name) or name == "}", f"{expression}: a range of {name}"


def test_plots_and_rules_are_expressions() -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    plotted = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    ruled = [rule["expr"] for rule in group["rules"]]
    assert plotted
    assert ruled
    for expression in [*plotted, *ruled]:
        check_promql(expression)


@pytest.mark.parametrize("wrong", ["sum(a", "sum(a))", "rat(a[5m])", "sum(a{b=~'c'})", "rate(sum(a)[5m])", "a > $x"])
def test_what_is_no_expression_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_promql(wrong)


def with_whole_names(page: str) -> str:
    """Write out names that the page shortens, as in `batchyard_agent_connected`, `_draining`."""
    return re.sub(r"`_([a-z]+)`", r"`batchyard_agent_\1`", page)


def test_the_rules_are_rules() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["expr"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])


def test_the_plots_of_the_dashboard_do_not_lie_over_each_other() -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})


def test_a_single_service_has_pages_of_its_own(tmp_path: Path) -> None:
    flags = ["--grpc-port", "0", "--monitoring-port", "0", "--jobstore", "127.0.0.1:1", "--data-dir", str(tmp_path)]
    with batchyard(["registry", *flags], log=tmp_path / "registry.log") as process:
        match = READY_SERVICE.fullmatch(process.ready_line())
        assert match
        url = match[3]
        with urllib.request.urlopen(f"{url}/healthz") as response:
            assert json.load(response) == {"status": "alive"}
        with urllib.request.urlopen(f"{url}/readyz") as response:
            assert json.load(response)["status"] == "ready"
        assert "batchyard_rpc_calls" in {metric.name for metric in metrics_at(url)}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/")
        assert process.interrupt() == 0
