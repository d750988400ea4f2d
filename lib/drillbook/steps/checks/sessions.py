"""How many sessions may verify a copy side by side: as many as its server has processors, and free connections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from drillbook.engine.step import Context
from drillbook.model import ClusterRef
from drillbook.postgres import checks

MOST = 8


def processors(cluster: Mapping[str, Any], here: int) -> int:
    """The processors that a Cluster's instances may use; ``here``, this machine's, where it sets no limit."""
    limits = (cluster["spec"].get("resources") or {}).get("limits") or {}
    text = str(limits.get("cpu") or "")
    try:
        count = Decimal(text.removesuffix("m")) / (1000 if text.endswith("m") else 1) if text else Decimal(here)
    except InvalidOperation:
        count = Decimal(here)
    return max(1, round(count))


def sessions(ctx: Context, copy: ClusterRef, database: str, *, read_only: bool = True) -> checks.Sessions:
    """More sessions on a database of the copy. Raises what asking the copy raises."""
    with ctx.copy(copy, "postgres", read_only=True) as db:
        spare = int(db.ask_one("connections_left")["connections"])
    jobs = min(MOST, processors(ctx.cluster_object(copy), os.cpu_count() or 1), spare // 2)
    return checks.Sessions(partial(ctx.copy, copy, database, read_only=read_only), max(1, jobs))


__all__ = ["processors", "sessions"]
