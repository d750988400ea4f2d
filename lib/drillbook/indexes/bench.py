"""The copy as a bench: queries explained and executed, in transactions of which nothing remains.

To see a query without an index, the index is dropped in a transaction that is rolled back: each is built once, however many
questions are asked of it. Only ever used on a copy: what it does would stop every writer of a database that is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from drillbook.indexes import plans, statements
from drillbook.indexes.migration import MigrationQuery
from drillbook.indexes.plans import Work
from drillbook.postgres.client import SQL, Composed, Database, Identifier, Literal

ROUND = 3
MOST_RUNS = 9
"""Executions a plan for its times: three at once, nine at most; fewer as soon as the ranges are apart."""
ENOUGH_MS = 10_000
"""A plan that has executed for so long is not executed again for a better median."""


@dataclass(frozen=True)
class Variant:
    """A query as it is tried: with the parameters of one key, with LIMIT or without, with a custom or a generic plan."""

    query: MigrationQuery = field(hash=False)
    key: str = ""
    values: tuple[str | None, ...] = field(default=(), hash=False)
    limit: int = 0
    generic: bool = False

    def asking(self, sql: str) -> Variant:
        """The same variant of another text of the query."""
        return replace(self, query=self.query.model_copy(update={"sql": sql}))

    @property
    def sql(self) -> str:
        """The query's text with its LIMIT."""
        return f"{self.query.sql}\nLIMIT {self.limit}" if self.limit else self.query.sql


class Bench:
    """A superuser's session on the copy's database, and what is measured by it."""

    def __init__(self, db: Database, *, role: str = "") -> None:
        self.db = db
        self._role = role
        self._names = count(1)

    def as_application(self) -> None:
        """Take over what the application's role has set: of its planner, and where its names are looked for."""
        self.db.run(SQL("SET jit = off"))  # it changes no plan, and takes its time in some runs only
        for row in self.db.ask(SQL(_ROLE_SETTINGS), role=self._role):
            self.db.run_text(
                SQL("SELECT set_config({}, {}, false)").format(Literal(row["name"]), Literal(row["value"]))
            )

    def keep_still(self, tables: Iterable[int]) -> None:
        """Keep autovacuum away from the tables and their partitions."""
        for oid in tables:
            for row in self.db.ask(SQL(_LEAVES).format(Literal(oid))):
                name = Identifier(row["schema"], row["name"])
                self.db.run_text(SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(name))

    def variants(self, query: MigrationQuery) -> tuple[Variant, ...]:
        """Every variant of a query: its keys are looked up now. PostgresError if a key's SELECT fails or finds no row."""
        limits = [0] if statements.one(query.sql).limited or not query.limit else [0, query.limit]
        if not query.keys:
            return tuple(Variant(query, limit=limit) for limit in limits)
        found: list[Variant] = []
        for key, sql in query.keys.items():
            rows = self.db.ask_written(SQL("SELECT * FROM ({}) AS key LIMIT 1").format(SQL(sql)))
            if not rows or None in rows[0]:
                continue  # no such row in this database: nothing to bind
            found += [
                Variant(query, key, tuple(rows[0]), limit, generic) for limit in limits for generic in (False, True)
            ]
        return tuple(found)

    @contextmanager
    def without(self, indexes: Sequence[tuple[str, str]], *, then: Sequence[str] = ()) -> Iterator[None]:
        """A transaction in which these indexes (schema, name) are not there and those of ``then`` are; rolled back."""
        with self.db.rolled_back():
            for schema, name in indexes:
                self.db.run_text(SQL("DROP INDEX {}").format(Identifier(schema, name)))
            for sql in then:
                self.db.run_text(sql)
            yield

    def shown(self, variant: Variant) -> Work:
        """The plan, not executed; within a transaction."""
        return self._explained(variant, "EXPLAIN (FORMAT JSON)")

    def executed(self, variant: Variant, *, runs: int = 1) -> list[Work]:
        """The plan and what it did, ``runs`` times after one that warms the caches; within a transaction."""
        how = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)"
        first = self._explained(variant, how)
        if first.ms > ENOUGH_MS:
            return [first]
        return [self._explained(variant, how) for _ in range(runs)]

    def _explained(self, variant: Variant, how: str) -> Work:
        with self._as_role():
            if not variant.values:
                return plans.read(self.db.run_text(f"{how} {variant.sql}")[0][0][0])
            mode = "force_generic_plan" if variant.generic else "force_custom_plan"
            self.db.run(SQL("SET LOCAL plan_cache_mode = {}").format(Literal(mode)))
            # A name each time: what is prepared outlives a transaction that failed, in which it could not be taken back.
            name = Identifier(f"drillbook_query_{next(self._names)}")
            self.db.run_text(SQL("PREPARE {} AS {}").format(name, SQL(variant.sql)))
            values = SQL(", ").join([Literal(value) for value in variant.values])
            bound: Composed = SQL(how) + SQL(" EXECUTE {}({})").format(name, values)
            work = plans.read(self.db.run_text(bound)[0][0][0])
            self.db.run(SQL("DEALLOCATE {}").format(name))
            return work

    @contextmanager
    def _as_role(self) -> Iterator[None]:
        if not self._role:
            yield
            return
        self.db.run_text(SQL("SET LOCAL ROLE {}").format(Identifier(self._role)))
        yield
        self.db.run(SQL("RESET ROLE"))


_LEAVES = """\
WITH RECURSIVE part AS (
    SELECT {}::oid AS oid
    UNION ALL SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid)
SELECT n.nspname AS schema, c.relname AS name FROM part JOIN pg_catalog.pg_class c ON c.oid = part.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')"""
_ROLE_SETTINGS = """\
SELECT split_part(item, '=', 1) AS name, substr(item, strpos(item, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 CROSS JOIN LATERAL unnest(s.setconfig) item
  JOIN pg_catalog.pg_settings g ON g.name = split_part(item, '=', 1)
 WHERE r.rolname = %(role)s AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
   AND (g.category LIKE 'Query Tuning%%' OR g.name IN ('work_mem', 'hash_mem_multiplier', 'search_path'))
 ORDER BY s.setdatabase"""
