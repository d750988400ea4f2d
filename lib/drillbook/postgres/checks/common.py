"""What the checks share: a pinned session, a clock, and what an error of PostgreSQL means for a claim."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.client import Database

# A check carries at most so many rows of detail; the rest is counted.
SHOWN = 12
# A statement that was cancelled: a scan of a table that is too large for the session's limit, which is the profile's.
CANCELLED = "57014"


@contextmanager
def pinned(db: Database) -> Iterator[None]:
    """One REPEATABLE READ snapshot, taken at once, in which text doesn't depend on the session's or the role's settings.

    Raises ``PostgresError``.
    """
    with db.snapshot():
        pin(db)
        yield


def pin(db: Database) -> None:
    """Take the snapshot of the open transaction now, and fix its settings for text. Raises ``PostgresError``."""
    db.ask_one("integrity_pin_session")


def verdict_of(error: PostgresError) -> Verdict:
    """SQLSTATE classes XX and 58 say that the data is damaged; any other error says that it couldn't be seen."""
    return Verdict.FAILED if error.contradicts else Verdict.UNPROVEN


def said(error: PostgresError) -> str:
    """The server's words with their SQLSTATE, which names the fault in any language."""
    what = error.what.removeprefix("the question: ")
    todo = "; a large table needs a larger limits.step in the profile" if error.sqlstate == CANCELLED else ""
    return f"{what} (SQLSTATE {error.sqlstate}){todo}" if error.sqlstate else what


def few(details: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The first dozen of ``details``, the last of them a count where there are more."""
    if len(details) <= SHOWN:
        return tuple(details)
    return (*details[: SHOWN - 1], ("and more", f"{len(details) - SHOWN + 1} not shown"))


def counted(number: int, what: str, plural: str = "") -> str:
    """``1 table``, ``2 tables``."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


class CheckFrame:
    """The frame of one check: its name, what it proves, and the time since it began."""

    def __init__(self, name: str, proves: str, expected: str) -> None:
        self.name = name
        self.proves = proves
        self.expected = expected
        self._began = time.monotonic()

    def verdict(
        self,
        verdict: Verdict,
        observed: str,
        *,
        reason: str = "",
        details: Sequence[tuple[str, str]] = (),
        expected: str = "",
    ) -> Check:
        """The finished check."""
        return Check(
            name=self.name,
            proves=self.proves,
            verdict=verdict,
            expected=expected or self.expected,
            observed=observed,
            reason=reason,
            seconds=round(time.monotonic() - self._began, 3),
            details=few(details),
        )

    def error(self, error: PostgresError) -> Check:
        """The check as an error of PostgreSQL leaves it."""
        found = verdict_of(error)
        return self.verdict(found, said(error), reason="" if found is Verdict.FAILED else said(error))
