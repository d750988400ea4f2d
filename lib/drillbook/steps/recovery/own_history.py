"""Where a recovered server left its source's history, as it says itself: for when the recovery's log was lost.

A promotion writes ``pg_wal/0000000N.history``, whose last line is the LSN at which replay ended. Source: PostgreSQL's
documentation of timelines.
"""

from __future__ import annotations

import re

from drillbook.engine.step import Context, pod_of
from drillbook.errors import RunbookError
from drillbook.model import ClusterRef, Lsn
from drillbook.postgres.client import SQL, Literal
from drillbook.postgres.wal import parse_history

_NAME = re.compile(r"[0-9A-F]{8}\.history")
_SECONDS = 30.0


def own_end(ctx: Context, ref: ClusterRef) -> tuple[Lsn, str] | None:
    """The LSN at which replay ended and the last segment replayed, read on the new primary; None if it can't be read."""
    try:
        pod = pod_of(ctx.cluster_object(ref))
        folder = _out(ctx, ref, pod, "printenv", "PGDATA") + "/pg_wal"
        names = [name for name in _out(ctx, ref, pod, "ls", folder).split() if _NAME.fullmatch(name)]
        if not names:
            return None
        switch = parse_history(_out(ctx, ref, pod, "cat", f"{folder}/{max(names)}"))[-1]
        with ctx.copy(ref, "postgres", read_only=True) as db:
            now = str(
                db.ask_one(SQL("select pg_walfile_name({}::pg_lsn) as name").format(Literal(str(switch.lsn))))["name"]
            )
    except (RunbookError, ValueError, IndexError):
        return None  # then where it ended stays unobserved, which is UNPROVEN
    return switch.lsn, f"{switch.timeline:08X}{now[8:]}"


def _out(ctx: Context, ref: ClusterRef, pod: str, *argv: str) -> str:
    done = ctx.kube.exec(ref.namespace, pod, "postgres", list(argv), timeout_seconds=_SECONDS, repeatable=True)
    if done.exit_code:
        raise ValueError(done.error_text)
    return done.text.strip()


__all__ = ["own_end"]
