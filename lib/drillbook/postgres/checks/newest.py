"""The newest change of each chosen table: the transaction that wrote its newest row, and its time where it is kept.

It is what a person asks first after a recovery ("how far does the data go?"), and it is the proof that a full restore
ended late enough: what was committed on the source before the end must be committed in the copy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from drillbook.errors import PostgresError
from drillbook.model import Check, Frozen, Instant, Verdict, show_instant
from drillbook.postgres.checks.common import CheckFrame, counted, pinned, said
from drillbook.postgres.checks.rows import DigestTable, find_table
from drillbook.postgres.checks.yielding import Watch, patiently
from drillbook.postgres.client import Database


class NewestChange(Frozen):
    """A table's newest row: ``xid`` the transaction that wrote it (64 bits, 0 for an empty table), ``at`` its commit.

    ``at`` is None where the server does not keep commit times (``track_commit_timestamp``); ``reason`` says why the
    table could not be read.
    """

    rows: int = 0
    xid: int = 0
    at: Instant | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if not self.xid:
            return "empty"
        when = f" at {show_instant(self.at)}" if self.at else ""
        return f"{counted(self.rows, 'row')}, newest by XID {self.xid}{when}"


def newest_changes(db: Database, tables: Iterable[str], watch: Watch | None = None) -> dict[str, NewestChange]:
    """The newest change of each of ``tables`` (``schema.table``), one pass over each; raises ``PostgresError``.

    On the source ``watch`` makes each read give way. A table that can't be read says why and does not hide the
    others. A row that was deleted leaves no trace in it.
    """

    def look(name: str) -> NewestChange:
        with watch.reading(db) if watch is not None else pinned(db):
            table = find_table(db, name)
            return _read(db, table) if isinstance(table, DigestTable) else NewestChange(reason=table.reason)

    found: dict[str, NewestChange] = {}
    for name in tables:
        try:
            found[name] = patiently(functools.partial(look, name))
        except PostgresError as error:
            if db.closed:
                raise
            found[name] = NewestChange(reason=said(error))
    return found


def _read(db: Database, table: DigestTable) -> NewestChange:
    server = db.ask_one("commit_timestamps")
    # An xid says nothing of its order by itself: its age, the distance from the next one, does.
    ((count, xid),) = db.ask_text(
        "select pg_catalog.count(*), "  # noqa: S608 - the server quoted the name
        f"(select x.xmin::pg_catalog.text::bigint from {table.quoted} x order by pg_catalog.age(x.xmin) limit 1) "
        f"from {table.quoted} t"
    )
    if not count:
        return NewestChange()
    full = _full(int(xid), int(server["next_xid"]))
    at = None
    if server["kept"]:
        ((at,),) = db.ask_text("select pg_catalog.pg_xact_commit_timestamp(%s::text::pg_catalog.xid)", (str(xid),))
    return NewestChange(rows=int(count), xid=full, at=at)


def _full(xid: int, next_xid: int) -> int:
    """The 64-bit transaction id of a 32-bit one that came before ``next_xid``."""
    return next_xid - ((next_xid - xid) & 0xFFFFFFFF)


def near_xid(xid: int, known: int) -> int:
    """The 64-bit transaction id of a 32-bit one, by a known one that is near."""
    ahead = (xid - known) & 0xFFFFFFFF
    return known + (ahead if ahead < 1 << 31 else ahead - (1 << 32))


def is_committed(db: Database, xid: int) -> tuple[bool | None, str]:
    """Whether transaction ``xid`` (64 bits) is committed here, and what was seen; None: too old for the server to tell."""
    try:
        status = db.ask_one("newest_transaction", xid=str(xid))["status"]
    except PostgresError as error:
        if error.sqlstate == "22023":
            return False, "unknown: the copy ends before it"
        raise
    return (None, "too old to tell") if status is None else (status == "committed", str(status))


def changes_arrived(db: Database, expected: Mapping[str, NewestChange], observed: Mapping[str, NewestChange]) -> Check:
    """Each table's newest change on the source must be committed in the copy; FAILED names the tables where it isn't."""
    frame = CheckFrame(
        "newest changes",
        "what was committed last in each table is in the copy",
        f"the newest change of {counted(len(expected), 'table')} committed in the copy",
    )
    wrong, unseen, details = [], [], []
    for name, source in expected.items():
        copy = observed.get(name, NewestChange(reason="not read on the copy"))
        seen: Any = True
        if source.reason or copy.reason:
            unseen.append(f"{name}: {source.reason or copy.reason}")
        elif source.xid:
            seen, status = is_committed(db, source.xid)
            if seen is False:
                wrong.append(f"{name} (XID {source.xid} is {status})")
        details.append((name, f"source: {source}; copy: {copy}"))
    text = f"{len(expected) - len(wrong) - len(unseen)} of {counted(len(expected), 'table')}"
    if wrong:
        return frame.verdict(Verdict.FAILED, f"{text}; missing: {', '.join(wrong)}", details=details)
    if unseen or not expected:
        return frame.verdict(Verdict.UNPROVEN, text, reason="; ".join(unseen) or "no table was named", details=details)
    return frame.verdict(Verdict.VERIFIED, text, details=details)
