"""Nothing of libpq's environment, service files or home folder leads a session elsewhere, or changes it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server
from tests.library.fix_kubeconfigs import Authority
from tests.library.fix_majors import PACKAGED

from drillbook.errors import PostgresError
from drillbook.postgres.client import LIBPQ_VARIABLES, Address, Database, by_parameters_only
from drillbook.swap.dump_restore import dump
from drillbook_lab.addresses import free_port
from drillbook_lab.pgbin import bin_dir

# For each variable what would do the most harm; any other gets a word that means nothing.
HARM = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "127.0.0.2",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "template1",
    "PGPASSWORD": "wrong",
    "PGOPTIONS": "-c default_transaction_read_only=off -c work_mem=64kB",
    "PGAPPNAME": "other",
    "PGCLIENTENCODING": "SQL_ASCII",
    "PGCONNECT_TIMEOUT": "none",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "system",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    "PGSSLMAXPROTOCOLVERSION": "TLSv1.1",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "none",
    "PGCHANNELBINDING": "disable",
    "PGGSSENCMODE": "require",
    "PGSERVICE": "elsewhere",
    "PGTZ": "Asia/Tokyo",
    "PGDATESTYLE": "SQL, DMY",
    "PGGEQO": "off",
    "PGLOADBALANCEHOSTS": "random",
}


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without TLS (the wheel has none), and one with a certificate that nobody's home knows."""
    folder = tmp_path_factory.mktemp(request.param)
    packaged = [path.parent for path in sorted(PACKAGED.glob("*/bin/postgres"))]
    if request.param == "tls" and not packaged:
        pytest.skip(f"no PostgreSQL with TLS in {PACKAGED}")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tls":
            patch.setenv("DRILLBOOK_LAB_PG_BIN", str(packaged[-1]))
        bin_dir.cache_clear()
        made = Server(folder, settings={"ssl": "on"} if request.param == "tls" else {})
        if request.param == "tls":
            _certified(made, Authority(tmp_path_factory.mktemp("authority")))
        made.start()
    bin_dir.cache_clear()
    yield made
    made.stop()


def _certified(server: Server, authority: Authority) -> None:
    owner = server.pgdata.stat()
    for name, text in zip(("server.crt", "server.key"), authority.pair("localhost"), strict=True):
        (server.pgdata / name).write_text(text)
        (server.pgdata / name).chmod(0o600)
        os.chown(server.pgdata / name, owner.st_uid, owner.st_gid)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """A home with a service, a password file and certificates that all lead astray."""
    own = tmp_path / ".postgresql"
    own.mkdir()
    authority = Authority(tmp_path)
    certificate, key = authority.pair("nobody")
    for name, text in (("root.crt", authority.pem.decode()), ("postgresql.crt", certificate), ("postgresql.key", key)):
        (own / name).write_text(text)
        (own / name).chmod(0o600)
    (tmp_path / ".pg_service.conf").write_text(
        "[elsewhere]\nhost=192.0.2.1\nhostaddr=127.0.0.2\nuser=nobody\ntarget_session_attrs=standby\n"
    )
    (tmp_path / ".pgpass").write_text("*:*:*:*:wrong\n")
    (tmp_path / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def as_given(db: Database, server: Server) -> None:
    """It is the session that was asked for, to the server that was asked for, and encrypted where that can be."""
    ((port, user, database, zone, style, geqo, name, encoding, read_only, work_mem),) = db.ask_text(
        "select inet_server_port(), current_user::text, current_database()::text, current_setting('TimeZone'), "
        "current_setting('DateStyle'), current_setting('geqo'), current_setting('application_name'), "
        "current_setting('client_encoding'), current_setting('default_transaction_read_only'), current_setting('work_mem')"
    )
    assert (port, user, database, name, encoding) == (server.address.port, SUPERUSER, "postgres", "drillbook", "UTF8")
    assert (read_only, work_mem, geqo) == ("on", "4MB", "on") and zone != "Asia/Tokyo" and style == "ISO, MDY"
    ((tls,),) = db.ask_text("select current_setting('ssl')")
    assert db._connection.pgconn.ssl_in_use is (tls == "on")


@pytest.mark.parametrize("name", LIBPQ_VARIABLES)
def test_b26_no_variable_of_libpq_changes_a_session(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value = HARM.get(name, str(home / ".pg_service.conf") if "SERVICEFILE" in name else "hostile")
    monkeypatch.setenv(name, value)
    with server.superuser("postgres", read_only=True) as db:
        as_given(db, server)
    assert os.environ[name] == value, "it is put back for anyone who else wants it"


def test_b26_nor_do_all_of_them_together(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIBPQ_VARIABLES:
        monkeypatch.setenv(name, HARM.get(name, "hostile"))
    with server.superuser("postgres", read_only=True) as db:
        as_given(db, server)
    with pytest.raises(PostgresError) as away:
        Database.connect(Address("127.0.0.1", free_port()), user="x", password="y", dbname="z")
    assert away.value.sqlstate == "08001"
    assert {name: os.environ[name] for name in LIBPQ_VARIABLES} == {
        name: HARM.get(name, "hostile") for name in LIBPQ_VARIABLES
    }


@pytest.mark.parametrize("name", ["PGHOSTADDR", "PGSERVICE", "PGTARGETSESSIONATTRS", "PGREQUIREAUTH"])
def test_b38_libpq_by_itself_is_led_astray(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The proof that the values above do harm."""
    given = {
        "host": server.address.host,
        "port": server.address.port,
        "user": SUPERUSER,
        "password": PASSWORD,
        "dbname": "postgres",
        "sslrootcert": "/nonexistent/x",
        "sslmode": "prefer",
    }
    psycopg.connect(**given).close()
    monkeypatch.setenv(name, HARM[name])
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**given, connect_timeout=5)


@pytest.fixture
def trusting(server: Server) -> Iterator[dict[str, str]]:
    """The environment of an instance's container, where the superuser needs no password."""
    rules = server.pgdata / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all all all trust\n")
    server.sql("postgres", "select pg_reload_conf()")
    path = f"{bin_dir()}:{os.environ['PATH']}"
    yield {"PATH": path, "PGHOST": server.address.host, "PGPORT": str(server.address.port)}
    rules.write_text(before)
    server.sql("postgres", "select pg_reload_conf()")


@pytest.mark.parametrize(
    "argv",
    [
        [
            "psql",
            "-X",
            "-w",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-Atc",
            "select current_setting('TimeZone') <> 'Asia/Tokyo'",
        ],
        dump("postgres"),
    ],
    ids=["psql", "pg_dump"],
)
def test_b26_nor_does_it_lead_a_command_in_a_pod_astray(
    server: Server, home: Path, trusting: dict[str, str], argv: list[str]
) -> None:
    hostile = {name: HARM.get(name, "hostile") for name in LIBPQ_VARIABLES} | trusting
    wrapped = argv if argv[0] == "env" else by_parameters_only(argv)
    done = subprocess.run(wrapped, env=hostile, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == b"t" or done.stdout.startswith(b"PGDMP")
    bare = wrapped[wrapped.index(next(part for part in wrapped if part in ("psql", "pg_dump"))) :]
    assert subprocess.run(bare, env=hostile, capture_output=True, check=False, timeout=60).returncode != 0
