"""What an error about connections means, by its words, its SQLSTATE and what is full at that moment. Pure."""

from __future__ import annotations

import re
from enum import StrEnum

from drillbook.model import Frozen


class Cause(StrEnum):
    """What was full, or what is missing from the path."""

    ROLE = "role's limit"
    DATABASE = "database's limit"
    CLUSTER = "cluster's max_connections"
    CLIENTS = "pooler's clients"
    POOL = "pooler's pool"
    APP_POOL = "application's own pool"
    NO_POOLER = "no pooler on the path"
    UNKNOWN = "unknown"


class Seen(Frozen):
    """What can be seen when it happens; None where it is not known.

    ``through_pooler`` is whether the path goes through PgBouncer, ``pooler_expected`` whether a Pooler of the cluster is
    there, or named by the profile. ``role_sessions`` and ``role_limit`` are the application's role's, ``sessions`` and
    ``slots`` the server's. ``waiting`` are clients that wait in PgBouncer, ``pool_used`` and ``pool_size`` the fullest
    instance's server connections.
    """

    through_pooler: bool
    pooler_expected: bool = False
    role_sessions: int | None = None
    role_limit: int | None = None
    sessions: int | None = None
    slots: int | None = None
    waiting: int | None = None
    pool_used: int | None = None
    pool_size: int | None = None


class Diagnosis(Frozen):
    """The cause, how it is known, and what to do about it."""

    cause: Cause
    because: str
    todo: str


_WORDS = (
    (Cause.ROLE, r"too many connections for role"),
    (Cause.DATABASE, r"too many connections for database"),
    (Cause.CLUSTER, r"sorry, too many clients already|remaining connection slots are reserved"),
    (Cause.CLIENTS, r"no more connections allowed \(max_client_conn\)|max_(?:db|user)_client_connections"),
    (Cause.POOL, r"query_wait_timeout|client_login_timeout \(server down\)"),
    (
        Cause.APP_POOL,
        r"Connection is not available, request timed out|couldn't get a connection after|QueuePool limit of size",
    ),
)
_TODO = {
    Cause.ROLE: "Lower pool × replicas (and PgBouncer's pool × instances) below the role's CONNECTION LIMIT, or raise it in "
    "the Cluster's spec.managed.roles.",
    Cause.DATABASE: "Raise the database's CONNECTION LIMIT, or find who else uses the database.",
    Cause.CLUSTER: "Find the tenant that grew (sessions by role), give every role a limit, then raise max_connections "
    "(a restart).",
    Cause.CLIENTS: "Raise max_client_conn of the Pooler (each instance has its own), or lower pool × replicas.",
    Cause.POOL: "Look for long transactions first; then raise the Pooler's default_pool_size as far as the role's limit "
    "over all instances allows.",
    Cause.APP_POOL: "Look for connections that are held long (a leak, a slow query); the server and PgBouncer have room, "
    "so a larger pool is possible.",
    Cause.NO_POOLER: "Point the application's address at the Pooler's Service: sizing PgBouncer changes nothing before.",
    Cause.UNKNOWN: "Read the whole message with its cause.",
}


def diagnose(text: str, sqlstate: str, seen: Seen) -> Diagnosis:
    """The cause behind one error text, of PostgreSQL, PgBouncer or an application's pool.

    An application's own pool reports a time-out for everything behind it as well: then what is full decides. Where a
    Pooler is there and the connection didn't come through it, that is the cause: its limits never held.
    """
    cause = next((cause for cause, words in _WORDS if re.search(words, text, re.IGNORECASE)), None)
    if cause is None and sqlstate == "53300":  # the server's words in another language: what is full decides
        full = _behind(seen, in_pooler=True)
        cause = full[0] if full else Cause.CLUSTER
    if cause is None:
        return _found(Cause.UNKNOWN, f"neither the words nor SQLSTATE {sqlstate or '(none)'} are about connections")
    because = f'"{_shown(text)}"'
    if cause in (Cause.APP_POOL, Cause.POOL):
        behind = _behind(seen, in_pooler=cause is Cause.POOL)
        if behind is not None:
            cause, why = behind
            because += f", and {why}"
    if cause in (Cause.ROLE, Cause.DATABASE, Cause.CLUSTER) and seen.pooler_expected and not seen.through_pooler:
        return _found(Cause.NO_POOLER, f"{because}, and the connection did not come through PgBouncer")
    return _found(cause, because)


def _behind(seen: Seen, *, in_pooler: bool) -> tuple[Cause, str] | None:
    """What is full behind a pool that timed out, the nearest to the server first."""
    if _full(seen.sessions, seen.slots):
        return Cause.CLUSTER, f"{seen.sessions} of the server's {seen.slots} sessions are in use"
    if seen.role_limit is not None and seen.role_limit >= 0 and _full(seen.role_sessions, seen.role_limit):
        return Cause.ROLE, f"the role has {seen.role_sessions} of its {seen.role_limit} sessions"
    if not in_pooler and seen.through_pooler and (seen.waiting or 0) > 0:
        return Cause.POOL, f"{seen.waiting} clients wait in PgBouncer"
    return None


def _full(used: int | None, limit: int | None) -> bool:
    return used is not None and limit is not None and used >= limit


def _found(cause: Cause, because: str) -> Diagnosis:
    return Diagnosis(cause=cause, because=because, todo=_TODO[cause])


def _shown(text: str) -> str:
    """The message's last line of substance, without where it came from."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0].rpartition("FATAL:")[2].strip() or lines[0])[:200] if lines else ""


__all__ = ["Cause", "Diagnosis", "Seen", "diagnose"]
