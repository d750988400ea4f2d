"""What "restored" means on a copy that stops where somebody asked: none of our markers is on both sides of that point.

The commits on both sides are known from the archived WAL; the copy itself is asked which of them it has. That holds for
every kind of target, whatever PostgreSQL's log says of where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.archive import ResolvedTarget
from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.evidence.facts import Facts, NotedBackup
from drillbook.model import ArchivedCommit, Check, Verdict, show_instant
from drillbook.postgres import checks as integrity
from drillbook.postgres.client import Database
from drillbook.steps.checks.full_restore import PendingEvents
from drillbook.steps.checks.recovered_copy import AppCanLogIn, CatalogueSound, CopyQuarantined, QuestionsAnswered
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.copy import Recovered


@dataclass(frozen=True)
class ReachedPoint(CheckStep):
    """The copy is promoted, on its own timeline, and is the source's own history."""

    cluster: SourceCluster
    target: ResolvedTarget
    recovered: Recovered
    name: ClassVar[str] = "target and timeline"
    proves: ClassVar[str] = "recovery ended on the source's history, and promoted"

    def observe(self, ctx: Context) -> Sequence[Check]:
        ctx.recorder.note(Facts(backup=NotedBackup.of(self.target.backup, chosen="for the target")))
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            facts = db.ask_one("server_facts")
        timeline, last = int(facts["timeline"]), self.recovered.last_completed_at
        holds = (
            not facts["in_recovery"]
            and timeline > int(self.target.target.timeline or 0)
            and str(facts["system_identifier"]) == self.cluster.system_id
        )
        stopped = (
            f"stopped {self.recovered.stopped} transaction {self.recovered.stopped_xid}, "
            if self.recovered.stopped
            else ""
        )
        return [
            self.result(
                Verdict.VERIFIED if holds else Verdict.FAILED,
                expected=f"promoted, a timeline after {self.target.target.timeline}, system {self.cluster.system_id}",
                observed=f"{stopped}{'in recovery' if facts['in_recovery'] else 'promoted'}, timeline {timeline}",
                details=(
                    ("target", str(self.target.target)),
                    ("last completed transaction", show_instant(last) if last else "not said"),
                ),
            )
        ]


@dataclass(frozen=True)
class CommitsAroundTarget(CheckStep):
    """The last commit before the target is in the copy, the first one after it is not."""

    target: ResolvedTarget
    recovered: Recovered
    name: ClassVar[str] = "boundary"
    proves: ClassVar[str] = "nothing before the target is lost and nothing after the target is present"

    def observe(self, ctx: Context) -> Sequence[Check]:
        last, first = self.target.last_before, self.target.first_after
        before, after = commits_around(ctx, self.target, self.recovered)
        words = [
            f"XID {last.xid} {'committed' if before else 'not committed'}" if last else "no commit before it was read",
            f"XID {first.xid} {'committed' if after else 'not committed'}" if first else "no commit after it exists",
        ]
        if before is None and after is None:
            return [self.result(Verdict.UNPROVEN, reason="the archive shows no commit on either side of the target")]
        holds = before is not False and not after
        return [
            self.result(
                Verdict.VERIFIED if holds else Verdict.FAILED,
                expected="last commit before the target present, first one after it absent",
                observed=", ".join(words),
                details=tuple(
                    (what, show_instant(commit.committed_at))
                    for what, commit in (("last before", last), ("first after", first))
                    if commit
                ),
            )
        ]


def commits_around(ctx: Context, target: ResolvedTarget, recovered: Recovered) -> tuple[bool | None, bool | None]:
    """Whether the copy has the last commit before the target, and the first one after it; None where there is none."""
    with ctx.copy(recovered.ref, "postgres", read_only=True) as db:
        known = int(db.ask_one("commit_timestamps")["next_xid"])
        return _is_there(db, target.last_before, known), _is_there(db, target.first_after, known)


def _is_there(db: Database, commit: ArchivedCommit | None, known: int) -> bool | None:
    if commit is None:
        return None
    committed, _ = integrity.is_committed(db, integrity.near_xid(commit.xid, known))
    return committed is not False  # too old to tell is long committed: recovery has gone on


@dataclass(frozen=True)
class StructureBeside(CheckStep):
    """What differs in structure from the source as it is now: the damage, or what was made since the target."""

    recovered: Recovered
    name: ClassVar[str] = "structure"
    proves: ClassVar[str] = "what is missing or different compared with the source is known"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks = []
        for tenant in ctx.site.tenants:
            with integrity.Watch(ctx.source()) as watch, ctx.source(tenant.database) as db:
                source = integrity.structure(db, watch)
            with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                found = integrity.structure_equal(source, integrity.structure(db))
            reason = (
                "the source has changed since the target, or this is the damage: see that nothing else is in the list"
            )
            changed = {} if found.verdict is Verdict.VERIFIED else {"verdict": Verdict.NOT_APPLICABLE, "reason": reason}
            name = f"{self.name}: {tenant.database}"
            checks.append(found.model_copy(update={"name": name, "proves": self.proves, **changed}))
        return checks


@dataclass(frozen=True)
class NewestInTables(CheckStep):
    """The newest change of each chosen table, in the copy and in production."""

    recovered: Recovered
    name: ClassVar[str] = "newest rows"
    proves: ClassVar[str] = "how far each table's data goes, compared with production"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks = []
        for tenant in ctx.site.tenants:
            if not tenant.digest_tables:
                continue
            with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                copy = integrity.newest_changes(db, tenant.digest_tables)
            with integrity.Watch(ctx.source()) as watch, ctx.source(tenant.database) as db:
                source = integrity.newest_changes(db, tenant.digest_tables, watch)
            details = tuple((name, f"copy: {copy[name]}; production: {source[name]}") for name in copy)[:12]
            name = f"{self.name}: {tenant.database}"
            observed = f"{sum(item.rows for item in copy.values()):,} rows in {len(copy)} tables"
            checks.append(self.result(Verdict.VERIFIED, name=name, observed=observed, details=details))
        return checks


@dataclass(frozen=True)
class RestoredToTarget(CheckGroup):
    """Is it restored, and to the right point?

    Healthy is not complete. Commits on both sides of the target, structure and newest rows compared with production,
    catalogue and sequences, the site's own questions, the applications' logins, and the copy's quarantine, asked of
    the server.
    """

    cluster: SourceCluster
    target: ResolvedTarget
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [
            ReachedPoint(self.cluster, self.target, self.recovered),
            CommitsAroundTarget(self.target, self.recovered),
            StructureBeside(self.recovered),
            NewestInTables(self.recovered),
            CatalogueSound(self.recovered, compare_with_source=True),
            QuestionsAnswered(self.recovered),
            AppCanLogIn(self.recovered),
            PendingEvents(self.recovered),
            CopyQuarantined(self.recovered),
        ]


__all__ = ["RestoredToTarget"]
