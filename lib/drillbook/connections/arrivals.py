"""One connection after the other along a path: which is served, which waits, which is refused, and by which limit.

Each connection that was served stays in a transaction, so that no place becomes free: this is the load at which a limit
begins to be felt. PgBouncer's rules are those of ``launch_new_connection`` and ``find_server`` in its source: the pool's
size, then the database's and the user's limit, then what PostgreSQL answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

from drillbook.connections.outcomes import (
    SERVED,
    Limit,
    Outcome,
    Way,
    queued,
    refused_by_server,
    refused_through,
    server_text,
    too_many_clients,
)
from drillbook.connections.path import UNLIMITED, Path, PgBouncer
from drillbook.model import Frozen

MOST = 20_000
"""Where looking for a limit ends: a path that serves as many is not limited by any of these."""


class Trouble(Frozen):
    """Where the first connection meets a limit: ``served`` came before it; ``instance`` is PgBouncer's, from 0."""

    served: int
    instance: int
    outcome: Outcome


class Occupancy:
    """Who holds what along a path at one moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server = path.server
        self._clients: Counter[int] = Counter()
        self._open: Counter[tuple[int, str, str]] = Counter()  # an instance's connections of a pair
        self._busy: Counter[tuple[int, str, str]] = Counter()
        self._waiting: Counter[tuple[int, str, str]] = Counter()

    def arrive(self, instance: int = 0, *, role: str = "", database: str = "") -> Outcome:
        """One more connection, by default of the path's own role and database; what it meets."""
        pair = (role or self._path.role, database or self._path.database)
        pooler = self._path.pgbouncer
        if pooler is None:
            full = self._full(*pair)
            if full is not None:
                return refused_by_server(full, self._words(full, *pair))
            self._open[0, *pair] += 1
            return SERVED
        if self._clients[instance] + pooler.clients >= pooler.max_client_conn:
            return too_many_clients()
        self._clients[instance] += 1
        found = self._through(pooler, instance, *pair)
        if found.way is Way.REFUSED:
            self._clients[instance] -= 1
        self._keep_minimum(pooler, instance, *pair)
        return found

    def _through(self, pooler: PgBouncer, instance: int, role: str, database: str) -> Outcome:
        place = (instance, role, database)
        if self._busy[place] < self._open[place]:
            self._busy[place] += 1
            return SERVED
        late = self._open[place] >= pooler.pool_size
        limit: Limit | None = None
        if self._open[place] >= pooler.pool_size + pooler.reserve:
            limit = Limit.POOL
        elif pooler.max_db_connections and self._held(instance, database=database) >= pooler.max_db_connections:
            limit = Limit.POOLER_DATABASE
        elif pooler.max_user_connections and self._held(instance, role=role) >= pooler.max_user_connections:
            limit = Limit.POOLER_USER
        else:
            limit = self._full(role, database)
            if limit is not None and not self._open[place]:
                return refused_through(limit, self._words(limit, role, database), pooler)
        if limit is not None:
            self._waiting[place] += 1
            # Full for everybody: those that wait for the reserve already are in front.
            return queued(Limit.POOL if late else limit, pooler, logged_in=bool(self._open[place]))
        self._open[place] += 1
        self._busy[place] += 1
        if late:
            return Outcome(way=Way.DELAYED, limit=Limit.POOL, seconds=pooler.reserve_pool_timeout, by="PgBouncer")
        return SERVED

    def _keep_minimum(self, pooler: PgBouncer, instance: int, role: str, database: str) -> None:
        """``min_pool_size`` is filled as soon as a pool has a client, without evicting anybody's connection."""
        place = (instance, role, database)
        while (
            self._clients[instance]
            and 0 < self._open[place] < min(pooler.min_pool_size, pooler.pool_size)
            and not (pooler.max_db_connections and self._held(instance, database=database) >= pooler.max_db_connections)
            and not (pooler.max_user_connections and self._held(instance, role=role) >= pooler.max_user_connections)
            and self._full(role, database) is None
        ):
            self._open[place] += 1

    def _held(self, instance: int, *, role: str = "", database: str = "") -> int:
        """What an instance holds of a database, or of a user."""
        return sum(
            count
            for (where, its_role, its_database), count in self._open.items()
            if where == instance and its_role == (role or its_role) and its_database == (database or its_database)
        )

    def _full(self, role: str, database: str) -> Limit | None:
        """Which limit of the server refuses one more session, in the order in which PostgreSQL looks."""
        server, opened = self._server, self._open.items()
        of_role = server.of_role(role) + sum(count for (_, its, _), count in opened if its == role)
        in_database = server.in_database(database) + sum(count for (_, _, its), count in opened if its == database)
        if self._free <= 0:  # there is not even a process for it: nobody asks who it is
            return Limit.SLOTS
        if 0 <= server.role_limits.get(role, UNLIMITED) <= of_role:
            return Limit.ROLE
        if server.max_connections - self._free >= server.slots:
            return Limit.SLOTS
        if 0 <= server.database_limits.get(database, UNLIMITED) <= in_database:
            return Limit.DATABASE
        return None

    @property
    def _free(self) -> int:
        """How many slots are left, those for superusers included."""
        return self._server.max_connections - self._server.taken - sum(self._open.values())

    def _words(self, limit: Limit, role: str, database: str) -> str:
        return server_text(limit, self._server, role, database, self._free)

    @property
    def server_connections(self) -> dict[tuple[int, str, str], int]:
        """How many connections to the server each instance holds of each pair."""
        return {place: count for place, count in self._open.items() if count}


def first_trouble(path: Path, instances: Iterable[int]) -> Trouble | None:
    """The first connection of the path's own that isn't served at once, if they come to these instances in turn."""
    occupancy = Occupancy(path)
    for served, instance in enumerate(instances):
        outcome = occupancy.arrive(instance)
        if outcome.way is not Way.SERVED:
            return Trouble(served=served, instance=instance, outcome=outcome)
    return None


def evenly(path: Path, most: int = MOST) -> Iterator[int]:
    """Every instance in turn: the best case."""
    count = path.pgbouncer.instances if path.pgbouncer else 1
    return (number % count for number in range(most))


def all_on_one(most: int = MOST) -> Iterator[int]:
    """All of them on one instance, as long as it serves them: the worst case."""
    return (0 for _ in range(most))


def one_after_the_other(path: Path, most: int = MOST) -> Iterator[int]:
    """Each instance filled before the next: the last is starved if what comes behind is smaller than all of them."""
    pooler = path.pgbouncer
    count, size = 1, most
    if pooler:
        count = pooler.instances
        size = min(pooler.most_of_a_pair, pooler.pool_size, pooler.max_client_conn - pooler.clients)
    return (min(number // max(1, size), count - 1) for number in range(most))


def at_random(path: Path, seed: int, most: int = MOST) -> Iterator[int]:
    """As a Service spreads connections: each to any instance."""
    count = path.pgbouncer.instances if path.pgbouncer else 1
    chance = random.Random(seed)  # noqa: S311 - a simulation that gives the same figures each time
    return (chance.randrange(count) for _ in range(most))


__all__ = ["MOST", "Occupancy", "Trouble", "all_on_one", "at_random", "evenly", "first_trouble", "one_after_the_other"]
