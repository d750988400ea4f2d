"""The files for Flyway: run by psql as Flyway would run them, by the tables' owner, on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server

from drillbook.cli.app import status
from drillbook.errors import ParameterError
from drillbook.indexes import flyway
from drillbook.indexes.migration import load_migration
from drillbook_lab.identity import wrap

SECONDS = 60
SQL_FILE = """
create index by_status on app.incidents (status, "Opened At" desc) where status <> 'CLOSED';
create unique index by_name on app.incidents (lower(status), id) include (assigned);
create index "By Name; drop" on app.changes using hash (risk);
create index by_due on changes (due) where risk in ('HIGH', 'EMERGENCY') and due is not null;
"""
TABLES = (
    "create schema app",
    'create table app.incidents (id int primary key, status text, "Opened At" timestamptz, assigned varchar(20))',
    "create table app.changes (id int, risk text, due date)",
    "create index old_one on app.changes (id)",
)
_NUMBERS = count(1)


@pytest.fixture
def database(server: Server) -> str:
    """A database whose tables belong to a role of its own, which is no superuser."""
    name = server.new_database()
    owner = f"owner{next(_NUMBERS)}_{name}"
    server.sql(
        "postgres", f"create role {owner} login password '{PASSWORD}'", f"alter database {name} owner to {owner}"
    )
    server.sql(name, f"alter role {owner} set search_path = app, public", f"set role {owner}", *TABLES)
    return name


def owner_of(server: Server, database: str) -> str:
    with server.superuser(database) as db:
        ((name,),) = db.ask_text(
            "select pg_get_userbyid(datdba)::text from pg_database where datname = current_database()"
        )
    return str(name)


def written(folder: Path, sql: str = SQL_FILE, *, build: bool = False) -> list[Path]:
    """The generated files, in the order of their versions."""
    source = folder / "V011__add_indexes.sql"
    source.write_text(sql)
    files = (flyway.building if build else flyway.adopting)(load_migration(source))
    target = folder / "files"
    target.mkdir(exist_ok=True)
    target.chmod(0o755)
    for name, text in files.items():
        (target / name).write_text(text)
    return sorted((target / name for name in files if name.endswith(".sql")), key=lambda path: path.name)


def psql(server: Server, database: str, file: Path, *, transaction: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a file as Flyway does: as the tables' owner, in one transaction, or statement by statement."""
    argv = [str(server.programs / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", database]
    argv += ["-h", server.address.host, "-p", str(server.address.port), "-U", owner_of(server, database)]
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        wrap([*argv, *(["-1"] if transaction else [])]),
        input=file.read_text(),
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        timeout=SECONDS,
    )


def built(server: Server, database: str, sql: str = SQL_FILE) -> None:
    server.sql(database, "set search_path = app, public", *[part for part in sql.split(";\n") if part.strip()])


@contextmanager
def in_use(server: Server, database: str, lock: str) -> Iterator[None]:
    """Another transaction that holds both tables."""
    with psycopg.connect(
        host=server.address.host,
        port=server.address.port,
        user=SUPERUSER,
        password=PASSWORD,
        dbname=database,
    ) as other:
        other.execute(f"lock table app.incidents, app.changes in {lock} mode")
        yield
        other.rollback()


def test_i14_three_flyways_at_once_adopt_what_was_built_and_none_waits_for_anyone(
    server: Server, database: str, tmp_path: Path
) -> None:
    built(server, database)
    (file,) = written(tmp_path)
    assert file.name == "V011__add_indexes.sql"
    # A writer, a vacuum and another migration's SHARE lock are all compatible with what it takes.
    with in_use(server, database, "exclusive"), ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: psql(server, database, file), range(3)))
    assert [done.returncode for done in ended] == [0, 0, 0], [done.stderr for done in ended]


SPOILED = {
    "missing": ("drop index app.by_status", "index by_status on app.incidents does not exist"),
    "INVALID": (
        "update pg_index set indisvalid = false where indexrelid = 'app.by_status'::regclass",
        "index by_status on app.incidents is INVALID",
    ),
    "not ready": (
        "update pg_index set indisready = false where indexrelid = 'app.by_status'::regclass",
        "index by_status on app.incidents is INVALID",
    ),
    "another column": (
        "drop index app.by_status; create index by_status on app.incidents (assigned, \"Opened At\" desc) where status <> 'CLOSED'",
        "index by_status on app.incidents is USING btree (assigned",
    ),
    "another order": (
        "drop index app.by_status; create index by_status on app.incidents (status, \"Opened At\") where status <> 'CLOSED'",
        'and should be USING btree (status, "Opened At" DESC)',
    ),
    "another predicate": (
        'drop index app.by_status; create index by_status on app.incidents (status, "Opened At" desc)',
        'and should be USING btree (status, "Opened At" DESC) WHERE',
    ),
    "not unique": (
        "drop index app.by_name; create index by_name on app.incidents (lower(status), id) include (assigned)",
        "and should be UNIQUE USING btree",
    ),
    "of another table": (
        "drop index app.by_status; create index by_status on app.changes (risk)",
        "is an index of app.changes",
    ),
    "a table": ("drop index app.by_status; create table app.by_status (a int)", "is no index"),
    "the table is gone": ("drop table app.changes", "index by_due on changes can't be looked at: relation"),
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
def test_i14_the_assertion_fails_on_whatever_is_not_the_valid_index_of_that_definition(
    server: Server, database: str, tmp_path: Path, spoiled: tuple[str, str]
) -> None:
    change, said = spoiled
    built(server, database)
    (file,) = written(tmp_path)
    assert psql(server, database, file).returncode == 0
    server.sql(database, *change.split("; "))
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: psql(server, database, file), range(3)))
    for done in ended:
        assert done.returncode != 0
        assert said in done.stderr
        assert "nothing was changed" in done.stderr
        assert "change-indexes" in done.stderr


def test_i14_every_fault_is_said_at_once(server: Server, database: str, tmp_path: Path) -> None:
    (file,) = written(tmp_path, SQL_FILE + "drop index app.old_one;\n")
    done = psql(server, database, file)
    assert done.stderr.count("does not exist") == 4
    assert "index app.old_one is still there" in done.stderr


def test_i14_built_by_flyway_each_statement_is_a_file_outside_of_a_transaction(
    server: Server, database: str, tmp_path: Path
) -> None:
    *steps, assertion = written(tmp_path, SQL_FILE + "drop index app.old_one;\n", build=True)
    assert [path.name for path in steps] == [
        "V011.1__build_by_status.sql",
        "V011.2__build_by_name.sql",
        "V011.3__build_By_Name_drop.sql",
        "V011.4__build_by_due.sql",
        "V011.5__drop_app_old_one.sql",
    ]
    for path in steps:
        assert path.with_name(f"{path.name}.conf").read_text() == "executeInTransaction=false\n"
        assert psql(server, database, path).returncode != 0, "CONCURRENTLY does not run in a transaction"
        done = psql(server, database, path, transaction=False)
        assert done.returncode == 0, done.stderr
    assert psql(server, database, assertion).returncode == 0
    assert "flyway.postgresql.transactional.lock=false" in (steps[0].parent / "flyway.conf").read_text().splitlines()


def test_i14_what_flyway_could_not_name_is_reported_all_at_once(tmp_path: Path) -> None:
    source = tmp_path / "indexes.sql"
    source.write_text("create index on app.t (a);\ncreate index on app.t (b);\n")
    with pytest.raises(ParameterError) as caught:
        flyway.adopting(load_migration(source))
    assert len(caught.value.faults) == 3
    with pytest.raises(ParameterError, match="none of Flyway's"):
        flyway.adopting(load_migration(source), "one")


def test_i14_text_in_a_predicate_ends_no_quote_of_the_file(server: Server, database: str, tmp_path: Path) -> None:
    sql = "create index odd on app.incidents (id) where status <> 'it''s $drillbook$ @state@ %s \\';\n"
    built(server, database, sql)
    (file,) = written(tmp_path, sql)
    done = psql(server, database, file)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("more", [[], ["--build"]], ids=["adopt", "build"])
def test_i14_the_command_writes_the_files_once_and_overwrites_no_other(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "indexes.sql"
    source.write_text(SQL_FILE)
    argv = ["flyway", str(source), "--to", str(tmp_path / "db"), "--version", "12.1", *more]
    assert status(argv) == 0
    files = {path.name: path.read_text() for path in (tmp_path / "db").iterdir()}
    assert all(name.startswith("V12.1") or name == "flyway.conf" for name in files)
    assert status(argv) == 0, "the same again is no fault"
    source.write_text(SQL_FILE.replace("CLOSED", "DONE"))
    assert status(argv) == 4
    assert "says something else" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in (tmp_path / "db").iterdir()} == files
    assert status(["flyway", str(tmp_path / "none.sql"), "--to", str(tmp_path)]) == 4
