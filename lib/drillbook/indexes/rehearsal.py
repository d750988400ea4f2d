"""The rehearsal of an index migration on a copy: everything is measured, then judged, then what fails is corrected and measured again.

In this order, because each part leaves the next one's ground as it was: plans without the new indexes on the statistics as
restored; the file as written, which builds them; plans with each alone; ANALYZE; executions without, with each alone and
with all; reasons and candidates; last the writes, which take rows of the copy away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from drillbook.errors import PostgresError
from drillbook.indexes import building, diagnosing, plans, redundancy, rewriting, statements, writing
from drillbook.indexes.bench import MOST_RUNS, ROUND, Bench, Variant
from drillbook.indexes.building import Built
from drillbook.indexes.findings import (
    CandidateSeen,
    IndexFinding,
    InsertCost,
    Rehearsal,
    UpdateCost,
    VariantSeen,
    WhyNot,
)
from drillbook.indexes.judging import IndexClass, Outcome, Reason, index_class, outcome
from drillbook.indexes.lookups import lookup
from drillbook.indexes.migration import Migration, MigrationQuery, TypicalUpdate
from drillbook.indexes.plans import Work
from drillbook.postgres.client import SQL, Database, Literal

_HELPING = (IndexClass.HELPS, IndexClass.HELPS_BUT_COSTS_HOT)
Names = Sequence[tuple[str, str]]


def rehearse(
    db: Database,
    other: Database,
    migration: Migration,
    *,
    role: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> Rehearsal:
    """Everything about ``migration`` on the copy that ``db`` and ``other`` are superuser's sessions of.

    ``role`` is the application's, whose planner settings and row security its queries meet. Changes the copy for good;
    what a single query or update can't answer is said in its finding. Raises PostgresError if the copy itself fails.
    """
    return _Rehearsing(Bench(db, role=role), other, migration, progress).rehearsal()


class _Rehearsing:
    def __init__(self, bench: Bench, other: Database, migration: Migration, progress: Callable[[str], None]) -> None:
        self._bench = bench
        self._other = other
        self._migration = migration
        self._progress = progress
        self._variants: dict[str, tuple[Variant, ...]] = {}
        self._failed: dict[str, str] = {}
        self._restored: dict[Variant, Work] = {}  # plans without the new indexes, on the statistics as restored
        self._restored_alone: dict[tuple[int, Variant], Work] = {}  # with each alone, by its oid
        self._base: dict[Variant, list[Work]] = {}  # executions without them
        self._built: list[Built] = []

    def rehearsal(self) -> Rehearsal:
        began = time.monotonic()
        db = self._bench.db
        state = db.ask("index_state")
        self._bench.as_application()
        self._bench.keep_still(self._tables())
        self._look_up(self._migration.queries)
        for variant in self._all_variants():
            self._restored[variant] = self._shown(variant, ())
        file, self._built = building.run_file(db, self._other, self._migration, self._progress)
        self._propose_lookups()
        for built in self._made():
            for variant in self._variants_of(built):
                self._restored_alone[int(built.row["oid"]), variant] = self._shown(variant, self._others(built))
        self._progress("ANALYZE")
        self._analyze()
        findings = [self._finding(built) for built in self._built]
        together = self._together(findings)
        findings = self._with_costs(findings)
        version = db.ask_one(SQL("SELECT current_setting('server_version') AS version, current_database() AS name"))
        return Rehearsal(
            migration=self._migration.name,
            digest=self._migration.digest,
            database=version["name"],
            server_version=version["version"],
            seconds=round(time.monotonic() - began, 1),
            file=file,
            indexes=tuple(findings),
            together=together[0],
            together_used=together[1],
            together_unused=together[2],
            redundant=redundancy.redundant(state, [built.row for built in self._made()]),
            drop=self._migration.drop,
            keys_without_index=redundancy.keys_without_index(db.ask("index_foreign_keys")),
        )

    # -- what there is ---------------------------------------------------------------------------------------

    def _tables(self) -> list[int]:
        names = {index.statement.table for index in self._migration.indexes}
        names |= {update.table for update in self._migration.updates}
        rows = [
            self._bench.db.run_text(
                SQL("SELECT to_regclass({})::oid::bigint").format(Literal(statements.as_sql_name(name)))
            )
            for name in sorted(names)
        ]
        return [int(oid) for ((oid,),) in rows if oid is not None]

    def _look_up(self, queries: Sequence[MigrationQuery]) -> None:
        for query in queries:
            try:
                self._variants[query.name] = self._bench.variants(query)
                for variant in self._variants[query.name][:1]:
                    with self._bench.without(()):
                        self._bench.shown(variant)
            except PostgresError as error:
                self._variants[query.name] = ()
                self._failed[query.name] = f"the query {query.name!r} fails: {error.what} (SQLSTATE {error.sqlstate})"
            else:
                if not self._variants[query.name]:
                    self._failed[query.name] = f"no row of this database gives the query {query.name!r} a key"

    def _propose_lookups(self) -> None:
        """For an index that no query is given for, a look-up by its own key; without it nothing would be known of it."""
        indexes = list(self._migration.indexes)
        queries: list[MigrationQuery] = []
        for built in self._made():
            if built.proposed.queries:
                continue
            query = lookup(built)
            if query is not None:
                queries.append(query)
                indexes[indexes.index(built.proposed)] = built.proposed.model_copy(update={"queries": (query.name,)})
        if not queries:
            return
        by_statement = {(index.sql, index.line): index for index in indexes}
        self._built = [
            Built(**{**vars(built), "proposed": by_statement[built.proposed.sql, built.proposed.line]})
            for built in self._built
        ]
        self._migration = self._migration.model_copy(
            update={"indexes": tuple(indexes), "queries": (*self._migration.queries, *queries)}
        )
        self._look_up(queries)
        for query in queries:
            for variant in self._variants[query.name]:
                self._restored[variant] = self._shown(variant, self._names())

    def _all_variants(self) -> list[Variant]:
        return [variant for variants in self._variants.values() for variant in variants]

    def _variants_of(self, built: Built) -> list[Variant]:
        return [variant for query in built.proposed.queries for variant in self._variants.get(query, ())]

    def _made(self) -> list[Built]:
        return [built for built in self._built if built.row]

    def _names(self) -> list[tuple[str, str]]:
        return [built.name for built in self._made()]

    def _others(self, built: Built) -> list[tuple[str, str]]:
        return [name for name in self._names() if not built.row or name != built.name]

    def _shown(self, variant: Variant, without: Names) -> Work:
        with self._bench.without(without):
            return self._bench.shown(variant)

    def _analyze(self) -> None:
        db = self._bench.db
        # A whole table of 300,000 rows is read then: the same plans each time where 100 would take a sample.
        db.run(SQL("SET default_statistics_target = 1000"))
        for oid in self._tables():
            row = db.ask_one(SQL("SELECT {}::regclass::text AS name").format(Literal(oid)))
            db.run_text(f"ANALYZE {row['name']}")
        db.run(SQL("RESET default_statistics_target"))

    # -- an index --------------------------------------------------------------------------------------------

    def _finding(self, built: Built) -> IndexFinding:
        self._progress(built.label)
        variants = self._variants_of(built)
        known: dict[str, Any] = {
            "label": built.label,
            "claim": built.proposed.claim,
            "sql": built.proposed.sql,
            "table": statements.as_sql_name(built.proposed.statement.table),
            "build_seconds": built.seconds,
            "lock": built.lock,
            "sqlstate": built.sqlstate,
            "message": built.message,
            "unproven": "; ".join(self._failed[query] for query in built.proposed.queries if query in self._failed),
        }
        if not built.row:
            candidates = self._candidates(built)
            why = diagnosing.why_not_created(built, self._bench)
            return IndexFinding(**known, index_class=IndexClass.CANNOT_CREATE, reasons=why, candidates=candidates)
        known |= {"definition": built.row["definition"], "size_bytes": built.row["bytes"]}
        if not variants:
            known["unproven"] = known["unproven"] or "no query is given for it, and none follows from its definition"
            return IndexFinding(**known, index_class=None)
        seen = tuple(self._seen(built, variant) for variant in variants)
        found = index_class([item.outcome for item in seen])
        candidates = () if found is IndexClass.HELPS else self._candidates(built)
        reasons: tuple[WhyNot, ...] = ()
        if found is IndexClass.UNUSABLE:
            reasons = diagnosing.why_unused(self._bench, built, variants, self._others(built), candidates)
        elif found is IndexClass.USED_NO_GAIN:
            why = diagnosing.lacking(candidates, self._migration.queries_of(built.proposed))
            reasons = why or (WhyNot(reason=Reason.NO_LESS_WORK, shown_by=_compared(seen)),)
        return IndexFinding(**known, index_class=found, variants=seen, reasons=reasons, candidates=candidates)

    def _seen(self, built: Built, variant: Variant) -> VariantSeen:
        names = set(built.row["names"])
        alone = self._shown(variant, self._others(built))
        used = bool(names & set(alone.indexes))
        before = self._base_of(variant)
        after = alone
        if used:
            before, after = self._timed(variant, self._others(built))
        with_all = self._shown(variant, ())
        return VariantSeen(
            query=variant.query.name,
            key=variant.key,
            limit=variant.limit,
            generic=variant.generic,
            outcome=outcome(before, after, used=used),
            before=before,
            after=after,
            used_with_all=bool(names & set(with_all.indexes)),
            unstable=self._unstable(built, variant, self._base_of(variant), alone),
        )

    def _unstable(self, built: Built, variant: Variant, base: Work, alone: Work) -> str:
        pairs = (
            ("without it", self._restored[variant], base),
            ("with it", self._restored_alone[int(built.row["oid"]), variant], alone),
        )
        return "; ".join(
            f"{where}, {restored.shape} on the statistics as restored, {analyzed.shape} after ANALYZE"
            for where, restored, analyzed in pairs
            if restored.shape != analyzed.shape
        )

    def _base_of(self, variant: Variant) -> Work:
        if variant not in self._base:
            with self._bench.without(self._names()):
                self._base[variant] = self._bench.executed(variant, runs=ROUND)
        return plans.timed(self._base[variant])

    def _timed(self, variant: Variant, others: Names, then: Sequence[str] = ()) -> tuple[Work, Work]:
        """Without and with the index, executed until the ranges of the times are apart, at most nine times each."""
        base = self._base_of(variant)
        runs: list[Work] = []
        while not runs or (len(runs) < MOST_RUNS and not plans.times_apart(base, plans.timed(runs))):
            with self._bench.without(others, then=then):
                more = self._bench.executed(variant, runs=ROUND)
            runs += more
            if len(more) < ROUND:
                break
            if len(self._base[variant]) < len(runs):
                with self._bench.without(self._names()):
                    self._base[variant] += self._bench.executed(variant, runs=ROUND)
                base = plans.timed(self._base[variant])
        return base, plans.timed(runs)

    # -- what would be better --------------------------------------------------------------------------------

    def _candidates(self, built: Built) -> tuple[CandidateSeen, ...]:
        found: list[CandidateSeen] = []
        for query in self._migration.queries_of(built.proposed):
            if not self._variants.get(query.name):
                continue
            for candidate in rewriting.candidates(built.proposed.sql, query.sql, creatable=bool(built.row)):
                self._progress(f"{built.label}: {candidate.rule}")
                found.append(self._candidate(candidate, query))
        return tuple(found)

    def _candidate(self, candidate: rewriting.Candidate, query: MigrationQuery) -> CandidateSeen:
        known: dict[str, Any] = {
            "rule": candidate.rule,
            "sql": candidate.sql,
            "query": candidate.query,
            "for_query": query.name,
        }
        seen: list[VariantSeen] = []
        try:
            asked = query.model_copy(update={"sql": candidate.query or query.sql})
            split = candidate.rule == rewriting.SPLIT
            for variant in self._bench.variants(asked):
                # A query that means something else is compared with itself; one split, with the whole that it replaces.
                whole = variant.asking(query.sql) if split else variant
                seen.append(self._candidate_seen(candidate, variant, whole))
        except PostgresError as error:
            return CandidateSeen(
                **known, index_class=IndexClass.CANNOT_CREATE, error=f"{error.what} ({error.sqlstate})"
            )
        return CandidateSeen(**known, index_class=index_class([item.outcome for item in seen]), variants=tuple(seen))

    def _candidate_seen(self, candidate: rewriting.Candidate, variant: Variant, whole: Variant) -> VariantSeen:
        with self._bench.without(self._names()):
            names = self._created(candidate.sql)
            shown = self._bench.shown(variant)
            used = bool(set(shown.indexes) & names)
            after = plans.timed(self._bench.executed(variant, runs=ROUND)) if used else shown
        base = self._base_of(whole)
        return VariantSeen(
            query=variant.query.name,
            key=variant.key,
            limit=variant.limit,
            generic=variant.generic,
            outcome=outcome(base, after, used=used),
            before=base,
            after=after,
        )

    def _together(self, findings: list[IndexFinding]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The corrected set: what helps as written and the first candidate of what doesn't; which of it is used when all is there."""
        chosen: list[tuple[str, str, str, Built]] = []
        for built, finding in zip(self._built, findings, strict=True):
            better = finding.corrected
            if finding.index_class in _HELPING:
                chosen.append((finding.label, finding.sql, "", built))
            elif better is not None:
                chosen.append((finding.label, better.sql, better.query, built))
        if not chosen:
            return (), (), ()
        self._progress("the corrected set, all together")
        used: list[bool] = []
        with self._bench.without(self._names()):
            names = [self._created(sql) for _, sql, _, _ in chosen]
            for known, (_, _, rewritten, built) in zip(names, chosen, strict=True):
                asked = [item.asking(rewritten or item.query.sql) for item in self._variants_of(built)]
                used.append(any(known & set(self._bench.shown(item).indexes) for item in asked))
        labels = [(label, taken) for (label, _, _, _), taken in zip(chosen, used, strict=True)]
        return (
            tuple(sql for _, sql, _, _ in chosen),
            tuple(label for label, taken in labels if taken),
            tuple(label for label, taken in labels if not taken),
        )

    def _created(self, sql: str) -> set[str]:
        """Create an index within the transaction; the names by which plans know it."""
        before = {row["oid"] for row in self._bench.db.ask("index_state")}
        self._bench.db.run_text(statements.as_plain(sql))
        (made,) = [row for row in self._bench.db.ask("index_state") if row["oid"] not in before]
        return set(made["names"])

    # -- what it costs ---------------------------------------------------------------------------------------

    def _with_costs(self, findings: list[IndexFinding]) -> list[IndexFinding]:
        by_table: dict[int, list[int]] = {}
        for number, built in enumerate(self._built):
            if built.row:
                by_table.setdefault(int(built.row["table_oid"]), []).append(number)
        result = list(findings)
        for oid, numbers in by_table.items():
            self._progress(f"writes to {findings[numbers[0]].table}")
            table = _Writes(self._bench, self._migration.updates, self._built[numbers[0]], oid, self._names())
            for number in numbers:
                built = self._built[number]
                changes = table.costs(self._others(built)) | {"newly_indexed": self._newly_indexed(built)}
                if findings[number].index_class is IndexClass.HELPS and writing.loses_hot(changes["updates"]):
                    changes["index_class"] = IndexClass.HELPS_BUT_COSTS_HOT
                result[number] = findings[number].model_copy(update=changes)
        return result

    def _newly_indexed(self, built: Built) -> tuple[str, ...]:
        made = set(self._names())
        known = {
            column
            for row in self._bench.db.ask("index_state")
            if row["table_oid"] == built.row["table_oid"] and (row["schema"], row["name"]) not in made
            for column in row["columns"]
        }
        return tuple(column for column in built.row["columns"] if column not in known)


class _Writes:
    """The writes to one table, measured once without the new indexes and then with each of them."""

    def __init__(
        self, bench: Bench, updates: Sequence[TypicalUpdate], built: Built, table_oid: int, names: Names
    ) -> None:
        self._bench = bench
        self._unproven: list[str] = []
        self._updates: list[tuple[TypicalUpdate, writing.Sample, writing.Written]] = []
        self._inserts: tuple[writing.Sample, writing.Written] | None = None
        table = (str(built.row["table_schema"]), str(built.row["table_name"]))
        for update in updates:
            if not _same_table(update.table, table):
                continue
            try:
                rows = writing.sample(bench, table_oid, rewriting.condition_of(update.sql), room=True)
                if rows.tids:
                    self._updates.append((update, rows, writing.updated(bench, update, rows, names)))
                else:
                    self._unproven.append(f"{update.name}: no row of this database is one of those that it changes")
            except PostgresError as error:
                self._unproven.append(f"{update.name}: {error.what} (SQLSTATE {error.sqlstate})")
        if not self._updates and not self._unproven:
            self._unproven.append("no typical update of the table is given")
        try:
            rows = writing.sample(bench, table_oid, room=False)
            if rows.tids:
                self._inserts = (rows, writing.inserted(bench, rows, names))
        except PostgresError as error:
            self._unproven.append(f"inserts: {error.what} (SQLSTATE {error.sqlstate})")

    def costs(self, others: Names) -> dict[str, Any]:
        """What writes cost with the one index that is not among ``others``, as fields of a finding."""
        bench, unproven = self._bench, list(self._unproven)
        updates: list[UpdateCost] = []
        insert: InsertCost | None = None
        try:
            for update, rows, before in self._updates:
                updates.append(writing.update_cost(update, before, writing.updated(bench, update, rows, others)))
            if self._inserts is not None:
                rows, before = self._inserts
                insert = writing.insert_cost(before, writing.inserted(bench, rows, others))
        except PostgresError as error:
            unproven.append(f"{error.what} (SQLSTATE {error.sqlstate})")
        return {"updates": tuple(updates), "insert": insert, "costs_unproven": "; ".join(unproven)}


def _same_table(written: tuple[str, ...], table: tuple[str, str]) -> bool:
    return table[-len(written) :] == written


def _compared(seen: Sequence[VariantSeen]) -> str:
    used = next(item for item in seen if item.outcome is not Outcome.NOT_USED)
    return (
        f"{used.label}: {used.before.pages} pages and {used.before.rows} rows without it, "
        f"{used.after.pages} pages and {used.after.rows} rows with it"
    )
