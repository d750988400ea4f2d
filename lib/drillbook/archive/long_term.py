"""Long-term backups: which there are, what each needs to be recovered, and whether retention is kept.

A long-term backup is recovered to its own end: it needs its tars and the WAL from its begin to its end segment, with
all history files, because a promotion looks for a timeline that is free. Read by listing and by each ``backup.info``,
which must lie in a readable class (S3's lifecycle leaves objects under 128 KB where they are).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from drillbook.archive.catalogue import COLD, BackupState, Entry, catalogue
from drillbook.archive.layout import COMPRESSIONS, PARALLEL, base_prefix, wal_prefix
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.timelines import pinned
from drillbook.errors import PreconditionError
from drillbook.model import BaseBackup, Frozen, Instant, RecoveryTarget
from drillbook.postgres.wal import segment_names
from drillbook.profile import show_duration

GB = 1 << 30
_CLOCKS = timedelta(minutes=5)
_HISTORY = re.compile(r"/([0-9A-F]{8})\.history")


class StoredObject(Frozen):
    """An object that a recovery reads; ``size`` in bytes."""

    key: str
    size: int
    storage_class: str

    @property
    def archived(self) -> bool:
        """Whether its class has to be asked for before it can be read."""
        return self.storage_class in COLD


class LongTermBackup(Frozen):
    """A long-term backup. ``fault`` says why it can't be recovered, "" if nothing speaks against it.

    ``at`` is when it ended, by its description, else when it began, by its id, else when it was written. ``unread``:
    its description lies in an archive class, so that nothing but its place was seen. ``objects`` are all that a
    recovery of it reads.
    """

    backup_id: str
    at: Instant | None
    fault: str = ""
    unread: bool = False
    kept: bool = False
    backup: BaseBackup | None = None
    objects: tuple[StoredObject, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it can be recovered, as far as a listing shows."""
        return self.backup is not None and not self.fault


class ChosenBackup(Frozen):
    """A long-term backup that is recovered to its own end; ``image`` is what for, "" for the source's."""

    backup: BaseBackup
    objects: tuple[StoredObject, ...]
    target: RecoveryTarget
    image: str = ""

    @property
    def size_bytes(self) -> int:
        """What its objects take."""
        return sum(item.size for item in self.objects)

    @property
    def classes(self) -> str:
        """The storage classes of its objects."""
        return ", ".join(sorted({item.storage_class for item in self.objects}))

    @property
    def archived(self) -> tuple[StoredObject, ...]:
        """Those of its objects that have to be asked for."""
        return tuple(item for item in self.objects if item.archived)


class Period(Frozen):
    """A calendar month or year in UTC; ``end`` is not in it."""

    begin: Instant
    end: Instant
    every: str

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m}" if self.every == "month" else f"{self.begin:%Y}"


class Audit(Frozen):
    """What retention promises, compared with what is there."""

    periods: tuple[Period, ...]
    gaps: tuple[Period, ...]
    broken: tuple[tuple[str, str], ...]
    unread: tuple[str, ...]
    expired: tuple[str, ...]
    recent: tuple[str, ...]
    """Of the period that is not over, for which none is owed yet."""


class Cost(Frozen):
    """What a retrieval is estimated to cost: ``requests`` for ``size_bytes``, in the profile's currency."""

    requests: int
    size_bytes: int
    amount: float
    currency: str

    def __str__(self) -> str:
        amount = "less than 0.01" if 0 < self.amount < 0.01 else f"{self.amount:.2f}"
        return f"{amount} {self.currency}"


def read_long_term(store: ObjectStore, server_name: str) -> tuple[LongTermBackup, ...]:
    """Every long-term backup of the folder, oldest first; those without a time first of all. ObjectStoreError."""
    entries = catalogue(store, server_name, cold=True).entries
    histories = [
        StoredObject(key=item.key, size=item.size, storage_class=item.storage_class)
        for item in store.level(wal_prefix(server_name)).objects
        if ".history" in item.key
    ]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="long-term") as pool:
        found = list(pool.map(lambda entry: _long_term(store, entry, histories), entries))
    return tuple(sorted(found, key=lambda one: (one.at or datetime.min.replace(tzinfo=UTC), one.backup_id)))


def _long_term(store: ObjectStore, entry: Entry, histories: Sequence[StoredObject]) -> LongTermBackup:
    backup = entry.backup
    if backup is None:
        unread = entry.state is BackupState.COLD
        reason = "its backup.info lies in an archive class" if unread else entry.reason
        at = _began(entry.backup_id) or entry.modified
        return LongTermBackup(backup_id=entry.backup_id, at=at, fault=reason, unread=unread, kept=entry.kept)
    prefix = f"{base_prefix(entry.server_name)}{entry.backup_id}/"
    mine = [StoredObject(key=one.key, size=one.size, storage_class=one.storage_class) for one in store.list(prefix)]
    wal, fault = _wal(store, backup)
    return LongTermBackup(
        backup_id=entry.backup_id,
        at=backup.end_time,
        fault=fault,
        kept=entry.kept,
        backup=backup,
        objects=(*mine, *wal, *histories),
    )


def _began(backup_id: str) -> datetime | None:
    """The time in a backup's id, as barman-cloud makes it."""
    try:
        return datetime.strptime(backup_id, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _wal(store: ObjectStore, backup: BaseBackup) -> tuple[list[StoredObject], str]:
    """The WAL from the backup's begin to its end, and what of it is not there."""
    try:
        needed = list(segment_names(backup.begin_wal, backup.end_wal, backup.segment_bytes))
    except ValueError as error:
        return [], f"its WAL can't be named: {error}"
    folder = wal_prefix(backup.server_name)
    there: dict[str, StoredObject] = {}
    for part in dict.fromkeys(name[:16] for name in needed):
        for item in store.list(f"{folder}{part}/"):
            stem, _, ending = item.key.rpartition("/")[2].partition(".")
            if ending in COMPRESSIONS and item.size:
                there[stem] = StoredObject(key=item.key, size=item.size, storage_class=item.storage_class)
    missing = [name for name in needed if name not in there]
    found = [there[name] for name in needed if name in there]
    if not missing:
        return found, ""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return found, f"of its {len(needed)} WAL segments {missing[0]}{more} is not in the archive"


# -- retention -----------------------------------------------------------------------------------------------------


def periods(every: str, years: int, now: datetime, since: datetime | None = None) -> tuple[Period, ...]:
    """The complete calendar months or years within the last ``years``, none that began before ``since``; oldest first."""
    first = _years_before(now, years)
    begin = max(first, since) if since else first
    at = datetime(first.year, first.month if every == "month" else 1, 1, tzinfo=UTC)
    found = []
    while (end := _following(at, every)) <= now:
        if at >= begin:
            found.append(Period(begin=at, end=end, every=every))
        at = end
    return tuple(found)


def _years_before(now: datetime, years: int) -> datetime:
    day = 28 if (now.month, now.day) == (2, 29) else now.day
    return now.replace(year=now.year - years, day=day)


def _following(at: datetime, every: str) -> datetime:
    if every == "year" or at.month == 12:
        return at.replace(year=at.year + 1, month=1)
    return at.replace(month=at.month + 1)


def audit(
    backups: Sequence[LongTermBackup], *, every: str, years: int, now: datetime, since: datetime | None = None
) -> Audit:
    """Retention as it is promised, compared with the backups; pure.

    A period is a gap unless a usable backup ended in it, or one whose description could not be read began in it. What
    ended after ``now`` is broken: clocks differ by minutes, not more.
    """
    owed = periods(every, years, now, since)
    future = [one for one in backups if one.at is not None and one.at > now + _CLOCKS]
    standing = [one for one in backups if (one.usable or one.unread) and one.at is not None and one not in future]
    oldest, last = _years_before(now, years), owed[-1].end if owed else _years_before(now, 1)
    broken = [(one.backup_id, one.fault) for one in backups if one.fault and not one.unread]
    broken += [(one.backup_id, "its description says that it ended in the future") for one in future]
    return Audit(
        periods=owed,
        gaps=tuple(p for p in owed if not any(p.begin <= one.at < p.end for one in standing if one.at)),
        broken=tuple(broken),
        unread=tuple(one.backup_id for one in backups if one.unread),
        expired=tuple(one.backup_id for one in standing if one.at and one.at < oldest and not one.kept),
        recent=tuple(one.backup_id for one in standing if one.at and one.at >= last),
    )


# -- choice and cost -----------------------------------------------------------------------------------------------


def to_its_end(chosen: LongTermBackup, backup: BaseBackup, images: Mapping[str, str], major: int) -> ChosenBackup:
    """What a recovery to the backup's own end takes; ``major`` is the source's. PreconditionError: its timeline or image is missing."""
    histories = {int(found[1], 16) for item in chosen.objects if (found := _HISTORY.search(item.key))}
    its_major = backup.pg_version // 10_000
    image = images.get(str(its_major), "")
    if its_major != major and not image:
        raise PreconditionError(
            f"backup {backup.backup_id} is of PostgreSQL {its_major}, the source runs {major}, and the profile names no image for it",
            todo=f"Add an image of PostgreSQL {its_major} to long_term.images.",
        )
    return ChosenBackup(
        backup=backup,
        objects=chosen.objects,
        target=RecoveryTarget(target_immediate=True, timeline=pinned(backup.timeline, backup, histories)),
        image=image if its_major != major else "",
    )


def seed_of(run_id: str) -> int:
    """The seed that a run takes where none is given: from its id, so that the choice can be repeated by anyone who knows the id."""
    return int(hashlib.sha256(run_id.encode()).hexdigest()[:7], 16)


def choose(backups: Sequence[LongTermBackup], seed: int) -> tuple[LongTermBackup, LongTermBackup] | None:
    """The oldest usable backup, and one of the others by ``seed``; of a single one it is that one. None: there is none.

    The others are equally likely: SHA-256 of the seed, modulo how many there are.
    """
    usable = [one for one in backups if one.usable]
    if not usable:
        return None
    others = usable[1:] or usable
    number = int(hashlib.sha256(str(seed).encode()).hexdigest(), 16)
    return usable[0], others[number % len(others)]


def cost(
    sizes: Sequence[int], *, days: int, per_gb: float, per_1000_requests: float, per_gb_month: float, currency: str
) -> Cost:
    """What the retrieval of objects of these ``sizes`` costs, and their duplicates for ``days`` (a month has 30)."""
    gigabytes = sum(sizes) / GB
    amount = gigabytes * per_gb + len(sizes) / 1000 * per_1000_requests + gigabytes * per_gb_month * days / 30
    return Cost(requests=len(sizes), size_bytes=sum(sizes), amount=round(amount, 4), currency=currency)


def show_age(backup: BaseBackup, now: datetime) -> str:
    """How old a backup is, in days, or from a year on in years."""
    days = backup.age_seconds(now) / 86_400
    return f"{days / 365.25:.1f} years" if days >= 365 else f"{days:.0f} days"


_WAITS = {
    ("GLACIER", "Expedited"): (timedelta(minutes=5), "1 to 5 minutes"),
    ("GLACIER", "Standard"): (timedelta(hours=5), "3 to 5 hours"),
    ("GLACIER", "Bulk"): (timedelta(hours=12), "5 to 12 hours"),
    ("DEEP_ARCHIVE", "Standard"): (timedelta(hours=12), "up to 12 hours"),
    ("DEEP_ARCHIVE", "Bulk"): (timedelta(hours=48), "up to 48 hours"),
}
"""The longest, and in words, as the S3 user guide says: "Understanding archive retrieval options"."""


def expected_wait(classes: Sequence[str], tier: str) -> str:
    """How long the provider says that it takes, for each archive class; "" if nothing is archived."""
    cold = sorted(set(classes) & COLD)
    return "; ".join(f"{name}, {tier}: {_WAITS[name, tier][1]}" for name in cold if (name, tier) in _WAITS)


def retrieval_faults(classes: Sequence[str], tier: str, patience: timedelta) -> list[str]:
    """Why these archive classes can't be asked for by this tier, or not by a run that is left waiting for ``patience``."""
    faults = []
    for name in sorted(set(classes) & COLD):
        longest = _WAITS.get((name, tier))
        if longest is None:
            faults.append(f"{name} can't be asked for by tier {tier}: set long_term.tier to Standard or Bulk")
        elif longest[0] > patience:
            faults.append(
                f"{name} by tier {tier} takes {longest[1]}, and a run that waits is ended after {show_duration(patience)}: raise "
                "approvals.deadline, or choose a faster tier"
            )
    return faults


__all__ = [
    "GB",
    "Audit",
    "ChosenBackup",
    "Cost",
    "LongTermBackup",
    "Period",
    "StoredObject",
    "audit",
    "choose",
    "cost",
    "expected_wait",
    "periods",
    "read_long_term",
    "retrieval_faults",
    "seed_of",
    "show_age",
    "to_its_end",
]
