"""Rows: keyed digests of whole tables that don't depend on the order of their rows.

How a digest is made. The server writes each row as text (under fixed session settings, so that no role's or database's
setting shows), takes SHA-256 of key and text, and adds these 256-bit numbers up. A sum doesn't depend on the order and,
unlike an exclusive or, it sees a row that is there twice, or a pair of rows in the place of another pair. Count and sum
leave the server; what is kept is their HMAC-SHA-256 under the same key.

The key. A plain digest of a small table can be guessed by trying values, so the key is made for one run, is never
written down, and is gone with the run: after it, that run's digests compare with each other and with nothing else.
(A server that logs statements with their parameters has the key in its log, where the rows' own values stand as well.)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from drillbook.errors import PostgresError
from drillbook.model import Check, Frozen, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted, pinned, said
from drillbook.postgres.checks.parallel import Sessions, side_by_side
from drillbook.postgres.checks.sampling import TableSample
from drillbook.postgres.client import SQL, Database

# Everything in the digest is older; below this the WAL that proves the target can't be read.
OLDEST_VERSION = 140000
# Shorter keys could be found by trying.
SHORTEST_KEY = 16

# The relations that hold rows of their own: tables, partitioned tables, materialised views.
_HOLDS_ROWS = {"r", "p", "m"}
# A row version of a table ``t`` by its place and inserting transaction; its parameter is the seed.
_VERSION = "pg_catalog.hash_record_extended(row(t.tableoid, t.ctid, t.xmin), %s)"


class TableDigest(Frozen):
    """What a table held: its rows and their digest (64 hexadecimal digits), or why that isn't known.

    ``sampled`` says which part of it that is, "" for all of it; ``sample`` has the bounds, and is kept in memory only.
    """

    memory_only: ClassVar[str] = "its digest is keyed with a key that only the first process knew"
    rows: int | None = None
    digest: str = ""
    exists: bool = True
    damaged: bool = False  # the server itself said so: SQLSTATE XX or 58
    reason: str = ""  # why there is no digest
    sampled: str = ""
    sample: TableSample | None = Field(default=None, exclude=True, repr=False)

    @property
    def known(self) -> bool:
        """Whether there is a digest to compare."""
        return bool(self.digest)

    def __str__(self) -> str:
        part = f", sampled: {self.sampled}" if self.sampled else ""
        return f"{counted(self.rows or 0, 'row')}, digest {self.digest[:12]}{part}" if self.known else self.reason


class DigestTable(Frozen):
    """A table that was found: its name as the profile writes it and as the server quotes it, and the part that is read."""

    name: str
    quoted: str
    sample: TableSample | None = None

    @property
    def source(self) -> str:
        """What is after FROM, for a statement with parameters."""
        where = f" t where {self.sample.where}" if self.sample else " t"
        return (self.quoted + where).replace("%", "%%")


def find_table(db: Database, name: str) -> DigestTable | TableDigest:
    """The table called ``name`` (``schema.table``, quoted like in SQL), or why it can't be digested.

    Raises ``PostgresError``; 42601 and 22023 where ``name`` is no identifier.
    """
    found = db.ask("integrity_table", name=name)
    if not found:
        return TableDigest(exists=False, reason="there is no such table")
    row = found[0]
    if row["has_foreign_rows"]:
        return TableDigest(reason="some of its rows live on another server: they are not in the backup")
    if row["kind"] not in _HOLDS_ROWS:
        return TableDigest(reason="it is a view: name the tables behind it")
    if row["version"] < OLDEST_VERSION:
        return TableDigest(reason="a digest needs PostgreSQL 14 or newer")
    return DigestTable(name=name, quoted=row["quoted"])


def digest_table(db: Database, table: DigestTable, key: bytes) -> TableDigest:
    """The digest of ``table`` in the open, pinned snapshot. One pass in the server; raises ``PostgresError``."""
    _by_its_ranges(db, table)
    statement = digest_statement(table.source, "%s")
    ((rows, *totals),) = db.ask_text(statement, (_long_enough(key),))
    return _of(table, rows, totals, key)


def _by_its_ranges(db: Database, table: DigestTable) -> None:
    """For the open transaction: a sample is read by its index, whatever the planner thinks of it."""
    if table.sample is not None:
        db.ask(SQL("SET LOCAL enable_seqscan = off"))


def _of(table: DigestTable, rows: int, totals: Iterable[Any], key: bytes) -> TableDigest:
    found = digest_of(table.quoted, rows, totals, key)
    if table.sample is None:
        return found
    return found.model_copy(update={"sample": table.sample, "sampled": table.sample.describe(rows)})


def _long_enough(key: bytes) -> bytes:
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"the digest's key has {len(key)} bytes: at least {SHORTEST_KEY} are needed")
    return key


def digest_and_versions(db: Database, table: DigestTable, key: bytes, seed: int) -> tuple[TableDigest, tuple[int, int]]:
    """``digest_table`` and ``versions`` in one pass; raises ``PostgresError``."""
    _by_its_ranges(db, table)
    statement = digest_statement(table.source, "%s", extra=_VERSION)
    ((rows, *totals, seen),) = db.ask_text(statement, (_long_enough(key), seed))
    return _of(table, rows, totals, key), (int(rows), int(seen))


def versions(db: Database, table: DigestTable, seed: int) -> tuple[int, int]:
    """Count and order-independent sum of the row versions (place and inserting transaction) in the open snapshot.

    ``seed``, 63 random bits a run, makes a chance equality unrepeatable. A pass that is cheap in processor time, as
    large in reads as any; raises ``PostgresError``.
    """
    _by_its_ranges(db, table)
    statement = (
        f"select pg_catalog.count(*), coalesce(pg_catalog.sum({_VERSION}), 0) "  # noqa: S608 - the server quoted the name
        f"from {table.source}"
    )
    ((rows, total),) = db.ask_text(statement, (seed,))
    return int(rows), int(total)


def digest_statement(source: str, key: str, row: str = "t::pg_catalog.text", extra: str = "") -> str:
    """The SELECT of ``rows`` and the four sums ``s1`` to ``s4`` over ``source``, a table ``t`` as SQL has it after FROM.

    ``key`` is SQL for a bytea; ``row`` is SQL for the text that stands for a row ``t``; ``extra`` is SQL for a
    number of each row, which is added up as a last column.
    """
    # The row as text is the same for equal rows only: record output quotes what could be mistaken, and NULL is not ''.
    # convert_to with the server's own encoding changes nothing; textsend would depend on the client's.
    # A sum of hashes knows no order; by 16 hexadecimal digits at a time, which every version from 14 on can convert.
    sums = ", ".join(
        f"coalesce(pg_catalog.sum(('x' || pg_catalog.substr(h, {at}, 16))::bit(64)::bigint), 0) as s{number}"
        for number, at in enumerate((1, 17, 33, 49), 1)
    )
    each, total = (f", {extra} as n", ", coalesce(pg_catalog.sum(n), 0) as extra") if extra else ("", "")
    return (
        f"select pg_catalog.count(*) as rows, {sums}{total} from (select pg_catalog.encode(pg_catalog.sha256({key}::pg_catalog.bytea || "  # noqa: S608 - the server quoted the name
        f"pg_catalog.convert_to({row}, pg_catalog.getdatabaseencoding())), 'hex') as h{each} from {source}) digests"
    )


def digest_of(name: str, rows: int, totals: Iterable[Any], key: bytes) -> TableDigest:
    """The digest that leaves the server's count and sums behind."""
    message = f"{name}\n{rows}\n{[int(total) for total in totals]}".encode()
    return TableDigest(rows=rows, digest=hmac.new(key, message, hashlib.sha256).hexdigest())


def unknown(error: PostgresError) -> TableDigest:
    """What an error leaves of a table's digest."""
    return TableDigest(damaged=error.contradicts, reason=said(error))


def digest_tables(
    db: Database,
    tables: Iterable[str],
    key: bytes,
    samples: Mapping[str, TableSample | None] | None = None,
    sessions: Sessions | None = None,
) -> dict[str, TableDigest]:
    """Digest each of ``tables`` (``schema.table``, quoted like in SQL), one pass over each; rows never leave.

    Of those in ``samples`` only that part. ``sessions`` are more of them, which read side by side. Each table is read
    in its own snapshot: this is for a database that nobody writes to. A table that can't be read says why and doesn't
    hide the others.
    """
    parts, names = samples or {}, list(tables)

    def digest(session: Database, name: str) -> TableDigest:
        try:
            with pinned(session):
                found = find_table(session, name)
                if isinstance(found, TableDigest):
                    return found
                return digest_table(session, found.model_copy(update={"sample": parts.get(name)}), key)
        except PostgresError as error:
            return unknown(error)

    lost = TableDigest(reason="not read: the connection was lost before")
    return dict(zip(names, (one or lost for one in side_by_side(db, names, digest, sessions)), strict=True))


def rows_equal(expected: Mapping[str, TableDigest], observed: Mapping[str, TableDigest]) -> Check:
    """Compare the source's digests at the target with the copy's. FAILED names the tables that differ.

    A table that the copy lacks, or whose pages its server calls damaged, contradicts the claim; one that couldn't be
    read on either side leaves it unproven. A sampled table that agrees is named as such: nothing is said of its other
    rows.
    """
    frame = CheckFrame(
        "rows",
        "the chosen tables hold exactly the rows of the target",
        f"{counted(len(expected), 'table')} equal to the source",
    )
    wrong: dict[str, str] = {}
    unseen: dict[str, str] = {}
    for name, source in expected.items():
        copy = observed.get(name, TableDigest(reason="not digested on the copy"))
        if not source.known:
            unseen[name] = f"on the source: {source.reason}"
        elif not copy.exists:
            wrong[name] = f"source: {source}; copy: {copy.reason}"
        elif not copy.known:
            (wrong if copy.damaged else unseen)[name] = f"on the copy: {copy.reason}"
        elif (copy.rows, copy.digest) != (source.rows, source.digest):
            wrong[name] = f"source: {source}; copy: {copy}"
    equal = [name for name in expected if name not in wrong and name not in unseen]
    details: list[tuple[str, Any]] = [*wrong.items(), *unseen.items()]
    details += [(name, str(expected[name])) for name in equal]
    observed_text = f"{len(equal)} of {counted(len(expected), 'table')} equal"
    if sampled := [f"{name} ({expected[name].sampled})" for name in equal if expected[name].sampled]:
        observed_text += f", {len(sampled)} of them sampled: {'; '.join(sampled)}"
        frame.proves = "the chosen tables hold exactly the rows of the target; of a sampled table, those that were read"
    if wrong:
        return frame.verdict(Verdict.FAILED, f"{observed_text}; different: {', '.join(wrong)}", details=details)
    if unseen or not expected:
        reason = "; ".join(f"{name}: {why}" for name, why in unseen.items()) or "no table was named"
        return frame.verdict(Verdict.UNPROVEN, observed_text, reason=reason, details=details)
    return frame.verdict(Verdict.VERIFIED, observed_text, details=details)
