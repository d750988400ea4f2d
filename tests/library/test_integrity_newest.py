"""The newest change of a table: seen, and missed where a copy ends too early."""

from __future__ import annotations

from tests.library.fix_integrity import Server, run

from drillbook.model import Verdict
from drillbook.postgres.checks import NewestChange, changes_arrived, newest_changes


def test_the_newest_change_is_the_last_commit_to_the_table(server: Server) -> None:
    name = server.new_database("create table a (n int)", "create table b (n int)", "insert into a values (1), (2)")
    with server.superuser(name) as db:
        before = newest_changes(db, ["public.a", "public.b", "public.none"])
        run(db, "update a set n = 3 where n = 2")
        after = newest_changes(db, ["public.a"])
    assert (before["public.a"].rows, str(before["public.b"])) == (2, "empty")
    assert before["public.none"].reason == "there is no such table"
    assert after["public.a"].xid > before["public.a"].xid


def test_changes_that_a_copy_lacks_are_named(server: Server) -> None:
    name = server.new_database("create table a (n int)", "insert into a values (1)")
    with server.superuser(name) as db:
        seen = newest_changes(db, ["public.a"])
        whole = changes_arrived(db, seen, seen)
        later = {"public.a": NewestChange(rows=1, xid=seen["public.a"].xid + 1_000_000)}
        missing = changes_arrived(db, later, seen)
        unread = changes_arrived(db, {"public.a": NewestChange(reason="permission denied")}, seen)
    assert (whole.verdict, whole.observed) == (Verdict.VERIFIED, "1 of 1 table")
    assert missing.verdict is Verdict.FAILED
    assert "public.a" in missing.observed and "the copy ends before it" in missing.observed
    assert (unread.verdict, unread.reason) == (Verdict.UNPROVEN, "public.a: permission denied")
    assert changes_arrived_of_none(server) is Verdict.UNPROVEN


def changes_arrived_of_none(server: Server) -> Verdict:
    with server.superuser("postgres") as db:
        return changes_arrived(db, {}, {}).verdict
