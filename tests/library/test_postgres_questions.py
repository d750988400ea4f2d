"""The questions of a drill, asked of a real server as the role that deploy/sql makes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server, running

from drillbook.errors import PostgresError
from drillbook.postgres.client import Database
from drillbook_lab import pgbin

DEPLOY = Path(__file__).parents[2] / "deploy" / "sql"
TABLES = ["incidents.incident", '"Odd Schema"."Odd Table"', "incidents.hidden", "incidents.nowhere"]


def psql(server: Server, database: str, script: Path, **variables: str) -> None:
    """Apply a script as an administrator does."""
    done = subprocess.run(
        [
            str(pgbin.bin_dir() / "psql"),
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.address.host, "-p", str(server.address.port)),
            *("-U", SUPERUSER, "-d", database, "-f", str(script)),
            *(part for name, value in variables.items() for part in ("-v", f"{name}={value}")),
        ],
        env={"PGPASSWORD": PASSWORD, "PGCLIENTENCODING": "UTF8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A source that archives into a folder, with one tenant, and the role as deploy/sql makes it."""
    archive = tmp_path_factory.mktemp("archive")
    archive.chmod(0o777)
    settings = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f", "wal_level": "logical"}
    with running(tmp_path_factory.mktemp("source"), settings=settings) as server:
        server.sql(
            "postgres",
            f"create role tenant_app login password '{PASSWORD}'",
            "create database tenant owner tenant_app",
        )
        server.sql(
            "tenant",
            "create schema incidents authorization tenant_app",
            "set role tenant_app; create table incidents.incident (id int primary key)",
            'create schema "Odd Schema"; create table "Odd Schema"."Odd Table" (id int)',
        )
        psql(server, "postgres", DEPLOY / "drillbook-role.sql")
        psql(server, "postgres", DEPLOY / "drillbook-role.sql")  # again: changes nothing
        psql(server, "tenant", DEPLOY / "drillbook-tenant.sql", schema="incidents", owner="tenant_app")
        server.sql("tenant", "create table incidents.hidden (id int)", "revoke all on incidents.hidden from drillbook")
        server.sql("postgres", f"alter role drillbook password '{PASSWORD}'")
        yield server


def as_drillbook(server: Server, database: str = "drillbook", *, read_only: bool = False) -> Database:
    return Database.connect(server.address, user="drillbook", password=PASSWORD, dbname=database, read_only=read_only)


@pytest.fixture
def own(source: Server) -> Iterator[Database]:
    """A session in Drillbook's own database, with its tables."""
    with as_drillbook(source) as db:
        db.run("ensure_scratch")
        yield db


def test_the_server_tells_what_it_is(source: Server) -> None:
    """Identity, version, timeline and checksums agree with pg_controldata's; the least role may ask."""
    with as_drillbook(source, read_only=True) as db:
        facts = db.ask_one("server_facts")
    said = subprocess.run(
        [str(pgbin.bin_dir() / "pg_controldata"), str(source.pgdata)],
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    control = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}
    assert str(facts["system_identifier"]) == control["Database system identifier"]
    assert facts["timeline"] == int(control["Latest checkpoint's TimeLineID"]) == 1
    assert facts["wal_segment_bytes"] == int(control["Bytes per WAL segment"])
    assert facts["data_checksums"] is True
    assert facts["in_recovery"] is False
    assert facts["server_version_num"] // 10000 == int(pgbin.version().split(".")[0])
    assert facts["archive_mode"] == "on"
    assert facts["archive_timeout_seconds"] == 0


def test_named_settings(source: Server) -> None:
    """What the role may not see is left out, not an error."""
    with as_drillbook(source, read_only=True) as db:
        rows = db.ask("settings", names=["archive_timeout", "data_directory", "fsync"])
    assert [(row["name"], row["setting"], row["unit"]) for row in rows] == [
        ("archive_timeout", "0", "s"),
        ("fsync", "off", ""),
    ]


def test_the_role_of_deploy_has_what_a_drill_needs(source: Server) -> None:
    """Before its first drill and after it; and not more than it needs."""
    with as_drillbook(source) as db:
        assert all(row["granted"] for row in db.ask("role_grants"))
        db.run("ensure_scratch")
        rows = db.ask("role_grants")
        assert all(row["granted"] for row in rows)
        assert "SELECT, INSERT and DELETE on table drillbook.marker" in {row["what"] for row in rows}
        myself = db.ask_one("role_self")
    excess = {"superuser", "createrole", "createdb", "replication", "bypassrls", "monitor", "read_all_data"}
    assert not [name for name in excess if myself[name]]
    assert (myself["role"], myself["connection_limit"]) == ("drillbook", 10)


def test_missing_grants_are_named(source: Server) -> None:
    """Each as the administrator would write it."""
    source.sql(
        "postgres", f"create role bare login password '{PASSWORD}'", "grant connect on database drillbook to bare"
    )
    with Database.connect(source.address, user="bare", password=PASSWORD, dbname="drillbook") as db:
        missing = [row["what"] for row in db.ask("role_grants") if not row["granted"]]
    assert "EXECUTE on function pg_switch_wal() in database drillbook" in missing
    assert {"CREATE on database drillbook", "USAGE and CREATE on schema drillbook"} & set(missing)


def test_what_the_role_may_read_of_a_tenant(source: Server) -> None:
    """Found and granted are distinguished, for databases and for tables; odd names are quoted as in SQL."""
    with as_drillbook(source, read_only=True) as db:
        databases = db.ask("connect_grants", databases=["tenant", "postgres", "nowhere"])
    assert [(row["name"], row["found"], row["granted"]) for row in databases] == [
        ("tenant", True, True),
        ("postgres", True, True),
        ("nowhere", False, False),
    ]
    with as_drillbook(source, "tenant", read_only=True) as db:
        tables = db.ask("table_grants", tables=TABLES)
        assert [(row["name"], row["found"], row["granted"]) for row in tables] == [
            (TABLES[0], True, True),
            (TABLES[1], True, False),
            (TABLES[2], True, False),
            (TABLES[3], False, False),
        ]
        assert tables[2]["what"] == "SELECT on incidents.hidden in database tenant"
        with pytest.raises(PostgresError):
            db.ask_text("select * from incidents.hidden")


def test_the_databases(source: Server) -> None:
    """Sizes where the role may know them."""
    with as_drillbook(source, read_only=True) as db:
        found = {row["name"]: row for row in db.ask("databases")}
    assert {"drillbook", "tenant", "postgres"} <= set(found)
    assert found["drillbook"]["owner"] == "drillbook"
    assert found["drillbook"]["size_bytes"] > 1_000_000
    assert found["template1"]["is_template"]


def test_markers_and_scratch_rows(own: Database) -> None:
    """The boundary's life: rows, marker before, mistake, marker after; another run's rows stay."""
    own.run("insert_scratch", run_id="other", rows=5)
    assert own.run("insert_scratch", run_id="run", rows=1000) == 1000
    assert own.run("insert_scratch", run_id="run", rows=1000) == 0
    empty = own.ask_one("boundary", run_id="run")
    assert (empty["before"], empty["after"], empty["scratch_rows"]) == (False, False, 1000)
    first = own.run_one("write_marker", run_id="run", name="before")
    second = own.run_one("write_marker", run_id="run", name="before")
    assert second["xid"] > first["xid"]
    assert second["written_at"] > first["written_at"]
    mistake = own.run_one("delete_scratch", run_id="run")
    assert (mistake["rows"], mistake["xid"] > second["xid"]) == (1000, True)
    after = own.run_one("write_marker", run_id="run", name="after")
    seen = own.ask_one("boundary", run_id="run")
    assert seen == {
        "before": True,
        "after": True,
        "before_xid": second["xid"],
        "after_xid": after["xid"],
        "scratch_rows": 0,
    }
    assert [row["name"] for row in own.ask("markers", run_id="run")] == ["before", "before", "after"]
    assert own.ask_one("boundary", run_id="other")["scratch_rows"] == 5


def test_a_markers_xid_is_that_of_its_commit(own: Database) -> None:
    """The xid that is returned is the one that the row carries in the table itself."""
    marker = own.run_one("write_marker", run_id="xid", name="before")
    ((xmin,),) = own.ask_text("select xmin::text::bigint from drillbook.marker where run_id = 'xid'")
    assert xmin == marker["xid"] & 0xFFFFFFFF


def test_a_schema_that_someone_else_made(source: Server) -> None:
    """Without the right to create schemas the tables are made in the one that is there."""
    source.sql("postgres", "create database elsewhere")
    source.sql("elsewhere", "create schema drillbook", "grant usage, create on schema drillbook to drillbook")
    with as_drillbook(source, "elsewhere") as db:
        db.run("ensure_scratch")
        db.run("ensure_scratch")
        assert db.run_one("write_marker", run_id="r", name="before")["xid"] > 0


def test_questions_use_no_transaction_id(own: Database, source: Server) -> None:
    """Plan mode leaves no trace: the position is read without moving it, and stands still."""
    with as_drillbook(source, read_only=True) as db:
        before = db.ask_one("wal_position")
        for name in ("server_facts", "archiver", "databases", "role_grants", "subscriptions", "foreign_servers"):
            db.ask(name)
        after = db.ask_one("wal_position")
    assert after["next_xid"] == before["next_xid"]
    marker = own.run_one("write_marker", run_id="position", name="before")
    now = own.ask_one("wal_position")
    assert now["next_xid"] == marker["xid"] + 1
    assert now["clock"] > before["clock"]


def test_a_switched_segment_reaches_the_archive(own: Database) -> None:
    """The commit is before the switch; the archiver's parts tell when its segment has arrived."""
    own.run_one("write_marker", run_id="switch", name="before")
    holding = own.ask_one("wal_position")["current_wal"]
    switched = own.run_one("switch_wal")
    deadline = time.monotonic() + 60
    while True:
        archiver = own.ask_one("archiver")
        if (archiver["last_archived_wal"] or "") >= holding:
            break
        assert time.monotonic() < deadline, archiver
        time.sleep(0.05)
    assert archiver["last_archived_wal"] == holding
    assert archiver["failed_count"] == 0
    assert archiver["waiting_segments"] in (0, -1)  # -1: nothing was written into the new segment yet
    assert 0 <= archiver["seconds_since_archived"] < 60
    assert archiver["current_wal"] >= holding
    assert archiver["segment_bytes"] == 16 * 1024 * 1024
    assert switched["lsn"]


def test_waiting_segments_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An archiver that fails: what failed and when, and how many finished segments wait."""
    folder = tmp_path_factory.mktemp("failing")
    wish = folder / "archiving-works"
    settings = {"archive_mode": "on", "archive_command": f"test -e {wish}", "archive_timeout": "300"}
    with running(folder, settings=settings) as server, server.superuser("postgres") as db:
        wish.touch()
        wish.chmod(0o644)
        server.sql("postgres", "create table t (n int)")
        db.run_one("switch_wal")
        deadline = time.monotonic() + 60
        while not db.ask_one("archiver")["last_archived_wal"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        wish.unlink()
        for _ in range(3):
            server.sql("postgres", "insert into t values (1)")
            db.run_one("switch_wal")
        server.sql("postgres", "insert into t values (1)")
        while not db.ask_one("archiver")["last_failed_wal"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        archiver = db.ask_one("archiver")
        assert archiver["waiting_segments"] == 3
        assert archiver["last_failed_time"] > archiver["last_archived_time"]
        assert archiver["last_failed_wal"] > archiver["last_archived_wal"]
        assert db.ask_one("server_facts")["archive_timeout_seconds"] == 300
        wish.touch()  # lets the shutdown archive what waits
        wish.chmod(0o644)


def test_who_is_connected(source: Server) -> None:
    """Sessions are counted by database, role and application; our own is not among them."""
    with as_drillbook(source) as db, source.superuser("tenant"), source.superuser("tenant"):
        rows = db.ask("sessions", database="tenant")
        assert [(row["role"], row["application"], row["sessions"]) for row in rows] == [("postgres", "drillbook", 2)]
        assert {"tenant"} <= {row["database"] for row in db.ask("sessions", database="")}


def test_what_would_reach_out_of_a_copy(source: Server) -> None:
    """Subscriptions of every database and this database's foreign servers, without their passwords."""
    source.sql(
        "tenant",
        "create subscription pulls connection 'host=192.0.2.1 password=planted-secret' publication p "
        "with (connect = false)",
        "create extension postgres_fdw",
        "create server remote foreign data wrapper postgres_fdw options (host '192.0.2.2', port '5433', dbname 'x')",
        "create foreign table far (id int) server remote",
    )
    with as_drillbook(source, "tenant", read_only=True) as db:
        subscriptions = db.ask("subscriptions")
        servers = db.ask("foreign_servers")
    source.sql("tenant", "alter subscription pulls set (slot_name = none)", "drop subscription pulls")
    assert [(row["database"], row["name"], row["enabled"]) for row in subscriptions] == [("tenant", "pulls", False)]
    assert "planted-secret" not in str(subscriptions)
    assert servers == [
        {
            "name": "remote",
            "wrapper": "postgres_fdw",
            "host": "192.0.2.2",
            "port": "5433",
            "dbname": "x",
            "foreign_tables": 1,
        }
    ]
