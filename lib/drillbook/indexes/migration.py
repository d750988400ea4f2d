"""An index migration as data: the indexes, what each is for, what is claimed of it, and the updates it must not harm.

Two forms are read, with the same result. A plain SQL file holds the statements as they will be run; nothing else is
known then. A YAML file adds queries, claims and typical updates, and has the statements in itself or in the SQL file
that it names::

    name: V011
    database: shop
    file: V011__indexes.sql          # in the same folder; or give every index its sql
    indexes:
      - {name: idx_orders_open, claim: 50-70 % faster, queries: [open orders]}
    queries:
      - name: open orders
        sql: select * from orders where status <> 'CLOSED' and due < $1
        keys: {typical: "select now()"}
    updates:
      - {name: an order is paid, sql: "update orders set status = 'PAID' where status = 'OPEN'"}
    drop: [idx_orders_status]
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from drillbook.errors import ParameterError
from drillbook.indexes import statements
from drillbook.indexes.statements import NotSql, Statement
from drillbook.model import Frozen
from drillbook.profile.loading import validated
from drillbook.profile.sources import SourceLine, read
from drillbook.profile.texts import Text

_TODO = "Correct the migration and start again."


def _only_statement(text: str, kind: str) -> Statement:
    try:
        found = statements.one(text)
    except NotSql as fault:
        raise ValueError(f"is not one statement of PostgreSQL's SQL ({fault})") from None
    if found.kind != kind:
        raise ValueError(f"is not a {kind.upper()}")
    return found


class ProposedIndex(Frozen):
    """One index of a migration: its CREATE INDEX as written, the claim as its authors word it, the names of its queries.

    ``name`` is "" where the statement leaves the choice to the server. ``line`` is that of the statement in the SQL
    file, 0 if it stands in the YAML file.
    """

    name: str = ""
    sql: str = ""
    claim: str = ""
    queries: tuple[str, ...] = ()
    line: int = 0

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.name or f"the index of line {self.line}"

    @property
    def statement(self) -> Statement:
        """The statement as the grammar reads it."""
        return statements.one(self.sql)


class MigrationQuery(Frozen):
    """A query that an index is for: one SELECT with $1, $2 … for what the application binds.

    Each of ``keys`` is a SELECT of one row with those values (a typical key, the most frequent one …): what it answers
    is bound and is in no record. ``limit`` is the LIMIT with which the query is tried as well, 0 for none.
    """

    name: Text
    sql: Text
    keys: dict[str, str] = Field(default_factory=dict)
    limit: int = Field(default=50, ge=0, strict=True)

    @field_validator("sql")
    @classmethod
    def _one_select(cls, value: str) -> str:
        return _only_statement(value, "select").sql

    @field_validator("keys")
    @classmethod
    def _each_a_select(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: _only_statement(sql, "select").sql for name, sql in value.items()}

    @model_validator(mode="after")
    def _keys_for_parameters(self) -> Self:
        parameters = statements.one(self.sql).parameters
        if bool(parameters) != bool(self.keys):
            raise ValueError(
                f"{self.name}: has {parameters} parameters and {len(self.keys)} keys: give keys for what is bound, and only then"
            )
        return self


class TypicalUpdate(Frozen):
    """What the application changes in a row: an UPDATE of one table without parameters; WHERE says which rows it happens to."""

    name: Text
    sql: Text

    @field_validator("sql")
    @classmethod
    def _one_update(cls, value: str) -> str:
        found = _only_statement(value, "update")
        if found.parameters:
            raise ValueError("has parameters: write what the application would bind, or an expression like it")
        return found.sql

    @property
    def table(self) -> tuple[str, ...]:
        """The table's name as written, with its schema if one is given."""
        return statements.one(self.sql).table


class Migration(Frozen):
    """A migration: what it makes, what for, and which older indexes it drops (names as in SQL).

    ``database`` is the tenant's, "" for the profile's first. ``as_written`` is every statement of the SQL file in
    order, or those of the indexes where there is no file.
    """

    name: Text
    note: str = ""
    database: str = ""
    file: str = ""
    indexes: tuple[ProposedIndex, ...] = Field(min_length=1)
    queries: tuple[MigrationQuery, ...] = ()
    updates: tuple[TypicalUpdate, ...] = ()
    drop: tuple[Text, ...] = ()
    as_written: tuple[Statement, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of everything that it says, in canonical JSON: wherever the files are."""
        values = self.model_dump(mode="json", exclude={"file"})
        return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def queries_of(self, index: ProposedIndex) -> tuple[MigrationQuery, ...]:
        """The queries that an index is for, in the migration's order."""
        return tuple(query for query in self.queries if query.name in index.queries)


def load_migration(path: str | Path) -> Migration:
    """The migration at ``path``: a YAML file (``.yaml``, ``.yml``), else SQL. Reads files only.

    Raises ParameterError with every fault, each with file and line where it has one.
    """
    place = Path(path).expanduser().resolve()
    if not place.is_file():
        raise ParameterError(
            [f"there is no file {path}"], where="index migration", todo="Give the path of a migration."
        )
    faults: list[str] = []
    migration = _yaml(place, faults) if place.suffix in (".yaml", ".yml") else _sql(place, faults)
    if faults or migration is None:
        raise ParameterError(faults, where=f"index migration {place.name}", todo=_TODO)
    return migration


def _sql(place: Path, faults: list[str]) -> Migration | None:
    written = _statements(place, faults)
    indexes = [_as_proposed(statement) for statement in written if statement.kind == "create index"]
    if not indexes and not faults:
        faults.append(f"{SourceLine(place, 1)}: holds no CREATE INDEX")
    faults += _given_twice(indexes, place)
    if faults:
        return None
    drop = tuple(statements.as_sql_name(parts) for statement in written for parts in statement.drops)
    return Migration(name=place.stem, file=place.name, indexes=tuple(indexes), drop=drop, as_written=written)


def _yaml(place: Path, faults: list[str]) -> Migration | None:
    source = read(place)
    faults += source.faults
    if "as_written" in source.values:
        faults.append(f"{source.place(('as_written',))} as_written: is read from the file, not given")
    migration, found = validated(Migration, source) if source.values else (None, [f"{place.name}: is empty"])
    faults += found
    if migration is None:
        return None
    written: tuple[Statement, ...] = ()
    if migration.file:
        sql_file = place.parent / migration.file
        if not sql_file.is_file():
            faults.append(f"{source.place(('file',))} file: there is no {migration.file} in the folder of {place.name}")
            return None
        written = _statements(sql_file, faults)
        if faults:
            return None
    indexes = _united(migration, [item for item in written if item.kind == "create index"], source.place, faults)
    faults += _given_twice(indexes, place)
    known = {query.name for query in migration.queries}
    for number, index in enumerate(migration.indexes):
        for query in index.queries:
            if query not in known:
                at = source.place(("indexes", number, "queries"))
                faults.append(f"{at} indexes[{number}].queries: there is no query {query!r}")
    names = [query.name for query in migration.queries]
    faults += [
        f"{place.name}: query {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if faults:
        return None
    return migration.model_copy(
        update={"indexes": tuple(indexes), "as_written": written or tuple(index.statement for index in indexes)}
    )


def _united(migration: Migration, file: list[Statement], place: Any, faults: list[str]) -> list[ProposedIndex]:
    """Each index with its statement, the one that it gives or that of its name in the SQL file; then the file's others."""
    indexes: list[ProposedIndex] = []
    for number, index in enumerate(migration.indexes):
        at = f"{place(('indexes', number))} indexes[{number}]"
        named = [statement for statement in file if index.name and statement.name == index.name]
        if index.sql and migration.file:
            faults.append(f"{at}: gives sql, and the migration names a file: the statement is to be in one place")
        elif index.sql:
            try:
                found = _only_statement(index.sql, "create index")
            except ValueError as fault:
                faults.append(f"{at}.sql: {fault}")
                continue
            if index.name and found.name != index.name:
                faults.append(f"{at}: is named {index.name!r}, and its sql names {found.name or 'none'!r}")
            indexes.append(index.model_copy(update={"name": found.name, "sql": found.sql}))
        elif named:
            indexes.append(index.model_copy(update={"sql": named[0].sql, "line": named[0].line}))
        else:
            faults.append(
                f"{at}: there is no CREATE INDEX {index.name} in {migration.file}"
                if migration.file
                else f"{at}: sql is missing"
            )
    known = {index.name for index in migration.indexes if index.name}
    return indexes + [_as_proposed(statement) for statement in file if statement.name not in known]


def _statements(place: Path, faults: list[str]) -> tuple[Statement, ...]:
    try:
        return statements.statements(place.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        faults.append(f"{place.name}: is not UTF-8 text")
    except NotSql as fault:
        faults += [f"{SourceLine(place, line)}: {what}" for line, what in fault.faults]
    return ()


def _as_proposed(statement: Statement) -> ProposedIndex:
    return ProposedIndex(name=statement.name, sql=statement.sql, line=statement.line)


def _given_twice(indexes: list[ProposedIndex], place: Path) -> list[str]:
    # An index is in its table's schema: two of one name are two indexes if their schemas differ.
    names = [(index.statement.table[:-1], index.name) for index in indexes if index.name and index.sql]
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"{place.name}: index {name} is given twice" for _, name in twice]
