"""Why a recovery failed, and whose log to follow: read from the logs and pods that the operator leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from drillbook.postgres.recovery_log import BOOTSTRAP, RecoveryLog, attempt_to_follow, failed_attempt, sidecar_cause

RECORDED = Path(os.environ.get("DRILLBOOK_RECORDINGS", "/nonexistent"))


def line(**entry: Any) -> str:
    return json.dumps({"ts": "2026-11-28T02:57:22Z", **entry})


END = line(level="error", msg="While terminating server", logging_pod="copy-1-full-recovery")


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([END], ""),
        ([line(level="info", msg="Target backup found"), END], ""),
        (["not JSON", line(level="error", msg="Error while handling GRPC request", error="exit status 4"), END], ""),
        (
            [line(level="error", msg="Error while handling GRPC request", error='secrets "s3" not found'), END],
            'secrets "s3" not found',
        ),
        (
            [
                line(
                    level="info",
                    logger="barman-cloud-restore",
                    pipe="stderr",
                    msg="2026 [28] ERROR: Barman cloud restore exception: unexpected end of data",
                ),
                line(level="error", msg="Can't restore backup", error="General error (exit code 4)"),
                END,
            ],
            "Barman cloud restore exception: unexpected end of data",
        ),
        (
            [
                line(
                    level="error",
                    logger="barman",
                    stderr="2026 [27] ERROR: list exception: NoSuchBucket\n",
                    error="exit status 4",
                ),
                END,
            ],
            "list exception: NoSuchBucket",
        ),
    ],
)
def test_the_sidecars_own_reason_is_named_and_its_end_is_no_reason(lines: list[str], cause: str) -> None:
    """An error-level line ends a restore that succeeded too."""
    assert sidecar_cause("\n".join(lines)) == cause


@pytest.mark.skipif(
    not RECORDED.is_dir(), reason="DRILLBOOK_RECORDINGS names no folder with recordings of the real operator"
)
@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("07-broken/logs/cut-*", "unexpected end of data"),
        ("07-broken/logs/nobucket-*", "NoSuchBucket"),
        ("07-broken/logs/s3down-*", "Could not connect to the endpoint URL"),
        ("07-broken/logs/nosecret-1-full-recovery-t8llv*", 'secrets "absent-creds" not found'),
        ("07-broken/logs/wrongkey-*", "missing key NO_SUCH_KEY"),
        ("07-broken/logs/nostore-*", ""),
        ("04-pitr/logs/copy-1-full-recovery-*", ""),
        ("06-gap/logs/gapfree-*", ""),
    ],
)
def test_the_recorded_sidecars_are_read_right(log: str, words: str) -> None:
    found = sorted(RECORDED.glob(f"{log}.plugin-barman-cloud.log"))
    assert found
    for path in found:
        said = sidecar_cause(path.read_text())
        assert words in said and bool(words) == bool(said), (path.name, said)


def pod(name: str, *, phase: str = "Running", made: str = "2026-11-28T02:00:00Z", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": made}, "status": {"phase": phase, **status}}


def init(**state: Any) -> dict[str, Any]:
    return {
        "initContainerStatuses": [
            {"name": "bootstrap-controller", "state": {"terminated": {"exitCode": 0}}},
            {"name": BOOTSTRAP, **state},
        ]
    }


def test_b33_a_recovery_is_followed_in_a_job_or_in_the_first_instances_init_container() -> None:
    older, newer = pod("copy-1-full-recovery-a"), pod("copy-1-full-recovery-b", made="2026-11-28T02:01:00Z")
    assert attempt_to_follow([newer, older], None) == ("copy-1-full-recovery-b", "full-recovery")
    assert attempt_to_follow([pod("copy-1-full-recovery-a", phase="Pending")], None) is None
    assert attempt_to_follow([], None) is None
    assert attempt_to_follow([], pod("copy-1")) is None  # no such container: an instance that runs already
    assert attempt_to_follow([], pod("copy-1", phase="Pending", **init(state={"waiting": {}}))) is None
    assert attempt_to_follow([], pod("copy-1", phase="Pending", **init(state={"running": {}}))) == ("copy-1", BOOTSTRAP)


@pytest.mark.parametrize(
    ("job", "first", "failed"),
    [
        (None, None, False),
        ({"status": {}}, None, False),
        ({"status": {"active": 1}}, None, False),
        ({"status": {"failed": 1, "active": 1}}, None, True),
        (None, pod("copy-1", **init(state={"running": {}})), False),
        (None, pod("copy-1", **init(state={"terminated": {"exitCode": 0}})), False),
        (None, pod("copy-1", **init(state={"terminated": {"exitCode": 1}})), True),
        (None, pod("copy-1", **init(state={"waiting": {}}, lastState={"terminated": {"exitCode": 4}})), True),
    ],
)
def test_b33_a_failed_attempt_is_seen_in_either_place(job: Any, first: Any, failed: bool) -> None:
    assert failed_attempt(job, first) is failed


@pytest.mark.skipif(
    not RECORDED.is_dir(), reason="DRILLBOOK_RECORDINGS names no folder with recordings of the real operator"
)
def test_a_recorded_recovery_is_read_to_its_end() -> None:
    log = RecoveryLog()
    (path,) = RECORDED.glob("04-pitr/logs/copy-1-full-recovery-*.full-recovery.log")
    for text in path.read_text().splitlines():
        log.feed(text)
    assert log.seen and log.timeline == 2 and log.stopped == "before" and not log.cause
