"""The digests at a marker belong to that marker, or there are none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from tests.library.fix_integrity import Server, run

from drillbook.model import ArchivedCommit, Lsn
from drillbook.postgres.checks import AtBoundary, digest_tables, digests_at_boundary
from drillbook.postgres.checks.moment import Holder, first_unseen, take
from drillbook.postgres.client import Database

KEY = bytes(range(32))
TABLES = ("create table quiet as select g from generate_series(1, 100) g", "create table busy (k int)")
NAMES = ["public.quiet", "public.busy"]


class Source:
    """A source with a marker table, and something that happens while each marker is written."""

    def __init__(self, server: Server, meanwhile: Callable[[int, str], None]) -> None:
        self.server = server
        self.database = server.new_database(*TABLES)
        self.own = server.new_database("create table marker (n int)")
        self.meanwhile = meanwhile
        self.markers = 0

    def write_marker(self) -> int:
        self.markers += 1
        self.meanwhile(self.markers, self.database)
        self.server.sql(self.own, f"insert into marker values ({self.markers})")
        return self.markers

    def digest(self, open_db: Callable[[str], Database], *names: str) -> AtBoundary[int]:
        return digests_at_boundary(open_db, self.write_marker, {self.database: list(names)}, KEY, attempts=5)


def test_a_quiet_source_needs_one_marker(server: Server) -> None:
    """The digests at the marker are those that anyone reads while nobody writes."""
    source = Source(server, lambda marker, database: None)
    found = source.digest(server.reader, *NAMES)
    assert (found.marker, found.attempts, source.markers) == (1, 1, 1)
    assert not found.unproven
    with server.superuser(source.database, read_only=True) as db:
        assert found.digests[source.database] == digest_tables(db, NAMES, KEY)


def test_a_write_around_the_marker_costs_another_marker(server: Server) -> None:
    """What was digested before the marker has changed since: it is read in the snapshot of the next marker."""

    def meanwhile(marker: int, database: str) -> None:
        if marker < 3:
            server.sql(database, f"insert into busy values ({marker})")

    source = Source(server, meanwhile)
    found = source.digest(server.reader, *NAMES)
    assert (found.marker, found.attempts) == (2, 2)
    assert found.digests[source.database]["public.busy"].rows == 2
    assert found.in_snapshot[source.database] == ("public.busy",), "the quiet one is compared, not read again"


def test_a_change_that_is_undone_is_seen(server: Server) -> None:
    """Equal rows before and after prove nothing about the marker between them if they are other row versions."""

    def meanwhile(marker: int, database: str) -> None:
        if marker == 1:
            server.sql(database, "update quiet set g = g + 1", "update quiet set g = g - 1")

    assert Source(server, meanwhile).digest(server.reader, *NAMES).attempts == 2


def test_g08_a_table_that_is_written_to_with_every_marker_is_proven(server: Server) -> None:
    """It never rests, and is what it was in the last marker's snapshot; the archive tells where that lies."""
    source = Source(server, lambda marker, database: server.sql(database, "insert into busy values (0)"))
    found = source.digest(server.reader, *NAMES)
    assert not found.unproven
    assert found.digests[source.database]["public.busy"].rows == source.markers
    assert found.moment.quiet and set(found.moment.sees) == {source.database}


def test_what_another_marker_cannot_mend_costs_none(server: Server) -> None:
    """A missing table and one that may not be read are unproven at the first marker, and hide no other."""
    source = Source(server, lambda marker, database: None)
    server.sql(source.database, "alter table busy enable row level security")
    found = source.digest(server.reader, "public.missing", "public.busy", "public.quiet")
    assert found.attempts == 1
    assert list(found.digests[source.database]) == ["public.quiet"]
    assert found.unproven[f"{source.database} public.missing"] == "there is no such table"
    assert "row-level security" in found.unproven[f"{source.database} public.busy"]


def test_no_tables_still_give_a_marker(server: Server) -> None:
    """A site that names no table gets its marker and no digest."""
    found = digests_at_boundary(server.reader, lambda: "marker", {}, KEY)
    assert (found.marker, found.digests, found.unproven) == ("marker", {}, {})


def test_several_databases_share_the_marker(server: Server) -> None:
    """A write in one of two databases costs both a new marker."""
    source = Source(
        server, lambda marker, database: server.sql(database, "insert into busy values (0)") if marker == 1 else None
    )
    other = server.new_database(*TABLES)
    tables = {source.database: ["public.busy"], other: ["public.quiet"]}
    found = digests_at_boundary(server.reader, source.write_marker, tables, KEY)
    assert (found.marker, found.attempts) == (2, 2)
    assert found.digests[source.database]["public.busy"].rows == 1
    assert found.digests[other]["public.quiet"].rows == 100


def test_an_open_transaction_does_not_disturb(server: Server) -> None:
    """Someone's long transaction that has written to the table and doesn't commit is not at the target either."""
    source = Source(server, lambda marker, database: None)
    with server.superuser(source.database) as writer:
        run(writer, "begin")
        run(writer, "insert into busy values (1)")
        found = source.digest(server.reader, *NAMES)
        run(writer, "rollback")
    assert found.attempts == 1
    assert found.digests[source.database]["public.busy"].rows == 0


def test_a_commit_under_way_at_the_snapshot_is_recognised(server: Server) -> None:
    """A transaction that was under way and has committed since may be before the snapshot in the WAL."""
    source = Source(server, lambda marker, database: None)
    with ExitStack() as stack:
        writer, other, reader = (stack.enter_context(server.superuser(source.database)) for _ in range(3))
        for session in (writer, other):
            run(session, "begin")
            run(session, "insert into busy values (1)")
        server.sql(source.database, "insert into quiet values (1)")
        holder = Holder(reader)
        stack.callback(holder.end)
        assert take({source.database: holder}, tries=1).quiet, "nobody commits"
        under_way = holder.sees.split(":")[2].split(",")
        assert len(under_way) == 2
        run(writer, "commit")
        assert reader.ask_one("integrity_still_committing", xids=under_way)["committed"] == 1
        run(other, "rollback")
        assert reader.ask_one("integrity_still_committing", xids=under_way)["committed"] == 1


def test_g09_snapshots_of_two_databases_must_see_the_same(server: Server) -> None:
    """A commit between them, of whatever database, and the moment is not quiet; the next try is."""
    databases = [server.new_database("create table t (k int)") for _ in range(2)]
    commits = iter([True, False])

    class Late(Holder):
        def take(self) -> None:
            if next(commits):
                others[databases[0]].taken.wait(30)
                server.sql(databases[0], "insert into t values (1)")
            super().take()

    class Early(Holder):
        taken = threading.Event()

        def take(self) -> None:
            super().take()
            self.taken.set()

    with server.reader(databases[0]) as one, server.reader(databases[1]) as two:
        others = {databases[0]: Early(one), databases[1]: Late(two)}
        moment = take(others, tries=5)
        assert (moment.quiet, moment.tries) == (True, 2)
        for holder in others.values():
            holder.end()


def commit(number: int, xid: int) -> ArchivedCommit:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    return ArchivedCommit(committed_at=at, xid=xid, lsn=Lsn(number * 100), end_lsn=Lsn(number * 100 + 50), segment="")


HIGH = 5 << 32


@pytest.mark.parametrize(
    ("sees", "order", "stops_at"),
    [
        pytest.param("10:13:", [10, 11, 12, 13, 14], 13, id="all that had begun have ended"),
        pytest.param("11:13:11", [10, 12, 11, 13], 11, id="one under way, committed later"),
        pytest.param("11:13:11", [10, 11, 12, 13], None, id="one under way, whose record is before a seen one's"),
        pytest.param("10:13:", [10, 13, 11, 12], None, id="a newer one that was overtaken"),
        pytest.param("10:13:", [10, 11, 12], None, id="nothing after it is archived"),
        pytest.param(f"{HIGH + 10}:{HIGH + 13}:", [10, 11, 12, 13], 13, id="64 bits in the snapshot, 32 in the record"),
        pytest.param(f"{HIGH - 1}:{HIGH + 1}:", [0xFFFFFFFF, 0, 1], 1, id="the 32 bits begin again"),
        pytest.param("10:20:14", [10, 15, 14, 11], 14, id="one that is seen long after the moment can't be"),
    ],
)
def test_g09_a_snapshots_place_in_the_wal(sees: str, order: list[int], stops_at: int | None) -> None:
    """Recovery gives a prefix of the WAL's commits: a snapshot has a place there, or none, and the WAL says which."""
    commits = [commit(number, xid) for number, xid in enumerate(order, 1)]
    until = Lsn(350) if order == [10, 15, 14, 11] else Lsn(450)
    found = first_unseen(sees, commits, until)
    assert (found.xid if found else None) == stops_at


def test_g08_a_table_that_is_always_written_to_is_proven(server: Server) -> None:
    """Between two of its writers' commits there is room for a marker, as no table is read to find it."""
    source = Source(server, lambda marker, database: None)
    over = threading.Event()

    def write() -> None:
        with server.superuser(source.database) as db:
            while not over.wait(0.02):
                run(db, "insert into busy values (1)")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        found = digests_at_boundary(server.reader, source.write_marker, {source.database: NAMES}, KEY)
    finally:
        over.set()
        writer.join(60)
    assert not found.unproven
    assert found.digests[source.database]["public.quiet"].rows == 100
