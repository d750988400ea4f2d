"""The commits of a stretch of WAL in 28 bytes each: a busy segment holds some 50,000, and a search looks at twenty segments."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import overload

from drillbook.model import ArchivedCommit, Lsn

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Commits(Sequence[ArchivedCommit]):
    """Commits in the order of the WAL; each becomes an `ArchivedCommit` when it is asked for.

    ``segment`` is where those begin that begin at ``begin`` or later; at most one, the first, begins in ``earlier``.
    """

    def __init__(self, segment: str = "", begin: int = 0, earlier: str = "") -> None:
        self.segment, self.begin, self.earlier = segment, begin, earlier
        self._times = array("q")  # microseconds since 2000, as in the record
        self._xids = array("I")
        self._starts = array("Q")
        self._ends = array("Q")

    def add(self, microseconds: int, xid: int, start: int, end: int) -> None:
        """One more commit: its record lies from ``start`` to ``end``. OverflowError: no such instant."""
        self._times.append(microseconds)
        self._xids.append(xid)
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._times)

    @overload
    def __getitem__(self, at: int) -> ArchivedCommit: ...
    @overload
    def __getitem__(self, at: slice) -> list[ArchivedCommit]: ...
    def __getitem__(self, at: int | slice) -> ArchivedCommit | list[ArchivedCommit]:
        if isinstance(at, slice):
            return [self._one(number) for number in range(*at.indices(len(self)))]
        return self._one(range(len(self))[at])

    def __iter__(self) -> Iterator[ArchivedCommit]:
        return map(self._one, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def xids(self) -> array[int]:
        """The transactions' ids."""
        return self._xids

    def copy(self, other: Commits, at: int) -> None:
        """Add one of another list's."""
        self.add(other._times[at], other._xids[at], other._starts[at], other._ends[at])

    def place(self, commit: ArchivedCommit) -> int:
        """The index of one of its commits."""
        return bisect_left(self._starts, commit.lsn.value)

    def instants(self) -> Iterator[tuple[datetime, int]]:
        """(commit time, LSN of the record) of each."""
        for time, start in zip(self._times, self._starts, strict=True):
            yield _EPOCH + timedelta(microseconds=time), start

    def last_of(self, xid: int) -> ArchivedCommit | None:
        """The last commit of this transaction, ``None`` if it is not among them."""
        if xid not in self._xids:
            return None
        return self._one(next(at for at in range(len(self) - 1, -1, -1) if self._xids[at] == xid))

    def first_later(self, instant: datetime, *, at_it_too: bool = False) -> ArchivedCommit | None:
        """The first with a later time (or, ``at_it_too``, the same), in the order of the WAL; ``None`` if there isn't one."""
        limit = (instant - _EPOCH) // _MICROSECOND + (0 if at_it_too else 1)
        found = next((at for at, time in enumerate(self._times) if time >= limit), None)
        return None if found is None else self._one(found)

    def _one(self, at: int) -> ArchivedCommit:
        start = self._starts[at]
        # Nothing is checked again: these are the record's own numbers.
        return ArchivedCommit.model_construct(
            committed_at=_EPOCH + timedelta(microseconds=self._times[at]),
            xid=self._xids[at],
            lsn=Lsn(start),
            end_lsn=Lsn(self._ends[at]),
            segment=self.segment if start >= self.begin else self.earlier,
        )


__all__ = ["Commits"]
