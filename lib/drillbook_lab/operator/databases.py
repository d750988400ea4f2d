"""Databases: made as declared by the Cluster's primary, once a generation; nobody looks again whether they still are.

Deleting the object drops the database only where its reclaim policy says so. With its Cluster an object loses its
finalizer and says so; when a Cluster of that name is back, it is applied again.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import replication, roles
from drillbook_lab.operator.context import Operator

FINALIZER = "cnpg.io/deleteDatabase"
_CLUSTER_GONE = "cluster resource has been deleted, skipping reconciliation"
_AFTER_FAILURE_SECONDS = 30.0  # as recorded
_NO_PRIMARY_SECONDS = 1.0
_EXISTS = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s"
# The spec's fields as `CREATE DATABASE` takes them: an identifier, a string, or a plain value.
_OPTIONS = {
    "template": ("TEMPLATE", sql.Identifier),
    "tablespace": ("TABLESPACE", sql.Identifier),
    "encoding": ("ENCODING", sql.Literal),
    "locale": ("LOCALE", sql.Literal),
    "localeProvider": ("LOCALE_PROVIDER", sql.Identifier),
    "localeCollate": ("LC_COLLATE", sql.Literal),
    "localeCType": ("LC_CTYPE", sql.Literal),
    "icuLocale": ("ICU_LOCALE", sql.Literal),
    "icuRules": ("ICU_RULES", sql.Literal),
    "builtinLocale": ("BUILTIN_LOCALE", sql.Literal),
    "collationVersion": ("COLLATION_VERSION", sql.Literal),
}
# What can also be changed later, by `ALTER DATABASE ... WITH`.
_CHANGEABLE = {
    "allowConnections": "ALLOW_CONNECTIONS",
    "connectionLimit": "CONNECTION LIMIT",
    "isTemplate": "IS_TEMPLATE",
}


class Databases:
    """Reconciles Database objects."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Apply one Database, or let it go; the answer is when to look again."""
        declared = self._operator.find("Database", namespace, name)
        if declared is None:
            return None
        meta = declared["metadata"]
        cluster = self._operator.find("Cluster", namespace, declared["spec"]["cluster"]["name"])
        if cluster is None or cluster["metadata"].get("deletionTimestamp"):
            if FINALIZER not in (meta.get("finalizers") or ()):
                return _NO_PRIMARY_SECONDS if cluster is None and not meta.get("deletionTimestamp") else None
            self._tell(declared, _CLUSTER_GONE)
            self._finalizer(declared, keep=False)
            return _NO_PRIMARY_SECONDS
        if not meta.get("deletionTimestamp") and FINALIZER not in (meta.get("finalizers") or ()):
            self._finalizer(declared, keep=True)
            return 0.0
        if (
            not meta.get("deletionTimestamp")
            and (declared.get("status") or {}).get("observedGeneration") == meta["generation"]
        ):
            return None
        try:
            worker = self._operator.kubelet.worker(namespace, replication.current_primary(cluster))
            async with await roles.connect(str(worker.places.socket_dir)) as connection:
                fault = await _brought_about(declared, connection)
        except (KeyError, psycopg.OperationalError):
            return _NO_PRIMARY_SECONDS  # no primary, or none that answers yet
        if fault:
            self._tell(declared, fault)
            return _AFTER_FAILURE_SECONDS
        if meta.get("deletionTimestamp"):
            self._finalizer(declared, keep=False)
        else:
            done = {"applied": True, "message": None, "observedGeneration": meta["generation"]}
            self._operator.set_status(declared, done)
        return None

    def _tell(self, declared: Object, why: str) -> None:
        self._operator.set_status(declared, {"applied": False, "message": why, "observedGeneration": None})

    def _finalizer(self, declared: Object, *, keep: bool) -> None:
        meta = declared["metadata"]
        others = [entry for entry in meta.get("finalizers") or () if entry != FINALIZER]
        wanted = [*others, FINALIZER] if keep else others
        self._operator.registry.patch(
            "Database", meta["namespace"], meta["name"], {"metadata": {"finalizers": wanted or None}}
        )


async def _brought_about(declared: Object, connection: psycopg.AsyncConnection[Any]) -> str:
    """Create, change or drop; "" when it is done, else why not, in the instance manager's words."""
    spec = declared["spec"]
    there = await (await connection.execute(_EXISTS, [spec["name"]])).fetchone() is not None
    leaving = bool(declared["metadata"].get("deletionTimestamp"))
    doing, statements = "updating", _changes(spec)
    if leaving or spec["ensure"] == "absent":
        drops = there and (not leaving or spec["databaseReclaimPolicy"] == "delete")
        doing, statements = (
            "dropping",
            [sql.SQL("DROP DATABASE {}").format(sql.Identifier(spec["name"]))] if drops else [],
        )
    elif not there:
        doing, statements = "creating", [_creation(spec)]
    try:
        for statement in statements:
            await connection.execute(statement)
    except psycopg.OperationalError as fault:
        if fault.sqlstate is None:
            raise  # the connection was lost
        return _words(doing, spec["name"], fault)
    except psycopg.Error as fault:
        return _words(doing, spec["name"], fault)
    return ""


def _words(doing: str, name: str, fault: psycopg.Error) -> str:
    said = f"{fault.diag.severity}: {fault.diag.message_primary} (SQLSTATE {fault.sqlstate})"
    return f'while {doing} database "{name}": {said}'


def _creation(spec: Object) -> sql.Composed:
    words = [sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(spec["name"]), sql.Identifier(spec["owner"]))]
    words += [
        sql.SQL(f"{word} {{}}").format(kind(spec[key])) for key, (word, kind) in _OPTIONS.items() if spec.get(key)
    ]
    words += [
        sql.SQL(f"{word} {{}}").format(sql.Literal(spec[key])) for key, word in _CHANGEABLE.items() if key in spec
    ]
    return sql.SQL(" ").join(words)


def _changes(spec: Object) -> list[sql.Composed]:
    name = sql.Identifier(spec["name"])
    made = [sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(spec["owner"]))]
    if spec.get("tablespace"):
        made.append(sql.SQL("ALTER DATABASE {} SET TABLESPACE {}").format(name, sql.Identifier(spec["tablespace"])))
    given = [sql.SQL(f"{word} {{}}").format(sql.Literal(spec[key])) for key, word in _CHANGEABLE.items() if key in spec]
    return [*made, *(sql.SQL("ALTER DATABASE {} WITH {}").format(name, option) for option in given)]
