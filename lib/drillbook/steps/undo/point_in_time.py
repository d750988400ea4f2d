"""The way back from a recovered database: what its cut noted on the cluster is found again, by any machine, weeks later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import Action, CheckStep, Context, Plan, Step
from drillbook.errors import NotReady, VerificationError
from drillbook.evidence.facts import Facts
from drillbook.kube import workloads
from drillbook.model import Check, Effect, Frozen, Instant, Verdict, show_instant
from drillbook.steps.cutover.containment import oid_of, writes_again
from drillbook.steps.cutover.swap_check import AppFits, app_faults, tenant_of
from drillbook.steps.cutover.swap_database import DAMAGED
from drillbook.steps.cutover.transfer import superuser_of
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.names import Names, RetainedDatabase
from drillbook.swap.superuser import MAINTENANCE

_ON = ("on", "true", "yes", "1")


class CutFound(AppFits):
    """A cut of an earlier run, by what it noted: when, for whom the database that it put aside is kept, and until when."""

    run: str
    kept: str
    cut_at: Instant
    owner: str
    expires_at: Instant


class PutAside(Frozen):
    """A database that a cut put aside, with its note."""

    database: str
    note: RetainedDatabase


def put_aside(ctx: Context, of_run: str = "") -> list[PutAside]:
    """The databases that cuts have put aside on the source, by the notes in their comments, the newest cut first."""
    with ctx.source() as db:
        names = [str(row["name"]) for row in db.ask("databases")]
        rows = db.ask("cutover_names", names=names)
    found = [
        PutAside(database=row["name"], note=note)
        for row in rows
        if (note := RetainedDatabase.read(row["comment"])) is not None
    ]
    return sorted((one for one in found if of_run in ("", one.note.run)), key=lambda one: one.note.at, reverse=True)


@dataclass(frozen=True)
class FindCut(Step[CutFound]):
    """Find the cut that is to be undone.

    It is read from the comment of the database that was put aside, so neither the run's folder nor the machine that it
    ran on is needed. The application and who else holds it are looked at as before the cut; all faults at once.
    """

    cluster: SourceCluster
    database: str
    of_run: str

    def do(self, ctx: Context) -> CutFound:
        tenant = tenant_of(ctx, self.database)
        found = [
            one
            for one in put_aside(ctx, self.of_run)
            if one.note.what == DAMAGED and one.database == Names.of(self.database, one.note.run).kept
        ]
        faults: list[str] = []
        if not found:
            whose = f"run {self.of_run}" if self.of_run else "any run"
            there = ", ".join(f"{one.database} (run {one.note.run})" for one in put_aside(ctx)) or "none"
            faults.append(f"no database was put aside for {self.database} by {whose}; put aside are: {there}")
        reconcilers, uid, more = app_faults(ctx, self.cluster, tenant)
        if tenant.application is not None and not more and found and found[0].note.before is None:
            app = tenant.application
            if not workloads.deployment(ctx.kube, app)["spec"].get("replicas", 1):
                more = [
                    f"Deployment {app.namespace}/{app.deployment} is scaled to 0, and run {found[0].note.run} noted no number of replicas: "
                    "scale it up by as many as it should have, or resume that run first"
                ]
        if faults or more:
            raise NotReady([*faults, *more], where=f"the way back of {self.database} on {self.cluster.ref}")
        cut = found[0]
        undoes = {"run": cut.note.run, "kept": cut.database, "at": show_instant(cut.note.at)}
        ctx.recorder.note(Facts(undoes=undoes))
        return CutFound(
            names=Names.of(self.database, cut.note.run),
            app_role=tenant.app_role,
            reconcilers=tuple(reconcilers),
            deployment_uid=uid,
            before=cut.note.before,
            run=cut.note.run,
            kept=cut.database,
            cut_at=cut.note.at,
            owner=cut.note.owner,
            expires_at=cut.note.expires_at,
        )


class Writable(Frozen):
    """Whether the database that is back in service had to be given its writes back."""

    database: str
    was_blocked: bool


@dataclass(frozen=True)
class LetItWrite(Step[Writable]):
    """Let the database that is back take writes again, if the run that stopped had blocked them.

    The setting's old values, its own and each role's, are those that the cut noted on the cluster.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    cut: CutFound

    def plan(self, ctx: Context) -> Plan:
        ref, name = self.cluster.ref, self.cut.names.database
        return Plan(
            summary=f"{name} takes writes again, where run {self.cut.run} left it read-only",
            touches=(Action("let write to", "Database", ref.namespace, f"{ref.name}.{name}"),),
        )

    def do(self, ctx: Context) -> Writable:
        name, noted = self.cut.names.database, self.cut.before
        before = noted.writes if noted else {}
        blocked = _is_read_only(ctx, name) and before.get("", "").lower() not in _ON
        if blocked and noted is not None and noted.writes:
            ctx.require_lease()
            superuser_of(ctx, self.cluster.ref).run(
                MAINTENANCE, *writes_again(oid_of(ctx, name), before), repeatable=True
            )
        return Writable(database=name, was_blocked=blocked)

    def verify(self, ctx: Context, result: Writable) -> None:
        if result.was_blocked and _is_read_only(ctx, result.database):
            raise VerificationError(
                f"{result.database} is back in service and takes no writes",
                expected="default_transaction_read_only as before the recovery",
                observed="on",
                todo=f"Nothing on the cluster says how it was: ALTER DATABASE {result.database} RESET default_transaction_read_only, then resume.",
            )


def _is_read_only(ctx: Context, database: str) -> bool:
    with ctx.source() as db:
        found = db.ask("database_setting", database=database, name="default_transaction_read_only")
    return any(str(row["value"]).lower() in _ON for row in found)


@dataclass(frozen=True)
class ShowWrittenSinceSwap(CheckStep):
    """What was written since the cut, table by table.

    By the server's own counters, which began with the recovered database. None of it will be in the database that comes
    back into service; all of it stays in the one that is put aside now.
    """

    cluster: SourceCluster
    cut: CutFound
    name: ClassVar[str] = "written since"
    proves: ClassVar[str] = "what goes out of service is known before anybody decides"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.cut.names.database) as db:
            rows = db.ask("cutover_writes")
        tables = [
            (str(row["name"]), f"{row['inserted']} inserted, {row['updated']} updated, {row['deleted']} deleted")
            for row in rows
        ]
        ctx.recorder.note(Facts(written_since=tuple(tables[:50])))
        total = sum(int(row["inserted"]) + int(row["updated"]) + int(row["deleted"]) for row in rows)
        observed = (
            f"{total:,} rows in {len(tables)} tables since {show_instant(self.cut.cut_at)}" if tables else "nothing"
        )
        return [self.result(Verdict.VERIFIED, expected="known", observed=observed, details=tuple(tables[:12]))]


@dataclass(frozen=True)
class AnnounceUndoneSwap(Announcement):
    """Say what is in service again, what was written in the meantime and where it is kept; and inform people."""

    cluster: SourceCluster
    cut: CutFound
    database: str

    def observe(self, ctx: Context) -> Sequence[Check]:
        run, cut = self.cut.run, ctx.recorder.facts.cut
        proven = cut and not ctx.recorder.unmet()
        state = "is in service again" if proven else "is NOT PROVEN to be in service again"
        lines = [f"{self.cluster.ref}, database {self.database}: what run {run} had put aside {state}."]
        if cut:
            lines += [
                f"What was written since {show_instant(self.cut.cut_at)} is kept as {self.cut.names.later}.",
                f"When nobody needs it any more: drillbook drop-kept {ctx.run_id}.",
                f"If run {run} stopped midway, end it where its evidence lies: drillbook abandon {run} --as-it-stands.",
            ]
        lines.append(f"Run {ctx.run_id}." if proven else f"The report of run {ctx.run_id} says what is where.")
        return self.publish(
            ctx,
            lines,
            claim=f"Database {self.database} of {self.cluster.ref.name} is in service as it was before run {self.cut.run}",
        )


__all__ = [
    "AnnounceUndoneSwap",
    "CutFound",
    "FindCut",
    "LetItWrite",
    "PutAside",
    "ShowWrittenSinceSwap",
    "Writable",
    "put_aside",
]
