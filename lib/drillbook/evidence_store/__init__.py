"""Evidence locked away: each sealed run is copied to a bucket with Object Lock, and so is the site's ledger.

`bucket`: versions and locks on S3. `keeping`: one object put, read back and compared. `runs`: a run's tar, its envelopes
and its index. `ledger`: the ledger's lines and its head, so that two machines can't fork it unseen. `archiving`: what of
a site is archived, pending or shown. `audit`: a bucket against itself. `lifecycle`: the rule that moves it to Glacier.

In the bucket, below the profile's prefix: ``<site>/runs/<run id>/`` with ``<run id>.tar``, ``*.dsse.json`` and
``index.json``; ``<site>/ledger/`` with ``<first line, ten digits>.jsonl``, ``head.json`` and ``<line>.tsr``.
"""

from drillbook.evidence_store.archiving import (
    RunState,
    archive_all,
    archive_ledger,
    archive_sealed,
    note_pending,
    noted_pending,
    open_bucket,
    pending_runs,
    state_of,
)
from drillbook.evidence_store.bucket import Lock, LockedBucket, Version
from drillbook.evidence_store.lifecycle import lifecycle_rule

__all__ = [
    "Lock",
    "LockedBucket",
    "RunState",
    "Version",
    "archive_all",
    "archive_ledger",
    "archive_sealed",
    "lifecycle_rule",
    "note_pending",
    "noted_pending",
    "open_bucket",
    "pending_runs",
    "state_of",
]
