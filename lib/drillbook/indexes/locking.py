"""The lock that a build takes, seen in pg_locks, and who would wait for it, tried from a second session."""

from __future__ import annotations

import threading

from drillbook.errors import PostgresError
from drillbook.indexes.findings import LockSeen
from drillbook.postgres.client import SQL, Database, Identifier

_LOCK_NOT_AVAILABLE = "55P03"
# PostgreSQL's table locks from the weakest, each with the statements that an application or operator takes it by.
_WHO = {
    "ACCESS SHARE": "SELECT",
    "ROW SHARE": "SELECT FOR UPDATE",
    "ROW EXCLUSIVE": "INSERT, UPDATE, DELETE",
    "SHARE UPDATE EXCLUSIVE": "VACUUM, ANALYZE, CREATE INDEX CONCURRENTLY",
    "SHARE": "CREATE INDEX",
    "SHARE ROW EXCLUSIVE": "CREATE TRIGGER, foreign keys",
    "EXCLUSIVE": "REFRESH MATERIALIZED VIEW CONCURRENTLY",
    "ACCESS EXCLUSIVE": "ALTER TABLE, DROP, TRUNCATE",
}
_GLANCE_SECONDS = 0.02
_PID = SQL("SELECT pg_backend_pid() AS pid")
_WAITING = """\
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = %(pid)s AND NOT l.granted) AS waits"""
_MODES = """\
SELECT l.mode FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'relation' AND l.relation = %(table)s::oid AND l.granted AND l.pid = %(pid)s"""


def seen(holder: Database, other: Database, table_oid: int, table: tuple[str, str]) -> LockSeen | None:
    """What ``holder``'s open transaction holds on the table, and which locks ``other`` can't have while it does.

    None for a materialised view, which LOCK TABLE refuses.
    """
    if not _lockable(other, table_oid):
        return None
    return _seen(holder.ask_one(_PID)["pid"], other, table_oid, table)


def seen_while_it_waits(
    builder: Database, other: Database, sql: str, table_oid: int, table: tuple[str, str]
) -> LockSeen | None:
    """Run CREATE INDEX CONCURRENTLY to its end; what it holds while it waits for a writer that ``other`` plays for a moment.

    None for a table that isn't there, or a materialised view. PostgresError if the build fails.
    """
    if not _lockable(other, table_oid):
        builder.run_text(sql)
        return None
    pid, fault = builder.ask_one(_PID)["pid"], list[PostgresError]()
    with other.rolled_back():
        other.run_text(SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(Identifier(*table)))
        build = threading.Thread(target=_run, args=(builder, sql, fault), name="concurrent build")
        build.start()
        while build.is_alive() and not _waits(other, pid):
            build.join(_GLANCE_SECONDS)
        found = _seen(pid, other, table_oid, table) if build.is_alive() else None
    build.join()
    if fault:
        raise fault[0]
    return found


def _lockable(other: Database, table_oid: int) -> bool:
    rows = other.ask(
        SQL("SELECT relkind::text AS kind FROM pg_catalog.pg_class WHERE oid = %(table)s"), table=table_oid
    )
    return bool(rows and rows[0]["kind"] in ("r", "p"))


def _run(builder: Database, sql: str, fault: list[PostgresError]) -> None:
    try:
        builder.run_text(sql)
    except PostgresError as error:
        fault.append(error)


def _waits(other: Database, pid: int) -> bool:
    return bool(other.ask_one(SQL(_WAITING), pid=pid)["waits"])


def _seen(pid: int, other: Database, table_oid: int, table: tuple[str, str]) -> LockSeen:
    modes = [str(row["mode"]) for row in other.ask(SQL(_MODES), table=table_oid, pid=pid)]
    waits = [f"{who} ({mode})" for mode, who in _WHO.items() if not _granted(other, mode, table)]
    # Of the modes that the transaction holds, the strongest is the one that counts.
    order = [mode.replace(" ", "").lower() + "lock" for mode in _WHO]
    held = max(modes, key=lambda mode: order.index(mode.lower()), default="")
    return LockSeen(mode=held, waits=tuple(waits))


def _granted(other: Database, mode: str, table: tuple[str, str]) -> bool:
    try:
        with other.attempt():
            other.run_text(SQL(f"LOCK TABLE {{}} IN {mode} MODE NOWAIT").format(Identifier(*table)))
    except PostgresError as error:
        if error.sqlstate != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True
