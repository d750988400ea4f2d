"""The object store, read only: S3 behind a small protocol, and the layout that barman-cloud leaves in a bucket.

`protocol`: what the rest needs of a store. `s3`: the only user of boto3. `layout`: keys, listing of the WAL.
`backupinfo`, `catalogue`: base backups. `compression`, `archive`, `scan`: segments and history files, the chain, what a
segment holds. `holdings`: all of one server, listed once. `window`, `targets`: what recovery can reach. Everything is read by listing and getting; nothing is ever written.
"""

from drillbook.objectstore.archive import archive_chain, histories, read_segment
from drillbook.objectstore.catalogue import Catalogue, catalogue
from drillbook.objectstore.commits import commits_since, is_archived
from drillbook.objectstore.holdings import Holdings
from drillbook.objectstore.layout import ArchivedSegment, WalListing, wal_names
from drillbook.objectstore.protocol import Level, ObjectInfo, ObjectStore
from drillbook.objectstore.s3 import S3Store
from drillbook.objectstore.targets import ExpectedWal, ResolvedTarget, resolve
from drillbook.objectstore.window import commit_of, newest_commit, window

__all__ = [
    "ArchivedSegment",
    "Catalogue",
    "ExpectedWal",
    "Holdings",
    "Level",
    "ObjectInfo",
    "ObjectStore",
    "ResolvedTarget",
    "S3Store",
    "WalListing",
    "archive_chain",
    "catalogue",
    "commit_of",
    "commits_since",
    "histories",
    "is_archived",
    "newest_commit",
    "read_segment",
    "resolve",
    "wal_names",
    "window",
]
