"""The source of a rehearsal: what its catalogue says before and after, what its planner reckons with, which indexes it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import RunbookError
from drillbook.indexes import planner, redundancy
from drillbook.indexes.findings import Rehearsal
from drillbook.indexes.migration import Migration
from drillbook.model import Check, Frozen, Verdict
from drillbook.postgres import checks as integrity
from drillbook.steps.recovery.copy import Recovered


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
        database = self.proposed.database
        with ctx.source(database) as source, ctx.copy(self.recovered.ref, database, read_only=True) as copy:
            differing, compared = planner.differences(source, copy)
        return [
            self.result(
                Verdict.UNPROVEN if differing else Verdict.VERIFIED,
                expected="major version and settings of the planner as in production",
                observed="; ".join(differing) or f"all {compared} settings equal",
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
        usage, unread = _usage(ctx, self.rehearsal.database)
        found = []
        for item in self.rehearsal.redundant:
            words, doubts = redundancy.used(item, usage, unread)
            found.append(
                self.result(
                    Verdict.UNPROVEN if doubts else Verdict.VERIFIED,
                    name=f"{self.name}: {item.index}",
                    expected="every instance's counters, 30 days old",
                    observed=words,
                    reason="; ".join(doubts),
                )
            )
        covered = {item.index for item in self.rehearsal.redundant}
        found += [
            self.result(
                Verdict.FAILED,
                name=f"{self.name}: {name}",
                expected="another index covers what the migration drops",
                observed="no index begins with its keys: its queries lose it",
            )
            for name in self.rehearsal.drop
            if not any(index == name or index.endswith(f".{name}") for index in covered)
        ]
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


def _usage(ctx: Context, database: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What each instance has counted; and why an instance could not be asked."""
    ref = ctx.source_ref
    pods = ctx.kube.list(k8s.POD, ref.namespace, labels=f"cnpg.io/cluster={ref.name},cnpg.io/podRole=instance")
    counted: dict[str, list[dict[str, Any]]] = {}
    unread: list[str] = []
    for pod in sorted(str(item["metadata"]["name"]) for item in pods):
        try:
            with ctx.source(database, pod=pod) as db:
                counted[pod] = db.ask("index_usage")
        except RunbookError as error:
            unread.append(f"{pod} could not be asked: {error.what}")
    return counted, unread


def _structure(ctx: Context, database: str) -> integrity.Structure:
    with integrity.Watch(ctx.source()) as watch, ctx.source(database) as db:
        return integrity.structure(db, watch)


__all__ = [
    "ForeignKeysIndexed",
    "NoteSource",
    "RedundantIndexes",
    "SamePlanner",
    "SourceSeen",
    "SourceUntouched",
]
