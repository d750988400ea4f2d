"""Many questions to one database, in several sessions side by side: for a copy, where nobody else is to be protected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from drillbook.errors import PostgresError
from drillbook.postgres.client import Database

# Statements of one transaction, which share its cost; each holds its locks until the transaction ends, of which a
# server has some thousands.
TOGETHER = 32
# A table of more pages than this is worth its own transaction, so that the sessions end at about the same time.
MANY_PAGES = 2000

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Sessions:
    """What opens more sessions on a database, and how many of them there may be in all."""

    open: Callable[[], Database]
    jobs: int


@dataclass(frozen=True)
class Query:
    """A statement with its parameters, which answers with rows; ``pages`` is how much it reads, about."""

    statement: str
    params: tuple[Any, ...] = ()
    pages: int = 0


def side_by_side(
    db: Database, items: Sequence[Item], work: Callable[[Database, Item], Answer], sessions: Sessions | None = None
) -> list[Answer | None]:
    """What ``work`` gives for each item, in whichever session is free; ``db`` is one of them, and is not closed.

    None: every session was lost before its turn. Fewer sessions than wanted are enough. Raises what ``work`` raises.
    """
    found: list[Answer | None] = [None] * len(items)
    left = deque(range(len(items)))

    def go(session: Database) -> None:
        while left and not session.closed:
            try:
                number = left.popleft()
            except IndexError:  # another session was faster
                return
            found[number] = work(session, items[number])

    wanted = min(sessions.jobs, len(items)) - 1 if sessions is not None else 0
    with ExitStack() as stack:
        others = [session for _ in range(wanted) if sessions and (session := _another(sessions))]
        for session in others:
            stack.callback(session.close)
        with ThreadPoolExecutor(len(others) + 1, thread_name_prefix="copy") as pool:
            for ended in [pool.submit(go, session) for session in (db, *others)]:
                ended.result()
    return found


def _another(sessions: Sessions) -> Database | None:
    try:
        return sessions.open()
    except PostgresError:  # the first session does without
        return None


def ask_each(
    db: Database, asked: Sequence[Query], sessions: Sessions | None = None, *, begin: str = ""
) -> list[list[tuple[Any, ...]] | PostgresError | None]:
    """The rows that answer each statement, or its error, which hides no other; None: the connection was lost before.

    The largest first. ``begin`` is a question that each transaction begins with.
    """
    found: list[list[tuple[Any, ...]] | PostgresError | None] = [None] * len(asked)

    def ask(session: Database, batch: list[int]) -> None:
        left = deque(batch)
        while left and not session.closed:
            try:
                with session.snapshot(repeatable=False):
                    if begin:
                        session.ask_one(begin)
                    while left:
                        found[left[0]] = session.ask_text(asked[left[0]].statement, asked[left[0]].params)
                        left.popleft()
            except PostgresError as error:
                if left:  # else it is that of the ROLLBACK
                    found[left.popleft()] = error

    side_by_side(db, _batches(asked), ask, sessions)
    return found


def _batches(asked: Sequence[Query]) -> list[list[int]]:
    batches: list[list[int]] = []
    pages = MANY_PAGES
    for number in sorted(range(len(asked)), key=lambda number: -asked[number].pages):
        if pages >= MANY_PAGES or len(batches[-1]) >= TOGETHER:
            batches.append([])
            pages = 0
        batches[-1].append(number)
        pages += asked[number].pages
    return batches
