"""Asking for archived objects, and the wait until they can be read: hours in an archive class, over which a run may stop."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from drillbook.archive.location import open_retriever
from drillbook.archive.retrieval import Readable, ReadState, Request
from drillbook.engine.step import Action, Context, Plan, Step
from drillbook.errors import Changed, PreconditionError, StillRunning, VerificationError
from drillbook.model import Effect, Frozen, Instant, show_instant, show_seconds
from drillbook.report.cards import show_bytes
from drillbook.steps.long_term.choice import ChosenBackups, needed_until, still_to_ask
from drillbook.steps.long_term.location import look, place, reading, settings

_SLOWEST = 60.0  # seconds between two looks
_NOTED = 6


class Asked(Frozen):
    """What was asked for by this attempt, and what came to be on its way otherwise."""

    asked_at: Instant
    requested: int
    adopted: int
    size_bytes: int

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [
            ("asked for", f"{self.requested} objects, {show_bytes(self.size_bytes)}"),
            ("on its way or readable already", f"{self.adopted} objects"),
        ]


@dataclass(frozen=True)
class AskForArchivedObjects(Step[Asked]):
    """Ask the store to make the chosen backups' archived objects readable for some days.

    Each object is looked at first: one that is on its way, or readable, is not asked for again. So a run that was
    stopped on the way goes on where it was. The copies expire by themselves. ObjectStoreError: the store refused; what
    was asked for before stays so, and is paid for.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    chosen: ChosenBackups

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=f"Ask for the chosen backups' objects (they are {self.unknown})")
        said, ask, where = settings(ctx), self.chosen.to_ask, place(ctx).configuration["destinationPath"].rstrip("/")
        if not ask:
            return Plan(summary="Nothing has to be asked for: every object is readable or on its way", harmless=True)
        size = sum(item.size for item in ask)
        return Plan(
            summary=f"RestoreObject on {len(ask)} objects, {show_bytes(size)}, by tier {said.tier}, readable for {said.days} days; "
            f"estimated cost {self.chosen.cost}",
            touches=tuple(Action("RestoreObject", item.storage_class, "", f"{where}/{item.key}") for item in ask),
            notes=(
                f"expected wait: {self.chosen.wait}",
                "money is spent; the cost is estimated by the profile's prices",
                "the restored copies expire by themselves; the archived objects stay as they are",
            ),
        )

    def do(self, ctx: Context) -> Asked:
        said, now, came = settings(ctx), datetime.now(UTC), Counter[Request]()
        objects = self.chosen.to_ask
        size = 0
        if objects:
            with reading(ctx) as store:
                states = look(store, [item.key for item in objects])
            self._require_there(states)
            left, _, _ = still_to_ask(objects, states, until=needed_until(ctx, now))
            with open_retriever(ctx.kube, ctx.site, place(ctx), said) as asking:
                for number, item in enumerate(left, start=1):
                    ctx.recorder.progress(f"asking for {item.key}", fraction=number / len(left))
                    answer = asking.retrieve(item.key, tier=said.tier, days=said.days)
                    came[answer] += 1
                    size += item.size if answer is not Request.UNDER_WAY else 0
        requested = came[Request.BEGUN] + came[Request.EXTENDED]
        return Asked(asked_at=now, requested=requested, adopted=len(objects) - requested, size_bytes=size)

    def _require_there(self, states: list[Readable]) -> None:
        if gone := [one.key for one in states if one.state is ReadState.GONE]:
            raise PreconditionError(
                f"{gone[0]} was there when the backups were read, and is gone"
                + (f", and {len(gone) - 1} more" if len(gone) > 1 else ""),
                todo="Find out what deletes in the long-term location (lifecycle rules, retention); start a new run.",
            )

    def verify(self, ctx: Context, result: Asked) -> None:
        with reading(ctx) as store:
            states = look(store, [item.key for item in self.chosen.archived])
        cold = [one.key for one in states if one.state in (ReadState.ARCHIVED, ReadState.GONE)]
        if cold:
            raise VerificationError(
                "not every object of the chosen backups is on its way or readable",
                expected="each under way or readable",
                observed=f"{len(cold)} archived or gone: {', '.join(cold[:_NOTED])}",
                todo="Its days are over, or somebody has replaced it: start a new run, which asks for it again.",
            )


class NowReadable(Frozen):
    """Every object of both backups can be read. ``seconds`` since they were asked for; ``until``: None for ever."""

    seconds: float
    objects: int
    until: Instant | None = None

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        until = show_instant(self.until) if self.until else "no limit: nothing was archived"
        return [
            ("readable", f"{self.objects} objects"),
            ("waited", show_seconds(self.seconds)),
            ("readable until", until),
        ]


@dataclass(frozen=True)
class WaitUntilReadable(Step[NowReadable]):
    """Wait until every object of the chosen backups can be read, by HEAD.

    Hours or days in an archive class. What outlasts long_term.wait stops the run; the objects come all the same, and the
    run is resumed then. PreconditionError: the days of an object are over, or it is gone.
    """

    chosen: ChosenBackups
    asked: Asked

    def plan(self, ctx: Context) -> Plan:
        wait = settings(ctx).wait.total_seconds()
        return Plan(summary=f"Wait at most {show_seconds(wait)} for the objects; then stop, to be resumed")

    def do(self, ctx: Context) -> NowReadable:
        started, limit = time.monotonic(), settings(ctx).wait.total_seconds()
        objects = self.chosen.archived
        left, until = [item.key for item in objects], list[datetime]()
        with reading(ctx) as store:
            while left:
                states = look(store, left)
                self._require_coming(states)
                until += [one.until for one in states if one.state is ReadState.READABLE and one.until]
                left = [one.key for one in states if one.state is not ReadState.READABLE]
                waited = time.monotonic() - started
                if left and waited > limit:
                    raise self._late(ctx, left, len(objects))
                if left:
                    ready = len(objects) - len(left)
                    rows = (
                        ("readable", f"{ready} of {len(objects)} objects"),
                        ("expected", self.chosen.wait or "soon"),
                        ("waited", f"{show_seconds(waited)}; the run stops after {show_seconds(limit)}, to be resumed"),
                    )
                    ctx.recorder.progress("waiting for the archive", fraction=ready / len(objects), rows=rows)
                    ctx.pause(min(_SLOWEST, max(0.5, waited / 20), max(0.5, limit - waited)))
        seconds = (datetime.now(UTC) - self.asked.asked_at).total_seconds() if objects else 0.0
        ctx.recorder.phase(
            "retrieve", self.asked.asked_at, seconds, "from the request until HEAD says that each can be read"
        )
        return NowReadable(seconds=seconds, objects=len(objects), until=min(until, default=None))

    def _require_coming(self, states: list[Readable]) -> None:
        lost = [one for one in states if one.state in (ReadState.ARCHIVED, ReadState.GONE)]
        if lost:
            raise PreconditionError(
                f"{lost[0].key} is {lost[0].state} and not on its way"
                + (f", and {len(lost) - 1} more" if lost[1:] else ""),
                todo="Its days are over, or somebody has replaced it: start a new run, which asks for it again.",
            )

    def _late(self, ctx: Context, left: list[str], of: int) -> StillRunning:
        since = (datetime.now(UTC) - self.asked.asked_at).total_seconds()
        error = StillRunning(
            f"waiting: {len(left)} of {of} objects can't be read yet, {show_seconds(since)} after they were asked for; expected: "
            f"{self.chosen.wait or 'soon'}",
            todo=f"They come by themselves: `drillbook resume {ctx.run_id}` when they are expected, within the "
            f"{settings(ctx).days} days that they stay. Nothing is asked for twice.",
        )
        error.changed = Changed.DONE
        return error


__all__ = ["AskForArchivedObjects", "Asked", "NowReadable", "WaitUntilReadable"]
