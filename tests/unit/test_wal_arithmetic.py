"""LSN, segment number and file name agree with PostgreSQL's own words for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.model import Lsn
from drillbook.postgres.wal import (
    SegmentName,
    check_segment_bytes,
    first_lsn,
    next_segment,
    parse_history,
    segment_name,
    segment_names,
)

MIB = 1 << 20
SIZES = st.integers(20, 30).map(lambda power: 1 << power)
LSNS = st.integers(0, (1 << 64) - 1)
TIMELINES = st.integers(1, (1 << 32) - 1)


def obvious_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    """The name by the LSN's own two halves: the log is the upper 32 bits, the segment lies within the lower."""
    return f"{timeline:08X}{lsn >> 32:08X}{(lsn & 0xFFFFFFFF) // segment_bytes:08X}"


@given(TIMELINES, LSNS, SIZES)
def test_a_name_is_what_the_halves_of_the_lsn_say(timeline: int, lsn: int, size: int) -> None:
    name = segment_name(timeline, Lsn(lsn), size)
    assert name == obvious_name(timeline, lsn, size)
    assert SegmentName.parse(name, size) == (timeline, lsn // size)
    assert first_lsn(name, size).value <= lsn < first_lsn(name, size).value + size


@given(TIMELINES, st.integers(0, (1 << 64) - (1 << 31)), SIZES)
def test_the_next_segment_begins_where_this_one_ends(timeline: int, lsn: int, size: int) -> None:
    name = segment_name(timeline, lsn, size)
    assert first_lsn(next_segment(name, size), size) - first_lsn(name, size) == size
    assert next_segment(name, size) > name


@pytest.mark.parametrize(
    ("lsn", "size", "name"),
    [
        # Each seen from a server: pg_walfile_name(lsn) at this wal_segment_size.
        ("0/1000000", 16 * MIB, "000000010000000000000001"),
        ("0/FFFFFFFF", 16 * MIB, "0000000100000000000000FF"),
        ("1/0", 16 * MIB, "000000010000000100000000"),
        ("0/900028", MIB, "000000010000000000000009"),
        ("3/C0000000", 1024 * MIB, "000000010000000300000003"),
    ],
)
def test_known_names(lsn: str, size: int, name: str) -> None:
    assert segment_name(1, Lsn(lsn), size) == name


def test_a_range_crosses_the_log_boundary() -> None:
    names = list(segment_names("0000000100000000000000FE", "000000010000000100000001", 16 * MIB))
    assert names == [
        "0000000100000000000000FE",
        "0000000100000000000000FF",
        "000000010000000100000000",
        "000000010000000100000001",
    ]
    with pytest.raises(ValueError, match="different timelines"):
        list(segment_names("000000010000000000000001", "000000020000000000000002", 16 * MIB))


@pytest.mark.parametrize("size", [0, -MIB, MIB // 2, 3 * MIB, 2048 * MIB])
def test_what_is_no_segment_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        check_segment_bytes(size)


@pytest.mark.parametrize(
    "name", ["", "00000001000000000000000", "00000001000000000000000g", "000000010000000000000100", "0" * 24]
)
def test_what_is_no_segment_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a WAL segment's name"):
        SegmentName.parse(name, 16 * MIB)


def test_a_history_file_as_postgresql_writes_it() -> None:
    text = "1\t0/B000A0\tno recovery target specified\n\n2\t0/C0000A0\tbefore 2026-11-01 10:00:00+00\n"
    switches = parse_history("# a comment\n" + text)
    assert [(s.timeline, str(s.lsn), s.reason) for s in switches] == [
        (1, "0/B000A0", "no recovery target specified"),
        (2, "0/C0000A0", "before 2026-11-01 10:00:00+00"),
    ]


@pytest.mark.parametrize("text", ["one\t0/0\tx", "1", "1\tnowhere\tx", "2\t0/5\tx\n1\t0/6\tx", "1\t0/6\tx\n2\t0/5\tx"])
def test_a_damaged_history_file_names_its_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d"):
        parse_history(text)
