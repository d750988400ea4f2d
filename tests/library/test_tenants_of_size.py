"""Five tenants digested within a budget: how large each is, ``TENANT_MB`` says (2,000 where it says nothing)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import digest_cost

MEGABYTES = float(os.environ.get("TENANT_MB", "2000"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_g09_five_large_tenants_stay_within_the_budget() -> None:
    """Bytes, sessions and memory; what the budget doesn't cover is sampled, and said to be."""
    small, large = digest_cost.tenants(MEGABYTES / 10), digest_cost.tenants(MEGABYTES)
    assert large.total >= MEGABYTES * digest_cost.TENANTS * 0.9, "not that large at all"
    assert large.counted <= large.budget
    assert large.most_sessions <= digest_cost.LIMIT
    assert large.peak_mb <= small.peak_mb * 1.1
    assert large.unproven == 0 and large.sampled > 0
    sys.stdout.write(f"{large}\n")
