"""What would come up if a declared Cluster were created again now, by the manifest, the live objects and the archive; pure.

The order is CloudNativePG's: the API server's rules, the objects that must be there, the check of the archive's folder,
the base backup, the replay. What is refused early hides what comes later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field

from drillbook.manifests.declared import Declared, StoreUse, Wanted
from drillbook.model import Frozen, Instant, show_instant, show_seconds
from drillbook.profile.units import size_bytes

NOT_EMPTY = "Expected empty archive"  # barman's words, by which the refusal is found in a log


class Outcome(StrEnum):
    """What comes up."""

    RIGHT = "right"
    STALE = "stale"
    EMPTY = "empty"
    FOREIGN = "another system's data"
    REFUSED = "refused"
    UNKNOWN = "not known"


class Archiving(StrEnum):
    """What becomes of its WAL then."""

    WORKS = "works"
    NONE = "none"
    REFUSED = "refused"
    MIXED = "mixes two histories"
    UNKNOWN = "not known"


class Folder(Frozen):
    """Whether a folder holds any WAL; ``why`` it could not be read, if ``wal`` is None."""

    wal: bool | None
    why: str = ""


class Reached(Frozen):
    """What recovery from the declared source would bring: ``last`` commit, the first that does not come back, and how many don't.

    ``fault``: why it fails. ``unread``: why that is not known. ``foreign``: whose system identifier the base backups have.
    ``current``: whether the source is the folder that the cluster archives to now. ``lost_commits`` None: not counted.
    """

    fault: str = ""
    unread: str = ""
    foreign: str = ""
    current: bool = True
    backup_id: str = ""
    major: int = 0
    last: Instant | None = None
    first_lost: Instant | None = None
    newest: Instant | None = None
    lost_commits: int | None = None

    @property
    def lost_seconds(self) -> float:
        """How much of the cluster's time is lost, as far as the archive shows."""
        begin = self.last or self.first_lost
        return max(0.0, (self.newest - begin).total_seconds()) if self.newest and begin else 0.0

    @property
    def loses(self) -> bool:
        """Whether anything that is archived does not come back."""
        return bool(self.lost_commits or self.lost_seconds or self.first_lost)


class World(Frozen):
    """What there is now. ``missing``: ObjectStores, Backups and Secrets that the manifest needs and nothing provides.

    ``application``: database, owner and Secret as the cluster was made with, ("", "", "") if that is not known;
    ``databases``: those of the profile's tenants; ``live``: the Cluster's spec now, empty if it is gone.
    """

    live: dict[str, Any] = Field(default_factory=dict)
    application: tuple[str, str, str] = ("", "", "")
    databases: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    server_name: str = ""  # archived to now
    folder: Folder | None = None  # the declared destination
    reached: Reached | None = None


class Rebuild(Frozen):
    """The answer: what comes up, what becomes of its WAL, and what else differs in a way that loses something."""

    outcome: Outcome
    why: str
    archiving: Archiving
    about_archiving: str
    differences: tuple[str, ...] = ()
    todo: str = ""

    @property
    def right(self) -> bool:
        """Whether the cluster would be what it is, and go on archiving."""
        return self.outcome is Outcome.RIGHT and self.archiving is Archiving.WORKS

    @property
    def answer(self) -> str:
        """In one line; that two histories are mixed is the worst, and comes first."""
        mixed = self.archiving is Archiving.MIXED
        head = f"{self.outcome.upper()}{', AND IT MIXES TWO HISTORIES' if mixed else ''}"
        return f"{head}. {self.why}{f' {self.about_archiving}' if self.about_archiving else ''}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """As a card shows it."""
        yield "Answer", self.answer
        yield "What comes up", str(self.outcome)
        yield "Its WAL archiving", str(self.archiving)
        if self.todo:
            yield "What to declare", self.todo


def judge(declared: Declared, asks: Wanted, world: World) -> Rebuild:
    """What would come up."""
    outcome, why = _outcome(declared, asks, world)
    archiving, about = _archiving(asks, world)
    if outcome is Outcome.REFUSED:
        archiving, about = Archiving.NONE, ""
    found = Rebuild(
        outcome=outcome,
        why=why,
        archiving=archiving,
        about_archiving=about,
        differences=tuple(_differences(declared, asks, world)) if outcome is not Outcome.REFUSED else (),
    )
    return found if found.right else found.model_copy(update={"todo": _todo(world)})


def _outcome(declared: Declared, asks: Wanted, world: World) -> tuple[Outcome, str]:
    if asks.faults:
        return Outcome.REFUSED, f"The API server refuses the manifest: {'; '.join(asks.faults)}."
    if world.missing:
        said = "; ".join(world.missing)
        return Outcome.REFUSED, f"{said}: CloudNativePG waits for it without end, and no instance is made."
    if asks.method == "initdb":
        return Outcome.EMPTY, "bootstrap.initdb makes a new cluster: nothing is recovered, whatever the archive holds."
    refused = asks.destination is not None and world.folder is not None and world.folder.wal and not asks.skips_check
    if asks.method in ("recovery", "volumeSnapshots") and refused and asks.destination is not None:
        return Outcome.REFUSED, (
            f"The recovery fails at its first check ({NOT_EMPTY}): {_place(asks.destination)}, which it is to archive to, holds WAL"
            f"{_same(asks)}."
        )
    if asks.method != "recovery":
        return Outcome.UNKNOWN, f"What {_WAYS[asks.method]} brings can't be seen from the archive."
    if world.reached is None:
        return Outcome.UNKNOWN, "Where it recovers from was not read."
    return _recovered(asks, world.reached, world, major_of(declared.spec))


def _recovered(asks: Wanted, reached: Reached, world: World, declared: int) -> tuple[Outcome, str]:
    source = _place(asks.source) if asks.source else f"Backup {asks.backup}"
    if reached.unread:
        return Outcome.UNKNOWN, f"What {source} holds was not read: {reached.unread}."
    if reached.fault:
        return Outcome.REFUSED, f"The recovery from {source} fails: {reached.fault}."
    if reached.foreign:
        return Outcome.FOREIGN, f"The base backups of {source} are of system {reached.foreign}, not of this cluster."
    if declared and reached.major and declared != reached.major:
        return Outcome.REFUSED, (
            f"The declared image is of PostgreSQL {declared}, and the base backup of {source} is of {reached.major}: "
            "PostgreSQL refuses to start on another major version's data."
        )
    upto = f"up to {show_instant(reached.last)}" if reached.last else f"base backup {reached.backup_id}"
    if not reached.current:
        now = f"; the cluster archives to serverName {world.server_name} now" if world.server_name else ""
        return Outcome.STALE, f"It recovers {source}, {upto}: an older part of its history{now}. {_lost(reached)}"
    if asks.stops_early and reached.loses:
        return Outcome.STALE, f"It recovers {source} to {asks.target} and no further, {upto}. {_lost(reached)}"
    if reached.loses:
        return Outcome.STALE, f"It recovers {source} {upto}: the WAL has a gap there. {_lost(reached)}"
    return Outcome.RIGHT, f"It recovers {source} to the end of the archive, {upto}."


def _lost(reached: Reached) -> str:
    """How much is lost, as far as the archive shows: what is not archived yet is lost in any case."""
    if reached.newest is None or not (reached.last or reached.first_lost):
        return "How much is lost the archive does not show."
    count = reached.lost_commits
    commits = "" if count is None else f": {count:,} commit{'' if count == 1 else 's'}"
    return f"Lost is what was committed since, {show_seconds(reached.lost_seconds)} of work{commits}."


def _archiving(asks: Wanted, world: World) -> tuple[Archiving, str]:
    if asks.destination is None or not asks.archives:
        return Archiving.NONE, "It archives no WAL: from then on there is no backup."
    place = _place(asks.destination)
    if world.folder is None or world.folder.wal is None:
        why = world.folder.why if world.folder else "not read"
        return Archiving.UNKNOWN, f"Whether {place} is empty is not known: {why}."
    if not world.folder.wal:
        return Archiving.WORKS, ""
    if asks.skips_check:
        return Archiving.MIXED, (
            f"It archives into {place}, which holds the WAL of what is there now, and cnpg.io/skipEmptyWalArchiveCheck lets it: "
            "segments of the same name are overwritten, and neither history can be relied on."
        )
    return Archiving.REFUSED, f"Its WAL is not archived ({NOT_EMPTY}): {place} holds another history."


def _differences(declared: Declared, asks: Wanted, world: World) -> Iterator[str]:
    spec, live = declared.spec, world.live
    yield from _application(spec, asks, world)
    wanted_roles = {str(one.get("name")) for one in (spec.get("managed") or {}).get("roles") or ()}
    for one in (live.get("managed") or {}).get("roles") or ():
        if one.get("name") not in wanted_roles:
            lost = "it does not exist then" if asks.method == "initdb" else "nobody manages it then"
            yield f"managed role {one.get('name')} is not declared: {lost}"
    for name in ("storage", "walStorage"):
        now, then = (str((side.get(name) or {}).get("size") or "") for side in (live, spec))
        if now and not then:
            yield f"{name}.size is not declared (now {now})"
        elif now and then and _bytes(then) < _bytes(now):
            yield f"{name}.size is {then}, and {now} now: the data may not fit"
    spaces = {str(one.get("name")) for one in spec.get("tablespaces") or ()}
    for one in live.get("tablespaces") or ():
        if one.get("name") not in spaces:
            yield f"tablespace {one.get('name')} is not declared: a base backup that holds it can't be restored"


def _application(spec: Mapping[str, Any], asks: Wanted, world: World) -> Iterator[str]:
    bootstrap = spec.get("bootstrap") or {}
    section = bootstrap.get("initdb") or bootstrap.get("recovery") or {}
    database = str(section.get("database") or "app")
    owner, secret = str(section.get("owner") or database), str((section.get("secret") or {}).get("name", ""))
    known, its_owner, its_secret = world.application
    if known and (database, owner) != (known, its_owner):
        made = "is made next to it" if asks.method == "recovery" else "is made in its place"
        yield f"database {database} of {owner} {made}: the application's is {known} of {its_owner}"
    elif its_secret and secret != its_secret:
        yield f"the password of {owner} changes: Secret {secret or '(generated)'}, and {its_secret} now"
    if asks.method == "initdb":
        declared = {database}
        for name in sorted(set(world.databases) - declared - {known}):
            yield f"database {name} is not made by this Cluster"


def major_of(spec: Mapping[str, Any]) -> int:
    """The major version that a Cluster's image is declared to be of; 0 if its tag or catalogue does not say."""
    catalogue = spec.get("imageCatalogRef") or {}
    if str(catalogue.get("major", "")).isdecimal():
        return int(catalogue["major"])
    tag = str(spec.get("imageName") or "").rpartition("@")[0] or str(spec.get("imageName") or "")
    version = tag.rpartition("/")[2].partition(":")[2]
    digits = version[: len(version) - len(version.lstrip("0123456789"))]
    return int(digits) if digits else 0


def _bytes(size: str) -> int:
    try:
        return size_bytes(size)
    except ValueError:
        return 0


def _place(use: StoreUse) -> str:
    return f"serverName {use.server_name} of {f'ObjectStore {use.object_store}' if use.object_store else 'the in-tree store'}"


def _same(asks: Wanted) -> str:
    same = asks.source is not None and asks.destination == asks.source
    return ", and it is the one that it recovers from" if same else ""


def _todo(world: World) -> str:
    database, owner, secret = world.application
    whose = (
        f", with database {database}, owner {owner} and Secret {secret or '(a Secret of your own)'}" if database else ""
    )
    return (
        f"bootstrap.recovery from serverName {world.server_name or '(the one archived to now)'} without recoveryTarget{whose}; as its own serverName "
        "one that has no folder yet; no cnpg.io/skipEmptyWalArchiveCheck. Change it again after each recovery in place."
    )


_WAYS = {
    "import": "a logical import from a running database",
    "pg_basebackup": "a copy of a running cluster",
    "replica": "a replica cluster",
    "volumeSnapshots": "a volume snapshot",
}

__all__ = ["NOT_EMPTY", "Archiving", "Folder", "Outcome", "Reached", "Rebuild", "World", "judge", "major_of"]
