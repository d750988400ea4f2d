"""What must hold before indexes are built or dropped concurrently: each asked of the servers, none of it guessed.

All of it is read as Drillbook's own role. Where that may not see how old another role's transaction is, the transactions
that are open are listed twice, some seconds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.errors import RunbookError
from drillbook.indexes.shape import WantedIndex
from drillbook.model import Check, Lsn, Verdict, show_seconds
from drillbook.postgres.client import SQL, Database
from drillbook.report.cards import show_bytes
from drillbook.steps.cutover.swap_check import archiver_faults, rooms_of
from drillbook.steps.indexes.change import IndexChange
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.disk_space import Needs

OLD_SECONDS = 10.0
"""A transaction that is open for longer is in the way: every concurrent build waits for it, and more than once."""
MOST_LAG_BYTES = 64 * 2**20
# "Flyway" in ASCII, plus a hash of 32 bits of its history table: the key of its advisory lock (flyway-core,
# PostgreSQLAdvisoryLockTemplate).
_FLYWAY = int.from_bytes(b"Flyway")
_HASH = range(-(2**31), 2**31)
_ROW_BYTES = 16  # of an index: the tuple's header, its pointer, and its alignment
_FILL = 1.0 / 0.9 * 1.2  # a B-tree's leaves are filled to 90 %; inner pages, and what rounding costs


@dataclass(frozen=True)
class _Precondition(CheckStep):
    cluster: SourceCluster
    change: IndexChange


def old_transactions(
    db: Database, pause: Callable[[float], None], seconds: float = OLD_SECONDS
) -> tuple[list[str], str]:
    """The open transactions of this database that are older than ``seconds``, in words, and how that is known."""
    first = db.ask("index_old_transactions")
    old = [row for row in first if row["age"] is not None and row["age"] > seconds]
    hidden = {(row["pid"], row["id"]) for row in first if row["age"] is None}
    how = "by the age of each"
    if hidden:
        pause(seconds)
        again = db.ask("index_old_transactions")
        old += [row for row in again if (row["pid"], row["id"]) in hidden]
        how = f"this role may not see every age: looked twice, {show_seconds(seconds)} apart"
    return [_transaction(row, seconds) for row in old], how


def _transaction(row: dict[str, Any], seconds: float) -> str:
    age = f"for {show_seconds(row['age'])}" if row["age"] is not None else f"for more than {show_seconds(seconds)}"
    who = f"pid {row['pid']}" if row["pid"] is not None else f"prepared as {row['id']!r}"
    return f"{who} (role {row['role']}, {row['application'] or 'no application name'}) is open {age}"


@dataclass(frozen=True)
class OldTransactions(_Precondition):
    """No transaction of this database is open for long: a concurrent build waits for each that is older than itself."""

    name: ClassVar[str] = "older transactions"
    proves: ClassVar[str] = "no build waits for a transaction that was begun long before it"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.change.database) as db:
            old, how = old_transactions(db, ctx.pause)
        return [
            self.result(
                Verdict.FAILED if old else Verdict.VERIFIED,
                expected=f"no transaction of {self.change.database} open for more than {show_seconds(OLD_SECONDS)}",
                observed="; ".join(old) + ": end it, or wait, then run this again" if old else "none",
                details=(("how it is known", how),),
            )
        ]


@dataclass(frozen=True)
class NoOtherInvalid(_Precondition):
    """The tables have no INVALID index but those that this change builds anyway."""

    name: ClassVar[str] = "invalid indexes"
    proves: ClassVar[str] = "no earlier attempt has left an index that every write pays for and no read uses"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.change.database) as db:
            rows = db.ask("index_invalid_on", tables=self.change.tables)
        return [invalid_check(self, self.change, rows)]


def invalid_check(step: CheckStep, change: IndexChange, rows: Sequence[dict[str, Any]]) -> Check:
    """What the INVALID indexes of the database mean for this change."""
    own = {one.place for one in change.to_build} | {one.place for one in change.drops}
    found = [(f"{row['schema']}.{row['name']}", bool(row["concerned"]), str(row["table"])) for row in rows]
    in_the_way = [f"{name} on {table}" for name, concerned, table in found if concerned and name not in own]
    details = [(name, "left INVALID by an earlier attempt: removed by this one") for name, *_ in found if name in own]
    details += [(name, f"INVALID, on {table}: not of this change") for name, concerned, table in found if not concerned]
    return step.result(
        Verdict.FAILED if in_the_way else Verdict.VERIFIED,
        expected="no INVALID index on the tables of this change, but its own",
        observed=f"INVALID: {', '.join(in_the_way)}. Drop them CONCURRENTLY first" if in_the_way else "none",
        details=tuple(details[:12]),
    )


@dataclass(frozen=True)
class RoomForIndexes(_Precondition):
    """Every volume of every instance has room for the indexes, the sorting on the primary, and the WAL of both.

    How large an index will be is an estimate from rows and the width of its columns; where that can't be known, twice the
    table's size. A predicate is not counted: as if every row were in it.
    """

    name: ClassVar[str] = "room for the indexes"
    proves: ClassVar[str] = "no volume of any instance is full before the indexes are built"

    def observe(self, ctx: Context) -> Sequence[Check]:
        change = self.change
        with ctx.source(change.database) as db:
            estimates = index_bytes(db, change.to_build)
            archiver = db.ask_one("archiver")
            between = int(db.ask_one("cutover_wal")["max_wal_bytes"])
        total = sum(estimates.values())
        sorting = max(estimates.values(), default=0)
        unarchived = max(0, int(archiver["waiting_segments"] or 0)) * int(archiver["segment_bytes"])
        # The largest is sorted on the primary's data volume next to what is built; a replica has that room to spare.
        needs = Needs(tablespaces=(("", total + sorting),), wal_bytes=unarchived + min(between, total))
        rooms, faults = rooms_of(ctx, self.cluster)
        faults += archiver_faults(ctx, archiver) + needs.faults(rooms)
        return [
            self.result(
                Verdict.FAILED if faults else Verdict.VERIFIED,
                expected=f"room for {show_bytes(total)} of indexes (estimated), {show_bytes(sorting)} of sorting and {show_bytes(needs.wal_bytes)} of WAL",
                observed="; ".join(faults)
                or "; ".join(f"{room.volume}: {show_bytes(room.free_bytes)} free" for room in rooms),
                details=tuple((name, f"about {show_bytes(size)}") for name, size in list(estimates.items())[:12]),
            )
        ]


def index_bytes(db: Database, wanted: Sequence[WantedIndex]) -> dict[str, int]:
    """About how large each index will be, by its place: a B-tree of columns by their widths, any other twice the table's size."""
    if not wanted:
        return {}
    tables = sorted({f"{one.schema_name}.{one.table}" for one in wanted})
    names = {f"{one.schema_name}.{one.table}": one.quoted_table for one in wanted}
    sizes = {f"{row['schema']}.{row['name']}": row for row in db.ask("index_tables", names=sorted(names.values()))}
    widths: dict[str, dict[str, int]] = {}
    for row in db.ask("index_widths", tables=tables):
        widths.setdefault(row["table"], {})[row["column"]] = int(row["width"])
    return {one.place: _estimate(one, sizes.get(f"{one.schema_name}.{one.table}"), widths) for one in wanted}


def _estimate(one: WantedIndex, size: dict[str, Any] | None, widths: dict[str, dict[str, int]]) -> int:
    if size is None:
        return 0
    known = widths.get(f"{one.schema_name}.{one.table}", {})
    columns = one.columns
    if columns is None or not size["rows"] or any(column not in known for column in columns):
        return 2 * int(size["bytes"])
    return int(size["rows"] * (_ROW_BYTES + sum(known[column] for column in columns)) * _FILL) + 2**14


@dataclass(frozen=True)
class ReplicasFollow(_Precondition):
    """Every replica has replayed nearly all that the primary has written.

    A build is replayed by each of them, and the lag it adds comes on top.
    """

    name: ClassVar[str] = "replication lag"
    proves: ClassVar[str] = "the replicas keep up before the builds' WAL comes"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = ctx.cluster_object(self.cluster.ref)
        others = [pod for pod in found.get("status", {}).get("instanceNames") or [] if pod != self.cluster.primary]
        with ctx.source(self.change.database) as db:
            written = Lsn(str(db.ask_one(SQL("select pg_catalog.pg_current_wal_lsn()::text as lsn"))["lsn"]))
        faults, details = [], []
        for pod in others:
            lag, words = self._lag(ctx, pod, written)
            details.append((pod, words))
            if lag is None or lag > MOST_LAG_BYTES:
                faults.append(f"{pod}: {words}")
        if not others:
            return [self.result(Verdict.NOT_APPLICABLE, reason="the cluster has one instance")]
        return [
            self.result(
                Verdict.FAILED if faults else Verdict.VERIFIED,
                expected=f"every replica less than {show_bytes(MOST_LAG_BYTES)} behind",
                observed="; ".join(faults) or "; ".join(f"{pod}: {words}" for pod, words in details),
                details=tuple(details[:12]),
            )
        ]

    def _lag(self, ctx: Context, pod: str, written: Lsn) -> tuple[int | None, str]:
        try:
            with ctx.source(self.change.database, pod=pod) as replica:
                answer = replica.ask_one("integrity_replayed")
        except RunbookError as error:
            return None, f"it does not answer: {error.what}"
        if not answer["in_recovery"] or not answer["replayed"]:
            return None, "it is no replica"
        lag = max(0, written - Lsn(str(answer["replayed"])))
        return lag, f"{show_bytes(lag)} behind"


@dataclass(frozen=True)
class NoOtherMigration(_Precondition):
    """No other migration is at work: nobody holds Flyway's advisory lock in this database."""

    name: ClassVar[str] = "another migration"
    proves: ClassVar[str] = "no other migration changes this schema at the same time"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.change.database) as db:
            rows = db.ask("index_advisory_locks")
        held = [row for row in rows if row["whole"] and is_flyways(int(row["key"]))]
        others = [row for row in rows if row not in held]
        return [
            self.result(
                Verdict.FAILED if held else Verdict.VERIFIED,
                expected="nobody holds Flyway's lock",
                observed="; ".join(f"{_holder(row)} holds it: wait until that migration has ended" for row in held)
                or "nobody holds it",
                details=tuple(
                    (_holder(row), f"holds advisory lock {row['key']}, which is not Flyway's") for row in others[:12]
                ),
            )
        ]


def is_flyways(key: int) -> bool:
    """Whether an advisory lock's key is one that Flyway makes: a fixed number plus a hash of 32 bits."""
    return key - _FLYWAY in _HASH


def _holder(row: dict[str, Any]) -> str:
    return f"pid {row['pid']} (role {row['role'] or 'unknown'}, {row['application'] or 'no application name'})"


@dataclass(frozen=True)
class ReadyToChange(CheckGroup):
    """Nothing is in the way of the builds: older transactions, INVALID indexes, room, replicas, another migration."""

    cluster: SourceCluster
    change: IndexChange

    def checks(self) -> Sequence[CheckStep]:
        look = (self.cluster, self.change)
        return [
            OldTransactions(*look),
            NoOtherInvalid(*look),
            RoomForIndexes(*look),
            ReplicasFollow(*look),
            NoOtherMigration(*look),
        ]


__all__ = [
    "NoOtherInvalid",
    "NoOtherMigration",
    "OldTransactions",
    "ReadyToChange",
    "ReplicasFollow",
    "RoomForIndexes",
    "index_bytes",
    "invalid_check",
    "is_flyways",
    "old_transactions",
]
