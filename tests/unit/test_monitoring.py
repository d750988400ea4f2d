"""What the exporter serves, to whom, and that alerts, objectives and dashboard ask for nothing that it does not serve."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from test_evidence_due import MONTHLY, YEAR

from drillbook.cli.app import status
from drillbook.cli.exporter import application
from drillbook.cli.metrics import ArchiveState, Evidence, Readings, text
from drillbook.evidence.due import Due, SealedRun, due
from drillbook.model import Verdict
from drillbook.profile import Site, load_site
from drillbook.profile.schema import Every, Schedule

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
NOW = datetime(2026, 11, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def site() -> Site:
    return load_site(str(Path(__file__).parents[2] / "sites" / "synergyflow.yaml"))


def archive(**changes: Any) -> ArchiveState:
    known: dict[str, Any] = {
        "read_at": NOW,
        "usable": True,
        "until": NOW - timedelta(seconds=70),
        "archived_at": NOW - timedelta(seconds=60),
        "forecast_seconds": 254.0,
    }
    return ArchiveState(**known | changes)


def evidence() -> Evidence:
    runs = [run for runs in YEAR.values() for run in runs]
    return Evidence(tuple(due([MONTHLY], runs, NOW)), tuple(runs), 1)


def samples(site: Site, found: Readings) -> dict[str, list[tuple[dict[str, str], float]]]:
    served: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text(site, found).decode()):
        for sample in family.samples:
            served.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return served


def value(served: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float | None:
    found = [number for known, number in served.get(name, []) if labels.items() <= known.items()]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None


def test_i17_what_can_be_recovered_and_what_is_owed_are_served(site: Site) -> None:
    served = samples(site, Readings(archive(), evidence(), {}))
    assert value(served, "drillbook_recoverable") == 1
    assert value(served, "drillbook_recoverable_until_seconds") == (NOW - timedelta(seconds=70)).timestamp()
    assert value(served, "drillbook_loss_if_lost_now_seconds") == 60
    assert value(served, "drillbook_forecast_recovery_seconds") == 254
    assert value(served, "drillbook_objective_seconds", objective="recovery point") == 3600
    assert value(served, "drillbook_due", state="late") == 1 and value(served, "drillbook_due", state="done") == 0
    assert value(served, "drillbook_runs_total", verdict="FAILED") == 3
    assert value(served, "drillbook_runs_total", verdict="altered") == 1
    assert value(served, "drillbook_runs_waiting") == 1
    assert (
        value(served, "drillbook_last_verified_timestamp_seconds") == datetime(2026, 10, 4, 10, tzinfo=UTC).timestamp()
    )


@pytest.mark.parametrize(
    "found",
    [
        Readings(None, None, {"archive": "not read yet", "evidence": "not read yet"}),
        Readings(archive(), None, {"archive": "the object store did not answer"}),
        Readings(archive(usable=False, until=None, archived_at=None, forecast_seconds=None), None, {}),
    ],
    ids=["never read", "not read now", "not usable"],
)
def test_i17_what_was_not_seen_is_not_recoverable(site: Site, found: Readings) -> None:
    served = samples(site, found)
    assert value(served, "drillbook_recoverable") == 0
    assert value(served, "drillbook_read_failed", of="archive") == float("archive" in found.failed)
    assert "drillbook_due" not in served, "what was never read has no sample: absent() says so"


def asked(token: str, site: Site) -> Callable[..., tuple[str, bytes]]:
    answer = application(lambda: Readings(archive(), evidence(), {}), site, token)

    def get(path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[str, bytes]:
        told: list[str] = []
        body = answer({"PATH_INFO": path, "REQUEST_METHOD": method} | headers, lambda line, _: told.append(line))
        return told[0], b"".join(body)

    return get


def test_i17_a_period_without_a_run_is_missing_until_the_next_one_has_its_run(site: Site) -> None:
    hourly = Schedule(runbook="check-status", every=Every.HOUR, since=NOW - timedelta(hours=3))
    quiet = due([hourly], [], NOW + timedelta(minutes=5))
    assert [item.state for item in quiet][-2:] == ["missing", "not due yet"]

    def state(found: list[Due]) -> str:
        served = samples(site, Readings(None, Evidence(tuple(found), (), 0), {}))
        (name,) = [known["state"] for known, number in served["drillbook_due"] if number == 1]
        return name

    assert state(quiet) == "missing"
    run = SealedRun(run_id="r", runbook="check-status", started_at=NOW + timedelta(minutes=6), verdict=Verdict.VERIFIED)
    assert state(due([hourly], [run], NOW + timedelta(minutes=7))) == "done"
    assert state(due([hourly], [run], NOW + timedelta(minutes=65))) == "not due yet"
    assert state(due([hourly], [run], NOW + timedelta(minutes=125))) == "missing"


def test_i17_a_token_is_demanded_where_one_is_set(site: Site) -> None:
    get = asked("a-token-of-some-length", site)
    assert get()[0].startswith("401") and get(HTTP_AUTHORIZATION="Bearer a-token-of-some-lengtH")[0].startswith("401")
    line, body = get(HTTP_AUTHORIZATION="Bearer a-token-of-some-length")
    assert line.startswith("200") and b"drillbook_recoverable" in body
    open_to_all = asked("", site)
    assert open_to_all()[0].startswith("200")
    assert open_to_all("/")[0].startswith("404") and open_to_all(method="POST")[0].startswith("404")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "0.0.0.0:0"], "not loopback"),
        (["--listen", "[::]:0"], "not loopback"),
        (["--listen", "localhost"], "no address"),
        (["--listen", "0.0.0.0:0", "--token-file", "{short}"], "at least 16 characters"),
        (["--listen", "0.0.0.0:0", "--token-file", "/nowhere/token"], "can't be read"),
    ],
)
def test_i17_beyond_loopback_a_token_is_needed(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "short").write_text("secret\n")
    given = [word.format(short=tmp_path / "short") for word in arguments]
    profile = Path(__file__).parents[2] / "sites" / "synergyflow.yaml"
    assert status(["exporter", "--site", str(profile), *given]) == 4
    told = capsys.readouterr()
    assert said in told.err and "secret" not in told.err + told.out


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$site", ".*")
    pyrra = yaml.safe_load((MONITORING / "pyrra.yaml").read_text())["spec"]["indicator"]["bool_gauge"]
    yield "pyrra", f"{pyrra['metric']}{{{pyrra['grouping'][0]}!=''}}"
    for slo in yaml.safe_load((MONITORING / "sloth.yaml").read_text())["spec"]["slos"]:
        yield "sloth", slo["sli"]["raw"]["errorRatioQuery"].replace("{{.window}}", "5m")


@pytest.mark.parametrize(("name", "expression"), list(expressions()), ids=lambda item: item[:50])
def test_i17_every_expression_parses_and_asks_for_what_is_served(site: Site, name: str, expression: str) -> None:
    promql_parser.parse(expression)
    served = samples(site, Readings(archive(), evidence(), {}))
    named = set(re.findall(r"\bdrillbook_\w+", expression))
    assert named and named <= set(served), name
    for metric, matchers in re.findall(r"\b(drillbook_\w+)\{([^}]*)\}", expression):
        for label, operator, wanted in re.findall(r'(\w+)(=~|!=|=)["\']([^"\']*)["\']', matchers):
            values = {known.get(label) for known, _ in served[metric]}
            assert None not in values, f"{metric} has no label {label}"
            if operator == "=" and wanted:
                assert wanted in values, f"{metric} is never {label}={wanted}"
            if operator == "=~":
                assert all(any(re.fullmatch(one, str(value)) for value in values) for one in wanted.split("|"))


def test_i17_an_alert_says_what_to_do_and_silence_is_an_alert() -> None:
    rules = [
        rule
        for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
        for rule in group["rules"]
    ]
    for rule in rules:
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert labels <= {"site", "runbook", "every", "state", "of"}, rule["alert"]
    silent = {rule["expr"] for rule in rules if "absent(" in rule["expr"]}
    assert silent == {"absent(drillbook_recoverable)", "absent(drillbook_due)"}
