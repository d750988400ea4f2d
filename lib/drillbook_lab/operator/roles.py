"""`managed.roles`: the database's roles brought in line with the Cluster's spec, by SQL, and their state told.

A password travels as a SCRAM verifier that is computed here: the statement in the server's log, should it
ever get there, doesn't hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator

_FLAGS = {
    "superuser": ("rolsuper", "SUPERUSER"),
    "createdb": ("rolcreatedb", "CREATEDB"),
    "createrole": ("rolcreaterole", "CREATEROLE"),
    "inherit": ("rolinherit", "INHERIT"),
    "login": ("rolcanlogin", "LOGIN"),
    "replication": ("rolreplication", "REPLICATION"),
    "bypassrls": ("rolbypassrls", "BYPASSRLS"),
}
_RESERVED = ("postgres", "streaming_replica", "cnpg_pooler_pgbouncer")


@dataclass
class Outcome:
    """What came of one pass over the roles."""

    by_status: dict[str, list[str]] = field(default_factory=dict)
    cannot: dict[str, list[str]] = field(default_factory=dict)
    passwords: dict[str, dict[str, Any]] = field(default_factory=dict)

    def status(self) -> Object:
        """The outcome as `status.managedRolesStatus`."""
        return {"byStatus": self.by_status, "cannotReconcile": self.cannot, "passwordStatus": self.passwords}


async def connect(socket_dir: str, dbname: str = "postgres") -> psycopg.AsyncConnection[Any]:
    """A superuser's session through the pod's private socket."""
    return await psycopg.AsyncConnection.connect(
        host=socket_dir,
        user="postgres",
        dbname=dbname,
        autocommit=True,
        connect_timeout=5,
        application_name="cnpg-instance-manager",
    )


async def set_password(connection: psycopg.AsyncConnection[Any], role: str, password: str) -> None:
    """Give a role a password without sending it."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))


async def reconcile(operator: Operator, cluster: Object, connection: psycopg.AsyncConnection[Any]) -> Outcome:
    """Bring every managed role in line; what can't be done is reported, and the others are still done."""
    outcome = Outcome()
    managed = (cluster["spec"].get("managed") or {}).get("roles") or []
    known = ((cluster.get("status") or {}).get("managedRolesStatus") or {}).get("passwordStatus") or {}
    names = {role["name"] for role in managed}
    cursor = await connection.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1")
    unmanaged = [row[0] for row in await cursor.fetchall() if row[0] not in names and row[0] not in _RESERVED]
    # Roles before memberships: one managed role may be a member of another.
    for role in sorted(managed, key=lambda entry: len(entry.get("inRoles") or ())):
        name = role["name"]
        try:
            if role.get("ensure") == "absent":
                await connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
            else:
                await _attributes(connection, role)
                await _memberships(connection, role)
                await _password(operator, cluster, connection, role, known, outcome)
        except (psycopg.Error, LookupError) as fault:
            outcome.cannot.setdefault(name, []).append(_reason(fault))
            outcome.by_status.setdefault("pending-reconciliation", []).append(name)
        else:
            outcome.by_status.setdefault("reconciled", []).append(name)
    outcome.by_status["reserved"] = ["postgres", "streaming_replica"]
    if unmanaged:
        outcome.by_status["not-managed"] = unmanaged
    return outcome


async def _attributes(connection: psycopg.AsyncConnection[Any], role: Mapping[str, Any]) -> None:
    name = sql.Identifier(role["name"])
    columns = ", ".join(column for column, _ in _FLAGS.values())
    query = (
        f"SELECT {columns}, rolconnlimit, rolvaliduntil, shobj_description(oid, 'pg_authid')"
        " FROM pg_roles WHERE rolname = %s"
    )
    cursor = await connection.execute(query.encode(), [role["name"]])
    current = await cursor.fetchone()
    words = []
    for index, (field_name, (_, keyword)) in enumerate(_FLAGS.items()):
        wanted = bool(role.get(field_name, field_name == "inherit"))
        if current is None or current[index] != wanted:
            words.append(keyword if wanted else f"NO{keyword}")
    limit = int(role.get("connectionLimit", -1))
    if current is None or current[len(_FLAGS)] != limit:
        words.append(f"CONNECTION LIMIT {limit}")
    statement = sql.SQL("CREATE ROLE {}" if current is None else "ALTER ROLE {}").format(name)
    if current is None or words:
        await connection.execute(statement + sql.SQL(" " + " ".join(words)))
    if role.get("validUntil"):
        await connection.execute(sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(name, sql.Literal(role["validUntil"])))
    # A statement without need would use a transaction id at every resync.
    if role.get("comment") and (current is None or current[-1] != role["comment"]):
        await connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(role["comment"])))


async def _memberships(connection: psycopg.AsyncConnection[Any], role: Mapping[str, Any]) -> None:
    cursor = await connection.execute(
        "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s",
        [role["name"]],
    )
    current = {row[0] for row in await cursor.fetchall()}
    wanted = set(role.get("inRoles") or ())
    name = sql.Identifier(role["name"])
    for parent in sorted(wanted - current):
        await connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(parent), name))
    for parent in sorted(current - wanted):
        await connection.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(parent), name))


async def _password(
    operator: Operator,
    cluster: Object,
    connection: psycopg.AsyncConnection[Any],
    role: Mapping[str, Any],
    known: Mapping[str, Any],
    outcome: Outcome,
) -> None:
    name = role["name"]
    if role.get("disablePassword"):
        await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD NULL").format(sql.Identifier(name)))
        return
    reference = (role.get("passwordSecret") or {}).get("name")
    if not reference:
        return
    secret = operator.find("Secret", cluster["metadata"]["namespace"], reference)
    if secret is None:
        raise LookupError(f"secret {reference!r} not found")
    values = objects.decoded(secret)
    if values.get("username") != name:
        raise LookupError(f"wrong username {values.get('username')!r} in secret {reference!r}, expected {name!r}")
    version = secret["metadata"]["resourceVersion"]
    previous = known.get(name) or {}
    if previous.get("resourceVersion") == version:
        outcome.passwords[name] = dict(previous)
        return
    await set_password(connection, name, values.get("password", ""))
    cursor = await connection.execute("SELECT xmin::text::bigint FROM pg_authid WHERE rolname = %s", [name])
    row = await cursor.fetchone()
    outcome.passwords[name] = {"resourceVersion": version, "transactionID": int(row[0]) if row else 0}


def _reason(fault: Exception) -> str:
    """The server's own sentence, without the statement around it."""
    if isinstance(fault, psycopg.Error):
        return (fault.diag.message_primary or str(fault)).strip()
    return str(fault.args[0]) if fault.args else str(fault)
