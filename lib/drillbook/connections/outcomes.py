"""How each limit fails: it queues, refuses at once or refuses later, with the words and the SQLSTATE that people will see.

The words are PostgreSQL's (``proc.c``, ``miscinit.c``, ``postinit.c``), PgBouncer's (``client.c``, ``janitor.c``,
``objects.c``, ``server.c``) and HikariCP's (``HikariPool.java``). They are compared with what the servers say in the tests.
"""

from __future__ import annotations

from enum import StrEnum

from drillbook.connections.path import PgBouncer, Server
from drillbook.model import Frozen, show_seconds

TOO_MANY = "53300"
PROTOCOL = "08P01"
"""What PgBouncer reports whatever happened; from 1.20 on it passes on the server's own code at log-in."""


class Limit(StrEnum):
    """What can be full, in the order of the path."""

    APP_POOL = "application's pools"
    CLIENTS = "max_client_conn"
    POOL = "default_pool_size"
    POOLER_DATABASE = "max_db_connections"
    POOLER_USER = "max_user_connections"
    ROLE = "role's CONNECTION LIMIT"
    SLOTS = "max_connections"
    DATABASE = "database's CONNECTION LIMIT"


class Way(StrEnum):
    """What happens to a connection that comes when there is, or is not, room."""

    SERVED = "served"
    DELAYED = "served late"
    QUEUED = "queued"
    REFUSED = "refused"


class Outcome(Frozen):
    """What one more connection meets. ``seconds`` is how long it waits: until it is served late, or ends with ``text``.

    None: without end. ``by`` says whose words they are.
    """

    way: Way
    limit: Limit | None = None
    seconds: float | None = 0.0
    text: str = ""
    sqlstate: str = ""
    by: str = ""

    def __str__(self) -> str:
        if self.way is Way.SERVED:
            return "served"
        if self.way is Way.DELAYED:
            return f"waits {show_seconds(self.seconds or 0.0)} for a connection of the reserve"
        said = f"{self.by}: {self.text}" + (f" (SQLSTATE {self.sqlstate})" if self.sqlstate else "")
        if self.way is Way.REFUSED:
            return f"refused at once, {said}"
        if self.seconds is None:
            return "waits without end"
        return f"waits up to {show_seconds(self.seconds)}, then {said}"


SERVED = Outcome(way=Way.SERVED)


def server_text(limit: Limit, server: Server, role: str, database: str, free: int) -> str:
    """PostgreSQL's message; ``free`` is how many slots of ``max_connections`` are left, the reserved ones included."""
    if limit is Limit.ROLE:
        return f'too many connections for role "{role}"'
    if limit is Limit.DATABASE:
        return f'too many connections for database "{database}"'
    if free < 1:
        return "sorry, too many clients already"
    if server.major < 16:
        return "remaining connection slots are reserved for non-replication superuser connections"
    if free <= server.superuser_reserved:
        return "remaining connection slots are reserved for roles with the SUPERUSER attribute"
    return 'remaining connection slots are reserved for roles with privileges of the "pg_use_reserved_connections" role'


def refused_by_server(limit: Limit, text: str) -> Outcome:
    """Of a connection that goes to PostgreSQL directly."""
    return Outcome(way=Way.REFUSED, limit=limit, text=text, sqlstate=TOO_MANY, by="PostgreSQL")


def refused_through(limit: Limit, text: str, pooler: PgBouncer) -> Outcome:
    """Of a client whose instance has no connection to the server at all, and gets none: it is sent PostgreSQL's message.

    The first is refused at once. A client that comes until PgBouncer tries again, up to ``server_login_retry`` later, waits
    for that attempt.
    """
    forwards = pooler.version is None or pooler.version >= (1, 20)  # not known: an image of today
    return Outcome(way=Way.REFUSED, limit=limit, text=text, sqlstate=TOO_MANY if forwards else PROTOCOL, by="PgBouncer")


def too_many_clients() -> Outcome:
    """Of a client beyond ``max_client_conn``."""
    text = "no more connections allowed (max_client_conn)"
    return Outcome(way=Way.REFUSED, limit=Limit.CLIENTS, text=text, sqlstate=PROTOCOL, by="PgBouncer")


def queued(limit: Limit, pooler: PgBouncer, *, logged_in: bool) -> Outcome:
    """Of a client that waits for a server connection; one that was never logged in gives up as such."""
    waits = [(pooler.query_wait_timeout, "query_wait_timeout")]
    if not logged_in:
        waits.append((pooler.client_login_timeout, "client_login_timeout (server down)"))
    ends = [(seconds, text) for seconds, text in waits if seconds]
    if not ends:
        return Outcome(way=Way.QUEUED, limit=limit, seconds=None, by="PgBouncer")
    seconds, text = min(ends)
    return Outcome(way=Way.QUEUED, limit=limit, seconds=seconds, text=text, sqlstate=PROTOCOL, by="PgBouncer")


def waits_in_app(seconds: float) -> Outcome:
    """Of a request that finds its pod's pool empty; also how an application shows that the server refuses new connections."""
    text = f"Connection is not available, request timed out after {seconds * 1000:.0f}ms"
    return Outcome(way=Way.QUEUED, limit=Limit.APP_POOL, seconds=seconds, text=text, by="HikariCP")


__all__ = [
    "PROTOCOL",
    "SERVED",
    "TOO_MANY",
    "Limit",
    "Outcome",
    "Way",
    "queued",
    "refused_by_server",
    "refused_through",
    "server_text",
    "too_many_clients",
    "waits_in_app",
]
