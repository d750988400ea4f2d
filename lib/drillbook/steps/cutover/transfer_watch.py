"""The volumes of the running cluster, watched while a database is transferred into it: transferring stops before one is full.

A full volume stops PostgreSQL for every tenant. Back-pressure goes all the way to pg_dump: what is not read is not
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from drillbook.engine.step import Context
from drillbook.errors import Changed, RunbookError, UpstreamError
from drillbook.model import show_seconds
from drillbook.postgres.client import SQL
from drillbook.report.cards import show_bytes
from drillbook.steps.cutover.swap_check import archiver_faults, rooms_of
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.disk_space import FreeSpace
from drillbook.swap.superuser import MAINTENANCE, Superuser

LOOK_SECONDS = 5.0


class TransferWatch:
    """Looks every few seconds; answers whether to go on, and raises when holding is of no use any more.

    Held below a volume's reserve, ended below half of it, or when nothing becomes free within ``patience_seconds``.
    """

    def __init__(
        self,
        ctx: Context,
        cluster: SourceCluster,
        source: Superuser,
        *,
        rooms: Callable[[], tuple[list[FreeSpace], list[str]]] | None = None,
        usual_seconds: float = float("inf"),
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._ctx, self._cluster, self._source = ctx, cluster, source
        self._rooms = rooms or (lambda: rooms_of(ctx, cluster))
        self._patience = ctx.site.limits.step.total_seconds()
        self._began = time.monotonic()
        self._usual = usual_seconds
        self._look_seconds, self._looked = look_seconds, -look_seconds
        self._held_since: float | None = None
        self.why = ""

    def __call__(self, count: int) -> bool:
        """``count`` bytes have been transferred: may more come?"""
        now = time.monotonic()
        if now - self._looked >= self._look_seconds:
            self._look()
            self._looked = time.monotonic()
        late = (
            f"; longer than predicted ({show_seconds(self._usual)}), and going on"
            if now - self._began > self._usual
            else ""
        )
        self._ctx.recorder.progress(f"{show_bytes(count)} transferred{f', held: {self.why}' if self.why else ''}{late}")
        return not self.why

    def _look(self) -> None:
        rooms, unseen = self._rooms()
        tight = [room for room in rooms if room.free_bytes < room.reserve_bytes]
        self.why = "; ".join([*unseen, *(_told(room) for room in tight)])
        if not self.why:
            self._held_since = None
            return
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
            with suppress(RunbookError):  # what is archived can be removed after one
                self._source.run(MAINTENANCE, SQL("CHECKPOINT"), repeatable=True)
        failing: list[str] = []
        if tight:
            with suppress(RunbookError), self._ctx.source() as db:
                failing = archiver_faults(self._ctx, db.ask_one("archiver"))
        hopeless = [room for room in tight if room.free_bytes < room.reserve_bytes // 2]
        if hopeless or failing or now - self._held_since > self._patience:
            waited = show_seconds(now - self._held_since)
            raise UpstreamError(
                f"transferring was ended before a volume is full: {'; '.join([self.why, *failing])} (held for {waited})",
                changed=Changed.DONE,
                todo="Give the volumes more room or the archive more speed, and transfer again: what was transferred so far is dropped.",
            )

    def stop(self, database: str) -> None:
        """End what still fills the database: a command that was begun in a pod outlives who asked for it."""
        ended = SQL(
            "select pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity where datname = {}"
        )
        with suppress(RunbookError):  # it is dropped with its sessions, by this run's promise
            self._source.run(MAINTENANCE, ended.format(database), repeatable=True)


def _told(room: FreeSpace) -> str:
    return (
        f"{show_bytes(room.free_bytes)} free on {room.volume} of {room.pod}, {show_bytes(room.reserve_bytes)} must stay"
    )


__all__ = ["TransferWatch"]
