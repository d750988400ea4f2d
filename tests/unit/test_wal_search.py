"""A search through much WAL: in processes, in bounded memory, and every damage on the way is said."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fix_wal import NOON, SYSTEM, Memory, Wal, minutes

from drillbook.archive import ArchiveSnapshot, catalogue, commits_between, resolve
from drillbook.errors import WalGap
from drillbook.model import RecoveryTarget

SEGMENTS = 30


def busy(segments: int = SEGMENTS, each: int = 20) -> tuple[Memory, ArchiveSnapshot]:
    """A commit every second, ``each`` in a segment."""
    store, wal = Memory(), Wal()
    store.backup(wal, NOON - timedelta(minutes=1))
    for number in range(segments):
        first = number * each
        store.archive(
            wal.segment(*((1000 + n, NOON + timedelta(seconds=n)) for n in range(first, first + each))),
            NOON + timedelta(seconds=first + each),
        )
    held = ArchiveSnapshot.read(store, catalogue(store, "pg").usable, "pg", system_id=str(SYSTEM), timeline=1)
    return store, held


def test_s12_processes_read_side_by_side_what_was_committed() -> None:
    store, held = busy()
    chain, said = held.chain(held.backups[0]), list[str]()
    since, until = NOON + timedelta(seconds=100), NOON + timedelta(seconds=499)
    found = list(
        commits_between(store, held.listing, chain, since=since, until=until, system_id=str(SYSTEM), say=said.append)
    )
    assert [one.committed_at for one in found] == [NOON + timedelta(seconds=n) for n in range(100, 500)]
    assert said and "of 30" in said[0]


@pytest.mark.parametrize("offset", [30, 60, 48])
def test_s12_a_damaged_segment_on_the_way_is_said(offset: int) -> None:
    store, held = busy(6)
    key = next(key for key in sorted(store.objects) if key.endswith("4"))
    body = bytearray(store.objects[key][0])
    body[offset] ^= 0x40
    store.put(key, bytes(body))
    with pytest.raises(WalGap, match="segment 000000010000000000000004"):
        list(
            commits_between(
                store, held.listing, held.chain(held.backups[0]), since=NOON, until=minutes(60), system_id=str(SYSTEM)
            )
        )


def test_g09_a_target_in_a_thousand_segments_is_found_by_halving() -> None:
    """Twenty-odd segments are read of a thousand, and no list of commits is kept."""
    store, held = busy(1000, 4)
    store.reads.clear()
    found = resolve(held, RecoveryTarget(target_time=NOON + timedelta(seconds=1234, microseconds=5)))
    assert found.last_before and found.last_before.xid == 2234
    assert found.first_after and found.first_after.xid == 2235
    assert len(set(store.reads)) < 40 and found.wal.segments > 300
