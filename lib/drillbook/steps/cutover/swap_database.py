"""The swap: the one database is put into service under its name; the damaged one is kept, and the way back with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from drillbook.engine import undo as restoring
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import Changed, PreconditionError, RunbookError, VerificationError
from drillbook.evidence.facts import Cut, Facts
from drillbook.model import Check, Effect, Frozen, Instant, Lsn, Verdict, show_instant
from drillbook.postgres.client import SQL, Literal, as_text
from drillbook.steps.backup.safety_backup import unsaved
from drillbook.steps.cutover.drain import before_the_cut, still_there
from drillbook.steps.cutover.swap_check import AppFits
from drillbook.steps.cutover.transfer import database_obligation, superuser_of
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap import rename
from drillbook.swap.names import RetainedDatabase
from drillbook.swap.superuser import MAINTENANCE

KEPT_FOR = timedelta(days=14)
DAMAGED, LATER = "replaced by recovered data", "in service after the cut, swapped back"


class Swapped(Frozen):
    """The cut: at which LSN and instant; what was put aside, for whom and until when."""

    database: str
    kept: str
    lsn: Lsn
    cut_at: Instant
    owner: str
    expires_at: Instant
    sessions_ended: tuple[tuple[str, int], ...] = ()
    written: tuple[tuple[str, int, int, int], ...] = ()  # after a swap back: table, rows inserted, updated, deleted


class Dropped(Frozen):
    """A database that is gone."""

    database: str
    gone_at: Instant


def _there(ctx: Context, fits: AppFits) -> dict[str, dict[str, Any]]:
    with ctx.source() as db:
        return {row["name"]: row for row in db.ask("cutover_names", names=fits.names.all)}


def _kept(there: dict[str, dict[str, Any]], name: str) -> RetainedDatabase | None:
    return RetainedDatabase.read(there[name]["comment"]) if name in there else None


def _require_drained(ctx: Context, fits: AppFits) -> None:
    pods, sessions = still_there(ctx, fits)
    if pods or sessions:
        told = ", ".join([*pods, *(f"{count} sessions of {name}" for name, count in sessions)])
        raise PreconditionError(
            f"the application is not drained: {told}",
            todo="No database was touched. Drain it first; the step that scales it up is the way back.",
        )


def _exchange(ctx: Context, fits: AppFits, cluster: SourceCluster, *, new: str, aside: str, what: str) -> Swapped:
    """``new`` comes into service, what was there is put aside. Done before, it is only read."""
    database = fits.names.database
    there = _there(ctx, fits)
    done = _kept(there, aside)
    ended: tuple[tuple[str, int], ...] = ()
    if done is None:
        missing = [name for name in (database, new) if name not in there]
        if missing or aside in there:
            found = f"missing: {', '.join(missing)}" if missing else f"{aside} exists and no cut has made it"
            raise PreconditionError(f"the names are not as the cut needs them: {found}", todo="Nothing was changed.")
        ended = _cut(ctx, fits, cluster, new=new, aside=aside, what=what)
        done = _kept(_there(ctx, fits), aside)
    for opening in _openings(ctx, cluster, database):  # of an attempt that did not live to see its cut end
        restoring.restore(ctx, opening)
    if done is None or done.run != ctx.run_id:
        raise VerificationError(
            f"{aside} does not say that this run has put it aside",
            expected=f"run {ctx.run_id}",
            observed=f"run {done.run}" if done else "no note",
            todo="Look at the comments of the databases (psql: \\l+) before anything else.",
        )
    ctx.recorder.settled(
        database_obligation(cluster.ref, aside, ""),
        "kept on purpose",
        f"for {done.owner} until {show_instant(done.expires_at)}; dropped only behind its own gate",
    )
    cut = {"database": database, "lsn": done.lsn, "at": show_instant(done.at), "kept": aside}
    ctx.recorder.note(Facts(cut=Cut.model_validate(cut)))
    return Swapped(
        database=database,
        kept=aside,
        lsn=Lsn(done.lsn),
        cut_at=done.at,
        owner=done.owner,
        expires_at=done.expires_at,
        sessions_ended=ended,
    )


def _cut(
    ctx: Context, fits: AppFits, cluster: SourceCluster, *, new: str, aside: str, what: str
) -> tuple[tuple[str, int], ...]:
    database = fits.names.database
    owner, before = ctx.kube.whoami().username, before_the_cut(ctx, fits, cluster)
    note = rename.note(ctx.run_id, what, owner, datetime.now(UTC) + KEPT_FOR, before)
    back = _kept(_there(ctx, fits), new)
    also = [rename.forget(database, back.comment)] if back is not None else []
    with ctx.source() as db:
        rows = [row for name in (database, new) for row in db.ask("sessions", database=name)]
    source = superuser_of(ctx, cluster.ref)
    ctx.recorder.obligation(database_obligation(cluster.ref, aside, f"{what}: drop it when nobody needs it any more"))
    for earlier in _openings(ctx, cluster, database):  # an attempt that was not seen to end: its psql may still run
        restoring.restore(ctx, earlier)
        if _kept(_there(ctx, fits), aside) is not None:
            return ()
    opening, deadline = _opening(ctx, fits, cluster, new=new, aside=aside)
    ctx.recorder.obligation(opening)
    ctx.require_lease()
    try:
        source.run(
            MAINTENANCE,
            *rename.begin(ctx.run_id),
            rename.not_after(deadline),
            *rename.close([database, new]),
            *rename.exchange(database, aside, new, kept=note, also=also),
        )
    except RunbookError as error:
        _let_in_again(ctx, fits, error, opening, new)
        if error.changed is not Changed.DONE:
            raise
        # It was made all the same: only its end was not seen.
    else:
        ctx.recorder.settled(opening, "open again", "by the transaction of the cut itself")
    told: dict[str, int] = {}
    for row in rows:
        who = f"{row['role']} ({row['application'] or 'no application name'})"
        told[who] = told.get(who, 0) + int(row["sessions"])
    return tuple(sorted(told.items()))


def _opening(ctx: Context, fits: AppFits, cluster: SourceCluster, *, new: str, aside: str) -> tuple[Obligation, str]:
    """The promise to let everybody in again, by the databases' ids; and until when the cut may begin, by the server's clock."""
    ref, database = cluster.ref, fits.names.database
    there = _there(ctx, fits)
    oids = [int(there[name]["oid"]) for name in (database, new) if there[name]["allows_connections"]]
    soon = SQL("select (pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => {}))::text as deadline")
    (row,) = superuser_of(ctx, ref).ask(MAINTENANCE, soon.format(Literal(rename.BEGIN_SECONDS)))
    deadline = str(row["deadline"])
    undo = {
        "verb": "sql",
        "kind": "Cluster",
        "namespace": ref.namespace,
        "name": ref.name,
        "tells": True,
        "sql": rename.give_up(ctx.run_id, oids, deadline, aside),
    }
    what = f"{database} and {new} are closed for the cut: let everybody in again"
    return Obligation(restoring.CLOSED, ref.namespace, f"{ref.name}.{database}", what, undo=undo), deadline


def _openings(ctx: Context, cluster: SourceCluster, database: str) -> list[Obligation]:
    place = (restoring.CLOSED, cluster.ref.namespace, f"{cluster.ref.name}.{database}")
    return [item for item in ctx.recorder.promises() if (item.kind, item.namespace, item.name) == place]


def _let_in_again(ctx: Context, fits: AppFits, error: RunbookError, opening: Obligation, new: str) -> None:
    """The cut is one transaction: it happened or it didn't. Whichever, it is over, and nobody stays locked out.

    What can't be done now stays promised: the run that is resumed, abandoned or cleaned up does it.
    """
    try:
        restoring.restore(ctx, opening)
        happened = new not in _there(ctx, fits)
        error.changed, error.rolled_back = (Changed.DONE, False) if happened else (Changed.NOTHING, True)
    except RunbookError as second:
        error.changed = Changed.UNKNOWN
        error.todo = (
            f"{error.todo} Both databases may be closed ({second.what}): `drillbook resume` or `abandon` opens them."
        )


def _plan(ctx: Context, fits: AppFits, cluster: SourceCluster, *, new: str, aside: str, what: str, lost: str) -> Plan:
    database = fits.names.database
    renames = [
        *rename.begin(ctx.run_id),
        *rename.close([database, new]),
        *rename.exchange(database, aside, new, kept={"run": ctx.run_id, "what": what}),
    ]
    place = cluster.ref
    return Plan(
        summary=f"{database} becomes {aside}, {new} becomes {database}",
        sql=tuple(as_text(one) for one in renames),
        touches=(
            Action(
                "rename",
                "Database",
                place.namespace,
                f"{place.name}.{database}",
                str(fits.oid) if what == DAMAGED else "",
            ),
            Action("rename", "Database", place.namespace, f"{place.name}.{new}"),
        ),
        notes=(
            f"kept for {KEPT_FOR.days} days, then dropped only behind its own gate",
            "the other databases are not touched",
        ),
        lost=(lost,),
    )


@dataclass(frozen=True)
class SwapDatabase(Step[Swapped]):
    """Put the recovered database into service: both names are changed in one transaction.

    Connections to both are disallowed and ended first, and allowed again with the same commit. The damaged database is
    kept as it was at the cut, for its owner and with an expiry. The other tenants' databases are not touched.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    cluster: SourceCluster
    fits: AppFits
    no_backup_because: str = ""

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()
        if _kept(_there(ctx, self.fits), self.fits.names.kept) is None:
            _require_drained(ctx, self.fits)

    def plan(self, ctx: Context) -> Plan:
        names = self.fits.names
        lost = f"what {names.database} took in since the recovery target: kept in {names.kept}, not in service any more"
        found = _plan(ctx, self.fits, self.cluster, new=names.carried, aside=names.kept, what=DAMAGED, lost=lost)
        touches, more = unsaved(self.cluster.ref, self.no_backup_because)
        return replace(found, touches=(*found.touches, *touches), lost=(*found.lost, *more))

    def do(self, ctx: Context) -> Swapped:
        names = self.fits.names
        found = _exchange(ctx, self.fits, self.cluster, new=names.carried, aside=names.kept, what=DAMAGED)
        ctx.recorder.settled(
            database_obligation(self.cluster.ref, names.carried, ""), "in service", f"it is {names.database} now"
        )
        return found

    def verify(self, ctx: Context, result: Swapped) -> None:
        _require_service(ctx, self.fits, gone=self.fits.names.carried)


@dataclass(frozen=True)
class SwapBack(Step[Swapped]):
    """The way back: the damaged database is in service again, as it was at the cut.

    What was written since the cut is kept under another name, and shown by table: nothing of it is in the one that
    comes back.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    cluster: SourceCluster
    fits: AppFits

    def check(self, ctx: Context) -> None:
        if _kept(_there(ctx, self.fits), self.fits.names.later) is None:
            _require_drained(ctx, self.fits)

    def plan(self, ctx: Context) -> Plan:
        names = self.fits.names
        lost = f"what was written since the cut: kept in {names.later}, not in service any more"
        return _plan(ctx, self.fits, self.cluster, new=names.kept, aside=names.later, what=LATER, lost=lost)

    def do(self, ctx: Context) -> Swapped:
        names = self.fits.names
        found = _exchange(ctx, self.fits, self.cluster, new=names.kept, aside=names.later, what=LATER)
        rows = superuser_of(ctx, self.cluster.ref).ask(names.later, "cutover_writes")
        written = tuple((row["name"], row["inserted"], row["updated"], row["deleted"]) for row in rows)
        ctx.recorder.note(Facts(written_after_the_cut={"database": names.later, "tables": written[:50]}))
        return found.model_copy(update={"written": written[:50]})

    def verify(self, ctx: Context, result: Swapped) -> None:
        _require_service(ctx, self.fits, gone=self.fits.names.kept)


def _require_service(ctx: Context, fits: AppFits, *, gone: str) -> None:
    there = _there(ctx, fits)
    database = fits.names.database
    if gone in there or not there.get(database, {}).get("allows_connections"):
        raise VerificationError(
            "the names are not as after the cut",
            expected=f"{database} in service, no {gone}",
            observed=", ".join(there),
            todo="Look at the databases (psql: \\l+); nothing was dropped.",
        )


@dataclass(frozen=True)
class DropDamaged(Step[Dropped]):
    """Drop the database that the cut put aside.

    After this there is no way back but the archive. It has its own gate, and only a database whose own comment says
    that a run put it aside is dropped.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    kept: str  # as the cut's result names it

    def plan(self, ctx: Context) -> Plan:
        ref = self.cluster.ref
        return Plan(
            summary=f"Drop {self.kept} of {ref}",
            sql=(as_text(rename.drop(str(self.kept))),),
            touches=(Action("drop", "Database", ref.namespace, f"{ref.name}.{self.kept}"),),
            lost=(f"everything in {self.kept}: swapping back is over",),
        )

    def check(self, ctx: Context) -> None:
        with ctx.source() as db:
            found = db.ask("cutover_names", names=[self.kept])
        if found and RetainedDatabase.read(found[0]["comment"]) is None:
            raise PreconditionError(
                f"{self.kept} was not put aside by a cut: its comment doesn't say so",
                todo="Name the database that the cut's record names.",
            )

    def do(self, ctx: Context) -> Dropped:
        superuser_of(ctx, self.cluster.ref).run(MAINTENANCE, rename.drop(self.kept), repeatable=True)
        now = datetime.now(UTC)
        ctx.recorder.settled(database_obligation(self.cluster.ref, self.kept, ""), "dropped", show_instant(now))
        return Dropped(database=self.kept, gone_at=now)

    def verify(self, ctx: Context, result: Dropped) -> None:
        _require_gone(ctx, result.database)
        wanted, proves = f"no {result.database}", "the database is gone"
        ctx.recorder.check(
            Check(name="dropped", proves=proves, verdict=Verdict.VERIFIED, expected=wanted, observed=wanted)
        )


@dataclass(frozen=True)
class RemoveTransferred(Step[Dropped]):
    """Drop the transferred database that never went into service.

    This run has made it, and nobody but a superuser was ever in it: so it needs no gate. After a cut none exists.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    settles: ClassVar[bool] = True
    cluster: SourceCluster
    fits: AppFits

    def plan(self, ctx: Context) -> Plan:
        name = self.fits.names.carried
        return Plan(summary=f"Drop {name} if it is still there", sql=(as_text(rename.drop(name)),))

    def do(self, ctx: Context) -> Dropped:
        name = self.fits.names.carried
        if name in _there(ctx, self.fits):
            superuser_of(ctx, self.cluster.ref).run(MAINTENANCE, rename.drop(name), repeatable=True)
        now = datetime.now(UTC)
        ctx.recorder.settled(database_obligation(self.cluster.ref, name, ""), "not there", show_instant(now))
        return Dropped(database=name, gone_at=now)

    def verify(self, ctx: Context, result: Dropped) -> None:
        _require_gone(ctx, result.database)


def _require_gone(ctx: Context, name: str) -> None:
    with ctx.source() as db:
        found = db.ask("cutover_names", names=[name])
    if found:
        raise VerificationError(
            "the database is still there", expected="none", observed=name, todo="Drop it by hand (psql: DROP DATABASE)."
        )


__all__ = ["DropDamaged", "Dropped", "RemoveTransferred", "SwapBack", "SwapDatabase", "Swapped"]
