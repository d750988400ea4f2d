"""The write-ahead log as arithmetic and bytes; no I/O.

`arithmetic`: LSN, segment number and file name. `history`: timeline history files. `chain`: is the archive's WAL
unbroken from a base backup to its newest segment. `records`: the commits that a segment holds; `changes`: what they
deleted and dropped.
"""

from drillbook.postgres.wal.arithmetic import (
    MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES,
    SegmentName,
    check_segment_bytes,
    first_lsn,
    next_segment,
    segment_name,
    segment_names,
)
from drillbook.postgres.wal.chain import Chain, Gap, Numbers, chain, sorted_once
from drillbook.postgres.wal.changes import ChangeReader, Changes, ChangesRead, Content, File, Runs, read_run, rows_of
from drillbook.postgres.wal.commit_list import Commits
from drillbook.postgres.wal.history import Branch, Histories, Switch, branches, newest_timeline, parse_history
from drillbook.postgres.wal.pages import PageHeader, SegmentHeader, WalFormatError, segment_header
from drillbook.postgres.wal.records import NewTablespace, WalReader, commits

__all__ = [
    "MAX_SEGMENT_BYTES",
    "MIN_SEGMENT_BYTES",
    "Branch",
    "Chain",
    "ChangeReader",
    "Changes",
    "ChangesRead",
    "Commits",
    "Content",
    "File",
    "Gap",
    "Histories",
    "NewTablespace",
    "Numbers",
    "PageHeader",
    "Runs",
    "SegmentHeader",
    "SegmentName",
    "Switch",
    "WalFormatError",
    "WalReader",
    "branches",
    "chain",
    "check_segment_bytes",
    "commits",
    "first_lsn",
    "newest_timeline",
    "next_segment",
    "parse_history",
    "read_run",
    "rows_of",
    "segment_header",
    "segment_name",
    "segment_names",
    "sorted_once",
]
