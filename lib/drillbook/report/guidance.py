"""Error texts that are known, each with the troubleshooting runbook that explains it and the heading to open there; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RECOVERY, BACKUP, CONNECTION = (
    "troubleshoot-recovery-slow",
    "troubleshoot-backup-failed",
    "troubleshoot-connection-changed",
)


@dataclass(frozen=True)
class KnownText:
    """A text that CloudNativePG, barman, PostgreSQL or S3 writes, and where it is explained; ``failed_run``: by the run's own logs."""

    pattern: str
    runbook: str
    heading: str
    failed_run: bool = False


# The first that fits. The same words of the object store end a recovery or a backup: what says which of them stands first.
KNOWN = (
    KnownText(r"the recovery of \S+ failed", RECOVERY, "4 The cause", failed_run=True),
    KnownText(r"was not up within \d+ s", RECOVERY, "2 Is this your problem?"),
    KnownText(
        "recovery ended before configured recovery target was reached|before consistent recovery point|no target backup found|"
        "no backup found with ID|first needed WAL|Cluster is unrecoverable|Barman cloud restore exception",
        RECOVERY,
        "4 The cause",
        failed_run=True,
    ),
    KnownText(
        r"no backup section|Expected empty archive|walArchivingFailing|executable file not found|"
        r"barman-cloud-\S+: (command )?not found|unexpected failure invoking barman-cloud|archiving failed|ContinuousArchiving",
        BACKUP,
        "4 The cause",
    ),
    KnownText(
        "AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|NoSuchBucket|Could not connect to the endpoint",
        BACKUP,
        "2 Is this your problem?",
    ),
    KnownText(
        r"password authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in|"
        r"is not currently accepting connections|permission denied for database",
        CONNECTION,
        "2 Is this your problem?",
    ),
)


def guide(text: str, *, run_id: str, asked_by: str) -> str:
    """Where a known text is explained, as a sentence; "" for a text that is not known.

    ``asked_by`` is the run's own runbook: a troubleshooting one has looked already, and says so itself; what
    check-git-rebuild quotes would come true only if the cluster were made again.
    """
    for known in () if asked_by.startswith(("troubleshoot-", "check-git-rebuild")) else KNOWN:
        if re.search(known.pattern, text, re.IGNORECASE):
            with_run = f', with failed_run = "{run_id}" once the copy is gone' if known.failed_run else ""
            return f"The runbook {known.runbook} looks for the cause: open it at “{known.heading}”{with_run}."
    return ""


def guides(record: Mapping[str, Any]) -> list[str]:
    """Where to look on, from a run's errors and its required checks that do not hold; each place once."""
    run = {"run_id": str(record["record"]["id"]), "asked_by": str(record["test"]["runbook"])}
    return list(dict.fromkeys(found for text in _texts(record) if (found := guide(text, **run))))


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    for error in record["verdict"]["errors"]:
        yield str(error["what"])
    for check in record["checks"]:
        if check["verdict"] in ("FAILED", "UNPROVEN") and check.get("required", True):
            yield f"{check.get('observed') or ''} {check.get('reason') or ''}"


__all__ = ["KNOWN", "KnownText", "guide", "guides"]
