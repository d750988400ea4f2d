"""What runs have noted of their changes in Drillbook's own database, so that the way back needs no run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drillbook.engine.step import Context
from drillbook.errors import PostgresError, RunbookError

_NOBODY_EVER_NOTED_ONE = {"42P01", "3F000"}  # undefined_table, invalid_schema_name


@dataclass(frozen=True)
class NotedChanges:
    """The notes of one kind of change. ``what`` names it, ``query`` is the statement under ``sql/`` that reads them."""

    what: str
    query: str

    def rows(self, ctx: Context, database: str = "", run_id: str = "") -> list[dict[str, Any]]:
        """The notes of this database and run, "" for any; the newest run first, none where nobody ever noted one."""
        with ctx.source() as own:
            try:
                return own.ask(self.query, database=database, run_id=run_id)
            except PostgresError as error:
                if error.sqlstate in _NOBODY_EVER_NOTED_ONE:
                    return []
                raise

    def database_of(self, ctx: Context, run_id: str) -> str:
        """The database of which this run has noted a change, "" if none; what can't be read is not there."""
        try:
            rows = self.rows(ctx, run_id=run_id)
        except RunbookError:
            return ""
        return str(rows[0]["database"]) if rows else ""

    def nothing_left(self, ctx: Context, database: str, run_id: str) -> str:
        """Why there is nothing to take back of this run ("" for any), with the runs that noted a change, for an error."""
        undone = next((row["undone_by"] for row in self.rows(ctx, database, run_id) if row["undone_by"]), "")
        runs = ", ".join(dict.fromkeys(str(row["run_id"]) for row in self.rows(ctx, database)))
        whose = f"run {run_id}" if run_id else "any run"
        was = f"; it was undone by run {undone}" if undone else ""
        return f"no {self.what} of {database} was changed by {whose}{was}; runs that noted a change: {runs or 'none'}"


INDEX_CHANGES = NotedChanges("index", "index_changes")
CONNECTION_CHANGES = NotedChanges("connection setting", "connection_changes")


__all__ = ["CONNECTION_CHANGES", "INDEX_CHANGES", "NotedChanges"]
