"""A monthly drill as its journal tells it: eighteen steps, every check, phases, facts; and the ways in which it ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from drillbook.evidence import Journal, Ledger, canonical, seal
from drillbook.report.page import render

RUN_ID = "20261101T100002Z-7f3a9c"
RUNBOOK = "drill-monthly-verification"
SITE = "synergyflow"
START = datetime(2026, 11, 1, 10, 0, 2, 118_204, tzinfo=UTC)
COPY = "shared-postgres-20261101t100002z"
TENANTS = ("synergyflow", "gitlab", "harbor")

Event = dict[str, Any]


def at(seconds: float) -> str:
    """The instant ``seconds`` after the run's start."""
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def opened(**changes: Any) -> Event:
    return {
        "type": "opened",
        "run_id": RUN_ID,
        "runbook": RUNBOOK,
        "mode": "apply",
        "schema": 1,
        "site": {
            "name": SITE,
            "environment": "lab",
            "caveats": [
                "the lab's API server and controller are Drillbook's own",
                "one machine: its times say nothing about your storage and network",
            ],
            "profile_sha256": hashlib.sha256(b"profile").hexdigest(),
        },
        "parameters": {"mode": "apply", "target_time": ""},
        "notebook_sha256": "",
        "actor": {
            "username": "system:serviceaccount:drillbook:drillbook",
            "uid": "5d2c…",
            "strength": "api",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "host": "drill-29391840-x8k2p",
        },
        "cluster": {"namespace": "cnpg-system", "name": "shared-postgres"},
        "versions": {"drillbook": "0.1.0", "papermill": "2.7.0", "psycopg": "3.3.9", "kubernetes": "37.0.1"},
        "objectives": {"rto_seconds": 3600.0, "rpo_seconds": 3600.0, "pitr_seconds": 2700.0, "enforce": False},
        "required": ["target and timeline", "boundary", "rows", "structure", "site questions", "quarantine"],
        "not_tested": [
            "putting the recovered data into service (no cut-over)",
            "recovery with the source's own load, nodes and volumes",
            "rows of tables that the profile does not name in digest_tables",
            "the application itself on the recovered data",
        ],
        "planned_at": "2026-11-01T10:00:00Z",
        "note": "Monthly drill, first Sunday.",
        "git": {"commit": "8f0e7d1c2b9a46e1a7f3", "dirty": False},
        "controls": ["SOC 2 A1.3", "ISO 27001 A.8.13"],
    } | changes


STEPS: list[tuple[str, str, str, float, str]] = [
    (
        "CheckReadiness",
        "The right cluster, and the rights to drill it",
        "reads",
        0.9,
        "Cluster, identity pin, rights, storage class and the role's grants are checked together.",
    ),
    (
        "NothingElseRunning",
        "Nothing else is under way on this cluster",
        "reads",
        0.2,
        "A backup or another drill at the same time would disturb each other's figures.",
    ),
    (
        "ChooseBaseBackup",
        "Choose the newest usable base backup, and judge its age",
        "reads",
        0.4,
        "The catalogue is read from each backup.info: a listed directory may be an unfinished backup.",
    ),
    (
        "ArchivingLive",
        "WAL archiving works now",
        "reads",
        0.3,
        "An archive can stop silently: the Cluster's condition and the server's statistics must both say so.",
    ),
    (
        "WalChainUnbroken",
        "The WAL from the base backup to now is unbroken",
        "reads",
        1.1,
        "A gap is otherwise found only at restore, after the base backup has been fetched.",
    ),
    ("MeasureArchiveLag", "What a loss right now would cost", "reads", 0.1, "Read before this run switches a segment."),
    (
        "MarkBefore",
        "Write the marker that must be restored",
        "creates",
        3.6,
        "Two snapshots stand just before and just after the marker's commit.",
    ),
    (
        "SimulateMistake",
        "Simulate the mistake: delete this run's scratch rows",
        "changes",
        0.2,
        "It is the damage that the recovery must undo; no tenant's row is ever touched.",
    ),
    (
        "MarkAfter",
        "Write the marker that must not be restored",
        "creates",
        0.1,
        "Without it a copy that ran on past the target would look as good as one that stopped there.",
    ),
    ("SwitchWal", "Switch one WAL segment and see it in the archive", "changes", 2.4, ""),
    ("ProveTargetReachable", "Prove from the archived WAL itself that the target is reachable", "reads", 0.8, ""),
    (
        "CreateRecoveryCluster",
        "Create the recovery cluster in the drill namespace",
        "creates",
        1.2,
        "It is quarantined before its first start.",
    ),
    (
        "WaitForRecovery",
        "Wait for fetch, replay and promotion, and keep the job's log",
        "reads",
        252.4,
        "CloudNativePG deletes the job, and its log with it, once the cluster is healthy.",
    ),
    ("ReachedTarget", "The copy stopped at the target, was promoted, and is on a new timeline", "reads", 0.1, ""),
    ("BoundaryHolds", "Both halves of the boundary", "reads", 0.1, ""),
    ("ClimbLadder", "Rows, structure, amcheck, sequences, questions, log-in", "reads", 24.8, ""),
    ("CompareWithObjectives", "The achieved recovery time and point, compared with the objectives", "reads", 0.0, ""),
    (
        "RemoveRecoveryCluster",
        "Remove the copy, and prove it gone with its volume",
        "destroys",
        4.9,
        "It settles what this run promised when it made it.",
    ),
]


def check(n: int, name: str, proves: str, expected: str, observed: str, seconds: float = 0.1, **more: Any) -> Event:
    return {
        "type": "check",
        "n": n,
        "name": name,
        "proves": proves,
        "verdict": "VERIFIED",
        "expected": expected,
        "observed": observed,
        "reason": "",
        "required": True,
        "seconds": seconds,
        "details": [],
    } | more


def checks() -> list[Event]:
    found = [
        check(
            1,
            "right cluster",
            "the cluster that answers is the one that the profile means",
            "system identifier 7437120459812345678",
            "7437120459812345678",
        ),
        check(2, "nothing else running", "no backup and no other drill is under way", "none", "none"),
        check(
            3,
            "backup age",
            "the schedule still makes base backups",
            "at most 24 h",
            "7 h 56 min",
            details=[["usable", "31"], ["not usable", "1: 20261018T020000 is unfinished"]],
        ),
        check(
            4,
            "archiving live",
            "the source archives its WAL now",
            "ContinuousArchiving True, no failure since",
            "True; last archived 1 min 12 s ago",
        ),
        check(
            5,
            "WAL chain",
            "recovery finds every WAL segment from the base backup to the newest",
            "every segment from 000000030000001A000000C4 to 000000030000001A000000FB",
            "56 segments, unbroken",
            0.6,
        ),
        check(6, "archive lag", "how much is lost if the source is lost now", "at most 600 s", "71.8 s"),
        check(
            14,
            "target and timeline",
            "recovery stopped where it should, and promoted",
            "stops before XID 918275, timeline 4",
            "stopped before XID 918275, timeline 4",
        ),
        check(
            15,
            "boundary",
            "nothing before the target is lost and nothing after the target is present",
            "marker before, no marker after, 1000 scratch rows",
            "marker before, no marker after, 1000 scratch rows",
        ),
    ]
    for tenant in TENANTS:
        found += [
            check(
                16,
                f"rows: {tenant}",
                "the chosen tables hold exactly the rows of the target",
                "4 tables, 1,204,118 rows",
                "all 4 digests equal",
                2.9,
            ),
            check(
                16,
                f"structure: {tenant}",
                "no object of the source is missing or different",
                "412 objects",
                "412 objects, none different",
                0.7,
            ),
            check(
                16,
                f"amcheck: {tenant}",
                "heaps and B-tree indexes are not corrupt",
                "no finding",
                "38 heaps and 91 indexes, no finding",
                3.4,
            ),
        ]
    found += [
        check(16, "site questions: open incidents", "the data answers the site's own questions", "at least 1", "37"),
        check(16, "site questions: pending events", "the data answers the site's own questions", "at most 5", "2"),
        check(
            16,
            "app login: synergyflow",
            "the application could connect as it does today",
            "synergyflow_app",
            "logged in as synergyflow_app",
        ),
        check(16, "quarantine: drillbook", "the copy can't act on anything outside", "no way out", "none"),
        check(
            16,
            "page checksums",
            "no page is damaged",
            "",
            "",
            verdict="n/a",
            reason="data_checksums is off in the source",
        ),
        check(
            17,
            "objective: recovery time",
            "the promised recovery time and point can be kept",
            "at most 3600 s",
            "253.6 s",
            required=False,
            reason="",
        ),
    ]
    return found


def commit(seconds: float, xid: int) -> Event:
    return {
        "committed_at": at(seconds),
        "xid": xid,
        "lsn": "1A/FB0004A8",
        "end_lsn": "1A/FB0004D0",
        "segment": "000000030000001A000000FB",
    }


FACTS: dict[int, list[tuple[str, Any]]] = {
    1: [
        (
            "cluster",
            {
                "namespace": "cnpg-system",
                "name": "shared-postgres",
                "system_id": "7437120459812345678",
                "uid": "0d6f9b52-3f5e-4f0b-9d0f-f1d3c2b7a641",
            },
        ),
        ("versions", {"postgresql": "160008", "kubernetes": "v1.34.1", "image": "postgresql:16.8"}),
        ("rights", {"missing": [], "more_than_needed": []}),
    ],
    3: [
        (
            "backup",
            {
                "backup_id": "20261101T020003",
                "status": "DONE",
                "begin_time": at(-28799),
                "end_time": at(-28566),
                "begin_wal": "000000030000001A000000C4",
                "end_wal": "000000030000001A000000C5",
                "begin_lsn": "1A/C4000028",
                "end_lsn": "1A/C5000050",
                "timeline": 3,
                "pg_version": 160000,
                "system_id": "7437120459812345678",
                "server_name": "shared-postgres",
                "compression": "gzip",
                "segment_bytes": 16777216,
                "size_bytes": 6_241_119_402,
                "cluster_size_bytes": 21_474_836_480,
                "location": "s3://synergyflow-backups/postgres",
                "age_seconds": 28568.0,
                "chosen": "newest usable",
            },
        )
    ],
    5: [
        (
            "chain",
            {
                "unbroken": True,
                "first_segment": "000000030000001A000000C4",
                "segments": 56,
                "timeline": 3,
                "last_segment": "000000030000001A000000FB",
                "end_lsn": "1A/FC000000",
            },
        )
    ],
    6: [("archive_lag", {"seconds": 71.8, "newest_commit": commit(-71, 918101), "idle": False})],
    11: [
        (
            "target",
            {
                "target": {
                    "target_time": at(6.51),
                    "target_lsn": None,
                    "target_xid": None,
                    "target_name": None,
                    "target_immediate": False,
                    "exclusive": False,
                    "timeline": 3,
                },
                "last_before": commit(6.51, 918273),
                "first_after": commit(8.82, 918275),
                "newest": commit(9.01, 918276),
                "own_marker": True,
            },
        )
    ],
    12: [
        (
            "quarantine",
            {
                "plugins": [],
                "backup": None,
                "namespace": "drillbook-drills",
                "left_out": [["spec.plugins", "could archive"], ["spec.monitoring", "not needed"]],
            },
        ),
        (
            "copy",
            {
                "ref": {"namespace": "drillbook-drills", "name": COPY},
                "created_at": at(13.9),
                "image": "16.8",
                "storage": {"storageClass": "rook-ceph-block", "size": "100Gi"},
            },
        ),
    ],
    13: [
        (
            "reached",
            {
                "timeline": 4,
                "stopped": "recovery stopping before commit of transaction 918275",
                "stopped_xid": 918275,
                "stopped_at": at(8.82),
                "last_completed_at": at(6.51),
                "segments": 56,
            },
        )
    ],
    17: [("achieved", {"recovery_seconds": 253.6, "recovery_point_seconds": 71.8})],
}

PHASES = [
    ("provision", 13.9, 21.4),
    ("fetch", 35.3, 148.2),
    ("replay", 183.5, 71.6),
    ("promote", 255.1, 12.4),
    ("verify", 268.0, 25.1),
]
OBLIGATIONS = [
    ("ConfigMap", f"{COPY}-owner"),
    ("Secret", f"{COPY}-app"),
    ("ObjectStore", f"{COPY}-archive"),
    ("NetworkPolicy", COPY),
    ("Cluster", COPY),
]


def verified() -> list[Event]:
    """A drill that went well, each event with its instant."""
    return list(_timed(_events()))


def failed() -> list[Event]:
    """A site question has the wrong answer, and an index of the source is damaged."""
    events = _events()
    for event in events:
        if event.get("name") == "site questions: pending events":
            event |= {"verdict": "FAILED", "observed": "1,381"}
        if event.get("name") == "amcheck: synergyflow":
            event |= {
                "verdict": "FAILED",
                "observed": "synergyflow_incidents.incidents_status_idx: item order invariant "
                "violated (SQLSTATE XX002)",
            }
        if event["type"] == "closed":
            event |= {"verdict": "FAILED"}
    return list(_timed(events))


def unproven() -> list[Event]:
    """The drill's keys are denied while the base backup is fetched; the checks are not run; one object is left."""
    what = f"the recovery job {COPY}-1-full-recovery was not seen to end: the object store answered 403 AccessDenied"
    error = {
        "type": "ObjectStoreError",
        "what": what,
        "changed": "done",
        "verdict": "UNPROVEN",
        "exit_code": 2,
        "todo": "Give the drill's keys read access to the archive, then start a new run.",
    }
    kept: list[Event] = []
    for event in _events():
        n = event.get("n", 0)
        if event["type"] in ("check", "fact", "phase") and (n > 12 or event.get("name") in ("reached", "achieved")):
            continue
        if event["type"] == "phase" and event["name"] != "provision":
            continue
        if event["type"] == "step_finished" and n == 13:
            event |= {"status": "failed", "error": error, "result": None}
        elif event["type"] == "step_finished" and 13 < n < 18:
            event |= {"status": "not run", "seconds": 0.0}
        elif event["type"] == "settled" and event["id"].startswith("Cluster/"):
            continue
        elif event["type"] == "closed":
            event |= {"verdict": "UNPROVEN", "by": "runner"}
        kept.append(event)
    return list(_timed(kept))


def planned() -> list[Event]:
    """The same notebook in plan mode."""
    kept: list[Event] = []
    plan = {
        "summary": f"Cluster drillbook-drills/{COPY}",
        "sql": ["SELECT pg_switch_wal()"],
        "notes": ["expires in 6 h"],
        "objects": [
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Cluster",
                "metadata": {"namespace": "drillbook-drills", "name": COPY},
                "spec": {"instances": 1},
            }
        ],
    }
    for event in _events():
        if event["type"] == "opened":
            event |= {"mode": "plan"}
        if event.get("n", 0) > 6 and event["type"] == "step_started" and event["effect"] != "reads":
            event |= {"plan": plan}
        if event.get("n", 0) > 6 and event["type"] == "step_finished":
            event |= {"status": "planned", "seconds": 0.0, "result": None}
        if event["type"] == "closed":
            event |= {"verdict": None}
        if event["type"] in ("obligation", "settled", "phase") or (
            event["type"] in ("check", "fact") and event["n"] > 6
        ):
            continue
        kept.append(event)
    return list(_timed(kept))


def _events() -> list[Event]:
    found = [opened()]
    for n, (step, title, effect, seconds, why) in enumerate(STEPS, start=1):
        found.append(
            {
                "type": "step_started",
                "n": n,
                "step": step,
                "title": title,
                "why": why,
                "effect": effect,
                "inputs": {},
                "plan": None,
            }
        )
        found += [{"type": "fact", "n": n, "name": name, "value": value} for name, value in FACTS.get(n, [])]
        if step == "CreateRecoveryCluster":
            found += [
                {
                    "type": "obligation",
                    "id": f"{kind}/drillbook-drills/{name}",
                    "what": "made by this run",
                    "kind": kind,
                    "namespace": "drillbook-drills",
                    "name": name,
                    "uid": "",
                }
                for kind, name in OBLIGATIONS
            ]
        if step == "WaitForRecovery":
            found += [
                {"type": "phase", "name": name, "started_at": at(begin), "seconds": length, "how": "the job's log"}
                for name, begin, length in PHASES
            ]
        if step == "RemoveRecoveryCluster":
            found += [
                {
                    "type": "settled",
                    "id": f"{kind}/drillbook-drills/{name}",
                    "how": "removed",
                    "proof": "not found by UID" + (", its volume neither" if kind == "Cluster" else ""),
                }
                for kind, name in reversed(OBLIGATIONS)
            ]
            found.append(
                {"type": "phase", "name": "remove", "started_at": at(296), "seconds": 4.9, "how": "until gone"}
            )
        found += [event for event in checks() if event["n"] == n]
        second = {"name": "after", "xid": 918275, "written_at": at(8.82)}
        result = {
            "MarkBefore": {"marker": {"name": "before", "xid": 918273, "written_at": at(6.5)}},
            "SimulateMistake": {"xid": 918274, "rows_deleted": 1000, "at": at(7.93), "after": second},
        }.get(step)
        found.append(
            {"type": "step_finished", "n": n, "status": "done", "seconds": seconds, "result": result, "error": None}
        )
    found.append({"type": "closed", "verdict": "VERIFIED", "reasons": [], "by": "notebook"})
    return found


def _timed(events: list[Event]) -> Iterator[Event]:
    clock = 0.0
    for event in events:
        clock += event["seconds"] if event["type"] == "step_finished" else 0.004
        yield event | {"at": at(clock)}


def write_journal(path: Path, events: list[Event]) -> None:
    """Write events with the instants that they have, linked as the journal links them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = ""
    with path.open("wb") as file:
        for seq, event in enumerate(events, start=1):
            line = canonical(event | {"seq": seq, "prev": head}) + b"\n"
            head = hashlib.sha256(line).hexdigest()
            file.write(line)


def make_run(outputs: Path, run_id: str = RUN_ID, events: list[Event] | None = None, *, page: bool = True) -> Path:
    """A whole sealed run in its folder, entered in the ledger, with notebook, log and report."""
    folder = outputs / RUNBOOK / run_id
    (folder / "logs").mkdir(parents=True)
    chosen = [event | ({"run_id": run_id} if event["type"] == "opened" else {}) for event in events or verified()]
    cells = [{"cell_type": "markdown", "source": "# Drill"}, {"cell_type": "code", "source": ["run.close()"]}]
    (folder / "executed.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (folder / "logs" / "recovery.log").write_text("recovery stopping before commit of transaction 918275\n")
    write_journal(folder / "journal.jsonl", chosen)
    ledger = Ledger.of(outputs, SITE)
    ledger.open(run_id, RUNBOOK)
    journal = Journal.open(folder / "journal.jsonl")
    digest = hashlib.sha256((folder / "executed.ipynb").read_bytes()).hexdigest()
    journal.append("attempt", n=1, notebook="executed.ipynb", how="completed", error="", sha256=digest)
    if page:
        render(folder)
    seal(folder, ledger)
    return folder
