"""What a pod's programs say to their own server: through the private socket, as postgres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from drillbook_lab.agent.conf import STANDBY_ROLE
from drillbook_lab.agent.spec import PodSpec

# Streams, and reads what pg_rewind has to read.
_STANDBY_ROLE_SQL = f"""
create role {STANDBY_ROLE} login replication;
grant execute on function pg_catalog.pg_ls_dir(text, boolean, boolean), pg_catalog.pg_stat_file(text, boolean),
    pg_catalog.pg_read_binary_file(text), pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)
    to {STANDBY_ROLE};
"""
Refused = psycopg.Error
NotAnswering = psycopg.OperationalError  # starting up, shutting down, or gone


def connect(spec: PodSpec, database: str = "postgres") -> psycopg.Connection:
    """A superuser's session, committing each statement."""
    return psycopg.connect(
        host=spec.socket_dir,
        port=spec.port,
        user="postgres",
        dbname=database,
        autocommit=True,
        connect_timeout=10,
        application_name="instance-manager",
    )


def in_recovery(spec: PodSpec) -> bool:
    """`pg_is_in_recovery()`."""
    with connect(spec) as connection:
        row = connection.execute("select pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def promote(spec: PodSpec) -> bool:
    """Make a standby the primary; whether it is one now. The checkpoint is for pg_rewind: it reads the new timeline."""
    with connect(spec) as connection:
        row = connection.execute("select pg_promote(true, 60)").fetchone()
        if not row or not row[0]:
            return False
        connection.execute("checkpoint")
    return True


def ensure_application(spec: PodSpec) -> list[str]:
    """Role and database of the application: made if missing, the owner's password set. Returns what was done."""
    done = []
    with connect(spec) as connection:
        if not _exists(connection, "select 1 from pg_roles where rolname = %s", STANDBY_ROLE):
            connection.execute(_STANDBY_ROLE_SQL.encode())
        if spec.owner:
            if not _exists(connection, "select 1 from pg_roles where rolname = %s", spec.owner):
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(spec.owner)))
                done.append(f"created role {spec.owner}")
            if spec.owner_password_file:
                _set_password(connection, spec.owner, _password(spec.owner_password_file))
                done.append(f"set the password of role {spec.owner}")
        if spec.database and not _exists(connection, "select 1 from pg_database where datname = %s", spec.database):
            statement = sql.SQL("create database {} owner {}").format(
                sql.Identifier(spec.database), sql.Identifier(spec.owner or "postgres")
            )
            connection.execute(statement)
            done.append(f"created database {spec.database}")
        if spec.superuser_password_file:
            _set_password(connection, "postgres", _password(spec.superuser_password_file))
        else:
            connection.execute("alter role postgres password null")
    return done


def run_statements(spec: PodSpec, database: str, statements: Sequence[str]) -> None:
    """The user's own statements after initdb, in order."""
    if not statements:
        return
    with connect(spec, database) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _exists(connection: psycopg.Connection, question: str, name: str) -> bool:
    return connection.execute(question.encode(), [name]).fetchone() is not None


def _password(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").rstrip("\n")


def _set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Sent as a SCRAM verifier: the plain text would show in the server's log."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("alter role {} login password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
    )
