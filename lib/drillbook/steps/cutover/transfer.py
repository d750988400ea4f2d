"""One database is transferred from the copy into the running cluster, under its own name, and compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import Action, CheckStep, Context, Obligation, Plan, Step, pod_of
from drillbook.errors import Changed, PreconditionError, UpstreamError, VerificationError
from drillbook.evidence.facts import Facts
from drillbook.model import Check, ClusterRef, Effect, Frozen, Instant
from drillbook.postgres.client import SQL, as_text
from drillbook.report.cards import show_bytes
from drillbook.steps.cutover.swap_check import ASSUMED_BYTES_A_SECOND, SwapFits
from drillbook.steps.cutover.transfer_watch import TransferWatch
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.copy import Recovered
from drillbook.swap import compare, dump_restore, rename
from drillbook.swap.compare import Side
from drillbook.swap.disk_space import Needs
from drillbook.swap.superuser import CONTAINER, MAINTENANCE, Superuser

_FOR_EVER = 30 * 86_400.0  # seconds


class TransferredDatabase(Frozen):
    """The transferred database, whole. ``bytes`` is the dump's size, all of which went through this machine."""

    database: str
    bytes: int
    through_this_machine: bool
    seconds: float
    finished_at: Instant


def superuser_of(ctx: Context, ref: ClusterRef) -> Superuser:
    """A superuser's way into the cluster's primary; that it was used is noted in the record."""
    pod = pod_of(ctx.cluster_object(ref))
    if not pod:
        raise PreconditionError(f"Cluster {ref} has no primary", todo="Wait until it is healthy.")
    if ref == ctx.source_ref:
        ctx.recorder.note(Facts(superuser_on_source={"how": "psql by pods/exec, behind the gate", "pod": pod}))
    # ANALYZE and the digests pass over every row: bounded as the recovery is.
    return Superuser(ctx.kube, ref.namespace, pod, ctx.site.limits.recovery.total_seconds())


def database_obligation(ref: ClusterRef, name: str, what: str) -> Obligation:
    """A database of the source that this run has to account for."""
    return Obligation("Database", ref.namespace, f"{ref.name}.{name}", what)


def carried_obligation(ref: ClusterRef, name: str) -> Obligation:
    """The promise to drop a transferred database that never goes into service; once it is in service it has another name."""
    undo = {
        "verb": "sql",
        "kind": "Cluster",
        "namespace": ref.namespace,
        "name": ref.name,
        "sql": as_text(rename.drop(name)),
    }
    return replace(
        database_obligation(ref, name, "transferred, not in service yet: dropped unless it is swapped in"), undo=undo
    )


@dataclass(frozen=True)
class TransferDatabase(Step[TransferredDatabase]):
    """Transfer the recovered database from the copy into the running cluster, under a new name.

    Dump and restore run in the pods themselves and are joined here, so the bytes pass through this machine. Nobody is
    let into the new database until it is whole. Tenants are not touched; done twice, it is recreated.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: SwapFits
    recovered: Recovered

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        name = self.fits.names.carried
        return Plan(
            summary=f"Transfer {self.fits.names.database} of the copy into {self.cluster.ref} as {name}",
            sql=(f"CREATE DATABASE {name}", f"pg_dump -Fc in the copy | pg_restore into {name}", "ANALYZE"),
            touches=(Action("create", "Database", self.cluster.ref.namespace, f"{self.cluster.ref.name}.{name}"),),
            notes=(
                "as superuser on the source, by pods/exec: the record says so",
                f"about {show_bytes(self._size(ctx))} of database, and as much WAL; volumes are watched, and it stops before one is full",
                "the dump's bytes pass through the machine that this runs on",
            ),
        )

    def do(self, ctx: Context) -> TransferredDatabase:
        names, started, at = self.fits.names, time.monotonic(), datetime.now(UTC)
        copy, source = superuser_of(ctx, self.recovered.ref), superuser_of(ctx, self.cluster.ref)
        ctx.recorder.obligation(carried_obligation(self.cluster.ref, names.carried))
        (found,) = copy.ask(names.database, "cutover_database")
        extensions = copy.ask(names.database, "cutover_extensions")
        # One that an earlier attempt of this run has begun is of no use.
        ctx.require_lease()
        source.run(MAINTENANCE, rename.drop(names.carried), *dump_restore.create(names.carried, found), repeatable=True)
        source.run(names.carried, *dump_restore.empty(found), *dump_restore.extensions(extensions), repeatable=True)
        moved = self._move(ctx, copy, source)
        ctx.recorder.progress("collecting statistics")
        # The counters start again: what they say after the cut are the application's own writes.
        patient = replace(source, timeout_seconds=_FOR_EVER)
        patient.run(names.carried, SQL("select pg_catalog.pg_stat_reset()"), SQL("ANALYZE"), repeatable=True)
        source.run(MAINTENANCE, *dump_restore.attributes(names.carried, found), repeatable=True)
        seconds = time.monotonic() - started
        ctx.recorder.phase("carry", at, seconds, f"dump and restore of {moved:,} bytes through this machine, ANALYZE")
        ctx.recorder.note(Facts(transferred={"database": names.carried, "bytes": moved, "through_this_machine": True}))
        return TransferredDatabase(
            database=names.carried,
            bytes=moved,
            through_this_machine=True,
            seconds=seconds,
            finished_at=datetime.now(UTC),
        )

    def _move(self, ctx: Context, copy: Superuser, source: Superuser) -> int:
        names = self.fits.names
        writer = k8s.Command(copy.namespace, copy.pod, CONTAINER, dump_restore.dump(names.database))
        reader = k8s.Command(source.namespace, source.pod, CONTAINER, dump_restore.restore(names.carried))
        watch = TransferWatch(ctx, self.cluster, source, usual_seconds=self._usual_seconds(ctx))
        try:
            # No limit ends it: what is transferred so far would be lost, and the next attempt would need as long.
            piped = ctx.kube.pipe(writer, reader, timeout_seconds=_FOR_EVER, on_bytes=watch)
        except BaseException:
            watch.stop(names.carried)
            raise
        if not piped.well:
            said = _first(piped.writer_error, piped.writer_exit_code) or _first(
                piped.reader_error, piped.reader_exit_code
            )
            raise UpstreamError(
                f"{names.database} could not be transferred: {said or 'the connection was lost'}",
                changed=Changed.DONE,
                todo=f"{names.carried} is unfinished and nobody is let in; fix the cause and transfer again, which recreates it.",
            )
        return piped.bytes

    def _usual_seconds(self, ctx: Context) -> float:
        """How long transferring was predicted to take, by what was measured on the copy."""
        return max(60.0, self._size(ctx) / ASSUMED_BYTES_A_SECOND)

    def _size(self, ctx: Context) -> int:
        needs = ctx.recorder.facts.to_transfer
        return Needs.model_validate(needs).database_bytes if needs else self.fits.size_bytes

    def verify(self, ctx: Context, result: TransferredDatabase) -> None:
        with ctx.source() as db:
            found = db.ask("cutover_names", names=[result.database])
        if not found or not found[0]["allows_connections"]:
            raise VerificationError(
                "the transferred database is not there",
                expected=result.database,
                observed="none" if not found else "one that allows no connection",
                todo="Transfer it again.",
            )


def _first(stderr: str, code: int | None) -> str:
    """The first line of what a failed command said: further ones may quote a row."""
    if not code:
        return ""
    lines = [line for line in stderr.splitlines() if line.strip()]
    told = next((line for line in lines if "error:" in line), lines[0] if lines else "no message")
    return f"{told.partition(' DETAIL:')[0][:300]} (exit status {code})"


@dataclass(frozen=True)
class CompareTransferred(CheckStep):
    """The transferred database is the copy's, object by object and row by row.

    Structure, grants, settings, comments, large objects, sequences' positions, and a keyed digest of every table; rows
    stay in their servers. A difference ends the way to the cut.
    """

    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: SwapFits
    recovered: Recovered
    name: ClassVar[str] = "transferred as recovered"
    proves: ClassVar[str] = "what goes into service is what was recovered and checked"

    def observe(self, ctx: Context) -> Sequence[Check]:
        names = self.fits.names
        # As with the transfer, no limit ends what passes over every row: it would have to begin again.
        expected = Side(replace(superuser_of(ctx, self.recovered.ref), timeout_seconds=_FOR_EVER), names.database)
        observed = Side(replace(superuser_of(ctx, self.cluster.ref), timeout_seconds=_FOR_EVER), names.carried)
        ctx.recorder.progress("comparing structure and rows of both")
        return compare.compare(expected, observed, ctx.digest_key)


__all__ = ["CompareTransferred", "TransferDatabase", "TransferredDatabase", "database_obligation", "superuser_of"]
