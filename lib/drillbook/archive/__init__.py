"""The object store, read only: S3 behind a small protocol, and the layout that barman-cloud leaves in a bucket.

`protocol`: what the rest needs of a store. `s3`: the only user of boto3. `destinations`: what is not S3. `location`,
`lost_cluster`: where a cluster archives, by its object or without it. `layout`: keys, listing of the WAL.
`backup_info`, `catalogue`: base backups; `tar_walk`, `tar_check`: whether their tars are whole. `compression`,
`wal_files`, `scan`, `search`, `commits`: segments and history files, the chain, what a segment holds. `snapshot`: all
of one server, listed once. `timelines`, `systems`: which one is the cluster's. `gaps`: what is broken, and why.
`window`, `targets`, `reachability`: what recovery can reach. `retention`: what is deleted when. `sampling`, `survey`:
what is wrong with an archive. `folder`: all of one server, read once. `long_term`, `retrieval`: what is kept for years, and
objects that have to be asked for. Everything is read by listing and getting;
nothing is ever written.
"""

from drillbook.archive.catalogue import BackupState, Catalogue, Entry, catalogue, server_names
from drillbook.archive.commits import commit_from, is_archived
from drillbook.archive.compression import Unpackable, unpacker
from drillbook.archive.destinations import not_s3
from drillbook.archive.folder import BackupStatus, Reading, read_folder
from drillbook.archive.gaps import (
    ARCHIVE_TIMEOUT_SECONDS,
    SAMPLES,
    BrokenWal,
    SampledSegments,
    WalState,
    broken_wal,
    sample,
    uploading,
)
from drillbook.archive.layout import ArchivedSegment, WalListing, wal_histories, wal_names
from drillbook.archive.protocol import Level, ObjectInfo, ObjectStore
from drillbook.archive.reachability import BackupReach, DatedGap, Period, Reachable, reachable
from drillbook.archive.retention import deleted_at, deleted_during, retention_period
from drillbook.archive.s3 import S3Store
from drillbook.archive.search import CommitSeen, changes_between, commits_between
from drillbook.archive.snapshot import ArchiveSnapshot, WalRange, archive_chain
from drillbook.archive.survey import ArchiveFinding, ArchiveSurvey, KnownBackup, SurveyOptions, kept, survey
from drillbook.archive.tar_check import READ_THROUGH, TarCheck, TarState, check_tars
from drillbook.archive.targets import ExpectedWal, ResolvedTarget, resolve
from drillbook.archive.timelines import Stray, own_timeline
from drillbook.archive.wal_files import histories, read_segment
from drillbook.archive.window import commit_of, newest_commit, window

__all__ = [
    "ARCHIVE_TIMEOUT_SECONDS",
    "READ_THROUGH",
    "SAMPLES",
    "ArchiveFinding",
    "ArchiveSnapshot",
    "ArchiveSurvey",
    "ArchivedSegment",
    "BackupReach",
    "BackupState",
    "BackupStatus",
    "BrokenWal",
    "Catalogue",
    "CommitSeen",
    "DatedGap",
    "Entry",
    "ExpectedWal",
    "KnownBackup",
    "Level",
    "ObjectInfo",
    "ObjectStore",
    "Period",
    "Reachable",
    "Reading",
    "ResolvedTarget",
    "S3Store",
    "SampledSegments",
    "Stray",
    "SurveyOptions",
    "TarCheck",
    "TarState",
    "Unpackable",
    "WalListing",
    "WalRange",
    "WalState",
    "archive_chain",
    "broken_wal",
    "catalogue",
    "changes_between",
    "check_tars",
    "commit_from",
    "commit_of",
    "commits_between",
    "deleted_at",
    "deleted_during",
    "histories",
    "is_archived",
    "kept",
    "newest_commit",
    "not_s3",
    "own_timeline",
    "reachable",
    "read_folder",
    "read_segment",
    "resolve",
    "retention_period",
    "sample",
    "server_names",
    "survey",
    "unpacker",
    "uploading",
    "wal_histories",
    "wal_names",
    "window",
]
