"""The checks: what "restored" means, asked of a real database. Functions on a ``Database``; no Kubernetes.

Every check says what was expected and observed. FAILED: something observed contradicts the claim (SQLSTATE classes XX
and 58 among it). UNPROVEN: it was not observed. Rows never leave the server.
"""

from drillbook.postgres.checks.boundary import AtBoundary, digests_at_boundary
from drillbook.postgres.checks.catalogue import (
    CHEAP,
    catalogue_checks,
    collations_fit,
    constraints_hold,
    extensions_fit,
    matviews_filled,
    so_in_production_too,
)
from drillbook.postgres.checks.counts import row_counts
from drillbook.postgres.checks.difference import Difference, difference, rows_of
from drillbook.postgres.checks.login import app_login
from drillbook.postgres.checks.moment import Moment, first_unseen
from drillbook.postgres.checks.newest import NewestChange, changes_arrived, is_committed, near_xid, newest_changes
from drillbook.postgres.checks.parallel import Sessions
from drillbook.postgres.checks.physical import amcheck, page_checksums
from drillbook.postgres.checks.quarantine import quarantined
from drillbook.postgres.checks.questions import questions
from drillbook.postgres.checks.replica import Replica
from drillbook.postgres.checks.rows import TableDigest, digest_tables, rows_equal
from drillbook.postgres.checks.sampling import Budget
from drillbook.postgres.checks.sequences import sequences_ahead
from drillbook.postgres.checks.structure import Structure, cluster_structure, structure, structure_equal
from drillbook.postgres.checks.yielding import LockYieldedError, Watch, patiently

__all__ = [
    "CHEAP",
    "AtBoundary",
    "Budget",
    "Difference",
    "LockYieldedError",
    "Moment",
    "NewestChange",
    "Replica",
    "Sessions",
    "Structure",
    "TableDigest",
    "Watch",
    "amcheck",
    "app_login",
    "catalogue_checks",
    "changes_arrived",
    "cluster_structure",
    "collations_fit",
    "constraints_hold",
    "difference",
    "digest_tables",
    "digests_at_boundary",
    "extensions_fit",
    "first_unseen",
    "is_committed",
    "matviews_filled",
    "near_xid",
    "newest_changes",
    "page_checksums",
    "patiently",
    "quarantined",
    "questions",
    "row_counts",
    "rows_equal",
    "rows_of",
    "sequences_ahead",
    "so_in_production_too",
    "structure",
    "structure_equal",
]
