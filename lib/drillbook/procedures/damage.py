"""Who did the damage, and when: the archived WAL searched for transactions that deleted rows or dropped relations.

Our own reader does it, on the archive: nothing runs on the source, and its major version plays no part (14 to 18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from drillbook.model import Check, Frozen, Instant, Lsn, Verdict, parse_instant, show_instant
from drillbook.procedures.committed import changes_between
from drillbook.procedures.readiness import SourceCluster
from drillbook.step import Context, Step
from drillbook.wal import Changes, File

SHOWN = 11
_FIRST_USER_ID = 16384  # PostgreSQL gives smaller numbers to its own catalogue only
_HOUR = timedelta(hours=1)


class Candidate(Frozen):
    """A transaction that may have done the damage; ``before`` is the target time that recovers all but it."""

    xid: int
    committed_at: Instant
    lsn: Lsn
    database: str
    what: str
    weight: int  # rows deleted; a dropped file counts more than any number of rows

    @property
    def before(self) -> datetime:
        return self.committed_at - timedelta(microseconds=1)


class Candidates(Frozen):
    """The transactions found, the heaviest first."""

    found: tuple[Candidate, ...]
    since: Instant
    until: Instant

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        nothing = [("nothing found", f"between {show_instant(self.since)} and {show_instant(self.until)}")]
        return [
            (f"XID {item.xid}", f"{show_instant(item.committed_at)}  {item.database}: {item.what}") for item in self.found
        ] or nothing


@dataclass(frozen=True)
class Files:
    """Relations by their files, as the source has them now, and databases by their ids."""

    names: Mapping[tuple[int, int], str]  # (database, file number)
    databases: Mapping[int, str]

    @classmethod
    def read(cls, ctx: Context) -> Files:
        with ctx.source() as db:
            databases = {int(row["id"]): str(row["name"]) for row in db.ask("database_ids")}
        names: dict[tuple[int, int], str] = {}
        for tenant in ctx.site.tenants:
            with ctx.source(tenant.database) as db:
                names |= {(int(row["database"]), int(row["file"])): str(row["name"]) for row in db.ask("relation_files")}
        return cls(names, databases)

    def name(self, file: File) -> str:
        """The relation whose file it is; "" if no relation has it any more."""
        return self.names.get((file[1], file[2]), "")


@dataclass(frozen=True)
class FindDamage(Step[Candidates]):
    """Search the archived WAL for what deleted rows or dropped relations.

    With search_table only what touched that table, and every drop: WAL names a relation by its file, and of a dropped
    one nobody knows the name any more. A TRUNCATE or a rewrite drops the old file too. After a cut-over every serverName's
    WAL is searched.
    """

    cluster: SourceCluster

    def do(self, ctx: Context) -> Candidates:
        until = _instant(ctx, "search_to") or datetime.now(UTC)
        since = _instant(ctx, "search_from") or until - _HOUR
        files = Files.read(ctx)
        table = str(ctx.parameters.get("search_table", ""))
        changes = changes_between(ctx, self.cluster, since, until)
        found = sorted(candidates(changes, files, table), key=lambda item: (-item.weight, item.committed_at))
        result = Candidates(found=tuple(found[:SHOWN]), since=since, until=until)
        ctx.recorder.fact("damage", result.model_dump(mode="json"))
        ctx.recorder.check(self._told(result, len(found), table))
        return result

    def _told(self, result: Candidates, count: int, table: str) -> Check:
        between = f"between {show_instant(result.since)} and {show_instant(result.until)}"
        heaviest = result.found[0] if result.found else None
        return Check(
            name="damage",
            proves="which transactions deleted or dropped something, so that a target just before one can be given",
            verdict=Verdict.VERIFIED if heaviest else Verdict.NOT_APPLICABLE,
            required=False,
            observed=f"{count} transactions {between}; the heaviest: XID {heaviest.xid}, target_time "
            f"{show_instant(heaviest.before)} is just before it"
            if heaviest
            else "",
            reason="" if heaviest else f"nothing {f'of {table} ' if table else ''}was deleted or dropped {between}",
            details=tuple(
                (f"{show_instant(item.committed_at)}  XID {item.xid}", f"{item.database}: {item.what} (LSN {item.lsn})")
                for item in result.found
            ),
        )


def candidates(changes: Iterable[Changes], files: Files, table: str) -> Iterable[Candidate]:
    """The transactions that deleted rows of user tables (of ``table`` alone, if named) or dropped files."""
    for one in changes:
        deleted = {file: rows for file, rows in one.deleted.items() if _counts(files.name(file), file, table)}
        # An index, a sequence and a TOAST table go with their table: without names only the number can be told.
        dropped = [file for file in one.dropped if file[2] >= _FIRST_USER_ID]
        if not deleted and not dropped:
            continue
        rows = sum(deleted.values())
        words = [f"{count} rows deleted from {files.name(file) or f'file {file[2]}'}" for file, count in deleted.items()]
        if dropped:
            numbers = ", ".join(str(file[2]) for file in dropped[:4]) + (" …" if len(dropped) > 4 else "")
            words.append(f"{len(dropped)} {'file' if len(dropped) == 1 else 'files'} dropped, truncated or rewritten ({numbers})")
        yield Candidate(
            xid=one.xid,
            committed_at=one.committed_at,
            lsn=one.lsn,
            database=files.databases.get(one.database, f"database {one.database}" if one.database else "unknown"),
            what="; ".join(words[:4]),
            weight=rows + (1_000_000 if dropped else 0),
        )


def _counts(name: str, file: File, table: str) -> bool:
    """Whether deleted rows of this file are of interest: of the table that was named, or of any that is no catalogue."""
    if table:
        return name.replace('"', "") == table.replace('"', "")
    return file[2] >= _FIRST_USER_ID


def _instant(ctx: Context, name: str) -> datetime | None:
    text: Any = ctx.parameters.get(name, "")
    return parse_instant(text) if text else None


__all__ = ["Candidate", "Candidates", "Files", "FindDamage"]
