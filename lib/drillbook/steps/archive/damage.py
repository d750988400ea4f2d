"""Who did the damage, and when: the archived WAL searched for transactions that deleted rows or dropped relations.

Our own reader does it, on the archive: nothing runs on the source, and its major version plays no part (14 to 18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from drillbook.engine.step import Context, Step
from drillbook.evidence.facts import Damage, Facts
from drillbook.model import Check, Frozen, Instant, Lsn, Verdict, parse_instant, show_instant, show_seconds
from drillbook.postgres.wal import Changes, File
from drillbook.steps.archive.committed import archived_until, changes_between
from drillbook.steps.preflight.readiness import SourceCluster

SHOWN = 8
TARGETS = 3  # as many transactions get a target time on the card, to be pasted
_FIRST_USER_ID = 16384  # PostgreSQL gives smaller numbers to its own catalogue only
_CATALOGUE = {1247: "pg_type", 2610: "pg_index"}  # their files, until VACUUM FULL gives them others
_GONE = 1_000_000  # the weight of a drop and of a truncation
_HOUR = timedelta(hours=1)


class Candidate(Frozen):
    """A transaction that may have done the damage; ``before`` is the target time that recovers all but it."""

    xid: int
    committed_at: Instant
    lsn: Lsn
    database: str
    what: str
    weight: int  # rows deleted or written again; a drop and a truncation count more than any number of rows

    @property
    def before(self) -> datetime:
        return self.committed_at - timedelta(microseconds=1)


class DamageCandidates(Frozen):
    """The transactions found, in the order of `ranked`."""

    found: tuple[Candidate, ...]
    since: Instant
    until: Instant
    archived_until: Instant | None = None  # when the newest segment that was read was archived

    @property
    def unread(self) -> str:
        """What of the time that was asked for the archive does not hold yet, in words; "" if it holds all of it."""
        if self.archived_until is None:
            return "no WAL of it is in the archive"
        if self.until <= self.archived_until:
            return ""
        missing = show_seconds((self.until - self.archived_until).total_seconds())
        return f"the archive is read to {show_instant(self.archived_until)}: the last {missing} are not in it yet"

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        nothing = [("nothing found", f"between {show_instant(self.since)} and {show_instant(self.until)}")]
        shown = [
            (f"XID {item.xid}", f"{show_instant(item.committed_at)}  {item.database}: {item.what}")
            for item in self.found
        ]
        shown += [
            (f"without XID {item.xid}", f'target_time = "{show_instant(item.before)}"')
            for item in self.found[:TARGETS]
            if item.weight
        ]
        return (shown or nothing) + ([("not read", self.unread)] if self.unread else [])


class Relation(NamedTuple):
    """A relation of the source: its quoted name, its kind as in pg_class, and whether its file is still its first."""

    name: str
    kind: str = "r"
    first_file: bool = True


@dataclass(frozen=True)
class Files:
    """Relations by their files, as the source has them now, and databases by their ids."""

    names: Mapping[tuple[int, int], Relation]  # by database and file number
    databases: Mapping[int, str]

    @classmethod
    def read(cls, ctx: Context) -> Files:
        with ctx.source() as db:
            databases = {int(row["id"]): str(row["name"]) for row in db.ask("database_ids")}
        names: dict[tuple[int, int], Relation] = {}
        for tenant in ctx.site.tenants:
            with ctx.source(tenant.database) as db:
                for row in db.ask("relation_files"):
                    found = Relation(str(row["name"]), str(row["kind"]), bool(row["first_file"]))
                    names[int(row["database"]), int(row["file"])] = found
        return cls(names, databases)

    def name(self, file: File) -> str:
        """The relation whose file it is; "" if no relation has it any more."""
        found = self.of(file)
        return found.name if found else ""

    def of(self, file: File) -> Relation | None:
        """The relation whose file it is."""
        return self.names.get((file[1], file[2]))


@dataclass(frozen=True)
class FindDamage(Step[DamageCandidates]):
    """Search the archived WAL for what deleted rows or dropped relations.

    With search_table only what touched that table, and every drop: WAL names a relation by its file, and of a dropped
    one nobody knows the name any more. A TRUNCATE, VACUUM FULL or REFRESH drops the old file too: the new one tells
    what was done. After a cut-over every serverName's WAL is searched. Drills delete rows of Drillbook's own database
    on purpose: these are left out.
    """

    cluster: SourceCluster
    database: str = ""
    search_table: str = ""
    search_from: str = ""
    search_to: str = ""

    def do(self, ctx: Context) -> DamageCandidates:
        until = parse_instant(self.search_to) if self.search_to else datetime.now(UTC)
        since = parse_instant(self.search_from) if self.search_from else until - _HOUR
        files, table = Files.read(ctx), self.search_table
        changes = changes_between(ctx, self.cluster, since, until)
        found = ranked(
            candidates(changes, files, table),
            files,
            database=self.database,
            leave_out=ctx.site.sql.database,
        )
        result = DamageCandidates(
            found=tuple(found[:SHOWN]), since=since, until=until, archived_until=archived_until(ctx, self.cluster)
        )
        ctx.recorder.note(Facts(damage=Damage.of(result)))
        ctx.recorder.check(judged(result, len(found), table))
        return result


def ranked(found: Iterable[Candidate], files: Files, *, database: str, leave_out: str) -> list[Candidate]:
    """The heaviest first, of equal ones the newest; before them all those of ``database``, if one is to be recovered.

    What no database that exists can be named for may be of a dropped one, so it counts as ``database``'s own. Nothing
    of the database ``leave_out`` is among them.
    """
    others = set(files.databases.values()) - {database} if database else set()
    return sorted(
        (item for item in found if item.database != leave_out),
        key=lambda item: (item.database in others, -item.weight, -item.committed_at.timestamp()),
    )


def judged(result: DamageCandidates, count: int, table: str) -> Check:
    """What ``count`` transactions in all say, of ``table`` alone if it is named; what could not be read is not called nothing."""
    between = f"between {show_instant(result.since)} and {show_instant(result.until)}"
    likeliest = next((item for item in result.found if item.weight), None)
    return Check(
        name="damage",
        proves="which transactions deleted or dropped something, so that a target just before one can be given",
        verdict=Verdict.VERIFIED if likeliest else Verdict.UNPROVEN if result.unread else Verdict.NOT_APPLICABLE,
        required=False,
        observed=f"{count} transaction{'' if count == 1 else 's'} {between}; the likeliest: XID {likeliest.xid}, "
        f'target_time = "{show_instant(likeliest.before)}" is just before it'
        f"{f'; {result.unread}' if result.unread else ''}"
        if likeliest
        else "",
        reason=""
        if likeliest
        else f"nothing {f'of {table} ' if table else ''}was deleted or dropped in what is archived {between}"
        + (f"; {result.unread}" if result.unread else ""),
        details=tuple(
            (f"{show_instant(item.committed_at)}  XID {item.xid}", f"{item.database}: {item.what} (LSN {item.lsn})")
            for item in result.found
        ),
    )


def candidates(changes: Iterable[Changes], files: Files, table: str) -> Iterable[Candidate]:
    """The transactions that deleted rows of user tables (of ``table`` alone, if named) or dropped files."""
    for one in changes:
        deleted = {file: rows for file, rows in one.deleted.items() if _counts(files.name(file), file, table)}
        dropped, replaced = _dropped(one, files), _replaced(one, files, table)
        if not deleted and not dropped and not replaced:
            continue
        rows = sum(deleted.values())
        words = [
            f"{count} rows deleted from {files.name(file) or f'file {file[2]}'}" for file, count in deleted.items()
        ]
        words += [text for text, _ in replaced]
        indexes, counted = _only_indexes(one, files), "file" if len(dropped) == 1 else "files"
        if dropped and indexes:
            words.append(f"{len(dropped)} {counted} of indexes dropped")
        elif dropped:
            numbers = ", ".join(str(file[2]) for file in dropped[:4]) + (" …" if len(dropped) > 4 else "")
            words.append(f"{len(dropped)} {counted} dropped ({numbers})")
        yield Candidate(
            xid=one.xid,
            committed_at=one.committed_at,
            lsn=one.lsn,
            database=files.databases.get(one.database, f"database {one.database}" if one.database else "unknown"),
            what="; ".join(words[:4]),
            weight=rows + sum(weight for _, weight in replaced) + (_GONE if dropped and not indexes else 0),
        )


def _dropped(one: Changes, files: Files) -> list[File]:
    """Files that went without another in their place: not what the transaction itself had made, nor what it replaced.

    An index, a sequence and a TOAST table go with their table: without names only the number can be reported. Which
    file a new one replaced WAL does not say, so as many of the oldest are left out.
    """
    found = [file for file in one.dropped if file[2] >= _FIRST_USER_ID and file not in one.created]
    known = [files.of(file) for file in one.created if file not in one.dropped]
    return found[len([relation for relation in known if relation is not None and not relation.first_file]) :]


def _only_indexes(one: Changes, files: Files) -> bool:
    """Whether what went were indexes: a table takes its row type with it."""
    kinds = {files.name(file).removeprefix("pg_catalog.") or _CATALOGUE.get(file[2], "") for file in one.deleted}
    return "pg_index" in kinds and "pg_type" not in kinds


def _replaced(one: Changes, files: Files, table: str) -> list[tuple[str, int]]:
    """The tables (``table`` alone, if named) that got a new file: what was done in words, and its weight."""
    found = []
    for file, content in one.created.items() if one.dropped else ():
        relation = files.of(file)
        if (
            relation is None
            or relation.first_file
            or relation.kind not in ("r", "m")
            or not _counts(relation.name, file, table)
        ):
            continue
        name = relation.name
        if relation.kind == "m":
            found.append((f"{name} refreshed", 0))
        elif not content.known:
            found.append((f"{name} truncated or rewritten", _GONE))
        elif content.rows:
            found.append((f"{name} truncated or rewritten, then {content.rows} rows written", content.rows))
        elif content.pages:
            found.append((f"{name} rewritten as it was (VACUUM FULL or CLUSTER)", 0))
        else:
            found.append((f"{name} truncated", _GONE))
    return found


def _counts(name: str, file: File, table: str) -> bool:
    """Whether deleted rows of this file are of interest: of the table that was named, or of any that is no catalogue."""
    if table:
        return name.replace('"', "") == table.replace('"', "")
    return file[2] >= _FIRST_USER_ID and not name.startswith("pg_catalog.")


__all__ = ["Candidate", "DamageCandidates", "Files", "FindDamage", "Relation", "judged", "ranked"]
