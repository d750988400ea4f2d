"""Whether the ledger knows every run that left markers on the source: a drill repeated until it was green can't be hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckStep, Context
from drillbook.evidence import Ledger
from drillbook.model import Check, Verdict, show_instant
from drillbook.steps.preflight.readiness import SourceCluster

MOST = 12


@dataclass(frozen=True)
class EarlierRunsKnown(CheckStep):
    """Every run that has left markers on the source is in this site's ledger.

    Markers lie on the source, out of reach of those who keep the evidence. A run that only they know of was made with
    other evidence: on another machine, under another site's name, or it was removed.
    """

    cluster: SourceCluster
    name: ClassVar[str] = "earlier runs"
    proves: ClassVar[str] = "no drill of this cluster is missing from the evidence"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source() as db:
            rows = db.ask("marker_runs") if db.ask_one("marker_table")["there"] else []
        known = {str(entry.get("run_id")) for entry in self._entries(ctx)} | {ctx.run_id}
        strange = [row for row in rows if row["run_id"] not in known]
        return [
            self.result(
                Verdict.UNPROVEN if strange else Verdict.VERIFIED,
                expected="each run with markers on the source is in the ledger",
                observed=f"{len(rows) - len(strange)} of {len(rows)} are",
                reason="the others are evidence elsewhere, or were removed" if strange else "",
                details=tuple(
                    (str(row["run_id"]), f"wrote a marker at {show_instant(row['written_at'])}")
                    for row in strange[-MOST:]
                ),
            )
        ]

    def _entries(self, ctx: Context) -> Sequence[dict[str, object]]:
        return Ledger.of(ctx.outputs, ctx.site.name).entries() if ctx.outputs else []


__all__ = ["EarlierRunsKnown"]
