"""An index migration as data: what is read from YAML and from SQL, and that every fault is reported together."""

from __future__ import annotations

from pathlib import Path

import pytest

from drillbook.errors import ParameterError
from drillbook.indexes import statements
from drillbook.indexes.migration import Migration, load_migration
from drillbook.profile import load_site

SITES = Path(__file__).parents[2] / "sites"

ODD = """\
-- é: a comment; with a semicolon
CREATE UNIQUE /* x */ INDEX /* INDEX */ IF NOT EXISTS "Odd ""Name"
    ON ONLY "Räume"."t;1" USING btree (a DESC, lower(b)) INCLUDE (c) WHERE x <> 'CLO;SED';
SET lock_timeout = '1s'; CREATE INDEX CONCURRENTLY ON t USING gin (doc);
DO $body$ BEGIN PERFORM 1; END $body$;
DROP INDEX CONCURRENTLY IF EXISTS s."Old", b
"""


def written(tmp_path: Path, text: str, name: str = "m.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        load_migration(path)
    assert (caught.value.exit_code, caught.value.changed) == (4, "nothing")
    return [fault.replace(f"{path.parent}/", "") for fault in caught.value.faults]


def test_a14_statements_are_split_as_a_server_reads_them() -> None:
    found = statements.statements(ODD)
    assert [(item.kind, item.line) for item in found] == [
        ("create index", 2),
        ("other", 4),
        ("create index", 4),
        ("other", 5),
        ("drop index", 6),
    ]
    assert (found[0].name, found[0].table, found[0].if_not_exists) == ('Odd "Name', ("Räume", "t;1"), True)
    assert (found[2].name, found[2].concurrently) == ("", True)
    assert found[4].drops == (("s", "Old"), ("b",))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE INDEX i ON t (a)", "CREATE INDEX CONCURRENTLY i ON t (a)"),
        ("create index concurrently if not exists i on t(a);", "create index CONCURRENTLY i on t(a)"),
        ("CREATE INDEX ON t (a) -- index i", "CREATE INDEX CONCURRENTLY ON t (a) -- index i"),
        ("/* INDEX */ CREATE UNIQUE INDEX /* é */ i ON t (a)", "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)"),
        ('CREATE INDEX IF NOT EXISTS "index" ON t (a)', 'CREATE INDEX CONCURRENTLY "index" ON t (a)'),
    ],
)
def test_a14_create_index_is_rewritten_to_concurrently(sql: str, expected: str) -> None:
    rewritten = statements.as_concurrent(sql)
    assert rewritten.removeprefix("/* INDEX */ ") == expected
    assert statements.one(rewritten).concurrently
    plain = statements.one(statements.as_plain(rewritten))
    assert not plain.concurrently and not plain.if_not_exists


@pytest.mark.parametrize("sql", ["SELECT 1", "CREATE INDEX i ON t (a); SELECT 1", "CREATE INDX i", ""])
def test_a14_what_is_not_one_create_index_is_not_rewritten(sql: str) -> None:
    with pytest.raises(statements.NotSql):
        statements.as_concurrent(sql)


def test_a14_a_sql_file_is_a_migration(tmp_path: Path) -> None:
    migration = load_migration(written(tmp_path, ODD, "V1__odd.sql"))
    assert [(index.name, index.line) for index in migration.indexes] == [('Odd "Name', 2), ("", 4)]
    assert migration.indexes[1].label == "the index of line 4"
    assert migration.drop == ('s."Old"', "b")
    assert [item.kind for item in migration.as_written].count("other") == 2


def test_a14_every_syntax_fault_of_a_sql_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "CREATE INDX a ON t (b);\nSELECT 1;\n\nCREATE INDEX c ON (d);\n", "v.sql")
    assert faults_of(path) == ['v.sql:1: syntax error at or near "INDX"', 'v.sql:4: syntax error at or near "("']


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("SELECT 1;", "v.sql:1: holds no CREATE INDEX"),
        ("CREATE INDEX i ON t (a); CREATE INDEX i ON t (b);", "v.sql: index i is given twice"),
        ("CREATE INDEX i ON t (a)\n WHERE b = 'x", "unterminated quoted string"),
        ("\\set x 1\nCREATE INDEX i ON t (a);", 'v.sql:1: syntax error at or near "\\"'),
        ("CREATE INDEX i ON ${schema}.t (a);", "v.sql:1: syntax error"),
    ],
)
def test_a14_a_sql_file_that_is_no_migration_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults_of(written(tmp_path, text, "v.sql"))
    assert fault in found


def test_a14_one_name_in_two_schemas_is_two_indexes(tmp_path: Path) -> None:
    path = written(tmp_path, "CREATE INDEX i ON s.t (a); CREATE INDEX i ON u.t (a);", "v.sql")
    assert len(load_migration(path).indexes) == 2


def test_a14_every_fault_of_a_yaml_file_is_reported_together(tmp_path: Path) -> None:
    text = """\
name: x
indexes:
  - {name: a, sql: create index a on t (b), querys: [q]}
  - {name: b, sql: select 1}
queries:
  - {name: q, sql: select * from t where a = $1}
  - {name: r, sql: delete from t}
updates:
  - {name: u, sql: update t set a = $1}
"""
    found = faults_of(written(tmp_path, text))
    assert found[0] == "m.yaml:3 indexes[0].querys: unknown key (did you mean queries?)"
    assert any("q: has 1 parameters and 0 keys" in fault for fault in found)
    assert any(fault.startswith("m.yaml:7 queries[1].sql: is not a SELECT") for fault in found)
    assert any(fault.startswith("m.yaml:9 updates[0].sql: has parameters") for fault in found)


@pytest.mark.parametrize(
    ("indexes", "fault"),
    [
        ("- {name: b, sql: create index a on t (c)}", "is named 'b', and its sql names 'a'"),
        ("- {name: b}", "indexes[0]: sql is missing"),
        ("- {name: b, sql: select 1}", "indexes[0].sql: is not a CREATE INDEX"),
        ("- {name: a, sql: create index a on t (c), queries: [none]}", "there is no query 'none'"),
    ],
)
def test_a14_an_index_that_does_not_fit_is_refused(tmp_path: Path, indexes: str, fault: str) -> None:
    found = faults_of(written(tmp_path, f"name: x\nindexes:\n  {indexes}\n"))
    assert any(fault in line for line in found)


def test_a14_a_yaml_file_takes_its_statements_from_the_sql_file(tmp_path: Path) -> None:
    written(tmp_path, "CREATE INDEX a ON t (b);\nCREATE INDEX z ON t (c);\n", "v.sql")
    text = "name: x\nfile: v.sql\nindexes: [{name: z, claim: faster}, {name: missing}]\n"
    assert faults_of(written(tmp_path, text)) == [
        "m.yaml:3 indexes[1]: there is no CREATE INDEX missing in v.sql",
    ]
    migration = load_migration(written(tmp_path, text.replace(", {name: missing}", "")))
    assert [(index.name, index.claim, index.line) for index in migration.indexes] == [("z", "faster", 2), ("a", "", 1)]


def test_a14_a_migration_comes_back_equal_from_the_journal() -> None:
    migration = load_migration(SITES / "synergyflow" / "V011.yaml")
    assert Migration.model_validate_json(migration.model_dump_json()) == migration


def test_a14_the_first_sites_migration_is_what_its_profile_names() -> None:
    site = load_site(SITES / "synergyflow.yaml")
    migration = load_migration(site.index_migration)
    assert (migration.name, len(migration.indexes), len(migration.as_written)) == ("V011", 14, 14)
    assert all(index.claim and migration.queries_of(index) and index.line for index in migration.indexes)
    assert site.tenant(migration.database).app_role
