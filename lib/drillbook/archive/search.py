"""Committed changes in the archived WAL between two instants, in the order of the WAL.

Runs of adjoining segments are fetched by threads and read by processes, several side by side; what one run began and
another ended is put together in their order. Memory is bounded by the runs that are under way, however long the search.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from drillbook.archive.layout import WalListing
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.snapshot import CLOCKS
from drillbook.archive.wal_files import STOPS, unpacked
from drillbook.errors import WalGap
from drillbook.postgres.wal import Chain, Changes, ChangesRead, Runs, SegmentName, WalFormatError, read_run, rows_of

_RUN_BYTES = 64 << 20
_MOST_WORKERS = 2  # each reads 100 MB/s and more, and a scheduled run has a gigabyte of memory for all
_FEW = 4  # so many segments are read before a process would have begun


class CommitSeen(NamedTuple):
    """A commit in the archive: ``database`` is 0 where its record doesn't say."""

    committed_at: datetime
    lsn: int
    database: int


def changes_between(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    *,
    since: datetime,
    until: datetime,
    system_id: str = "",
    say: Callable[[str], Any] = lambda _: None,
) -> Iterator[Changes]:
    """What was deleted or dropped by transactions committed between ``since`` and ``until`` along ``reach``.

    Reading begins at the newest segment that was archived some minutes before ``since``, so a transaction that began
    earlier is seen with what it did from there on; every segment in between is read, however many. ``say`` receives how
    far it is. WalGap: a segment on the way is damaged.
    """
    together = Runs()
    for run in _runs(store, listing, reach, since, until, system_id, say):
        yield from (changes for changes in together.settle(run) if since <= changes.committed_at <= until)


def commits_between(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    *,
    since: datetime,
    until: datetime,
    system_id: str = "",
    say: Callable[[str], Any] = lambda _: None,
) -> Iterator[CommitSeen]:
    """Every commit between ``since`` and ``until`` along ``reach``; otherwise as `changes_between`."""
    for run in _runs(store, listing, reach, since, until, system_id, say):
        yield from (CommitSeen(*row) for row in rows_of(run) if since <= row[0] <= until)


def _runs(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    since: datetime,
    until: datetime,
    system_id: str,
    say: Callable[[str], Any],
) -> Iterator[ChangesRead]:
    """The runs that are read, in their order, until one begins after ``until``."""
    names = list(_from(reach, listing, since - CLOCKS))
    length = max(1, _RUN_BYTES // reach.segment_bytes)
    pieces = deque(range(0, len(names), length))
    under_way: deque[tuple[int, Future[ChangesRead | str]]] = deque()
    with (
        _workers(len(names)) as (pool, count),
        ThreadPoolExecutor(count + 1, thread_name_prefix="wal-search") as fetchers,
    ):
        try:
            while pieces or under_way:
                while pieces and len(under_way) <= count:
                    at = pieces.popleft()
                    under_way.append((at, fetchers.submit(_one, store, listing, names, at, length, system_id, pool)))
                at, future = under_way.popleft()
                say(f"reading {names[at]}, {at + 1} of {len(names)}")
                run = future.result()
                if isinstance(run, str):
                    raise WalGap(run, todo=STOPS)
                yield run
                if run.stopped and run.stopped_in != names[-1]:
                    raise WalGap(f"segment {run.stopped_in} in the archive is damaged: {run.stopped}", todo=STOPS)
                first = next((commits[0] for commits in run.commits if commits), None)
                if first is not None and first.committed_at > until:
                    return
        finally:
            for _, future in under_way:
                future.cancel()


def _one(
    store: ObjectStore,
    listing: WalListing,
    names: Sequence[str],
    at: int,
    length: int,
    system_id: str,
    pool: Executor | None,
) -> ChangesRead | str:
    """One run read; where its last record goes on, as many segments after it as that takes. A sentence: what is damaged."""
    after = 1
    while True:
        wanted = [(name, segment) for name in names[at : at + length + after] if (segment := listing.segment(name))]
        stored = [(name, store.get(segment.key), segment.compression) for name, segment in wanted]
        arguments = stored[:length], stored[length:], system_id
        found = _read(*arguments) if pool is None else pool.submit(_read, *arguments).result()
        if isinstance(found, str) or not found.pending or at + length + after >= len(names):
            return found
        after *= 2


_Stored = Sequence[tuple[str, bytes, str]]


def _read(segments: _Stored, following: _Stored, system_id: str) -> ChangesRead | str:
    """In its own process: unpack and read; errors as sentences, since they cross over."""
    try:
        return read_run(_Unpacked(segments), _Unpacked(following), system_id)
    except WalGap as error:
        return error.what
    except WalFormatError as error:
        return f"segment {error}, in the archive"


class _Unpacked:
    """Segments unpacked one at a time, each when its turn comes."""

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return ((name, unpacked(name, data, compression)) for name, data, compression in self._stored)


@contextmanager
def _workers(segments: int) -> Iterator[tuple[Executor | None, int]]:
    """Processes to read in, and how many; none for a few segments."""
    count = min(os.cpu_count() or 1, _MOST_WORKERS, -(-segments // _FEW))
    if count < 2:
        yield None, 1
        return
    try:
        # A fork would copy this process's threads' locks; a notebook's kernel has several.
        pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    except OSError:  # no shared memory for their semaphores: one after the other, then
        yield None, 1
        return
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)


def _from(reach: Chain, listing: WalListing, since: datetime) -> Iterator[str]:
    """The chain's segments from the newest that was archived before ``since``, oldest first."""
    if not reach.last_segment:
        return
    first = SegmentName.parse(reach.begin_wal, reach.segment_bytes).number
    last = SegmentName.parse(reach.last_segment, reach.segment_bytes).number
    begin = first
    for name in reach.backwards():
        segment = listing.segment(name)
        if segment is not None and segment.modified < since:
            begin = SegmentName.parse(name, reach.segment_bytes).number
            break
    yield from (reach.name_at(number) for number in range(begin, last + 1))


__all__ = ["CommitSeen", "changes_between", "commits_between"]
