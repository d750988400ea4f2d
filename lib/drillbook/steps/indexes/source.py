"""The source of a rehearsal: what its catalogue says before and after, what its planner reckons with, which indexes it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import RunbookError
from drillbook.indexes.findings import Rehearsal
from drillbook.indexes.migration import Migration
from drillbook.indexes.statements import as_sql_name
from drillbook.model import Check, Frozen, Verdict
from drillbook.postgres import checks as integrity
from drillbook.postgres.client import Database
from drillbook.steps.recovery.copy import Recovered

COUNTED_FOR = timedelta(days=30)
"""Counters that are younger have not seen a month's end: they prove nothing about an index that they call unused."""


class SourceSeen(Frozen):
    """The database in production as its catalogue has it: every object by kind and name, each with a digest."""

    database: str
    structure: integrity.Structure

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows."""
        return [(kind, f"{len(objects):,}") for kind, objects in self.structure.objects.items()]


@dataclass(frozen=True)
class NoteSource(Step[SourceSeen]):
    """Note what production is made of, to compare with afterwards.

    A rehearsal reads production's catalogue and settings, and nothing else of it.
    """

    proposed: Migration

    def do(self, ctx: Context) -> SourceSeen:
        return SourceSeen(database=self.proposed.database, structure=_structure(ctx, self.proposed.database))


@dataclass(frozen=True)
class SourceUntouched(CheckStep):
    """Production is as it was before the rehearsal.

    Every object of the database by name and definition, indexes among them.
    """

    before: SourceSeen
    name: ClassVar[str] = "source untouched"
    proves: ClassVar[str] = "the rehearsal has changed nothing in production"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = integrity.structure_equal(self.before.structure, _structure(ctx, self.before.database))
        return [found.model_copy(update={"name": self.name, "proves": self.proves, "required": self.required})]


@dataclass(frozen=True)
class SamePlanner(CheckStep):
    """The copy's planner is the source's: same major version, same settings.

    A plan on another version, or with other costs and memory, says nothing about production: then there is no verdict
    about any index.
    """

    proposed: Migration
    recovered: Recovered
    name: ClassVar[str] = "same planner"
    proves: ClassVar[str] = "what is planned on the copy is planned so in production"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.proposed.database) as db:
            source, there = _settings(db), _major(db)
        with ctx.copy(self.recovered.ref, self.proposed.database, read_only=True) as db:
            copy, here = _settings(db), _major(db)
        differing = [
            f"{name}: {source.get(name, 'not there')} in production, {copy.get(name, 'not there')} on the copy"
            for name in sorted({*source, *copy})
            if source.get(name) != copy.get(name)
        ]
        if there != here:
            differing.insert(0, f"PostgreSQL {there} in production, {here} on the copy")
        return [
            self.result(
                Verdict.UNPROVEN if differing else Verdict.VERIFIED,
                expected=f"PostgreSQL {there} and {len(source)} settings of the planner as in production",
                observed="; ".join(differing) or f"all {len(source)} equal",
                reason="no plan of the copy holds for production" if differing else "",
            )
        ]


@dataclass(frozen=True)
class RedundantIndexes(CheckStep):
    """Which indexes another one makes redundant, and whether production uses them.

    A copy's counters start at zero: usage is what every instance of production has counted, for 30 days at least. An
    index that another one covers may still be the smaller one for its queries.
    """

    rehearsal: Rehearsal
    name: ClassVar[str] = "redundant indexes"
    proves: ClassVar[str] = "which indexes could go, and whether anything uses them"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        found: list[Check] = []
        usage = _usage(ctx, self.rehearsal.database)
        for item in self.rehearsal.redundant:
            seen = [(pod, rows.get(item.index)) for pod, rows in usage.counted.items()]
            counts = [(pod, row) for pod, row in seen if row is not None]
            what = f"{'as' if item.duplicate else 'begins as'} {item.by}"
            young = [pod for pod, row in counts if row["now"] - row["since"] < COUNTED_FOR]
            missing = [*usage.unread, *(f"{pod} has counted for less than 30 days" for pod in young)]
            if not counts:
                missing = ["it is proposed: nothing has used it yet"]
            scans = sum(int(row["scans"]) for _, row in counts)
            said = f"{what}; {scans:,} scans on {len(counts)} instances" if counts else what
            found.append(
                self.result(
                    Verdict.UNPROVEN if missing else Verdict.VERIFIED,
                    name=f"{self.name}: {item.index}",
                    expected="every instance's counters, 30 days old",
                    observed=said,
                    reason="; ".join(missing),
                )
            )
        return found or [self.result(Verdict.VERIFIED, observed="none: no index covers another")]


@dataclass(frozen=True)
class ForeignKeysIndexed(CheckStep):
    """Foreign keys without an index: each delete or change of a referenced row reads the whole table."""

    rehearsal: Rehearsal
    name: ClassVar[str] = "foreign keys"
    proves: ClassVar[str] = "every foreign key without an index is named"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        missing = self.rehearsal.keys_without_index
        details = tuple((key.table, f"{key.name} ({', '.join(key.columns)})") for key in missing)
        words = "; ".join(f"{table}: {key}" for table, key in details) or "each has one"
        return [self.result(Verdict.VERIFIED, observed=words, details=details[:12])]


class _Usage(Frozen):
    """What each instance has counted, by index; and why an instance could not be asked."""

    counted: dict[str, dict[str, dict[str, Any]]]
    unread: tuple[str, ...]


def _usage(ctx: Context, database: str) -> _Usage:
    ref = ctx.source_ref
    pods = ctx.kube.list(k8s.POD, ref.namespace, labels=f"cnpg.io/cluster={ref.name},cnpg.io/podRole=instance")
    counted: dict[str, dict[str, dict[str, Any]]] = {}
    unread: list[str] = []
    for pod in sorted(str(item["metadata"]["name"]) for item in pods):
        try:
            with ctx.source(database, pod=pod) as db:
                rows = db.ask("index_usage")
        except RunbookError as error:
            unread.append(f"{pod} could not be asked: {error.what}")
            continue
        counted[pod] = {as_sql_name((row["schema"], row["name"])): dict(row) for row in rows}
    return _Usage(counted=counted, unread=tuple(unread))


def _settings(db: Database) -> dict[str, str]:
    return {str(row["name"]): str(row["setting"]) for row in db.ask("planner_settings")}


def _major(db: Database) -> int:
    return int(db.ask_one("server_facts")["server_version_num"]) // 10_000


def _structure(ctx: Context, database: str) -> integrity.Structure:
    with integrity.Watch(ctx.source()) as watch, ctx.source(database) as db:
        return integrity.structure(db, watch)


__all__ = [
    "COUNTED_FOR",
    "ForeignKeysIndexed",
    "NoteSource",
    "RedundantIndexes",
    "SamePlanner",
    "SourceSeen",
    "SourceUntouched",
]
