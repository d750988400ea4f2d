"""Reading a recovery job's log: pure, from lines to phases and the point reached.

Only PostgreSQL's own messages are relied on (``logger: postgres``, ``msg: record``), and the exit of the container;
other lines are kept for the reader. Sources: CloudNativePG's JSON log format; PostgreSQL's xlogrecovery messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from drillbook.model import parse_instant

_STOPPING = re.compile(r"recovery stopping (before|after) commit of transaction (\d+), time (.+)$")
_LAST_DONE = re.compile(r"last completed transaction was at log time (.+)$")
_TIMELINE = re.compile(r"selected new timeline ID: (\d+)")
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_RESTORED = re.compile(r'restored log file "([0-9A-F]{24})" from archive')
_PAUSED = re.compile(r"recovery has paused|hot standby is not possible because of insufficient parameter settings")


# What the plugin's sidecar logs when it ends, after a restore that succeeded too; and errors that only name an exit
# status.
_ENDING = "While terminating server"
_STATUS_ONLY = re.compile(r"(General error \(exit code \d+\)|exit status \d+)\Z")
_BARMAN = re.compile(r"\b(?:ERROR|CRITICAL): (.+)")
# Every recovery asks for files that may not be there: history files, and the segment after the last one.
_ASKED_IN_VAIN = re.compile(r"WAL file (\S+) for server \S+ does not exist")

BOOTSTRAP = "bootstrap-instance"
"""The init container in which CloudNativePG after 1.30 recovers, in the first instance's own pod, without a Job."""


def sidecar_cause(text: str) -> str:
    """Why a restore failed, from the log of the plugin's sidecar; "" if it has not said.

    barman's own words come first: they are in the field ``stderr``, or in a line that the sidecar took from its error
    output.
    """
    barman: list[str] = []
    errors: list[str] = []
    for entry in _entries(text):
        barman += [words for words in _barman(entry) if not _ASKED_IN_VAIN.match(words)]
        error = str(entry.get("error", ""))
        if entry.get("level") == "error" and error and entry.get("msg") != _ENDING and not _STATUS_ONLY.match(error):
            errors.append(error)
    said = barman or errors
    return said[-1] if said else ""


def asked_in_vain(text: str) -> str:
    """The WAL segment that recovery last asked the archive for and did not get, from the sidecar's log; "" if there is none."""
    found = [match[1] for entry in _entries(text) for words in _barman(entry) if (match := _ASKED_IN_VAIN.match(words))]
    return next((name for name in reversed(found) if re.fullmatch(r"[0-9A-F]{24}", name)), "")


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):  # a message may hold U+2028, which ends no line of a log
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _barman(entry: dict[str, Any]) -> list[str]:
    words = str(entry.get("stderr") or "") or (str(entry.get("msg", "")) if entry.get("pipe") == "stderr" else "")
    return [found[1].strip() for found in map(_BARMAN.search, words.splitlines()) if found]


def failed_attempt(job: dict[str, Any] | None, pod: dict[str, Any] | None) -> bool:
    """Whether an attempt to recover has ended in failure: by the Job, or by the init container of the first instance's pod."""
    if job is not None:
        return int((job.get("status") or {}).get("failed", 0) or 0) > 0
    for status in ((pod or {}).get("status") or {}).get("initContainerStatuses") or []:
        if status["name"] == BOOTSTRAP:
            states = (status.get("state") or {}, status.get("lastState") or {})
            return any((state.get("terminated") or {}).get("exitCode", 0) for state in states)
    return False


def given_up(job: dict[str, Any] | None) -> bool:
    """Whether Kubernetes has ended the Job: it tries again with a new pod until its backoff limit."""
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return any(item["type"] == "Failed" and item["status"] == "True" for item in conditions)


def attempt_to_follow(job_pods: Sequence[dict[str, Any]], first: dict[str, Any] | None) -> tuple[str, str] | None:
    """Pod and container whose log is the recovery's: the newest of the Job's pods, else the first instance's; None before it runs."""
    running = [pod for pod in job_pods if (pod.get("status") or {}).get("phase") not in (None, "", "Pending")]
    if running:
        return max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))["metadata"][
            "name"
        ], "full-recovery"
    for status in ((first or {}).get("status") or {}).get("initContainerStatuses") or []:
        if status["name"] == BOOTSTRAP and "waiting" not in (status.get("state") or {}):
            return str((first or {})["metadata"]["name"]), BOOTSTRAP
    return None


def _log_instant(text: str) -> datetime:
    """PostgreSQL's timestamp text, e.g. ``2026-11-01 10:15:00.123456+00``; the copy's server logs in UTC."""
    text = text.strip().removesuffix(" UTC")
    if re.search(r"[+-]\d\d$", text):
        text += ":00"
    elif re.search(r"\d$", text) and not re.search(r"[+-]\d\d:\d\d$", text):
        text += "+00:00"
    return parse_instant(text)


@dataclass
class RecoveryLog:
    """What the log has said so far; ``feed`` it lines in order."""

    first_at: datetime | None = None
    server_started_at: datetime | None = None
    redo_started_at: datetime | None = None
    redo_ended_at: datetime | None = None
    redo_end: str = ""  # the LSN of the last record that was replayed
    promoted_at: datetime | None = None
    ready_at: datetime | None = None
    segments: int = 0
    last_segment: str = ""
    first_segment_at: datetime | None = None
    last_segment_at: datetime | None = None
    paused: str = ""  # why replay waits for a person; "" while it goes on
    timeline: int = 0
    stopped: str = ""  # before | after
    stopped_xid: int = 0
    stopped_at: datetime | None = None
    last_completed_at: datetime | None = None
    fatal: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def feed(self, line: str) -> None:
        """Take one line; a line that isn't JSON is skipped."""
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not isinstance(entry, dict):
            return
        at = self._when(entry)
        if at is not None:
            self.first_at = self.first_at or at
        record = entry.get("record")
        if entry.get("logger") == "postgres" and isinstance(record, dict):
            self._record(str(record.get("message", "")), str(record.get("error_severity", "")), at)
        elif entry.get("level") in ("error", "fatal"):
            error = str(entry.get("error", "")) or str(entry.get("msg", ""))
            if error and error not in self.errors:
                self.errors.append(error)

    def _when(self, entry: dict[str, object]) -> datetime | None:
        text = entry.get("ts")
        if not isinstance(text, str):
            return None
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            return None

    def _record(self, message: str, severity: str, at: datetime | None) -> None:
        if severity in ("FATAL", "PANIC") and "the database system is" not in message:
            self.fatal.append(message)
        if self.server_started_at is None:
            self.server_started_at = at
        if _PAUSED.match(message):
            self.paused = self.paused or message  # the first says why
        elif self.paused and _RESTORED.search(message):
            self.paused = ""
        if message.startswith("redo starts at"):
            self.redo_started_at = at
        elif done := _REDO_DONE.match(message):
            self.redo_ended_at, self.redo_end = at, done[1]
        elif message.startswith("archive recovery complete"):
            self.promoted_at = at
        elif message.startswith("database system is ready to accept connections"):
            self.ready_at = at
        if found := _RESTORED.search(message):
            self.segments += 1
            self.last_segment, self.last_segment_at = found[1], at
            self.first_segment_at = self.first_segment_at or at
        if found := _TIMELINE.search(message):
            self.timeline = int(found[1])
        if found := _STOPPING.search(message):
            self.stopped, self.stopped_xid, self.stopped_at = found[1], int(found[2]), _log_instant(found[3])
        if found := _LAST_DONE.search(message):
            self.last_completed_at = _log_instant(found[1])

    @property
    def seen(self) -> bool:
        """Whether it was read to the end of recovery: the server names the new timeline there, whatever the target was."""
        return self.timeline > 0

    @property
    def cause(self) -> str:
        """Why the recovery failed, in its own words; ``""`` if it has not said."""
        said = self.fatal or self.errors
        return said[-1] if said else ""

    @property
    def doing(self) -> str:
        """Where the recovery is, for a person who waits."""
        if self.promoted_at:
            return "promoted; CloudNativePG finishes the job"
        if self.redo_ended_at:
            return "promoting"
        if self.server_started_at:
            count = "1 segment" if self.segments == 1 else f"{self.segments} segments"
            return f"replaying WAL: {count}, {self.last_segment or 'the first one is being fetched'}"
        return "fetching the base backup" if self.first_at else "waiting for the recovery job's pod"
