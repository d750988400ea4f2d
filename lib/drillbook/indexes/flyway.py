"""What a Flyway user gets of an index migration: files, made of text alone; nothing is asked of a server here.

By default the indexes are built beforehand and the migration adopts them: its file builds nothing, and fails unless each
index is there, valid and exactly what the migration says. The server compares, with the same index on an empty copy of the
table. ``IF NOT EXISTS`` would say yes to an INVALID index, and to quite another one of that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from drillbook.errors import ParameterError
from drillbook.indexes.migration import Migration
from drillbook.indexes.shape import on_empty_copy
from drillbook.indexes.statements import as_concurrent, as_sql_name, one
from drillbook.postgres.client import SQL, Identifier, Literal, question

SESSION_LOCK = "flyway.postgresql.transactional.lock=false"
"""Without it Flyway holds a transaction open for its own lock, for which CREATE INDEX CONCURRENTLY waits for ever."""
_NO_TRANSACTION = "executeInTransaction=false\n"
_VERSIONED = re.compile(r"V(?P<version>[0-9]+(?:[._][0-9]+)*)__(?P<what>.+?)(?:\.sql)?\Z")


def adopting(migration: Migration, version: str = "") -> dict[str, str]:
    """The default: one file by name, which asserts and changes nothing. ParameterError if it has no version, or an index no name."""
    version, what = _named(migration, version)
    return {f"V{version}__{what}.sql": _assertion(migration)}


def building(migration: Migration, version: str = "") -> dict[str, str]:
    """Flyway builds by itself: one statement a file, outside of a transaction, and the assertion last. ParameterError likewise."""
    version, what = _named(migration, version)
    steps = [(f"build_{_plain(index.name)}", as_concurrent(index.sql)) for index in migration.indexes]
    steps += [(f"drop_{_plain(name)}", f"DROP INDEX CONCURRENTLY IF EXISTS {name}") for name in migration.drop]
    files: dict[str, str] = {}
    for number, (step, sql) in enumerate(steps, 1):
        name = f"V{version}.{number}__{step}.sql"
        files[name] = (
            f"-- One statement, outside of a transaction (see {name}.conf), and Flyway must run with\n-- {SESSION_LOCK}\n"
            "-- If it fails it leaves an INVALID index: drop that one CONCURRENTLY, then repair and migrate.\n"
            f"{sql};\n"
        )
        files[f"{name}.conf"] = _NO_TRANSACTION
    files[f"V{version}.{len(steps) + 1}__assert_{what}.sql"] = _assertion(migration)
    files["flyway.conf"] = (
        "# Add this line to Flyway's own configuration. By default it holds a transaction open for its lock, for which every\n"
        f"# CREATE INDEX CONCURRENTLY waits, for ever.\n{SESSION_LOCK}\n"
    )
    return files


def _named(migration: Migration, version: str) -> tuple[str, str]:
    """Version and description, as Flyway reads them off a file's name."""
    found = _VERSIONED.match(migration.file) or _VERSIONED.match(migration.name)
    faults = []
    if version and not re.fullmatch(r"[0-9]+(?:[._][0-9]+)*", version):
        faults.append(f"version: {version!r} is none of Flyway's: digits, with '.' or '_' between them")
    if not version and found is None:
        faults.append(
            f"version: {migration.file or migration.name} is not named V<version>__<description>.sql: give one"
        )
    faults += [
        f"{index.label}: names no index; what the server would call it can't be asserted: give it a name"
        for index in migration.indexes
        if not index.name
    ]
    if faults:
        raise ParameterError(faults, where="flyway", todo="Give --version, or correct the migration.")
    what = _plain(found["what"] if found else migration.name)
    return version or (found["version"] if found else ""), what


def _plain(text: str) -> str:
    """Fit for a file's name anywhere, and for Flyway, to which two underscores mean something."""
    return re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9]+", "_", text)).strip("_") or "indexes"


def _assertion(migration: Migration) -> str:
    rows = []
    for index in migration.indexes:
        table = as_sql_name(one(index.sql).table)
        temporary = SQL("{}").format(Identifier("pg_temp", one(index.sql).table[-1])).as_string(None)
        rows.append(_row([table, temporary, index.name, on_empty_copy(index.sql)]))
    gone = SQL(", ").join(Literal(name) for name in migration.drop).as_string(None)
    state = (
        question("index_by_name").replace("%(name)s", "wanted.name").replace("%(schema)s", "place").replace("%%", "%")
    )
    values = {"rows": ",\n            ".join(rows), "gone": f"array[{gone}]::text[]", "state": _indented(state)}
    body = _fill(_BODY, values)
    tag = next(tag for tag in ("$drillbook$", "$drillbook_1$", "$drillbook_2$") if tag not in body)
    return _fill(_HEAD, {"name": _comment(migration.name)}) + f"do {tag}\n{body}\n{tag};\n"


def _row(values: list[str]) -> str:
    return f"({', '.join(Literal(value).as_string(None) for value in values)})"


def _comment(text: str) -> str:
    return " ".join(text.split())


def _indented(sql: str) -> str:
    lines = [line for line in sql.strip().removesuffix(";").splitlines() if not line.startswith("--")]
    return "\n".join(f"            {line}" for line in lines)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put each value where its name stands, once: what is put in is not looked through again."""
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)


_HEAD = """\
-- Index migration @name@: built beforehand, adopted here. Run the runbook change-indexes first.
--
-- Builds nothing and takes no lock that a SELECT does not take. It fails, with every fault at once, unless each index is there,
-- valid and exactly as defined: the server compares it with the same index on an empty temporary copy of its table. Several
-- Flyways at once are none of each other's business.
"""

_BODY = """\
declare
    wanted record;
    found record;
    place text;
    own_table text;
    shape text;
    actual text;
    fault text;
    faults text := '';
begin
    perform pg_catalog.set_config('lock_timeout', '10s', true);
    for wanted in
        select * from (values
            @rows@
        ) as proposed (relation, temporary, name, statement)
    loop
        shape := null; actual := null; fault := 'does not exist';
        begin
            select n.nspname, c.relname into place, own_table
              from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.oid = wanted.relation::pg_catalog.regclass;
            execute pg_catalog.format('create temporary table %s (like %s)', wanted.temporary, wanted.relation);
            execute wanted.statement;
            for found in
@state@
            loop
                if found.wanted then
                    shape := found.definition;
                    continue;
                end if;
                actual := found.definition;
                fault := case
                    when found.kind not in ('i', 'I') then 'is no index'
                    when (found.table_schema, found.table_name) <> (place, own_table)
                        then pg_catalog.format('is an index of %s.%s', found.table_schema, found.table_name)
                    when not found.valid then 'is INVALID: drop it CONCURRENTLY, then build it again'
                end;
            end loop;
            if fault is null and actual is distinct from shape then
                fault := pg_catalog.format('is %s, and should be %s', actual, shape);
            end if;
            execute pg_catalog.format('drop table %s', wanted.temporary);
        exception when others then
            fault := pg_catalog.format('can''t be looked at: %s', sqlerrm);
        end;
        if fault is not null then
            faults := faults || pg_catalog.format(E'\\n  - index %s on %s %s', wanted.name, wanted.relation, fault);
        end if;
    end loop;
    for wanted in select name from pg_catalog.unnest(@gone@) as gone (name) loop
        if pg_catalog.to_regclass(wanted.name) is not null then
            faults := faults || pg_catalog.format(E'\\n  - index %s is still there, and this migration drops it', wanted.name);
        end if;
    end loop;
    if faults <> '' then
        raise exception using
            message = 'the indexes are not as this migration needs them; nothing was changed:' || faults,
            hint = 'Run the runbook change-indexes, then migrate again.',
            errcode = 'object_not_in_prerequisite_state';
    end if;
end"""

__all__ = ["SESSION_LOCK", "adopting", "building"]
