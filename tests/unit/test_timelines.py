"""Which timeline is the cluster's: strangers' histories, missing ones, numbers that jump, and two systems in one folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fix_wal import MIB, NOON, SYSTEM, Memory, Wal, minutes

from drillbook.archive import (
    ArchiveSnapshot,
    Reading,
    ResolvedTarget,
    archive_chain,
    catalogue,
    kept,
    read_folder,
    resolve,
    wal_names,
)
from drillbook.archive.location import SourceArchive
from drillbook.archive.survey import NEW_TIMELINE, STRAY_TIMELINE
from drillbook.errors import PreconditionError, TargetOutsideWindow
from drillbook.manifests.recovery import recovery_target
from drillbook.model import Lsn, RecoveryTarget
from drillbook.profile import ServerPeriod
from drillbook_lab import pgbin

LATER = minutes(600)


def live(store: Memory, wal: Wal, first: int, last: int, *, xid: int = 1000) -> None:
    """One segment a minute, each with a commit in that minute, archived half a minute after it."""
    for minute in range(first, last + 1):
        store.archive(wal.segment((xid + minute, minutes(minute))), minutes(minute + 0.5))


def holdings(store: Memory, timeline: int = 0, system_id: str = str(SYSTEM)) -> ArchiveSnapshot:
    return ArchiveSnapshot.read(
        store, catalogue(store, "pg", system_id=system_id).usable, "pg", system_id=system_id, timeline=timeline
    )


def at(store: Memory, minute: float, timeline: int = 0) -> ResolvedTarget:
    return resolve(holdings(store, timeline), RecoveryTarget(target_time=minutes(minute)))


def read(store: Memory, timeline: int = 0, system_id: str = str(SYSTEM)) -> Reading:
    return read_folder(store, "pg", timeline=timeline, system_id=system_id, now=LATER)


def sent(found: ResolvedTarget) -> object:
    return recovery_target(found.target, found.backup).get("targetTLI")


def strayed(*, stranger: int = 2, beyond: int = 30) -> Memory:
    """Production on timeline 1 to this day; after ten minutes a test restore archived its own timeline here."""
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 10)
    wal.commit(1900, minutes(10.9))
    test = wal.fork(stranger)
    store.history(stranger, (1, wal.lsn), at=minutes(11))
    store.archive(test.segment((5002, minutes(40))), minutes(41))
    store.archive(test.segment((5003, minutes(50))), minutes(51))
    live(store, wal, 11, beyond)
    return store


def test_the_records_that_these_tests_write_are_wal_to_pg_waldump(tmp_path: Path) -> None:
    wal = Wal(major=18)
    for _ in range(2):
        name, body = wal.segment((700, minutes(1)), (701, minutes(2)))
        (tmp_path / name).write_bytes(body)
    argv = [str(pgbin.bin_dir() / "pg_waldump"), f"--path={tmp_path}", "000000010000000000000002", name]
    done = subprocess.run(argv, capture_output=True, text=True, env={"TZ": "UTC"}, check=False)
    assert done.stdout.count("COMMIT 2026-11-01 12:0") == 4 and done.stdout.count("SWITCH") == 2, done.stderr


# -- B01, B02: another server's timeline -----------------------------------------------------------


@pytest.mark.parametrize("stranger", [2, 3, 7])
def test_b01_the_clusters_own_timeline_is_kept_to(stranger: int) -> None:
    """By time, LSN, XID and to the end; whatever number the stranger has: `latest` would not even find 3 or 7."""
    store = strayed(stranger=stranger)
    found = at(store, 25.5, timeline=1)
    assert found.last_before and (found.last_before.xid, found.last_before.committed_at) == (1025, minutes(25))
    assert sent(found) == "1" and found.timeline == 1
    held = holdings(store, 1)
    assert resolve(held, RecoveryTarget(target_xid=1029)).target.timeline == 1
    assert resolve(held, RecoveryTarget(target_lsn=found.last_before.lsn)).target.timeline == 1
    end = resolve(held, RecoveryTarget())
    assert end.last_before and end.last_before.xid == 1030 and sent(end) == "1"
    with pytest.raises(TargetOutsideWindow, match="no commit of XID 5002"):
        resolve(held, RecoveryTarget(target_xid=5002))


def test_b01_the_stranger_is_a_finding_with_its_cost_and_what_to_do() -> None:
    found = read(strayed(), timeline=1)
    (stray,) = (item for item in found.survey.damages if item.state == STRAY_TIMELINE)
    for part in (
        "timeline 2",
        "left timeline 1 at 0/C",
        "timeline 1; what follows it loses the 20 segments",
        minutes(30.5).isoformat()[:19],
    ):
        assert part in stray.what, stray.what
    assert stray.key == "pg/wals/00000002.history" and "targetTLI 1" in stray.todo and "serverName" in stray.todo
    assert found.periods[-1].last < minutes(30) and found.newest_commit and found.newest_commit.xid == 1030
    assert found.reach.newest_segment.startswith("00000001")


def test_b01_a_healthy_archive_with_a_failover_says_nothing() -> None:
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 5)
    store.history(2, (1, wal.lsn), at=minutes(6))
    live(store, wal.fork(2), 6, 9)
    for timeline in (0, 2):
        found = read(store, timeline)
        assert found.survey.findings == () and found.survey.notes == () and found.reach.todo == ()
        assert sent(at(store, 7.5, timeline)) == "2"


def test_b01_a_changeover_that_has_just_begun_passes() -> None:
    """The history of the timeline that the cluster is about to be on is archived before the Cluster's status names it."""
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 5)
    store.history(2, (1, wal.lsn), at=minutes(6))
    (found,) = read_folder(store, "pg", timeline=1, system_id=str(SYSTEM), now=minutes(7)).survey.findings
    assert (found.state, found.passing) == (NEW_TIMELINE, True)
    (later,) = read_folder(store, "pg", timeline=1, system_id=str(SYSTEM), now=minutes(60)).survey.findings
    assert (later.state, later.passing) == (STRAY_TIMELINE, False)


def test_b01_nothing_is_guessed_where_nobody_says_which_timeline_it_was() -> None:
    store = strayed()
    with pytest.raises(PreconditionError) as error:
        at(store, 25.5)
    assert "timeline 1 (its newest segment 00000001000000000000001F" in error.value.what
    assert "timeline 2 (its newest segment 00000002000000000000000D" in error.value.what
    assert "archive.timeline" in error.value.todo
    (backup,) = catalogue(store, "pg").usable
    chain = lambda: archive_chain(store, backup, wal_names(store, "pg"))  # noqa: E731
    for decides in (lambda: read(store), lambda: kept(store, "pg").own, chain):
        with pytest.raises(PreconditionError, match="several timelines"):
            decides()


def test_b01_a_timeline_that_was_given_up_is_only_a_note() -> None:
    """A promotion that failed: timeline 2 got a history and a segment, then another instance became 3 from timeline 1."""
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 5)
    failed = wal.fork(2)
    store.history(2, (1, wal.lsn), at=minutes(6))
    store.archive(failed.segment((9000, minutes(6))), minutes(6.2))
    store.history(3, (1, wal.lsn), at=minutes(7))
    live(store, wal.fork(3), 7, 9)
    for timeline in (0, 3):
        found = read(store, timeline)
        assert found.survey.findings == ()
        assert any("timeline 2 left timeline 1" in note and "given up" in note for note in found.survey.notes)
        assert sent(at(store, 8.5, timeline)) == "3"


def test_b02_a_new_backup_on_the_own_timeline_is_the_best_there_is() -> None:
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 10)
    store.history(2, (1, wal.lsn), at=minutes(11))
    live(store, wal.fork(2), 11, 12, xid=5000)
    live(store, wal, 11, 15)
    newest = store.backup(wal, minutes(15.7))
    live(store, wal, 16, 20)
    found = read(store, timeline=1)
    assert [item.problem for item in found.reach.backups] == ["", ""] and found.reach.backups[-1].backup_id == newest
    assert not any(item.state == "unreachable" for item in found.survey.findings)
    best = at(store, 18.5, timeline=1)
    assert best.backup.backup_id == newest and sent(best) == "1"
    assert "take a new one now" not in " ".join(found.reach.todo)


def test_b02_a_strangers_base_backup_is_set_aside() -> None:
    store, wal = Memory(), Wal()
    mine = store.backup(wal, NOON)
    live(store, wal, 1, 10)
    store.history(2, (1, wal.lsn), at=minutes(11))
    test = wal.fork(2)
    theirs = store.backup(test, minutes(11.5))
    live(store, test, 12, 13, xid=5000)
    live(store, wal, 11, 15)
    found = read(store, timeline=1)
    assert [item.backup_id for item in found.reach.backups] == [mine]
    assert any(item.backup_id == theirs and item.spare for item in found.survey.findings)
    assert dict(found.reach.unusable)[theirs] == "timeline 1 does not descend from the base backup's timeline 2"


# -- B03, B04: histories that are not there, numbers that jump -------------------------------------


def on_five() -> tuple[Memory, Wal]:
    """Archiving was switched on when the server was on timeline 5 already."""
    store, wal = Memory(), Wal(timeline=5, number=100)
    store.backup(wal, NOON)
    live(store, wal, 1, 11)
    return store, wal


@pytest.mark.parametrize("timeline", [0, 5])
def test_b03_a_backups_own_timeline_needs_no_history(timeline: int) -> None:
    store, _ = on_five()
    found = read(store, timeline)
    assert found.survey.findings == () and found.reach.todo == () and found.periods
    assert any("00000005.history is not archived" in note for note in found.survey.notes)
    target = at(store, 5.5, timeline)
    assert sent(target) is None and target.timeline == 5, "PostgreSQL: recovery target timeline 5 does not exist"
    assert target.last_before and target.last_before.xid == 1005
    assert "no targetTLI" in dict(target.rows())["target"]


def test_b03_latest_would_follow_a_stranger_and_the_number_cant_be_given() -> None:
    store, wal = on_five()
    store.history(6, (5, Lsn((wal.number - 4) * MIB + 100)), at=minutes(8))
    with pytest.raises(PreconditionError, match=r"leave the cluster's timeline by 00000006\.history") as error:
        at(store, 5.5, timeline=5)
    assert "Archive 00000005.history again from pg_wal" in error.value.todo
    store.history(5, (4, Lsn(50 * MIB)))
    assert sent(at(store, 5.5, timeline=5)) == "5"


def test_b01_a_strangers_damaged_history_is_in_nobodys_way() -> None:
    store = strayed()
    store.put("pg/wals/00000002.history", b"nonsense")
    assert sent(at(store, 25.5, timeline=1)) == "1"
    assert [item.state for item in read(store, timeline=1).survey.damages] == ["history damaged"]
    lone, _ = on_five()
    lone.put("pg/wals/00000006.history", b"nonsense")
    with pytest.raises(PreconditionError, match=r"by 00000006\.history"):
        at(lone, 5.5, timeline=5)


def test_b04_a_missing_history_that_a_later_one_names_is_no_damage() -> None:
    store, wal = on_five()
    store.history(6, (5, wal.lsn), at=minutes(12))
    live(store, wal.fork(6), 12, 14)
    for timeline in (0, 6):
        found = read(store, timeline)
        assert found.survey.findings == (), found.survey.findings
        assert any("00000005.history is not archived; 00000006.history names" in note for note in found.survey.notes)
        assert sent(at(store, 13.5, timeline)) == "6"


@pytest.mark.parametrize("timeline", [0, 5])
def test_b03_timeline_numbers_may_jump(timeline: int) -> None:
    """1 -> 5: `latest` asks for 00000002.history, and would stay on timeline 1."""
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 5)
    store.history(5, (1, wal.lsn), at=minutes(6))
    live(store, wal.fork(5), 6, 9)
    target = at(store, 8.5, timeline)
    assert sent(target) == "5" and target.last_before and target.last_before.xid == 1008
    assert read(store, timeline).survey.findings == ()


def test_b03_an_older_backup_cant_be_led_to_a_timeline_without_history() -> None:
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    live(store, wal, 1, 5)
    live(store, wal.fork(2), 6, 9)
    found = read(store, timeline=2)
    (missing,) = found.survey.damages
    assert missing.state == "history missing" and "from pg_wal" in missing.todo
    assert found.reach.unlinked == (2,) and found.periods[-1].last < minutes(5)
    assert sent(at(store, 3.5, timeline=2)) == "1"


# -- B06: two systems in one folder ------------------------------------------------------------------


def two_systems() -> tuple[Memory, str]:
    """A server lived on timelines 1 and 2; a new initdb archives into the same folder from minute 100 on."""
    store, old = Memory(), Wal(system_id=SYSTEM - 1)
    store.backup(old, NOON)
    live(store, old, 1, 20)
    store.history(2, (1, old.lsn), at=minutes(21))
    live(store, old.fork(2), 21, 25)
    new = Wal()
    current = store.backup(new, minutes(100))
    live(store, new, 101, 105)
    return store, current


def test_b06_which_of_two_systems_it_is_is_not_guessed() -> None:
    """`window` and a full restore alike."""
    store, _ = two_systems()
    for decides in (lambda: read(store, system_id=""), lambda: kept(store, "pg")):
        with pytest.raises(PreconditionError) as error:
            decides()
        assert f"{SYSTEM} (newest: " in error.value.what and f"{SYSTEM - 1} (newest: " in error.value.what
        assert minutes(100).isoformat()[:10] in error.value.what and "identity.system_identifier" in error.value.todo


@pytest.mark.parametrize("timeline", [0, 1])
def test_b06_the_system_that_is_named_is_kept_to(timeline: int) -> None:
    """What the other one left under the same names is the end of the archive, and no damage."""
    store, current = two_systems()
    held = kept(store, "pg", system_id=str(SYSTEM), timeline=timeline)
    assert [backup.backup_id for backup in held.backups] == [current] and held.own == 1
    found = read(store, timeline)
    (left,) = found.survey.damages
    assert left.state == STRAY_TIMELINE and f"is of system {SYSTEM - 1}" in left.what, "latest would find its history"
    assert found.newest_commit and found.newest_commit.xid == 1105
    end = resolve(holdings(store, timeline), RecoveryTarget())
    assert end.last_before and end.last_before.xid == 1105 and end.backup.backup_id == current


def test_b06_the_old_system_can_be_named_as_well() -> None:
    store, current = two_systems()
    held = kept(store, "pg", system_id=str(SYSTEM - 1))
    assert current not in [backup.backup_id for backup in held.backups] and held.own == 2


def test_b06_one_system_is_known_without_a_word() -> None:
    store, _ = on_five()
    assert kept(store, "pg").system_id == str(SYSTEM)


# -- what cluster and profile say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "said", "timeline"),
    [
        ("new", 7, 7),  # the cluster's own word, in the folder that it archives to
        ("new", 0, 6),  # the cluster is lost: the profile's
        ("old", 7, 3),  # an older folder: never the present timeline
        ("older", 7, 0),  # nothing says it: the archive has to leave no doubt
    ],
)
def test_b01_the_timeline_of_a_folder_is_the_clusters_or_the_profiles(server: str, said: int, timeline: int) -> None:
    periods = (
        ServerPeriod(name="older", until=minutes(0)),
        ServerPeriod(name="old", since=minutes(0), until=minutes(9), timeline=3),
        ServerPeriod(name="new", since=minutes(9)),
    )
    archive = SourceArchive("plugin", {"destinationPath": "s3://bucket"}, "new", periods=periods, timeline=6)
    assert archive.timeline_in(server, said) == timeline
