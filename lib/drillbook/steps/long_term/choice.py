"""Which long-term backups are recovered, what of them has to be asked for, what that costs and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from drillbook.archive.long_term import (
    ChosenBackup,
    Cost,
    LongTermBackup,
    StoredObject,
    choose,
    cost,
    expected_wait,
    retrieval_faults,
    seed_of,
    show_age,
    to_its_end,
)
from drillbook.archive.retrieval import Readable, ReadState
from drillbook.engine.step import Context, Step
from drillbook.errors import BaseBackupMissing, NotReady
from drillbook.evidence.facts import Facts
from drillbook.model import Frozen, Instant, show_instant
from drillbook.profile import LongTerm
from drillbook.report.cards import show_bytes
from drillbook.steps.long_term.audit import LongTermReading
from drillbook.steps.long_term.location import look, reading, settings
from drillbook.steps.preflight.readiness import SourceCluster


class ChosenBackups(Frozen):
    """The oldest backup and one by a seed; ``to_ask`` are the objects of both that have to be asked for."""

    seed: int
    chosen_at: Instant
    oldest: ChosenBackup
    random: ChosenBackup
    to_ask: tuple[StoredObject, ...]
    under_way: int
    already_readable: int
    cost: Cost
    wait: str
    tier: str

    @property
    def archived(self) -> tuple[StoredObject, ...]:
        """The objects of both that lie in an archive class, each once."""
        both = {item.key: item for one in (self.oldest, self.random) for item in one.archived}
        return tuple(both.values())

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        asked = f"{len(self.to_ask)} objects, {show_bytes(sum(item.size for item in self.to_ask))}"
        if not self.to_ask:
            asked = "nothing: every object can be read, or is on its way"
        rows = [
            ("oldest", _shown(self.oldest, self.chosen_at)),
            ("at random", "the same: it is the only one" if self._single else _shown(self.random, self.chosen_at)),
            ("seed", str(self.seed)),
            ("to be asked for", asked),
            ("on their way", f"{self.under_way} objects"),
            ("readable already", f"{self.already_readable} objects"),
        ]
        return rows + ([("estimated cost", str(self.cost)), ("expected wait", self.wait)] if self.to_ask else [])

    @property
    def _single(self) -> bool:
        return self.oldest.backup.backup_id == self.random.backup.backup_id


def _shown(one: ChosenBackup, now: datetime) -> str:
    age = show_age(one.backup, now)
    return f"{one.backup.backup_id}, {age} old, {len(one.objects)} objects, {show_bytes(one.size_bytes)}, {one.classes}"


def still_to_ask(
    objects: tuple[StoredObject, ...], states: list[Readable], *, until: datetime
) -> tuple[tuple[StoredObject, ...], int, int]:
    """Which archived objects have to be asked for, how many are under way, and how many can be read ``until`` then; pure."""
    by_key = {one.key: one for one in states}
    ask, under_way, readable = [], 0, 0
    for item in objects:
        state = by_key[item.key]
        if state.state is ReadState.UNDER_WAY:
            under_way += 1
        elif state.state is ReadState.READABLE and (state.until is None or state.until >= until):
            readable += 1
        else:
            ask.append(item)
    return tuple(ask), under_way, readable


def needed_until(ctx: Context, now: datetime) -> datetime:
    """How long an object must be readable, so that nothing expires under a recovery."""
    return now + ctx.site.limits.copy_expires + settings(ctx).wait


@dataclass(frozen=True)
class ChooseLongTermBackups(Step[ChosenBackups]):
    """Choose the oldest backup and one at random, and find what of them has to be asked for.

    The seed is the parameter, or follows from the run's id: with it anybody can make the choice again. Sizes, classes,
    and which objects are readable or on their way already come from the store; the cost is an estimate by the profile.
    BaseBackupMissing: none can be recovered. PreconditionError: no image for its major version. NotReady: the profile's
    tier does not fit its classes.
    """

    cluster: SourceCluster
    reading: LongTermReading
    seed: int

    def do(self, ctx: Context) -> ChosenBackups:
        said, now = settings(ctx), datetime.now(UTC)
        seed = self.seed or seed_of(ctx.run_id)
        pair = choose(self.reading.backups, seed)
        if pair is None:
            raise BaseBackupMissing(
                f"{self.reading.location} holds no long-term backup that can be recovered",
                todo="See what the audit names; a description that is archived must be restored before it can be read.",
            )
        oldest, random = (self._to_its_end(one, said) for one in pair)
        both = {item.key: item for one in (oldest, random) for item in one.archived}
        with reading(ctx) as store:
            states = look(store, both)
        ask, under_way, readable = still_to_ask(tuple(both.values()), states, until=needed_until(ctx, now))
        classes = [item.storage_class for item in ask]
        if faults := retrieval_faults(classes, said.tier, ctx.site.approvals.deadline):
            raise NotReady(faults, where=f"Site {ctx.site.name}")
        price = said.cost
        found = ChosenBackups(
            seed=seed,
            chosen_at=now,
            oldest=oldest,
            random=random,
            to_ask=ask,
            under_way=under_way,
            already_readable=readable,
            cost=cost(
                [item.size for item in ask],
                days=said.days,
                per_gb=price.per_gb,
                per_1000_requests=price.per_1000_requests,
                per_gb_month=price.per_gb_month,
                currency=price.currency,
            ),
            wait=expected_wait(classes, said.tier),
            tier=said.tier,
        )
        ctx.recorder.note(Facts(long_term=_noted(found)))
        return found

    def _to_its_end(self, one: LongTermBackup, said: LongTerm) -> ChosenBackup:
        assert one.backup is not None  # noqa: S101 - a usable one has a description
        return to_its_end(one, one.backup, said.images, self.cluster.server_version // 10_000)


def _noted(found: ChosenBackups) -> dict[str, object]:
    return {
        "seed": found.seed,
        "oldest": found.oldest.backup.backup_id,
        "random": found.random.backup.backup_id,
        "ended": {one.backup.backup_id: show_instant(one.backup.end_time) for one in (found.oldest, found.random)},
        "requests": found.cost.requests,
        "requested_bytes": found.cost.size_bytes,
        "estimated_cost": str(found.cost),
        "tier": found.tier,
    }


__all__ = ["ChooseLongTermBackups", "ChosenBackups", "needed_until", "still_to_ask"]
