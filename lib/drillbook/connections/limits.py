"""Every limit on a path, how many connections each admits, and which one binds at a given demand. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum

from drillbook.connections.arrivals import MOST, all_on_one, at_random, evenly, first_trouble, one_after_the_other
from drillbook.connections.outcomes import Limit, Outcome, waits_in_app
from drillbook.connections.path import NO_LIMIT, UNLIMITED, Path, PgBouncer, Sessions
from drillbook.model import Frozen

HEADROOM = 0.7
"""Which share of the binding limit may be used before it is decided again: the 30 % that Amazon's documentation of RDS
Proxy recommends to leave over the recent maximum of connections."""
_SEEDS = 40  # ways in which a Service may spread connections; the least lucky twentieth of them counts


class Room(Frozen):
    """How many of the application's connections are served before the first one meets a limit.

    ``evenly``: spread over PgBouncer's instances in turn. ``unluckily``: spread at random, the worst of twenty. ``worst``:
    all on one instance. ``starved``: what a client meets on an instance that the others have left nothing; None: it can't
    happen. 0 for "no limit on the path" is written as None.
    """

    evenly: int | None
    unluckily: int | None
    worst: int | None
    first: Outcome | None
    starved: Outcome | None = None
    limit: Limit | None = None


class LimitRow(Frozen):
    """One limit on its own: how large, how many times, in use today, and what the first connection beyond it meets."""

    limit: Limit
    place: str
    size: int | None  # of one instance where there are several; None: no limit
    times: int = 1
    used: int = 0  # by others and by the application, today
    admits: int | None = None  # of the application's connections, spread evenly
    admits_worst: int | None = None
    outcome: Outcome | None = None

    @property
    def ceiling(self) -> int | None:
        """70 % of what it admits: beyond, decide again."""
        return None if self.admits is None else math.floor(HEADROOM * self.admits)


def room(path: Path) -> Room:
    """What a path serves, with all of its limits."""
    best = first_trouble(path, evenly(path))
    if best is None:
        return Room(evenly=None, unluckily=None, worst=None, first=None)
    pooler = path.pgbouncer
    if pooler is None or pooler.instances < 2:
        return Room(
            evenly=best.served,
            unluckily=best.served,
            worst=best.served,
            first=best.outcome,
            limit=best.outcome.limit,
        )
    drawn = sorted(_served(path, at_random(path, seed)) for seed in range(_SEEDS))
    filled = first_trouble(path, one_after_the_other(path))
    starves = filled is not None and filled.outcome.limit in _SERVER and filled.outcome.limit is not None
    return Room(
        evenly=best.served,
        unluckily=drawn[_SEEDS // 20],
        worst=_served(path, all_on_one()),
        first=best.outcome,
        starved=filled.outcome if starves and filled else None,
        limit=best.outcome.limit,
    )


def rows(path: Path, sessions: int = 0) -> list[LimitRow]:
    """Every limit on the path, each as if it were the only one; ``sessions`` is what the application has today."""
    pods, server, pooler = path.pods, path.server, path.pgbouncer
    most = pods.connections(pods.replicas)
    found = [
        LimitRow(
            limit=Limit.APP_POOL,
            place="each pod" if pods.workers == 1 else f"each of {pods.workers} processes of a pod",
            size=pods.pool,
            times=pods.replicas * pods.workers,
            used=sessions,
            admits=most,
            admits_worst=pods.pool,
            outcome=waits_in_app(pods.acquire_seconds),
        )
    ]
    if pooler is not None:
        each = f"each of {pooler.instances} instances of Pooler {pooler.name}"
        found += [
            _row(path, limit, each, size, times=pooler.instances, used=used)
            for limit, size, used in (
                (Limit.CLIENTS, pooler.max_client_conn, pooler.clients),
                (Limit.POOL, _shown(pooler.pool_size + pooler.reserve), 0),
                (Limit.POOLER_DATABASE, pooler.max_db_connections or None, 0),
                (Limit.POOLER_USER, pooler.max_user_connections or None, 0),
            )
        ]
    role, database = server.role_limits.get(path.role, UNLIMITED), server.database_limits.get(path.database, UNLIMITED)
    found += [
        _row(path, Limit.ROLE, f"role {path.role}", _of(role), used=sessions + server.of_role(path.role)),
        _row(path, Limit.SLOTS, "PostgreSQL, all tenants", server.slots, used=sessions + server.taken),
        _row(
            path,
            Limit.DATABASE,
            f"database {path.database}",
            _of(database),
            used=sessions + server.in_database(path.database),
        ),
    ]
    return found


class Moment(StrEnum):
    """When the limits are asked for: how many pods, how many PgBouncers, who else is there."""

    STEADY = "steady"
    ROLLOUT = "rolling update of the application"
    AUTOSCALED = "autoscaler's maximum, and a rolling update then"
    POOLER_ROLLOUT = "rolling update of the Pooler"
    POOLER_LOST = "one PgBouncer lost"
    FAILOVER = "failover: every tenant reconnects at once"


class Judged(Frozen):
    """A path at one moment: how many connections are wanted, how many are served, and what binds."""

    moment: Moment
    users: int | None
    replicas: int
    demand: int
    served: int | None
    unluckily: int | None
    limit: Limit
    outcome: Outcome
    starved: Outcome | None = None

    @property
    def breaks(self) -> bool:
        """Whether more is wanted than is served."""
        return self.served is not None and self.demand > self.served

    @property
    def starves(self) -> bool:
        """Whether chance alone can bring it about: it is served if spread evenly, and not as a Service may spread it."""
        return not self.breaks and self.unluckily is not None and self.demand > self.unluckily

    @property
    def headroom(self) -> int | None:
        """What is left below 70 % of what is served; negative: decide now."""
        return None if self.served is None else math.floor(HEADROOM * self.served) - self.demand


def judge(path: Path, *, replicas: int | None = None, users: int | None = None) -> list[Judged]:
    """The path at every moment, with so many replicas; those of a Pooler only where there is one."""
    pods, pooler = path.pods, path.pgbouncer
    count = pods.replicas if replicas is None else replicas
    largest = max(count, pods.most_replicas)
    moments: list[tuple[Moment, Path, int, int]] = [
        (Moment.STEADY, path, count, pods.connections(count)),
        (Moment.ROLLOUT, path, count, pods.rolling(count)),
        *([(Moment.AUTOSCALED, path, largest, pods.rolling(largest))] if pods.most_replicas > pods.replicas else []),
        (Moment.FAILOVER, _all_back(path), count, pods.connections(count)),
    ]
    if pooler is not None:
        more = path.model_copy(update={"pgbouncer": _instances(pooler, pooler.instances + pooler.surge)})
        moments.append((Moment.POOLER_ROLLOUT, more, count, pods.connections(count)))
        if pooler.instances > 1:
            fewer = path.model_copy(update={"pgbouncer": _instances(pooler, pooler.instances - 1)})
            moments.append((Moment.POOLER_LOST, fewer, count, pods.connections(count)))
    return [_judged(moment, at, number, demand, users) for moment, at, number, demand in moments]


def binding(judged: list[Judged]) -> Judged:
    """The moment at which the least is left, or the most is missing."""
    return min(judged, key=lambda item: NO_LIMIT if item.headroom is None else item.headroom)


def pooled_servers(pooler: PgBouncer, pairs: int = 1) -> int:
    """How many connections to the server a Pooler opens at most: the sum over its instances that nothing else computes."""
    return pooler.instances * pooler.most_of_a_pair * pairs


_SERVER = {Limit.ROLE, Limit.SLOTS, Limit.DATABASE}


def _judged(moment: Moment, path: Path, replicas: int, demand: int, users: int | None) -> Judged:
    there = room(path)
    inner = there.limit is None or there.evenly is None or demand <= there.evenly
    return Judged(
        moment=moment,
        users=users,
        replicas=replicas,
        demand=demand,
        served=there.evenly,
        unluckily=there.unluckily,
        # Nothing behind the application's own pools is full then: they are the narrowest place.
        limit=Limit.APP_POOL if inner or there.limit is None else there.limit,
        outcome=waits_in_app(path.pods.acquire_seconds) if inner or there.first is None else there.first,
        starved=there.starved,
    )


def _all_back(path: Path) -> Path:
    """After a failover: each other tenant may take what its role's limit allows."""
    server = path.server
    others = [
        item.model_copy(update={"count": max(item.count, server.role_limits.get(item.role, UNLIMITED))})
        if item.role != path.role
        else item
        for item in _by_role(path)
    ]
    return path.model_copy(update={"server": server.model_copy(update={"sessions": tuple(others)})})


def _by_role(path: Path) -> list[Sessions]:
    """Each other role's sessions in one: its limit is one for all databases."""
    own = [item for item in path.server.sessions if item.role == path.role]
    roles = dict.fromkeys(item.role for item in path.server.sessions if item.role != path.role)
    return own + [Sessions(role=role, database="", count=path.server.of_role(role)) for role in roles]


def _instances(pooler: PgBouncer, count: int) -> PgBouncer:
    return pooler.model_copy(update={"instances": count})


def _row(path: Path, limit: Limit, place: str, size: int | None, *, times: int = 1, used: int = 0) -> LimitRow:
    row = LimitRow(limit=limit, place=place, size=size, times=times, used=used)
    if size is None:
        return row
    alone = _only(path, limit)
    best = first_trouble(alone, evenly(alone))
    if best is None:
        return row
    return row.model_copy(
        update={"admits": best.served, "admits_worst": _served(alone, all_on_one()), "outcome": best.outcome}
    )


def _only(path: Path, limit: Limit) -> Path:
    """The path as if nothing else on it could be full."""
    server, pooler = path.server, path.pgbouncer
    wide: dict[str, object] = {
        "role_limits": server.role_limits if limit is Limit.ROLE else {},
        "database_limits": server.database_limits if limit is Limit.DATABASE else {},
    }
    if limit is not Limit.SLOTS:
        wide |= {"max_connections": NO_LIMIT}
    update: dict[str, object] = {"server": server.model_copy(update=wide)}
    if pooler is not None:
        update["pgbouncer"] = pooler.model_copy(
            update={
                "min_pool_size": 0,
                "default_pool_size": pooler.pool_size if limit is Limit.POOL else NO_LIMIT,
                "reserve_pool_size": 0,
                "max_db_connections": pooler.max_db_connections if limit is Limit.POOLER_DATABASE else 0,
                "max_user_connections": pooler.max_user_connections if limit is Limit.POOLER_USER else 0,
                "max_client_conn": pooler.max_client_conn if limit is Limit.CLIENTS else NO_LIMIT,
            }
        )
    return path.model_copy(update=update)


def _served(path: Path, order: Iterator[int]) -> int:
    trouble = first_trouble(path, order)
    return MOST if trouble is None else trouble.served


def _of(limit: int) -> int | None:
    return None if limit == UNLIMITED else limit


def _shown(size: int) -> int | None:
    return None if size >= NO_LIMIT else size


__all__ = ["HEADROOM", "Judged", "LimitRow", "Moment", "Room", "binding", "judge", "pooled_servers", "room", "rows"]
