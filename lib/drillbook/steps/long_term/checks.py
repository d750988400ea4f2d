"""What a backup that is years old must show: consistent, its databases open, sound, as many rows as ever, and quarantined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drillbook.archive.long_term import ChosenBackup
from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.evidence import sealed_runs, verify
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Lsn, Verdict, show_instant
from drillbook.postgres import checks as integrity
from drillbook.postgres.client import SQL
from drillbook.steps.checks.sessions import sessions
from drillbook.steps.recovery.copy import Recovered

RUNBOOK = "drill-annual-archive-restore"


def databases_there(ctx: Context, recovered: Recovered) -> list[str]:
    """The databases of the copy that can be connected to."""
    with ctx.copy(recovered.ref, "postgres", read_only=True) as db:
        return [str(row["name"]) for row in db.ask("databases_there")]


def _tenants(ctx: Context, recovered: Recovered) -> list[str]:
    there = databases_there(ctx, recovered)
    return [tenant.database for tenant in ctx.site.tenants if tenant.database in there]


@dataclass(frozen=True)
class OfACopy(CheckStep):
    """A check of one of the two copies."""

    chosen: ChosenBackup
    recovered: Recovered


@dataclass(frozen=True)
class BackupConsistent(OfACopy):
    """The copy reached the backup's end, was promoted, and is the system that the backup was taken from."""

    name: ClassVar[str] = "consistent"
    proves: ClassVar[str] = "everything that the backup needs was there, and PostgreSQL took it"

    def observe(self, ctx: Context) -> Sequence[Check]:
        backup = self.chosen.backup
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            facts = db.ask_one("server_facts")
            lsn = Lsn(str(db.ask_one(SQL("select pg_catalog.pg_current_wal_lsn()::text as lsn"))["lsn"]))
        left, timeline = backup.timeline, int(facts["timeline"])
        holds = (
            not facts["in_recovery"]
            and lsn >= backup.end_lsn
            and timeline > left
            and str(facts["system_identifier"]) == backup.system_id
        )
        promoted = "in recovery" if facts["in_recovery"] else "promoted"
        return [
            self.result(
                Verdict.VERIFIED if holds else Verdict.FAILED,
                expected=f"at {backup.end_lsn} or later, a timeline after {left}, system {backup.system_id}, promoted",
                observed=f"at {lsn}, timeline {timeline}, system {facts['system_identifier']}, {promoted}",
                details=(
                    ("backup", f"{backup.backup_id}, ended {show_instant(backup.end_time)}"),
                    ("server", str(facts["version"])),
                    ("segments replayed", str(self.recovered.segments)),
                ),
            )
        ]


@dataclass(frozen=True)
class DatabasesOpen(OfACopy):
    """The tenants' databases can be opened, and hold tables.

    One that the profile names and the backup has not may have been made later: that is said, and proves nothing.
    """

    name: ClassVar[str] = "databases"
    proves: ClassVar[str] = "the databases of then can be read"

    def observe(self, ctx: Context) -> Sequence[Check]:
        there, found = databases_there(ctx, self.recovered), []
        for tenant in ctx.site.tenants:
            name = f"{self.name}: {tenant.database}"
            if tenant.database not in there:
                reason = f"it is not in a backup of {self.chosen.backup.end_time:%Y-%m-%d}: made later, or lost before"
                found.append(self.result(Verdict.UNPROVEN, name=name, reason=reason, required=False))
                continue
            with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                tables = int(db.ask_one(_TABLES)["tables"])
            verdict = Verdict.VERIFIED if tables else Verdict.FAILED
            found.append(
                self.result(verdict, name=name, expected="opens, with tables", observed=f"opens, {tables} tables")
            )
        if not any(check.required for check in found):
            others = ", ".join(there) or "none"
            found.append(self.result(Verdict.FAILED, expected="a tenant's database", observed=f"only {others}"))
        return found


_TABLES = SQL(
    "select pg_catalog.count(*) as tables from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'"
)


@dataclass(frozen=True)
class PhysicallySound(OfACopy):
    """Heaps and B-trees are sound by amcheck, and no page that was read on the way failed its checksum."""

    name: ClassVar[str] = "amcheck"
    proves: ClassVar[str] = "what was stored for years is not corrupt"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = []
        if ctx.site.checks.amcheck:
            for database in _tenants(ctx, self.recovered):
                ctx.recorder.progress(f"amcheck on {database}")
                with ctx.copy(self.recovered.ref, database) as db:
                    check = integrity.amcheck(db, sessions(ctx, self.recovered.ref, database, read_only=False))
                found.append(check.model_copy(update={"name": f"{self.name}: {database}", "proves": self.proves}))
        else:
            reason = "switched off by the profile (checks.amcheck)"
            found.append(self.result(Verdict.NOT_APPLICABLE, reason=reason, required=False))
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            found.append(integrity.page_checksums(db))
        return found


@dataclass(frozen=True)
class CatalogueInOrder(OfACopy):
    """Sequences are ahead of their columns; constraints, views, extensions and collations are in order."""

    name: ClassVar[str] = "sequences and catalogue"
    proves: ClassVar[str] = "nothing was left half-made"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        found: list[Check] = []
        for database in _tenants(ctx, self.recovered):
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                more = sessions(ctx, self.recovered.ref, database)
                checks = [integrity.sequences_ahead(db, more), *integrity.catalogue_checks(db, more)]
            # An image of today brings libraries of today: what differs by that is said, and is no fault of the backup.
            found += [one.model_copy(update={"name": f"{one.name}: {database}", "required": False}) for one in checks]
        return found


@dataclass(frozen=True)
class RowsAsBefore(OfACopy):
    """Each chosen table has as many rows as the last sealed run found in this very backup.

    Where no such run is there, nothing is compared, and the counts are noted for the next one.
    """

    name: ClassVar[str] = "rows"
    proves: ClassVar[str] = "the backup holds the rows that it held when it was last restored"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        backup_id, there = self.chosen.backup.backup_id, databases_there(ctx, self.recovered)
        counts: dict[str, int | None] = {}
        for tenant in ctx.site.tenants:
            if tenant.database in there and tenant.digest_tables:
                with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                    found = integrity.row_counts(db, tenant.digest_tables)
                counts |= {f"{tenant.database} {table}": count for table, count in found.items()}
        noted = dict(ctx.recorder.facts.long_term_rows or {})
        ctx.recorder.note(Facts(long_term_rows=noted | {backup_id: counts}))
        return [self._judged(counts, earlier_rows(ctx.outputs, ctx.site.name, backup_id))]

    def _judged(self, counts: Mapping[str, int | None], earlier: tuple[str, Mapping[str, Any]] | None) -> Check:
        details = tuple((table, "not there" if rows is None else f"{rows:,} rows") for table, rows in counts.items())[
            :12
        ]
        if not counts:
            reason = "not tested: the profile names no digest_tables of a database that the backup has"
            return self.result(Verdict.NOT_APPLICABLE, reason=reason)
        if earlier is None:
            reason = "not tested: no sealed run has restored this backup before; the counts are noted for the next"
            return self.result(Verdict.NOT_APPLICABLE, reason=reason, details=details)
        run_id, before = earlier
        differ = [
            f"{table}: {'not there' if rows is None else f'{rows} rows'} now, {before[table]} rows in that run"
            for table, rows in counts.items()
            if table in before and before[table] != rows
        ]
        compared = sum(table in before for table in counts)
        return self.result(
            Verdict.FAILED if differ else Verdict.VERIFIED,
            required=True,
            expected=f"as many as run {run_id} found, table by table",
            observed="; ".join(differ) or f"equal in {compared} tables",
            details=details,
        )


def earlier_rows(outputs: Path | None, site: str, backup_id: str) -> tuple[str, Mapping[str, Any]] | None:
    """The newest sealed run of ``site`` that counted this backup's rows, and what it found; one that was altered is none."""
    for folder in sealed_runs(outputs, RUNBOOK):
        try:
            record = json.loads((folder / "record.json").read_bytes())
            rows = (record["facts"].get("long_term_rows") or {}).get(backup_id)
            mine = record["system"]["site"] == site and record["test"]["mode"] == "apply"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if not rows or not mine or outputs is None:
            continue
        if not any(folder.name in finding.where or finding.tampered for finding in verify(outputs, folder)):
            return folder.name, rows
    return None


@dataclass(frozen=True)
class Quarantined(OfACopy):
    """The copy keeps to itself: no archiving, no subscription, no connection out. Asked of the server."""

    name: ClassVar[str] = "quarantine"
    proves: ClassVar[str] = "the copy can't act on anything outside"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = []
        for database in databases_there(ctx, self.recovered):
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                check = integrity.quarantined(db, (), ctx.site.copy_.known_workers, self.recovered.ref)
            found.append(check.model_copy(update={"name": f"{self.name}: {database}", "proves": self.proves}))
        return found


@dataclass(frozen=True)
class _Restored(CheckGroup):
    chosen: ChosenBackup
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        kinds = (BackupConsistent, DatabasesOpen, PhysicallySound, CatalogueInOrder, RowsAsBefore, Quarantined)
        return [kind(self.chosen, self.recovered) for kind in kinds]


@dataclass(frozen=True)
class OldestRestored(_Restored):
    """Is the oldest backup restored?

    Consistent at its own end, its databases open, heaps and indexes sound, rows as when it was last restored where a
    record of that exists, and in quarantine.
    """

    under: ClassVar[str] = "oldest"


@dataclass(frozen=True)
class RandomRestored(_Restored):
    """Is the backup that was chosen at random restored?

    Consistent at its own end, its databases open, heaps and indexes sound, rows as when it was last restored where a
    record of that exists, and in quarantine.
    """

    under: ClassVar[str] = "random"


__all__ = ["OldestRestored", "RandomRestored", "earlier_rows"]
