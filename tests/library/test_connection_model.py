"""The model of the limits on a path against real PgBouncer and PostgreSQL: which connection meets which limit, and how.

Each configuration is drawn from a seed. Clients come one after the other and stay in a transaction, until the first one
isn't served; what it meets must be what the model said before.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, Server, running
from tests.library.fix_pgbouncer import NO_PROGRAM, PATIENCE_SECONDS, PROGRAM, Client, Instance, instances

from drillbook.connections.arrivals import (
    Occupancy,
    Trouble,
    all_on_one,
    at_random,
    evenly,
    first_trouble,
    one_after_the_other,
)
from drillbook.connections.outcomes import TOO_MANY, Limit, Way
from drillbook.connections.path import AppPods, Path, PgBouncer, Sessions
from drillbook.connections.path import Server as Limits
from drillbook_lab.operator import pooler_config

ROLE, OTHER, DATABASE = "app", "tenant", "shop"
MOST, RESERVED_FOR_SUPERUSERS, RESERVED = 40, 3, 2
PODS = AppPods(replicas=1, most_replicas=1, pool=1)
SOON = {"query_wait_timeout": 2, "client_login_timeout": 3, "server_login_retry": 1, "reserve_pool_timeout": 1}
STARVED = 4
"""Every so many configurations one starves its last instance on purpose."""

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason=NO_PROGRAM)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with few slots, and two roles without rights of their own to the reserved ones."""
    settings = {
        "max_connections": str(MOST),
        "superuser_reserved_connections": str(RESERVED_FOR_SUPERUSERS),
        "reserved_connections": str(RESERVED),
        "log_line_prefix": "%e ",
    }
    with running(tmp_path_factory.mktemp("shop"), settings=settings) as server:
        server.sql("postgres", f"create database {DATABASE}")
        for role in (ROLE, OTHER):
            server.sql("postgres", f"create role {role} login password '{PASSWORD}'")
        yield server


def drawn(seed: int) -> tuple[Path, list[int]]:
    """A path, and the instances to which its connections come in turn."""
    chance = random.Random(seed)  # noqa: S311 - the same configuration each time
    others = chance.choice([0, 0, 2, 20, 25])
    server = Limits(
        major=18,
        max_connections=MOST,
        superuser_reserved=RESERVED_FOR_SUPERUSERS,
        reserved=RESERVED,
        role_limits={ROLE: chance.choice([-1, 5, 8, 11, 14])},
        database_limits={DATABASE: chance.choice([-1, -1, 6, 12])},
        sessions=tuple(
            item
            for item in (
                Sessions(role=OTHER, database="postgres", count=others),
                Sessions(role=ROLE, database=DATABASE, count=chance.choice([0, 0, 1, 3])),
            )
            if item.count
        ),
    )
    if seed % STARVED == 0:
        limit = chance.randrange(5, 12)
        size = chance.randrange(limit, limit + 4)
        tenant = tuple(item for item in server.sessions if item.role == OTHER and others < 20)
        server = server.model_copy(update={"role_limits": {ROLE: limit}, "database_limits": {}, "sessions": tenant})
        pooler = PgBouncer(
            name="starving", instances=3, mode="transaction", default_pool_size=size, max_db_connections=size, **SOON
        )
        order = [*(number % 2 for number in range(limit)), 2]
        return Path(role=ROLE, database=DATABASE, pods=PODS, server=server, pgbouncer=_as_here(pooler)), order
    if seed % 5 == 1:
        path = Path(role=ROLE, database=DATABASE, pods=PODS, server=server)
        return path, [0] * MOST
    size = chance.randrange(2, 8)
    pooler = PgBouncer(
        name="drawn",
        instances=chance.choice([1, 2, 3]),
        mode=chance.choice(["transaction", "session"]),
        default_pool_size=size,
        min_pool_size=chance.choice([0, 0, 2]),
        reserve_pool_size=chance.choice([0, 0, 0, 2]),
        max_db_connections=chance.choice([0, 0, size, size + 1, size - 1]),
        max_user_connections=chance.choice([0, 0, 0, size - 1]),
        max_client_conn=chance.choice([100, 100, 3, 5]),
        **SOON,
    )
    path = Path(role=ROLE, database=DATABASE, pods=PODS, server=server, pgbouncer=_as_here(pooler))
    ways = [evenly(path, MOST), all_on_one(MOST), one_after_the_other(path, MOST), at_random(path, seed, MOST)]
    return path, list(ways[seed % len(ways)])


def _as_here(pooler: PgBouncer) -> PgBouncer:
    return pooler.model_copy(update={"version": pooler_config.version(PROGRAM or "")})


def set_up(server: Server, path: Path) -> list[psycopg.Connection[Any]]:
    """The limits, and the sessions that are there already; nobody else is."""
    limits = path.server
    role, database = limits.role_limits.get(ROLE, -1), limits.database_limits.get(DATABASE, -1)
    server.sql("postgres", f"alter role {ROLE} connection limit -1", f"alter database {DATABASE} connection limit -1")
    alone(server, 0)
    there = [
        psycopg.connect(
            host=server.address.host,
            port=server.address.port,
            user=item.role,
            password=PASSWORD,
            dbname=item.database,
            autocommit=True,
        )
        for item in limits.sessions
        for _ in range(item.count)
    ]
    server.sql(
        "postgres",
        f"alter role {ROLE} connection limit {role}",
        f"alter database {DATABASE} connection limit {database}",
    )
    alone(server, len(there))
    return there


def alone(server: Server, expected: int) -> None:
    """Wait until so many sessions are there, and then until the one that counted them is gone."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with server.superuser("postgres") as db:
        while True:
            ((count,),) = db.ask_text(
                "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
            if count == expected:
                break
            assert time.monotonic() < deadline, f"{count} sessions, not {expected}"
            time.sleep(0.05)
    time.sleep(0.3)


@dataclass
class Met:
    """How many were served, the first that wasn't at once, and what a log-in at the same place is answered."""

    served: int
    instance: int
    client: Client
    from_reserve: bool
    refusal: tuple[str, str] | None = None


def met(server: Server, path: Path, order: list[int], pgbouncers: list[Instance], *, again: bool) -> Met:
    """Let the connections come; ``again``: one more comes to where the first was refused."""
    clients: list[Client] = []
    try:
        for number, instance in enumerate(order):
            port = pgbouncers[instance].port if pgbouncers else server.address.port
            address = {
                "host": server.address.host,
                "port": port,
                "user": ROLE,
                "dbname": DATABASE,
                "password": PASSWORD,
            }
            before = _from_reserve(pgbouncers)
            client = Client(address).start()
            assert client.ended.wait(PATIENCE_SECONDS), "neither served nor refused"
            clients.append(client)
            # It is logged before the other limits are looked at, too.
            late = client.served.is_set() and _from_reserve(pgbouncers) > before
            if late or not client.served.is_set():
                found = Met(number, instance, client, late)
                if again and not late:
                    found.refusal = refusal(port, ROLE, DATABASE)
                return found
            _settle(path, pgbouncers, instance)
        raise AssertionError(f"all {len(order)} were served")
    finally:
        for client in clients:
            client.leave()


def _from_reserve(pgbouncers: list[Instance]) -> int:
    return sum(instance.log.count("taking connection from reserve_pool") for instance in pgbouncers)


def _settle(path: Path, pgbouncers: list[Instance], instance: int) -> None:
    """``min_pool_size`` is filled by PgBouncer's housekeeping, a connection every third of a second."""
    if path.pgbouncer is not None and path.pgbouncer.min_pool_size > 1:
        time.sleep(0.4 * path.pgbouncer.min_pool_size)


def refusal(port: int, role: str, database: str) -> tuple[str, str]:
    """SQLSTATE and message of a log-in that is refused: libpq keeps the first to itself."""
    names = f"user\0{role}\0database\0{database}\0\0".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as link:
        link.sendall(struct.pack("!ii", 8 + len(names), 196608) + names)
        stream = link.makefile("rb")
        while kind := stream.read(1):
            (length,) = struct.unpack("!i", stream.read(4))
            body = stream.read(length - 4)
            if kind == b"E":
                fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                return fields[b"C"], fields[b"M"]
    raise AssertionError("not refused")


def agrees(server: Server, folder: FilePath, seed: int) -> Trouble:
    """One configuration: what was predicted is what happens."""
    path, order = drawn(seed)
    predicted = first_trouble(path, order)
    assert predicted is not None, "a configuration without a limit teaches nothing"
    outcome = predicted.outcome
    there = set_up(server, path)
    try:
        pooler = path.pgbouncer
        settings = (
            {}
            if pooler is None
            else {"pool_mode": pooler.mode}
            | {
                name: getattr(pooler, name)
                for name in (
                    "default_pool_size",
                    "min_pool_size",
                    "reserve_pool_size",
                    "max_db_connections",
                    "max_user_connections",
                    "max_client_conn",
                    *SOON,
                )
            }
        )
        with instances(folder, server, pooler.instances if pooler else 0, [ROLE], **settings) as pgbouncers:
            through = bool(pgbouncers) and outcome.way is Way.REFUSED
            found = met(server, path, order, pgbouncers, again=through)
            client = found.client
            said = f"seed {seed}: predicted {predicted}; met {found.served} served, then {client.error!r} on {found.instance}"
            assert (found.served, found.instance) == (predicted.served, predicted.instance), said
            assert found.from_reserve == (outcome.way is Way.DELAYED), said
            if outcome.way is Way.DELAYED:
                assert client.served.is_set(), said
                return predicted
            assert client.error.endswith(outcome.text), said
            assert not client.sqlstate or client.sqlstate == outcome.sqlstate, said
            assert not through or found.refusal == (outcome.sqlstate, outcome.text), said
            if outcome.by == "PostgreSQL":
                assert f"{TOO_MANY} FATAL:  {outcome.text}" in server.log, said
    finally:
        for session in there:
            session.close()
    return predicted


@needs_pgbouncer
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_drawn_configuration_fails_as_predicted(shop: Server, tmp_path: FilePath, seed: int) -> None:
    agrees(shop, tmp_path, seed)


@needs_pgbouncer
@pytest.mark.long
def test_eight_drawn_configurations_fail_as_predicted(shop: Server, tmp_path: FilePath) -> None:
    found = [agrees(shop, tmp_path / str(seed), seed) for seed in range(8)]
    assert len({item.outcome.limit for item in found}) > 2, "too much alike"
    assert sum(item.instance == 2 and item.outcome.way is Way.REFUSED for item in found) >= 2


@needs_pgbouncer
@pytest.mark.soak
def test_thirty_drawn_configurations_fail_as_predicted(shop: Server, tmp_path: FilePath) -> None:
    found = [agrees(shop, tmp_path / str(seed), seed) for seed in range(30)]
    assert sum(item.instance == 2 and item.outcome.way is Way.REFUSED for item in found) >= 6


@needs_pgbouncer
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_second_pair_shares_the_databases_limit_and_nothing_of_the_pool(
    shop: Server, tmp_path: FilePath, busy: bool
) -> None:
    """A role that comes last to a database that is full never logs in; if a connection is idle, PgBouncer evicts it."""
    sizes = SOON | {"max_db_connections": 3, "query_wait_timeout": 4, "client_login_timeout": 1}
    pooler = _as_here(PgBouncer(name="shared", mode="transaction", **sizes))
    limits = Limits(major=18, max_connections=MOST, superuser_reserved=RESERVED_FOR_SUPERUSERS, reserved=RESERVED)
    path = Path(role=ROLE, database=DATABASE, pods=PODS, server=limits, pgbouncer=pooler)
    occupancy = Occupancy(path)
    assert [str(occupancy.arrive()) for _ in range(3)] == ["served"] * 3
    predicted = occupancy.arrive(role=OTHER)
    assert (predicted.way, predicted.limit) == (Way.QUEUED, Limit.POOLER_DATABASE)
    assert predicted.text == "client_login_timeout (server down)"
    set_up(shop, path)
    with instances(tmp_path, shop, 1, [ROLE, OTHER], **sizes, pool_mode="transaction") as (pgbouncer,):
        address = {"host": "127.0.0.1", "port": pgbouncer.port, "dbname": DATABASE}
        clients = [Client(address | {"user": ROLE}).start() for _ in range(3)]
        for client in clients:
            assert client.ended.wait(PATIENCE_SECONDS) and client.served.is_set(), client.error
        if not busy:
            clients[0].end_transaction()
        last = Client(address | {"user": OTHER}).start()
        assert last.ended.wait(PATIENCE_SECONDS)
        assert last.served.is_set() != busy
        assert last.error.endswith(predicted.text) or not busy, last.error
        for client in (*clients, last):
            client.leave()
