"""What comparing rows costs: a copy's verification next to pg_amcheck, the rate of digests, and five tenants within a budget."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.library.fix_integrity import PASSWORD, Server, running  # noqa: E402

from drillbook.model import Verdict  # noqa: E402
from drillbook.postgres.checks import Budget, Sessions, amcheck, digest_tables, digests_at_boundary  # noqa: E402
from drillbook.postgres.client import SQL, Database  # noqa: E402

TABLES, ROWS = 3000, 200
JOBS = min(4, os.cpu_count() or 1)
PAIRS = 3
TENANTS = 5
TENANT_MB = float(os.environ.get("TENANT_MB", "300"))
LIMIT = 10  # the role's CONNECTION LIMIT, as deploy/sql sets it
KEY = bytes(range(32))
SETTINGS = {
    "shared_buffers": "256MB",
    "max_locks_per_transaction": "512",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@contextmanager
def server() -> Iterator[Server]:
    """Its own server, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dbd-") as name:
        Path(name).chmod(0o755)
        with running(Path(name), settings=SETTINGS) as started:
            yield started


@dataclass(frozen=True)
class Side:
    """Seconds of our amcheck and of pg_amcheck, in pairs."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def side_by_side() -> Side:
    """Thousands of small tables with an index and TOAST; who goes first alternates. Both check indexes against their heaps."""
    with server() as copy:
        name = copy.new_database(
            f"do $$ begin for n in 1..{TABLES} loop execute format('create table t%s (id int primary key, v text)', n); end loop; end $$",
            f"do $$ begin for n in 1..{TABLES} loop execute format('insert into t%s select g, repeat(''x'', 100) from generate_series(1, {ROWS}) g', n); end loop; end $$",
            "create extension amcheck",
            "vacuum analyze",
        )
        ours, theirs = list[float](), list[float]()

        def own() -> None:
            with copy.superuser(name) as db:
                began = time.perf_counter()
                check = amcheck(db, Sessions(lambda: copy.superuser(name), JOBS))
                ours.append(time.perf_counter() - began)
                if check.verdict is not Verdict.VERIFIED or int(check.observed.split()[0].replace(",", "")) < TABLES:
                    raise RuntimeError(f"not all was checked: {check.observed} {check.reason}")

        def tool() -> None:
            began = time.perf_counter()
            copy.program(
                "pg_amcheck",
                "-j",
                str(JOBS),
                "--heapallindexed",
                *(["--checkunique"] if copy.major >= 17 else []),
                name,
            )
            theirs.append(time.perf_counter() - began)

        own()  # the first one fills the cache
        ours.clear()
        for number in range(PAIRS):
            for measure in (own, tool) if number % 2 else (tool, own):
                measure()
        return Side(ours, theirs)


def _fill(tenant: Server, megabytes: float, parts: int) -> str:
    """A database with so much data in some tables of about 100 bytes a row, and one that is small."""
    rows = int(megabytes * 1e6 / 130 / parts)
    return tenant.new_database(
        *(
            f"create table t{n} as select g::bigint as id, (g % 97)::int as k, md5(g::text) || md5((g + 1)::text) as v, "
            f"now() + g * interval '1 s' as at from generate_series(1, {rows}) g"
            for n in range(parts)
        ),
        *(f"alter table t{n} add primary key (id)" for n in range(parts)),
        "create table small as select g from generate_series(1, 100) g",
        "vacuum analyze",
    )


def digest_rate(megabytes: float = 200) -> tuple[float, float]:
    """MB of a table that one session digests in a second, and the size of the table in MB; best of three."""
    with server() as source:
        name = _fill(source, megabytes, 1)
        with source.superuser(name, read_only=True, timeout=600) as db:
            size = db.ask_one(SQL("select pg_table_size('t0') as bytes"))["bytes"] / 1e6
            taken = []
            for _ in range(3):
                began = time.perf_counter()
                digest_tables(db, ["public.t0"], KEY)
                taken.append(time.perf_counter() - began)
        return size / min(taken), size


@dataclass(frozen=True)
class Tenants:
    """What five tenants cost: sizes in MB; ``read`` is what PostgreSQL read for us, from its cache or beneath it."""

    total: float
    budget: float
    counted: float
    read: float
    seconds: float
    most_sessions: int
    sampled: int
    unproven: int
    peak_mb: float


def tenants(megabytes: float = TENANT_MB) -> Tenants:
    """Five databases digested with two fifths of their size as budget, by a role with a CONNECTION LIMIT, in its own process."""
    done = subprocess.run(
        [sys.executable, __file__, str(megabytes)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:])
    return Tenants(**json.loads(done.stdout))


def _tenants_in_this_process(megabytes: float) -> dict[str, Any]:
    with server() as source:
        source.sql(
            "postgres",
            f"create role tenant_reader login password '{PASSWORD}' connection limit {LIMIT} in role pg_read_all_data",
        )
        names = [_fill(source, megabytes, 3) for _ in range(TENANTS)]
        own = source.new_database("create table marker (n int)")

        def open_db(name: str) -> Database:
            return Database.connect(
                source.address, user="tenant_reader", password=PASSWORD, dbname=name, statement_timeout_seconds=600
            )

        def blocks() -> float:
            with source.superuser("postgres") as db:
                row = db.ask_one(
                    SQL(
                        "select sum(blks_read + blks_hit) * 8192 / 1e6 as mb from pg_stat_database where datname like 'tenant%%'"
                    )
                )
            return float(row["mb"])

        over, most = threading.Event(), 0

        def count() -> None:
            nonlocal most
            with source.superuser("postgres") as db:
                while not over.wait(0.05):
                    asked = SQL("select count(*) as n from pg_stat_activity where usename = 'tenant_reader'")
                    most = max(most, int(db.ask_one(asked)["n"]))

        with source.superuser("postgres") as db:
            sizes = db.ask_one(
                SQL("select sum(pg_database_size(datname)) / 1e6 as mb from pg_database where datname like 'tenant%%'")
            )
        tables = {name: ["public.small", "public.t0", "public.t1", "public.t2"] for name in names}
        budget = Budget(bytes=megabytes * TENANTS * 1e6 * 0.4, seconds=3600, small=megabytes * 1e6 / 20)
        before = blocks()
        counter = threading.Thread(target=count, daemon=True)
        counter.start()
        began = time.perf_counter()
        with open_db(own):  # a drill has one of its own open
            found = digests_at_boundary(
                open_db, lambda: source.sql(own, "insert into marker values (1)"), tables, KEY, budget=budget
            )
        seconds = time.perf_counter() - began
        over.set()
        counter.join()
        digests = [digest for of in found.digests.values() for digest in of.values()]
        return {
            "total": float(sizes["mb"]),
            "budget": (budget.bytes or 0) / 1e6,
            "counted": found.read_bytes / 1e6,
            "read": blocks() - before,
            "seconds": seconds,
            "most_sessions": most,
            "sampled": sum(bool(digest.sampled) for digest in digests),
            "unproven": len(found.unproven),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_tenants_in_this_process(float(sys.argv[1]))))
