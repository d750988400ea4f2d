"""Sequences: the next value of each is one that its column doesn't have yet."""

from __future__ import annotations

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted, pinned, said
from drillbook.postgres.checks.parallel import Query, Sessions, ask_each
from drillbook.postgres.client import Database


def sequences_ahead(db: Database, sessions: Sessions | None = None) -> Check:
    """Whether every sequence that feeds an integer column is past the column's greatest value (least, if descending).

    A sequence that lags makes the next insert fail on a unique column. How far it lags is reported, not the values. One
    statement a sequence; without an index on the column that is a pass over its table.
    """
    frame = CheckFrame("sequences", "the next insert gets a new number", "every sequence ahead of its column")
    try:
        with pinned(db):
            feeds = db.ask("integrity_sequences")
    except PostgresError as error:
        return frame.error(error)
    behind: dict[str, str] = {}
    unseen: dict[str, str] = {}
    damaged = False
    answers = ask_each(db, [Query(feed["statement"]) for feed in feeds], sessions)
    for feed, answer in zip(feeds, answers, strict=True):
        if isinstance(answer, PostgresError):
            damaged = damaged or answer.contradicts
            (behind if answer.contradicts else unseen)[feed["sequence"]] = said(answer)
        elif answer is None:
            unseen[feed["sequence"]] = "not looked at: the connection was lost"
        elif (short := answer[0][0]) is not None and short > 0:
            behind[feed["sequence"]] = f"{short:,} behind {feed['fed']}"
    details = [*behind.items(), *unseen.items()]
    if behind:
        what = "behind or unreadable" if damaged else "behind"
        return frame.verdict(
            Verdict.FAILED,
            f"{len(behind)} of {counted(len(feeds), 'sequence')} {what}: {', '.join(behind)}",
            details=details,
        )
    if unseen:
        reason = "; ".join(f"{name}: {why}" for name, why in unseen.items())
        return frame.verdict(
            Verdict.UNPROVEN,
            f"{len(unseen)} of {counted(len(feeds), 'sequence')} not read",
            reason=reason,
            details=details,
        )
    if not feeds:
        return frame.verdict(Verdict.NOT_APPLICABLE, "", reason="no sequence feeds a column")
    return frame.verdict(Verdict.VERIFIED, f"{counted(len(feeds), 'sequence')} ahead")
