"""The rehearsal on the copy, and what it says about each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.engine.step import CheckStep, Context, Plan, Step
from drillbook.evidence.facts import Facts, TestKind
from drillbook.indexes import rehearsal as bench
from drillbook.indexes.findings import IndexFinding, Rehearsal, StatementRun, VariantSeen
from drillbook.indexes.judging import Outcome
from drillbook.indexes.migration import Migration
from drillbook.model import Check, Effect, Verdict
from drillbook.postgres.client import SQL, Literal
from drillbook.report import claims
from drillbook.steps.recovery.copy import Recovered


class Rehearsed(Rehearsal):
    """What was measured, with the table and pictures that a notebook shows."""

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows before the table: how the file runs as written, and on which server."""
        file = self.file
        return [
            ("server", f"PostgreSQL {self.server_version}: what follows holds for this major version and its settings"),
            ("in one transaction", _ran(file.in_one_transaction)),
            ("statement by statement", _ran(file.one_by_one)),
            ("corrected set", f"{len(self.together_used)} of {len(self.together)} used once all of it is there"),
        ]

    def card(self) -> dict[str, str]:
        """The claims next to what was measured, and one picture a table."""
        return claims.bundle(claim_rows(self))


@dataclass(frozen=True)
class RehearseMigration(Step[Rehearsed]):
    """Run the migration on the copy, and measure every claim.

    As written, in one transaction and statement by statement; each index alone and all together, by plans, pages and
    rows, which repeat exactly; what it costs in writes; what does not help is corrected by a list of rules and measured
    again. The copy is changed for good.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    proposed: Migration
    recovered: Recovered

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None and not isinstance(self.proposed, Migration):
            return Plan(summary=f"Run the migration on the copy (it is {self.unknown})")
        return Plan(
            summary=f"Run {self.proposed.name} on the copy's database {self.proposed.database}, never in production",
            sql=tuple(statement.sql for statement in self.proposed.as_written),
            notes=tuple(f"measured for {query.name}: {query.sql}" for query in self.proposed.queries),
        )

    def do(self, ctx: Context) -> Rehearsed:
        ref, database = self.recovered.ref, self.proposed.database
        limit = f"{round(ctx.site.limits.total.total_seconds() * 1000)}ms"
        with ctx.copy(ref, database) as db, ctx.copy(ref, database) as other:
            db.ask(SQL("SELECT set_config('statement_timeout', {}, false)").format(Literal(limit)))
            found = bench.rehearse(
                db, other, self.proposed, role=ctx.site.tenant(database).app_role, progress=ctx.recorder.progress
            )
        rehearsed = Rehearsed.model_validate(found.model_dump())
        ctx.recorder.note(Facts(index_claims=claim_rows(rehearsed)))
        return rehearsed

    def verify(self, ctx: Context, result: Rehearsed) -> None:
        """Nothing to read back: each figure was read from the server, and the copy is removed by its own step."""


@dataclass(frozen=True)
class ClaimsMeasured(CheckStep):
    """Each claim has its verdict: a class, and what shows it.

    VERIFIED is a claim that was measured, whether or not it holds: the class says what the index is worth. UNPROVEN is one that
    could not be measured.
    """

    rehearsal: Rehearsed
    name: ClassVar[str] = "index claims"
    proves: ClassVar[str] = "each claim of the migration was measured on restored data"

    def observe(self, ctx: Context) -> Sequence[Check]:
        count, name = len(self.rehearsal.indexes), self.rehearsal.migration
        claims = "the one claim" if count == 1 else f"all {count} claims"
        ctx.recorder.note(
            Facts(
                test=TestKind(type="index migration, rehearsed on a restored copy"),
                claim=f"On a copy of {ctx.source_ref.name} {claims} of {name} {'was' if count == 1 else 'were'} measured",
            )
        )
        return [self._check(finding) for finding in self.rehearsal.indexes]

    def _check(self, finding: IndexFinding) -> Check:
        why = "; ".join(f"{item.reason}: {item.shown_by}" for item in finding.reasons)
        details = [("measured", item.label + ": " + measured(item)) for item in finding.variants[:4]]
        details += [
            ("HOT share", f"{cost.update}: {cost.hot_before:.0%} → {cost.hot_after:.0%}") for cost in finding.updates
        ]
        details += [("unstable", text) for text in finding.unstable[:2]]
        details += [("corrected", finding.corrected.sql)] if finding.corrected else []
        return self.result(
            Verdict.VERIFIED if finding.index_class else Verdict.UNPROVEN,
            name=f"{self.name}: {finding.label}",
            expected=f"claimed: {finding.claim or 'nothing'}",
            observed=f"{finding.index_class}{f' ({why})' if why else ''}" if finding.index_class else "not measured",
            reason=finding.unproven,
            details=tuple(details[:12]),
        )


@dataclass(frozen=True)
class FileRuns(CheckStep):
    """Does the file run as it is written?

    In one transaction, as Flyway runs it by default, and statement by statement; and who waits while it does. A file that
    fails is a finding about the migration, not a failure of the rehearsal.
    """

    rehearsal: Rehearsed
    name: ClassVar[str] = "file as written"
    proves: ClassVar[str] = "how the migration's file runs, and whom it stops"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        file = self.rehearsal.file
        stopping = [item.label for item in self.rehearsal.indexes if item.lock is not None and item.lock.stops_writers]
        modes = sorted({item.lock.mode for item in self.rehearsal.indexes if item.lock is not None})
        return [
            self._ran("in one transaction", file.in_one_transaction),
            self._ran("statement by statement", file.one_by_one),
            self.result(
                Verdict.FAILED if stopping else Verdict.VERIFIED,
                name=f"{self.name}: writers",
                expected="no INSERT, UPDATE or DELETE waits for a build",
                observed=f"{len(stopping)} builds hold {', '.join(modes)}: writers wait for each"
                if stopping
                else "none waits",
            ),
        ]

    def _ran(self, how: str, runs: Sequence[StatementRun]) -> Check:
        failed = any(run.sqlstate for run in runs)
        return self.result(
            Verdict.FAILED if failed else Verdict.VERIFIED,
            name=f"{self.name}: {how}",
            expected="every statement succeeds",
            observed=_ran(runs),
        )


def measured(item: VariantSeen) -> str:
    """What was measured of one variant, in a line: pages, rows, the sort, times with their ranges."""
    if item.outcome is Outcome.NOT_USED:
        return f"not used; {item.before.pages:,} pages, {item.before.rows:,} rows"
    before, after = item.before, item.after
    sort = ", sort gone" if before.sorts and not after.sorts else ""
    times = f"{before.ms:.2f} ({before.ms_low:.2f}–{before.ms_high:.2f}) → {after.ms:.2f} ({after.ms_low:.2f}–{after.ms_high:.2f}) ms"
    return f"{item.outcome}: {before.pages:,} → {after.pages:,} pages, {before.rows:,} → {after.rows:,} rows{sort}, {times}"


def claim_rows(rehearsal: Rehearsal) -> dict[str, Any]:
    """The rehearsal as report and card draw it."""
    return {
        "server_version": rehearsal.server_version,
        "migration": rehearsal.migration,
        "digest": rehearsal.digest,
        "rows": [_claim_row(finding) for finding in rehearsal.indexes],
    }


def _claim_row(finding: IndexFinding) -> dict[str, Any]:
    best = _best(finding)
    limited = bool(best and best.limit and best.outcome is Outcome.HELPS)
    return {
        "index": finding.label,
        "table": finding.table,
        "claim": finding.claim,
        "class": str(finding.index_class or "unproven"),
        "why": "; ".join(f"{item.reason}: {item.shown_by}" for item in finding.reasons) or finding.unproven,
        "variant": best.label if best else "",
        "measured": measured(best) if best else finding.message,
        "pages_before": best.before.pages if best else 0,
        "pages_after": (best.before if best.outcome is Outcome.NOT_USED else best.after).pages if best else 0,
        "only_limited": limited and all(item.limit for item in finding.variants if item.outcome is Outcome.HELPS),
        "used_with_all": any(item.used_with_all for item in finding.variants),
        "unstable": list(finding.unstable),
        "hot": [[cost.update, cost.hot_before, cost.hot_after] for cost in finding.updates],
        "wal_bytes": finding.insert.bytes_added if finding.insert else None,
        "size_bytes": finding.size_bytes,
        "build_seconds": finding.build_seconds,
        "lock": finding.lock.mode if finding.lock else "",
        "costs_unproven": finding.costs_unproven,
        "corrected": finding.corrected.sql if finding.corrected else "",
        "corrected_query": finding.corrected.query if finding.corrected else "",
        "rule": finding.corrected.rule if finding.corrected else "",
    }


def _best(finding: IndexFinding) -> VariantSeen | None:
    """The variant that a table shows: the greatest gain in pages among those that help, as written before with LIMIT."""
    rank = {Outcome.HELPS: 0, Outcome.NO_GAIN: 1, Outcome.WORSE: 2, Outcome.NOT_USED: 3}
    return min(
        finding.variants,
        key=lambda item: (rank[item.outcome], bool(item.limit), item.after.pages - item.before.pages),
        default=None,
    )


def _ran(runs: Sequence[StatementRun]) -> str:
    failed = next((run for run in runs if run.sqlstate), None)
    if failed is None:
        return f"all {len(runs)} statements succeed, {sum(run.seconds for run in runs):.1f} s"
    others = sum(bool(run.sqlstate) for run in runs) - 1
    more = f"; {others} more fail or are not reached" if others else ""
    return f"line {failed.line} fails: {failed.what}: SQLSTATE {failed.sqlstate}, {failed.message}{more}"


__all__ = ["ClaimsMeasured", "FileRuns", "RehearseMigration", "Rehearsed", "claim_rows", "measured"]
