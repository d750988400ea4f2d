"""What a rehearsal found, as evidence keeps it: names, counts and times, never a bound value or a row."""

from __future__ import annotations

from drillbook.indexes.judging import IndexClass, Outcome, Reason
from drillbook.indexes.plans import Work
from drillbook.model import Frozen


class StatementRun(Frozen):
    """One statement of the file as it ran on the copy: SQLSTATE "" if it succeeded, "-" if it was not reached."""

    line: int
    what: str
    sqlstate: str = ""
    message: str = ""
    seconds: float = 0.0


class FileRun(Frozen):
    """The file as written, in one transaction (Flyway's default) and statement by statement."""

    in_one_transaction: tuple[StatementRun, ...] = ()
    one_by_one: tuple[StatementRun, ...] = ()


class LockSeen(Frozen):
    """The table lock that a build held, in pg_locks' words, and what another session could not have had at that time."""

    mode: str
    waits: tuple[str, ...] = ()

    @property
    def stops_writers(self) -> bool:
        """Whether INSERT, UPDATE and DELETE wait for the whole build."""
        return any("INSERT" in who for who in self.waits)


class VariantSeen(Frozen):
    """One variant of a query (which key, LIMIT or not, custom or generic plan) without the index, with it alone, with all."""

    query: str
    key: str = ""
    limit: int = 0
    generic: bool = False
    outcome: Outcome
    before: Work
    after: Work
    used_with_all: bool = False
    unstable: str = ""
    """How the plan on the statistics as restored differs from that after ANALYZE, "" if it doesn't."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        extras = [self.key, f"LIMIT {self.limit}" if self.limit else "", "generic plan" if self.generic else ""]
        named = ", ".join(part for part in extras if part)
        return f"{self.query} ({named})" if named else self.query


class UpdateCost(Frozen):
    """What a typical update costs without and with the index: HOT share from 0 to 1, WAL records and bytes a row."""

    update: str
    rows: int
    hot_before: float
    hot_after: float
    records_before: float
    records_after: float
    bytes_before: float
    bytes_after: float


class InsertCost(Frozen):
    """WAL records and bytes that an index adds to a row which is inserted."""

    rows: int
    records_added: float
    bytes_added: float


class WhyNot(Frozen):
    """A reason by name, and what on the copy showed it."""

    reason: Reason
    shown_by: str


class CandidateSeen(Frozen):
    """A corrected definition (and query, where that changes), and what it did when measured like the others."""

    rule: str
    sql: str
    query: str = ""
    for_query: str
    index_class: IndexClass
    error: str = ""
    variants: tuple[VariantSeen, ...] = ()


class IndexFinding(Frozen):
    """One proposed index: the claim, its class, and everything that the class rests on."""

    label: str
    table: str = ""
    claim: str = ""
    sql: str
    definition: str = ""  # pg_get_indexdef of what was created
    index_class: IndexClass | None  # None: not measured, and ``unproven`` says why
    unproven: str = ""
    reasons: tuple[WhyNot, ...] = ()
    sqlstate: str = ""
    message: str = ""
    build_seconds: float = 0.0
    size_bytes: int = 0
    lock: LockSeen | None = None
    variants: tuple[VariantSeen, ...] = ()
    updates: tuple[UpdateCost, ...] = ()
    insert: InsertCost | None = None
    costs_unproven: str = ""
    newly_indexed: tuple[str, ...] = ()  # columns that no index had: an update of one is no longer HOT
    candidates: tuple[CandidateSeen, ...] = ()

    @property
    def unstable(self) -> tuple[str, ...]:
        """The variants whose plan changes with ANALYZE."""
        return tuple(f"{item.label}: {item.unstable}" for item in self.variants if item.unstable)

    @property
    def corrected(self) -> CandidateSeen | None:
        """The first candidate that helps."""
        helping = (IndexClass.HELPS, IndexClass.HELPS_BUT_COSTS_HOT)
        return next((item for item in self.candidates if item.index_class in helping), None)


class Redundant(Frozen):
    """An index that another makes redundant: ``duplicate`` of it, or the first columns of it."""

    table: str
    index: str
    by: str
    duplicate: bool
    bytes: int


class MissingKeyIndex(Frozen):
    """A foreign key without an index that begins with its columns."""

    table: str
    name: str
    columns: tuple[str, ...]


class Rehearsal(Frozen):
    """Everything that was measured on the copy, and on which server: it holds for that major version and those settings."""

    migration: str
    digest: str
    database: str
    server_version: str
    seconds: float
    file: FileRun
    indexes: tuple[IndexFinding, ...]
    together: tuple[str, ...] = ()  # the corrected set: CREATE INDEX statements that help, measured together
    together_used: tuple[str, ...] = ()
    together_unused: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()  # what the migration itself drops
    redundant: tuple[Redundant, ...] = ()
    keys_without_index: tuple[MissingKeyIndex, ...] = ()
