"""Are my rows back? The copy compared with production, table by table, before anything is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckStep, Context
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Verdict
from drillbook.postgres import checks
from drillbook.postgres.checks.difference import Difference
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.copy import Recovered

MOST_TABLES = 40
NAMED_TABLES = 6  # on the card


@dataclass(frozen=True)
class AreMyRowsBack(CheckStep):
    """Are my rows back? Table by table: rows only in the copy, only in production, and changed.

    By primary key, of the table that was searched for and those that the profile names. Rows only in the copy come
    back; rows only in production go out of service. Only counts are kept; production's reads give way to others.
    """

    cluster: SourceCluster
    recovered: Recovered
    database: str
    search_table: str = ""
    name: ClassVar[str] = "rows back"
    proves: ClassVar[str] = "what comes back and what goes is known, row by row"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        tenant = ctx.site.tenant(self.database)
        tables = list(dict.fromkeys([*([self.search_table] if self.search_table else []), *tenant.digest_tables]))[
            :MOST_TABLES
        ]
        if not tables:
            return [
                self.result(
                    Verdict.NOT_APPLICABLE, reason="neither search_table nor the profile's digest_tables names a table"
                )
            ]
        found = []
        with (
            checks.Watch(ctx.source()) as watch,
            ctx.source(self.database) as production,
            ctx.copy(self.recovered.ref, self.database, read_only=True) as copy,
        ):
            for table in tables:
                ctx.recorder.progress(f"comparing {table} with production")
                theirs = checks.rows_of(production, table, watch)
                found.append(checks.difference(table, checks.rows_of(copy, table), theirs))
        ctx.recorder.note(Facts(rows_back=tuple(item.model_dump(mode="json") for item in found)))
        return [
            self.result(
                Verdict.VERIFIED,
                expected="known",
                observed=summary(found),
                details=tuple((item.table, str(item)) for item in found),
            )
        ]


def summary(found: Sequence[Difference]) -> str:
    """The sums, and each table that differs or could not be compared; of more than `NAMED_TABLES` the record has the rest."""
    known = [item for item in found if item.known]
    total = [sum(getattr(item, name) for item in known) for name in ("only_in_copy", "only_in_production", "changed")]
    said = "{:,} come back, {:,} go, {:,} change".format(*total)
    said += f", in {len(known)} of {len(found)} tables compared row by row"
    named = [item for item in found if not item.known or item.only_in_copy or item.only_in_production or item.changed]
    named.sort(key=lambda item: -(item.only_in_copy or 0))  # what comes back is looked for first
    said += "".join(f"; {item.table}: {item}" for item in named[:NAMED_TABLES])
    return said + (f"; and {len(named) - NAMED_TABLES} more" if len(named) > NAMED_TABLES else "")


__all__ = ["AreMyRowsBack", "summary"]
