"""The reader's small parts; what it makes of real WAL is held against pg_waldump in the library's tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.postgres.wal import WalFormatError, commits, segment_header
from drillbook.postgres.wal.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # The check value of the algorithm's catalogue entry, and two of RFC 3720's examples.
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
    ],
)
def test_the_checksum_is_crc_32c(data: bytes, expected: int) -> None:
    assert crc32c(data) == crc32c(data[:5], data[5:]) == expected


@given(st.binary(max_size=64))
def test_what_is_no_wal_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(WalFormatError, match="some segment"):
        segment_header(data, "some segment")
    with pytest.raises(WalFormatError, match="000000010000000000000001"):
        list(commits([("000000010000000000000001", data)]))
