"""What "restored" means: the checks on the recovered copy. Each observes and judges; none stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.errors import PostgresError, RunbookError
from drillbook.model import Check, Verdict, show_instant
from drillbook.postgres import checks as integrity
from drillbook.steps.checks.sessions import sessions
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.boundary import Baseline, ProvenTarget
from drillbook.steps.recovery.copy import Recovered

NO_TABLE = {"42P01", "3F000"}
"""SQLSTATEs of a table or schema that isn't there."""


UNSETTLED = (
    "it is written to, and was digested in a snapshot that was taken in the middle of a commit: recovery can't give what that "
    "saw. Run it again, or when fewer transactions are under way"
)
NO_LOG = "the recovery's log could not be read to its end: where it stopped was not observed"


def _judge(holds: bool) -> Verdict:
    return Verdict.VERIFIED if holds else Verdict.FAILED


@dataclass(frozen=True)
class ReachedTarget(CheckStep):
    """The copy stopped at the target, was promoted, and is on a new timeline.

    A healthy restored cluster proves nothing about this: with a WAL segment missing CloudNativePG can promote early.
    """

    cluster: SourceCluster
    target: ProvenTarget
    recovered: Recovered
    name: ClassVar[str] = "target and timeline"
    proves: ClassVar[str] = "recovery stopped where it should, and promoted"

    def observe(self, ctx: Context) -> Sequence[Check]:
        expected_xid, log = self.target.first_after.xid, self.recovered
        with ctx.copy(log.ref, "postgres", read_only=True) as db:
            facts = db.ask_one("server_facts")
            # Without the log the copy itself is asked; its own first transactions may have taken the same number since.
            near = integrity.near_xid(expected_xid, int(db.ask_one("commit_timestamps")["next_xid"]))
            absent = not log.timeline and integrity.is_committed(db, near)[0] is False
        # A new timeline's number is one more than the highest in the archive, which another server may have put there.
        left = int(self.target.target.timeline or self.cluster.timeline)
        expected = f"stopped before transaction {expected_xid}, a timeline after {left}, promoted"
        where = (
            f"stopped {log.stopped} transaction {log.stopped_xid}" if log.stopped else "stopped without naming a commit"
        )
        promoted = "in recovery" if facts["in_recovery"] else "promoted"
        server = (
            not facts["in_recovery"]
            and int(facts["timeline"]) > left
            and str(facts["system_identifier"]) == self.cluster.system_id
        )
        holds = server and log.stopped == "before" and log.stopped_xid == expected_xid
        unseen = server and not log.timeline and not absent
        if server and absent:
            holds, where = (
                True,
                f"the log was not read to its end; transaction {expected_xid} is not committed in the copy",
            )
        last = show_instant(log.last_completed_at) if log.last_completed_at else "not said"
        return [
            self.result(
                Verdict.UNPROVEN if unseen else _judge(holds),
                expected=expected,
                observed=f"{where}, timeline {facts['timeline']}, {promoted}",
                reason=NO_LOG if unseen else "",
                details=(
                    ("target", str(self.target.target)),
                    ("last completed transaction", last),
                    ("system identifier", str(facts["system_identifier"])),
                ),
            )
        ]


@dataclass(frozen=True)
class BoundaryHolds(CheckStep):
    """Both halves of the boundary: what was committed before is there, what came after is not.

    The deleted rows are back: the mistake is undone.
    """

    baseline: Baseline
    target: ProvenTarget
    recovered: Recovered
    name: ClassVar[str] = "boundary"
    proves: ClassVar[str] = "nothing before the target is lost and nothing after the target is present"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.copy(self.recovered.ref, ctx.site.sql.database, read_only=True) as db:
            try:
                seen = db.ask_one("boundary", run_id=ctx.run_id)
            except PostgresError as error:
                if self.target.own_marker or error.sqlstate not in NO_TABLE:
                    raise
                seen = {"before": False, "after": False}  # it is before the first drill of all
        if not self.target.own_marker:
            # An older target was asked for: this drill's own marker must not be there.
            observed = (
                f"before: {bool(seen['before'])}, after: {bool(seen['after'])}, log: {self.recovered.stopped_xid}"
            )
            neither = not seen["before"] and not seen["after"]
            holds = neither and self.recovered.stopped_xid == self.target.first_after.xid
            unseen = neither and not self.recovered.timeline
            return [
                self.result(
                    Verdict.UNPROVEN if unseen else _judge(holds),
                    expected="neither marker; the log names the next commit",
                    observed=observed,
                    reason=NO_LOG if unseen else "",
                )
            ]
        rows = self.baseline.scratch_rows
        # A marker that was rewritten leaves earlier rows: the one that counts is the last.
        before = seen["before_xid"] == self.baseline.marker.xid
        holds = before and not seen["after"] and seen["scratch_rows"] == rows
        return [
            self.result(
                _judge(holds),
                expected=f"marker before there, marker after absent, {rows} deleted rows back",
                observed=f"marker before {'there' if before else 'absent'}, marker after "
                f"{'there' if seen['after'] else 'absent'}, {seen['scratch_rows']} rows",
            )
        ]


@dataclass(frozen=True)
class RowsEqual(CheckStep):
    """The chosen tables hold the rows that they held at the target.

    Order-independent keyed digests, compared with those taken on the source around the marker.
    """

    baseline: Baseline
    target: ProvenTarget
    recovered: Recovered
    name: ClassVar[str] = "rows"
    proves: ClassVar[str] = "the chosen tables hold exactly the rows of the target"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if not self.target.own_marker:
            reason = "no digest exists of an instant that was asked for afterwards"
            return [self.result(Verdict.NOT_APPLICABLE, reason=reason)]
        checks = [
            self.result(Verdict.UNPROVEN, observed=table, reason=reason)
            for table, reason in self.baseline.unproven.items()
        ]
        for database, digests in self.baseline.digests.items():
            doubtful = self.baseline.in_snapshot.get(database, ()) if database in self.target.unsettled else ()
            checks += [
                self.result(Verdict.UNPROVEN, observed=f"{database} {table}", reason=UNSETTLED) for table in doubtful
            ]
            expected = {name: digest for name, digest in digests.items() if name not in doubtful}
            if not expected:
                continue
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                ctx.recorder.progress(f"digesting {len(expected)} tables of {database} on the copy")
                samples = {name: digest.sample for name, digest in expected.items()}
                more = sessions(ctx, self.recovered.ref, database)
                observed = integrity.digest_tables(db, list(expected), ctx.digest_key, samples, more)
            check = integrity.rows_equal(expected, observed)
            checks.append(check.model_copy(update={"name": f"{self.name}: {database}"}))
        return checks or [self.result(Verdict.UNPROVEN, reason="the profile names no digest_tables")]


@dataclass(frozen=True)
class StructureEqual(CheckStep):
    """The structure is the source's.

    Schemas, tables, indexes, constraints, functions, roles, grants and extensions, by name and definition.
    """

    baseline: Baseline
    recovered: Recovered
    name: ClassVar[str] = "structure"
    proves: ClassVar[str] = "no object of the source is missing or different"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if not self.baseline.structures and not self.baseline.unread:
            return [self.result(Verdict.UNPROVEN, reason="the profile names no tenant")]
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            roles = integrity.structure_equal(self.baseline.roles, integrity.cluster_structure(db))
        checks = [roles.model_copy(update={"name": f"{self.name}: roles and databases", "proves": self.proves})]
        checks += [
            self.result(Verdict.UNPROVEN, observed=f"not read on the source: {database}", reason=reason)
            for database, reason in self.baseline.unread.items()
        ]
        for database, source in self.baseline.structures.items():
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                check = integrity.structure_equal(source, integrity.structure(db))
            checks.append(check.model_copy(update={"name": f"{self.name}: {database}", "proves": self.proves}))
        return checks


@dataclass(frozen=True)
class AmcheckClean(CheckStep):
    """PostgreSQL's amcheck finds heaps and B-tree indexes sound.

    A physical backup carries the source's damage with it: this is where it shows.
    """

    recovered: Recovered
    name: ClassVar[str] = "amcheck"
    proves: ClassVar[str] = "heaps and B-tree indexes are not corrupt"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if not ctx.site.checks.amcheck:
            return [
                self.result(
                    Verdict.NOT_APPLICABLE, reason="switched off by the profile (checks.amcheck)", required=False
                )
            ]
        checks: list[Check] = []
        for tenant in ctx.site.tenants:
            ctx.recorder.progress(f"amcheck on {tenant.database}")
            with ctx.copy(self.recovered.ref, tenant.database) as db:
                check = integrity.amcheck(db, sessions(ctx, self.recovered.ref, tenant.database, read_only=False))
            checks.append(check.model_copy(update={"name": f"{self.name}: {tenant.database}", "proves": self.proves}))
        return checks


@dataclass(frozen=True)
class CatalogueSound(CheckStep):
    """Sequences are ahead of their columns; constraints, views, extensions and collations are in order.

    Compared with a source that serves, what is so in production too is no fault of the recovery: it is named and
    counts for none.
    """

    recovered: Recovered
    compare_with_source: bool = False
    name: ClassVar[str] = "sequences and catalogue"
    proves: ClassVar[str] = "the next insert works and nothing is left half-made"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks: list[Check] = []
        for tenant in ctx.site.tenants:
            with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                more = sessions(ctx, self.recovered.ref, tenant.database)
                found = [integrity.sequences_ahead(db, more), *integrity.catalogue_checks(db, more)]
            if self.compare_with_source:
                found = [self._compared(ctx, tenant.database, check) for check in found]
            checks += [check.model_copy(update={"name": f"{check.name}: {tenant.database}"}) for check in found]
        return checks

    def _compared(self, ctx: Context, database: str, check: Check) -> Check:
        look = integrity.CHEAP.get(check.name)
        if check.verdict is not Verdict.FAILED or look is None:
            return check
        try:
            with ctx.source(database) as db:
                return integrity.so_in_production_too(check, look(db))
        except RunbookError:
            return check  # it can't be asked: the copy is judged by itself


@dataclass(frozen=True)
class QuestionsAnswered(CheckStep):
    """The site's own questions get the expected answers.

    Read-only SQL from the profile: what the business would ask first.
    """

    recovered: Recovered
    name: ClassVar[str] = "site questions"
    proves: ClassVar[str] = "the data answers the site's own questions"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks: list[Check] = []
        for tenant in ctx.site.tenants:
            if tenant.questions:
                with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                    found = integrity.questions(db, tenant.questions)
                checks += [
                    check.model_copy(update={"name": f"{self.name}: {question.name}"})
                    for check, question in zip(found, tenant.questions, strict=True)
                ]
        return checks or [self.result(Verdict.NOT_APPLICABLE, reason="the profile asks none", required=False)]


@dataclass(frozen=True)
class AppCanLogIn(CheckStep):
    """The application's own role logs in to the copy with its own password.

    A recovery that names no secret would have changed a password.
    """

    recovered: Recovered
    name: ClassVar[str] = "app login"
    proves: ClassVar[str] = "the application could connect as it does today"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks: list[Check] = []
        for tenant in ctx.site.tenants:
            if tenant.app_login is None:
                continue
            try:
                secret = ctx.kube.secret(tenant.app_login.namespace, tenant.app_login.name)
                check = integrity.app_login(
                    ctx.copy_address(self.recovered.ref),
                    user=secret["username"],
                    password=secret["password"],
                    dbname=tenant.database,
                )
            except RunbookError as error:
                check = self.from_error(error)
            checks.append(check.model_copy(update={"name": f"{self.name}: {tenant.database}", "proves": self.proves}))
        return checks or [self.result(Verdict.UNPROVEN, reason="no tenant of the profile names an app_login")]


@dataclass(frozen=True)
class CopyQuarantined(CheckStep):
    """The copy keeps to itself: no archiving, no subscription, no connection out.

    Asked of the server, not assumed from the manifest.
    """

    recovered: Recovered
    name: ClassVar[str] = "quarantine"
    proves: ClassVar[str] = "the copy can't act on anything outside"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks: list[Check] = []
        status = ctx.cluster_object(self.recovered.ref)["status"]
        standbys = [name for name in status.get("instanceNames", []) if name != status.get("currentPrimary")]
        for database in dict.fromkeys([ctx.site.sql.database, *(tenant.database for tenant in ctx.site.tenants)]):
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                check = integrity.quarantined(db, standbys, ctx.site.copy_.known_workers, self.recovered.ref)
            checks.append(check.model_copy(update={"name": f"{self.name}: {database}", "proves": self.proves}))
        return checks


@dataclass(frozen=True)
class TargetAndBoundary(CheckGroup):
    """Recovery stopped at the target, and the boundary holds.

    A healthy restored cluster proves nothing about this: with WAL that can't be fetched CloudNativePG may promote
    early, silently.
    """

    cluster: SourceCluster
    baseline: Baseline
    target: ProvenTarget
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [
            ReachedTarget(self.cluster, self.target, self.recovered),
            BoundaryHolds(self.baseline, self.target, self.recovered),
        ]


@dataclass(frozen=True)
class SameAsSource(CheckGroup):
    """Rows and structure are the source's at the target.

    The chosen tables digest against digest; every table, index, constraint, function, role, grant and extension by name
    and definition.
    """

    baseline: Baseline
    target: ProvenTarget
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [
            RowsEqual(self.baseline, self.target, self.recovered),
            StructureEqual(self.baseline, self.recovered),
        ]


@dataclass(frozen=True)
class IntegrityChecks(CheckGroup):
    """Heaps, indexes, sequences and catalogue are sound.

    Judged by amcheck, and by what sequences, constraints, views, extensions and collations say of themselves.
    A physical backup carries the source's damage with it: this is where it shows.
    """

    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [AmcheckClean(self.recovered), CatalogueSound(self.recovered)]


@dataclass(frozen=True)
class SiteQuestionsAndLogins(CheckGroup):
    """The site's questions are answered, and its roles can log in.

    A recovery that names no secret would have changed a password.
    """

    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [QuestionsAnswered(self.recovered), AppCanLogIn(self.recovered)]


__all__ = ["CopyQuarantined", "IntegrityChecks", "SameAsSource", "SiteQuestionsAndLogins", "TargetAndBoundary"]
