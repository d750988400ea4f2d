"""One tenant's database to a point in time: nothing before its gates, and all of it behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dying import mortal
from fix_drills import ROOT, Drill, DrillLab

from drillbook import kube as k8s

NOTEBOOK = ROOT / "runbooks" / "recover-point-in-time.ipynb"
DATABASE, TABLE = "synergyflow", "synergyflow_knowledge.articles"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # whole recoveries


@pytest.fixture(scope="module", autouse=True)
def rights(drill_lab: DrillLab) -> Iterator[None]:
    """Drills and backups have no such rights."""
    with drill_lab.recovering():
        yield


def damage(lab: DrillLab) -> tuple[str, int]:
    """Delete every article; the instant just before, and how many there were."""
    count = int(lab.sql(DATABASE, f"select count(*) from {TABLE}"))
    before = lab.sql("postgres", NOW)
    lab.sql(DATABASE, f"delete from {TABLE}")
    return before, count


def held(lab: DrillLab) -> dict[str, Any]:
    """What the first gate is about: retention, schedules, and whether the database takes writes."""
    namespace = lab.site.cluster.namespace
    stores = lab.admin.list(k8s.OBJECT_STORE, namespace)
    schedules = lab.admin.list(k8s.SCHEDULED_BACKUP, namespace)
    return {
        "retention": [store["spec"].get("retentionPolicy") for store in stores],
        "suspended": [bool(schedule["spec"].get("suspend")) for schedule in schedules],
        "settings": lab.sql(
            "postgres",
            "select count(*) from pg_db_role_setting where setrole = 0 and setconfig::text like '%read_only%'",
        ),
    }


def again(lab: DrillLab, run: Drill) -> Drill:
    """Resume with the phrase of the gate at which the run waits."""
    (*_, gate) = run.of("waiting")
    done = lab.drillbook("resume", run.folder.name, "--confirm", gate["phrase"])
    return Drill(done.returncode, run.folder, done.stdout + done.stderr)


def drop_kept(lab: DrillLab) -> None:
    """What a cut keeps on purpose."""
    kept = lab.sql("postgres", f"select datname from pg_database where datname like '{DATABASE}\\_%'")
    for name in kept.split():
        lab.sql("postgres", f'drop database "{name}" with (force)')


def end_state(lab: DrillLab) -> dict[str, Any]:
    """What a recovery leaves: the measures taken back, the application, the databases by their kinds, nothing of its own."""
    app = lab.site.tenants[0].application
    assert app is not None
    found = lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
    names = lab.sql("postgres", f"select datname from pg_database where datname like '{DATABASE}%'").split()
    return held(lab) | {
        "replicas": found["spec"]["replicas"],
        "databases": sorted(name.removeprefix(DATABASE)[:8] for name in names),
        "rows": int(lab.sql(DATABASE, f"select count(*) from {TABLE}")),
        "left": lab.left(),
    }


@dataclass(frozen=True)
class Undisturbed:
    """A run that stopped at its gates only: how it stood at the second, how it ended, and what it left."""

    before: dict[str, Any]
    count: int
    run: Drill
    stopped: dict[str, Any]
    done: Drill
    left: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(drill_lab: DrillLab, rights: None) -> Undisturbed:
    """One damaged database, recovered and swapped."""
    before = held(drill_lab)
    target, count = damage(drill_lab)
    run = drill_lab.run(NOTEBOOK, target_time=target, search_table=TABLE)
    assert run.code == 3, run.said
    again(drill_lab, run)
    stopped = {
        "held": held(drill_lab),
        "rows": int(drill_lab.sql(DATABASE, f"select count(*) from {TABLE}")),
        "gate": run.of("waiting")[-1],
    }
    done = again(drill_lab, run)
    left = end_state(drill_lab)
    drop_kept(drill_lab)
    return Undisturbed(before, count, run, stopped, done, left)


def test_a_plan_and_a_run_without_confirmation_change_nothing(drill_lab: DrillLab) -> None:
    before = held(drill_lab)
    refused = drill_lab.run(NOTEBOOK, database="nobody's")
    assert refused.code == 4, refused.said
    assert "is no tenant of the profile" in refused.said
    run = drill_lab.run(NOTEBOOK)
    assert run.code == 3, run.said
    (gate,) = run.of("waiting")
    assert (gate["section"], gate["made"]) == ("Block writes and suspend retention", [])
    assert "deadline" in gate and gate["phrase"] in run.said
    assert held(drill_lab) == before
    abandoned = drill_lab.drillbook("abandon", run.folder.name)
    assert held(drill_lab) == before, abandoned.stdout + abandoned.stderr


def test_a_damaged_database_is_found_recovered_swapped_and_back_in_service(
    drill_lab: DrillLab, undisturbed: Undisturbed
) -> None:
    run, stopped, done = undisturbed.run, undisturbed.stopped, undisturbed.done
    assert f"{undisturbed.count} rows deleted from {TABLE}" in str(run.check("damage")["details"])
    assert stopped["gate"]["section"] == "Put the recovered database into service"
    assert [made for made in stopped["gate"]["made"] if made.startswith("Cluster/")], (
        "the copy is listed with its deadline"
    )
    assert stopped["held"] == undisturbed.before | {"retention": [None], "suspended": [True], "settings": "1"}
    assert stopped["rows"] == 0, "production is still as damaged"
    told = done.verdicts("loss: ")
    assert told.pop(f"loss: {DATABASE}") == "VERIFIED" and set(told.values()) == {"n/a"}, "the others lose nothing"

    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert undisturbed.left == undisturbed.before | {
        "replicas": 3,
        "databases": ["", "_before_"],
        "rows": undisturbed.count,
        "left": [],
    }
    for name in ("boundary", "application health", "smoke test", "application log"):
        assert done.check(name)["verdict"] == "VERIFIED", name
    assert set(done.verdicts("backup after the cut").values()) == {"VERIFIED"}
    assert {event["id"] for event in done.of("obligation")} == {event["id"] for event in done.of("settled")}
    assert "are not in service any more" in (done.folder / "logs" / "announcement.txt").read_text()
    assert drill_lab.drillbook("verify", run.folder.name).returncode == 0


# What is each run's own: ids, times, LSNs, numbers of transactions, segments and files, sizes, and the attempts.
OF_ITS_OWN = re.compile(
    r"\d{8}T\d{6}Z-[0-9a-f]{6}|\d{8}t\d{6}z_[0-9a-f]{6}|\b[0-9A-F]+/[0-9A-F]+\b|\b[0-9A-F]{24}\b|\d[\d,.:TZ-]*"
)


def steady(value: Any) -> Any:
    """Without what is each run's own."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items()}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return OF_ITS_OWN.sub("#", value) if isinstance(value, str) else value


def told(run: Drill) -> dict[str, Any]:
    """What a record says, but for what is each run's own."""
    record = run.record
    return steady(
        {
            "steps": [[step[key] for key in ("n", "step", "title", "effect", "status")] for step in record["steps"]],
            # Databases are listed as the catalogue has them, which a rename changes.
            "checks": sorted(
                [check[key] for key in ("name", "verdict", "required", "reason")] for check in record["checks"]
            ),
            "gates": [[gate["section"], gate["confirmed"]] for gate in record["who"]["approver"]],
            "promised": sorted({event["id"] for event in run.of("obligation")}),
            "settled": sorted({event["id"] + " " + event["how"] for event in run.of("settled")}),
            "facts": sorted(record["facts"]),
            "verdict": {key: record["verdict"][key] for key in ("verdict", "outcome", "reasons", "errors")},
            "not tested": record["not_tested"],
        }
    )


@pytest.mark.soak
def test_killed_after_every_step_it_comes_to_the_same_end(
    drill_lab: DrillLab, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lab, (notebook, steps) = drill_lab, mortal(NOTEBOOK, tmp_path)
    path = {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    target, count = damage(lab)
    known = set(lab.folders(NOTEBOOK))
    begin = ("run", str(notebook), "--mode", "apply", "-p", "target_time", target, "-p", "search_table", TABLE)
    code = lab.drillbook(*begin, env=path | {"DIE_AFTER": "1"}).returncode
    (folder,) = set(lab.folders(NOTEBOOK)) - known
    go_on = ("resume", folder.name, "--notebook", str(notebook))
    for step in range(2, steps + 2):
        assert code == 6, f"killed after step {step - 1}"
        env = path | {"DIE_AFTER": str(step)}
        done = lab.drillbook(*go_on, env=env)
        if done.returncode == 3:
            phrase = Drill(3, folder, "").of("waiting")[-1]["phrase"]
            done = lab.drillbook(*go_on, "--confirm", phrase, env=env)
        code = done.returncode
    run = Drill(code, folder, done.stdout + done.stderr)
    left = end_state(lab)
    drop_kept(lab)
    assert (code, run.verdict) == (0, "VERIFIED"), run.said
    assert len(run.record["when"]["attempts"]) > steps
    begun = [event["step"] for event in run.of("step_started")]
    assert begun == [event["step"] for event in undisturbed.done.of("step_started")], "no step ran twice"
    assert left == undisturbed.left | {"rows": count}
    assert told(run) == told(undisturbed.done)
    assert lab.drillbook("verify", folder.name).returncode == 0


def copies(lab: DrillLab) -> list[str]:
    return [item["metadata"]["name"] for item in lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace)]


@pytest.mark.soak
def test_another_target_is_another_attempt_and_an_abandoned_run_puts_everything_back(drill_lab: DrillLab) -> None:
    lab, as_it_was, target = drill_lab, held(drill_lab), drill_lab.sql("postgres", NOW)
    waiting = again(lab, lab.run(NOTEBOOK))
    assert waiting.code == 3, waiting.said
    assert held(lab) != as_it_was
    (first,) = copies(lab)
    refused = lab.drillbook("resume", waiting.folder.name, "-p", "target_time", "2099-01-01T00:00:00Z")
    assert refused.returncode == 4 and "can't be reached" in refused.stdout + refused.stderr
    assert copies(lab) == [first], "a target that can't be reached costs nothing"
    done = lab.drillbook("resume", waiting.folder.name, "-p", "target_time", target)
    assert done.returncode == 3, done.stdout + done.stderr
    (second,) = copies(lab)
    assert first != second
    gone = next(
        index for index, event in enumerate(waiting.events) if event["type"] == "settled" and first in event["id"]
    )
    made = next(
        index for index, event in enumerate(waiting.events) if event["type"] == "obligation" and second in event["id"]
    )
    assert gone < made, "the earlier attempt's copy is removed first"
    no_target = lab.drillbook("resume", waiting.folder.name, "-p", "database", "gitlab")
    assert no_target.returncode == 4 and "only another target can be given" in no_target.stdout + no_target.stderr

    done = lab.drillbook("abandon", waiting.folder.name)
    assert held(lab) == as_it_was, done.stdout + done.stderr
    assert {event["id"] for event in waiting.of("obligation")} == {event["id"] for event in waiting.of("settled")}
    assert lab.left() == []
    attempts = waiting.record["target"]["attempts"]
    assert [one["parameters"]["target_time"] for one in attempts] == ["", "2099-01-01T00:00:00Z", target]
    assert [one.get("copy", {}).get("ref", {}).get("name") for one in attempts] == [first, None, second]
    assert lab.drillbook("verify", waiting.folder.name).returncode == 0
    lab.sql(DATABASE, "create table after_all (n int)")
    lab.sql(DATABASE, "drop table after_all")
