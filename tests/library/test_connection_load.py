"""The load generator against a real server: what it counts, what it names, and that nothing of it outlives its parent."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.library.fix_integrity import Server

from drillbook.connections.blocks import Block, Measured
from drillbook.connections.latency import Latencies
from drillbook.connections.load import Pods, untrusted
from drillbook.errors import UpstreamError
from drillbook.postgres.client import Database
from drillbook.postgres.pool import PoolTarget
from drillbook.steps.connections.load_path import look_ups

pytestmark = pytest.mark.long

ROLE, PASSWORD, TABLE = "loaded", secrets.token_hex(8), "load_rows"
STATEMENTS = [f"SELECT * FROM {TABLE} WHERE id = {number}" for number in range(1, 20)]
BLOCK = Block(pool=4, idle=4, timeout_seconds=5, seconds=1, seed=7, hold_seconds=0.005, rate=80)


@pytest.fixture(scope="module")
def target(server: Server) -> Iterator[PoolTarget]:
    server.sql("postgres", "create database loaded")
    server.sql("loaded", f"create role {ROLE} login password '{PASSWORD}'")
    server.sql("loaded", f"create table {TABLE} as select id, 'row ' || id as words from generate_series(1, 1000) id")
    server.sql("loaded", f"grant select on {TABLE} to {ROLE}")
    yield PoolTarget(server.address, ROLE, "loaded", PASSWORD)
    server.sql("postgres", "drop database loaded with (force)")
    server.sql("postgres", f"drop role {ROLE}")


def _loaded(target: PoolTarget, *blocks: Block, pods: int = 1, statements: list[str] = STATEMENTS) -> list[Measured]:
    with Pods(pods, target, statements) as running:
        return [running.block(block) for block in blocks]


def test_c15_open_arrivals_follow_the_seed_and_all_are_counted(target: PoolTarget) -> None:
    first, again, other = _loaded(target, BLOCK, BLOCK, BLOCK.model_copy(update={"seed": 8}), pods=2)
    assert first.arrivals == again.arrivals != other.arrivals
    assert len(first.latency) == first.arrivals - first.timeouts and not first.errors and not first.refusals
    assert 30 < first.arrivals < 160 and first.samples > 0
    assert first.latency.percentile(95) >= first.held.percentile(50) >= first.query.percentile(50) > 0


def test_c15_a_closed_loop_is_never_more_than_its_workers(target: PoolTarget) -> None:
    block = BLOCK.model_copy(update={"rate": 0.0, "workers": 3, "pool": 2})
    (found,) = _loaded(target, block)
    assert found.waiting <= 1 and found.saturation > 0.5
    assert found.completed <= found.arrivals <= found.completed + 3


def test_c15_a_pool_that_is_too_small_is_saturated_its_clients_wait_and_give_up(target: PoolTarget) -> None:
    block = BLOCK.model_copy(update={"pool": 1, "hold_seconds": 0.1, "timeout_seconds": 0.5})
    (found,) = _loaded(target, block)
    assert found.timeouts > 0 and found.waiting > 1 and found.saturation > 0.5
    assert found.acquire.percentile(95) > found.query.percentile(95)
    assert found.timeouts + len(found.latency) == found.arrivals


def test_c15_latency_counts_from_the_intended_start(server: Server, target: PoolTarget) -> None:
    """While the table is locked every arrival waits, not only those for which there is a connection."""
    block = BLOCK.model_copy(update={"seconds": 1.5, "hold_seconds": 0.0, "pool": 2, "idle": 2})
    with Pods(1, target, STATEMENTS) as pods, server.superuser("loaded", read_only=False) as holder:
        pods.block(block.model_copy(update={"seconds": 0.1}))  # the process is up, its pool's code is loaded
        threading.Timer(0.4, _lock_for, (holder, 0.7)).start()
        found = pods.block(block)
    late = sum(times for bucket, times in found.latency.pairs() if bucket > _bucket_of(0.2))
    assert late > 5 * block.pool, "a closed loop would have seen two"
    assert not found.timeouts


def _lock_for(holder: Database, seconds: float) -> None:
    with holder.rolled_back():
        holder.run_text(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        time.sleep(seconds)


def _bucket_of(seconds: float) -> int:
    found = Latencies()
    found.add(seconds)
    return found.pairs()[0][0]


def test_c15_a_limit_of_the_role_is_named_in_the_servers_words(server: Server, target: PoolTarget) -> None:
    server.sql("postgres", f"alter role {ROLE} connection limit 2")
    block = BLOCK.model_copy(update={"idle": 1, "timeout_seconds": 0.3, "hold_seconds": 0.2})
    try:
        (found,) = _loaded(target, block)
        assert found.timeouts > 0
        assert any("too many connections for role" in text for text in found.refusals), found.refusals
        with pytest.raises(UpstreamError, match=r"no connection.*too many connections for role") as refused:
            _loaded(target, block.model_copy(update={"idle": 4}))
        assert PASSWORD not in str(refused.value)
    finally:
        server.sql("postgres", f"alter role {ROLE} connection limit -1")


@pytest.mark.parametrize(
    ("statement", "named"),
    [("SELECT * FROM nowhere", "42P01"), ("SELECT 1/0", "22012"), (f"DELETE FROM {TABLE}", "42501")],
)
def test_c15_a_statement_that_fails_is_counted_with_its_sqlstate(
    target: PoolTarget, statement: str, named: str
) -> None:
    (found,) = _loaded(target, BLOCK, statements=[statement])
    assert sum(found.errors.values()) == found.arrivals and not found.completed
    assert all(text.startswith(named) for text in found.errors)


def test_c15_no_command_line_and_no_environment_holds_the_password(target: PoolTarget) -> None:
    with Pods(2, target, STATEMENTS) as pods:
        pods.block(BLOCK.model_copy(update={"seconds": 0.1}))
        for pid in pods.pids:
            for name in ("cmdline", "environ"):
                assert PASSWORD.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert PASSWORD not in repr(target)
        pids = pods.pids
    assert not any(_runs(pid) for pid in pids)


def test_c15_a_pod_that_dies_is_an_error_of_the_load(target: PoolTarget) -> None:
    with Pods(2, target, STATEMENTS) as pods:
        os.kill(pods.pids[1], signal.SIGKILL)
        with pytest.raises(UpstreamError, match=r"pod 2 of the load ended with status -9"):
            pods.block(BLOCK)


_PARENT = """
import json, sys, time
from drillbook.connections.blocks import Block
from drillbook.connections.latency import Latencies
from drillbook.connections.load import Pods
from drillbook.postgres.client import Address
from drillbook.postgres.pool import PoolTarget
given = json.loads(sys.stdin.readline())
target = PoolTarget(Address(*given["address"]), *given["who"])
with Pods(2, target, ["SELECT pg_sleep(60)"]) as pods:
    print(*pods.pids, flush=True)
    pods.block(Block(pool=2, idle=2, timeout_seconds=60, seconds=60, seed=1, rate=20))
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_c15_pods_end_with_whatever_started_them(target: PoolTarget, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PARENT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        try:
            _ends(parent, target, ending)
        finally:
            parent.kill()


def _ends(parent: subprocess.Popen[str], target: PoolTarget, ending: signal.Signals) -> None:
    assert parent.stdin is not None and parent.stdout is not None
    address = [target.address.host, target.address.port]
    parent.stdin.write(json.dumps({"address": address, "who": [ROLE, "loaded", PASSWORD]}) + "\n")
    parent.stdin.flush()
    pids = [int(text) for text in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(_runs, pids))
    parent.send_signal(ending)
    parent.wait(90)
    deadline = time.monotonic() + 60
    while any(map(_runs, pids)):
        assert time.monotonic() < deadline, "a pod outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_c15_a_generator_that_is_the_bottleneck_is_not_believed(target: PoolTarget) -> None:
    """Far more than one process can begin; and what it could is trusted."""
    calm, driven = _loaded(
        target,
        BLOCK,
        BLOCK.model_copy(update={"rate": 20_000, "seconds": 0.5, "hold_seconds": 0.0, "timeout_seconds": 2}),
    )
    assert "of a processor" in untrusted(calm, driven) or "ms late" in untrusted(driven)


@pytest.fixture
def tables(server: Server) -> Iterator[Database]:
    """What a load may and may not look up."""
    server.sql("postgres", "create database tabled", "create role looking login")
    server.sql(
        "tabled",
        'create schema "Odd Name"',
        'create table "Odd Name"."T%" ("k \'e\'y" text primary key, v int)',
        """insert into "Odd Name"."T%" select 'it''s ' || n, n from generate_series(1, 150) n""",
        "create table without_key as select 1 as n",
        "create table two_keys (a int, b int, primary key (a, b))",
        "insert into two_keys values (1, 1)",
        "create table hidden (id int primary key)",
        "insert into hidden values (1)",
        "create table empty (id int primary key)",
        "create view seen as select 1 as id",
        'grant usage on schema "Odd Name" to looking',
        'grant select on "Odd Name"."T%", without_key, two_keys, empty, seen to looking',
    )
    db = server.superuser("tabled", read_only=False)
    yield db
    db.close()
    server.sql("postgres", "drop database tabled with (force)", "drop role looking")


def test_c15_look_ups_are_of_what_the_role_may_read_and_find_their_rows(server: Server, tables: Database) -> None:
    found = look_ups(tables, "looking")
    assert len(found) == 100 and all("Odd Name" in text for text in found)
    assert [len(tables.run_text(text)) for text in found] == [1] * 100
    tables.set_password("looking", PASSWORD)
    target = PoolTarget(server.address, "looking", "tabled", PASSWORD)
    (measured,) = _loaded(target, BLOCK, statements=found)
    assert not measured.errors and len(measured.latency) == measured.arrivals
    assert PASSWORD not in server.log


def test_c15_a_role_that_may_read_nothing_loads_with_a_select_of_nothing(server: Server, tables: Database) -> None:
    server.sql("tabled", 'revoke all on all tables in schema "Odd Name" from looking')
    assert look_ups(tables, "looking") == ["SELECT 1"]
