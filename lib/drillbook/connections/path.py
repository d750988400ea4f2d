"""The path of a connection as numbers: the application's pods, PgBouncer's instances, PostgreSQL. Typed values; no I/O."""

from __future__ import annotations

import math

from pydantic import Field

from drillbook.model import Frozen

UNLIMITED = -1
"""How PostgreSQL writes that a role or a database has no limit of its own."""
NO_LIMIT = 1_000_000
"""More than any server has: in place of a size that doesn't limit."""

# PgBouncer's own defaults (its documentation, "config"); CloudNativePG's Pooler leaves them as they are.
DEFAULT_POOL_SIZE = 20
MAX_CLIENT_CONN = 100
RESERVE_POOL_SECONDS = 5.0
QUERY_WAIT_SECONDS = 120.0
CLIENT_LOGIN_SECONDS = 60.0
LOGIN_RETRY_SECONDS = 15.0


class AppPods(Frozen):
    """What the application may ask for: each worker process of each pod has a pool of its own.

    ``most_replicas`` is the autoscaler's maximum. ``surge`` is how many pods more than wanted a rolling update runs at
    once, or ``surge_percent`` which share of them.
    ``startup_pool`` are the connections that a pod opens while it starts and no longer: a migration tool's own pool.
    ``acquire_seconds`` is how long a request waits for a connection of its pod's pool.
    """

    replicas: int
    most_replicas: int
    surge: int = 0
    surge_percent: int = 0
    pool: int
    workers: int = 1
    startup_pool: int = 0
    acquire_seconds: float = 30.0

    def connections(self, pods: int) -> int:
        """How many connections this many pods hold when every pool is full."""
        return pods * self.workers * self.pool

    def rolling(self, replicas: int) -> int:
        """How many at the worst moment of a rolling update: old and new pods at once, the new ones still starting."""
        more = self.surge_of(replicas)
        return self.connections(replicas + more) + more * self.startup_pool

    def surge_of(self, replicas: int) -> int:
        """How many pods more than these a rolling update runs at once; a share is rounded up, as Kubernetes does."""
        return self.surge + math.ceil(replicas * self.surge_percent / 100)


class PgBouncer(Frozen):
    """A Pooler: every size is that of one instance, and no instance knows of the others.

    A pool belongs to one (user, database) pair. 0 in ``max_db_connections`` and ``max_user_connections`` is no limit.
    ``surge`` is how many instances more a rolling update of the Pooler runs at once; ``clients`` are those that an
    instance has already, its exporter's own session among them. Times are in seconds.
    """

    name: str
    instances: int = 1
    surge: int = 0
    mode: str = "session"
    default_pool_size: int = DEFAULT_POOL_SIZE
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    reserve_pool_timeout: float = RESERVE_POOL_SECONDS
    max_db_connections: int = 0
    max_user_connections: int = 0
    max_client_conn: int = MAX_CLIENT_CONN
    clients: int = 0
    query_wait_timeout: float = QUERY_WAIT_SECONDS
    client_login_timeout: float = CLIENT_LOGIN_SECONDS
    server_login_retry: float = LOGIN_RETRY_SECONDS
    version: tuple[int, int] | None = None

    @property
    def pool_size(self) -> int:
        """The pool's size; 0 has meant "no limit" since PgBouncer 1.24, and a single connection before."""
        if self.default_pool_size:
            return self.default_pool_size
        return 1 if self.version is not None and self.version < (1, 24) else NO_LIMIT

    @property
    def reserve(self) -> int:
        """What a pool may open beyond its size, once a client has waited for ``reserve_pool_timeout``."""
        return self.reserve_pool_size if self.reserve_pool_timeout else 0

    @property
    def most_of_a_pair(self) -> int:
        """How many server connections one instance opens for one (user, database) pair at most."""
        limits = (self.pool_size + self.reserve, self.max_db_connections, self.max_user_connections)
        return min(size for size in limits if size)


class Sessions(Frozen):
    """Sessions on the server that do not come along this path: another tenant's, a job's, an administrator's."""

    role: str
    database: str
    count: int


class Server(Frozen):
    """PostgreSQL's own limits, and who is there already. ``reserved`` is ``reserved_connections``, from PostgreSQL 16 on.

    A role or database that is not listed has no limit. Superusers have none of the three.
    """

    major: int
    max_connections: int
    superuser_reserved: int = 3
    reserved: int = 0
    role_limits: dict[str, int] = Field(default_factory=dict)
    database_limits: dict[str, int] = Field(default_factory=dict)
    sessions: tuple[Sessions, ...] = ()

    @property
    def slots(self) -> int:
        """How many sessions there may be that are no superuser's, and have no right to the reserved ones."""
        return self.max_connections - self.superuser_reserved - self.reserved

    @property
    def taken(self) -> int:
        """How many of all slots others have."""
        return sum(item.count for item in self.sessions)

    def of_role(self, role: str) -> int:
        """How many sessions the role has apart from this path."""
        return sum(item.count for item in self.sessions if item.role == role)

    def in_database(self, database: str) -> int:
        """How many sessions the database has apart from this path."""
        return sum(item.count for item in self.sessions if item.database == database)


class Path(Frozen):
    """How an application's connections reach PostgreSQL; ``pgbouncer`` None: directly."""

    role: str
    database: str
    pods: AppPods
    server: Server
    pgbouncer: PgBouncer | None = None


__all__ = ["NO_LIMIT", "UNLIMITED", "AppPods", "Path", "PgBouncer", "Server", "Sessions"]
