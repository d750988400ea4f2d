"""WAL that was written and never archived, found on the dead primary's volume and archived before anything is recovered.

What counts is the page header of each file: a segment that waits to be used again has its new name already, and its old
content. The last segment is not full; recovery ends in it where its records end.
"""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from typing import ClassVar

from drillbook import archive as objectstore
from drillbook import kube as k8s
from drillbook.engine.step import Action, Context, Plan, Step
from drillbook.errors import Changed, KubernetesError, PreconditionError, VerificationError
from drillbook.evidence.facts import Facts, MeasuredLag, SalvagedSegments, VolumeWal
from drillbook.model import BaseBackup, Check, Effect, Frozen, Verdict
from drillbook.postgres.wal import SegmentName, WalFormatError, first_lsn, segment_header
from drillbook.steps.preflight.instances import between_attempts, data_directory, instance_pods, server_runs
from drillbook.steps.preflight.old_cluster import OldCluster

_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_HEADER_BYTES = 40
_RESTART_SECONDS = 360.0  # the kubelet waits five minutes at most before it starts a container again


class WalOnVolume(Frozen):
    """What an instance's volume holds of WAL. ``pod`` "": no volume could be read, and ``problem`` says why.

    ``primary``: it is the primary's. A standby's may lack the last that was committed, and proves nothing about it.
    ``unarchived`` are segments that the archive lacks, oldest first; the last may be partly filled. ``runs``: the
    server is up, so it archives for itself, and its current segment is no loss yet.
    """

    pod: str
    primary: bool = False
    runs: bool = False
    newest: str = ""
    unarchived: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    problem: str = ""


def given_up(ctx: Context) -> str:
    """Why what a volume holds was given up where it can't be read; "" if nobody has given a reason."""
    return ctx.recorder.facts.no_salvage_because or ""


def wal_on_volume(ctx: Context, old: OldCluster, backup: BaseBackup, *, patient: bool = False) -> WalOnVolume:
    """Read by ``pods/exec``: names, and each file's first 40 bytes. Raises only what no pod's absence explains.

    ``patient``: a container of the primary that has crashed is waited for; under a fence its next attempt stays up.
    """
    if old.gone:
        return WalOnVolume(pod="", problem="the Cluster object is gone, and no pod has its volumes mounted")
    deadline, was_down = time.monotonic() + _RESTART_SECONDS, True
    while True:
        found = _read(ctx, old, backup)
        if found.primary or not patient or time.monotonic() > deadline:
            return found
        down = bool(old.primary) and between_attempts(ctx.kube.get(k8s.POD, old.ref.namespace, old.primary))
        if not (down or was_down):
            return found
        was_down = down  # read once more: it may have started between the two looks
        ctx.recorder.progress(f"waiting for the container of {old.primary} to start again, to read its volume")
        ctx.pause(1.0)


def _read(ctx: Context, old: OldCluster, backup: BaseBackup) -> WalOnVolume:
    problems: list[str] = []
    for pod in instance_pods(ctx, old):
        found = ctx.kube.get(k8s.POD, old.ref.namespace, pod) or {}
        if found.get("status", {}).get("phase") != "Running":
            problems.append(f"pod {pod} does not run")
            continue
        try:
            read = _Volume(ctx, old, backup, pod).read()
            told = "; ".join([*problems, f"{pod} is not its primary"])
            return read if read.primary else read.model_copy(update={"problem": told})
        except KubernetesError as error:
            problems.append(error.what)
    return WalOnVolume(pod="", problem="; ".join(problems) or "the Cluster has no pod")


class _Volume:
    """One instance's volume, through its pod."""

    def __init__(self, ctx: Context, old: OldCluster, backup: BaseBackup, pod: str) -> None:
        self.ctx, self.old, self.backup, self.pod = ctx, old, backup, pod
        self.pgdata = data_directory(ctx, old, pod)

    def run(self, *argv: str, seconds: float = 60, reads: bool = True) -> bytes:
        """A command's output; KubernetesError with its own words if it fails. One that only ``reads`` may be run again."""
        done = self.ctx.kube.exec(
            self.old.ref.namespace, self.pod, "postgres", argv, timeout_seconds=seconds, repeatable=reads
        )
        if done.exit_code:
            words = " ".join(done.error_text.split())[-300:]
            raise KubernetesError(
                f"{argv[0]} in pod {self.pod} ended with {done.exit_code}: {words}",
                todo="Look at the pod and its volume.",
                changed=Changed.UNKNOWN,
            )
        return done.stdout

    def read(self) -> WalOnVolume:
        names = self.run("ls", "-1", f"{self.pgdata}/pg_wal/").decode().split()
        listing = objectstore.wal_names(self.ctx.store, self.old.server_name)
        size = self.backup.segment_bytes
        begin = SegmentName.parse(self.backup.begin_wal, size).number
        present, missing = [], []
        for name in sorted(filter(_SEGMENT.fullmatch, names)):
            if SegmentName.parse(name, size).number < begin:
                continue
            archived = listing.segment(name) is not None
            if archived or self._is_current(name):
                present.append(name)
            if not archived and name in present:
                missing.append(name)
        histories = tuple(
            name for name in sorted(names) if _HISTORY.fullmatch(name) and int(name[:8], 16) not in listing.histories
        )
        return WalOnVolume(
            pod=self.pod,
            primary=self.pod == self.old.primary,
            runs=server_runs(self.ctx, self.old, self.pod),
            newest=present[-1] if present else "",
            unarchived=tuple(missing),
            histories=histories,
        )

    def _is_current(self, name: str) -> bool:
        """Whether the file holds the WAL of its name; a file kept for reuse holds an older segment's."""
        try:
            header = segment_header(self.run("head", "-c", str(_HEADER_BYTES), f"{self.pgdata}/pg_wal/{name}"), name)
        except WalFormatError:
            return False
        if self.old.system_id and header.system_id != self.old.system_id:
            raise PreconditionError(
                f"{name} on the volume of {self.pod} is WAL of system {header.system_id}, not of {self.old.system_id}",
                todo="Find out whose volume this is before anything of it is archived.",
            )
        wanted = first_lsn(name, self.backup.segment_bytes)
        return header.begin_lsn == wanted and header.timeline == int(name[:8], 16)

    def archive_command(self) -> str:
        """The instance's own command, with the cluster's own credentials behind it."""
        return self.run("postgres", "-C", "archive_command", "-D", self.pgdata).decode().strip()

    def archive(self, command: str, name: str) -> None:
        """Archive one file as the server would have done."""
        # Relative to PGDATA, as PostgreSQL gives it: CloudNativePG's manager puts PGDATA before it.
        values = {"%p": f"pg_wal/{name}", "%f": name, "%%": "%"}
        argv = [re.sub(r"%[pf%]", lambda found: values[found[0]], word) for word in shlex.split(command)]
        self.run(*argv, seconds=self.ctx.site.limits.step.total_seconds(), reads=False)


class SalvagedWal(Frozen):
    """What was archived from the volume, in order, and seen in the bucket afterwards."""

    pod: str
    segments: tuple[str, ...]
    histories: tuple[str, ...]


def require_stopped(ctx: Context, old: OldCluster, found: WalOnVolume) -> None:
    """Raise if a server runs on the volume: it is still writing, and archives for itself."""
    if found.pod and server_runs(ctx, old, found.pod):
        raise PreconditionError(
            f"PostgreSQL runs in {found.pod}: its current segment is still being written",
            todo="Fence the old cluster first (FenceOldCluster). A running server archives for itself.",
        )


def salvage_wal(ctx: Context, old: OldCluster, backup: BaseBackup, found: WalOnVolume) -> SalvagedWal:
    """Archive the volume's files that the archive lacks, by the instance's own archive_command."""
    files = (*found.histories, *found.unarchived)
    if files:
        volume = _Volume(ctx, old, backup, found.pod)
        command = volume.archive_command()
        if not command:
            raise PreconditionError(
                f"{found.pod} has no archive_command",
                todo="Give the Cluster its archive back (spec.plugins or spec.backup) while it is fenced.",
            )
        for done, name in enumerate(files):
            ctx.recorder.progress(f"archiving {name}", fraction=done / len(files))
            volume.archive(command, name)
    result = SalvagedWal(pod=found.pod, segments=found.unarchived, histories=found.histories)
    ctx.recorder.note(Facts(salvaged=SalvagedSegments.of(result)))
    return result


def require_salvaged(ctx: Context, old: OldCluster, result: SalvagedWal) -> None:
    """Raise unless every file is in the archive now."""
    listing = objectstore.wal_names(ctx.store, old.server_name)
    absent = [name for name in result.segments if listing.segment(name) is None]
    absent += [name for name in result.histories if int(name[:8], 16) not in listing.histories]
    if absent:
        raise VerificationError(
            "salvaged WAL is not in the archive",
            expected=f"{len(result.segments) + len(result.histories)} files under {old.location}",
            observed=f"without {', '.join(absent[:4])}",
            todo="Look at the pod's log: an archive_command can end well and do nothing (on a standby, or without "
            "an archive). Do not remove the volume.",
        )


@dataclass(frozen=True)
class ArchiveRemainingWal(Step[SalvagedWal]):
    """Archive what only the old primary's volume still holds.

    A primary that dies takes the transactions with it that it had committed and not yet archived. They are read on
    its volume, and archived by the instance's own archive_command, in its pod. Where no volume can be read nobody
    knows what is lost: the run stops before anything is made, unless it was given a reason to go on.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    backup: BaseBackup
    no_salvage_because: str = ""

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        if self.old.gone:
            return Plan(summary="Nothing: no pod has the old Cluster's volumes mounted", harmless=True)
        ref, because = self.old.ref, self.no_salvage_because
        given = (
            (Action("give up what only the volume holds of", "Cluster", ref.namespace, ref.name),) if because else ()
        )
        return Plan(
            summary=f"Archive under {self.old.location} what its volume holds and the archive lacks",
            # Not each pod: those of a broken cluster come and go between the confirmation and the step.
            touches=(
                Action("archive WAL from the volume of", "Cluster", ref.namespace, ref.name, self.old.uid),
                *given,
            ),
            notes=("by the instance's own archive_command, in its pod, once no server runs",),
            lost=(
                f"if the primary's volume can't be read, what was committed and never archived; given up, because: {because}",
            )
            if because
            else (),
        )

    def do(self, ctx: Context) -> SalvagedWal:
        found = wal_on_volume(ctx, self.old, self.backup, patient=not self.no_salvage_because)
        ctx.recorder.note(Facts(wal_on_volume=VolumeWal.of(found), no_salvage_because=self.no_salvage_because))
        nothing = not found.primary and bool(self.no_salvage_because)
        # By a standby's own archive_command nothing is archived.
        archived = WalOnVolume(pod="") if nothing else found
        require_stopped(ctx, self.old, archived)
        result = salvage_wal(ctx, self.old, self.backup, archived)
        ctx.recorder.check(old_volume(self.old, found, self.no_salvage_because))
        if found.primary:  # all that was ever committed is in the archive now
            how = "what the old volume held was archived"
            ctx.recorder.note(Facts(archive_lag=MeasuredLag.model_validate({"seconds": 0.0, "how": how})))
        return result

    def verify(self, ctx: Context, result: SalvagedWal) -> None:
        require_salvaged(ctx, self.old, result)


def old_volume(old: OldCluster, found: WalOnVolume, because: str) -> Check:
    """Whether nothing that was committed is lost with the old volume; ``because``: why that is not asked."""
    excused = old.gone or bool(because)
    archived = f"{len(found.unarchived)} segments archived from it" if found.unarchived else "the archive had all of it"
    whose = "" if found.primary else "standby "
    if found.primary:
        reason = ""
    elif because:
        reason = f"{found.problem}: what was never archived is lost; given up, because: {because}"
    elif old.gone:
        reason = f"{found.problem}: what was never archived is lost"
    else:
        way = "or give no_salvage_because, and lose what was never archived"
        reason = f"{found.problem}. Repair the primary's pod; {way}"
    return Check(
        name="old volume",
        proves="nothing that was committed is lost with the old volume",
        verdict=Verdict.VERIFIED if found.primary else Verdict.NOT_APPLICABLE if excused else Verdict.UNPROVEN,
        required=not old.gone,
        expected="the old primary's volume, read",
        observed=f"volume of {whose}{found.pod}, to {found.newest or 'none'}: {archived}" if found.pod else "not read",
        reason=reason,
    )


__all__ = [
    "ArchiveRemainingWal",
    "SalvagedWal",
    "WalOnVolume",
    "given_up",
    "old_volume",
    "wal_on_volume",
]
