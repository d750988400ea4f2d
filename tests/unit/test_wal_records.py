"""The reader's small parts; what it makes of real WAL is held against pg_waldump in the library's tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.postgres.wal import WalFormatError, commits, segment_header


@given(st.binary(max_size=64))
def test_what_is_no_wal_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(WalFormatError, match="some segment"):
        segment_header(data, "some segment")
    with pytest.raises(WalFormatError, match="000000010000000000000001"):
        list(commits([("000000010000000000000001", data)]))
