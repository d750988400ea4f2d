"""The names of the databases of a cut-over, and what the kept one says of itself; no I/O."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from drillbook.model import Frozen, Instant

_LONGEST = 63  # bytes of a PostgreSQL identifier
_BOOLEAN = r"(?i)^(|on|off?|t|tr|tru|true|f|fa|fal|fals|false|y|ye|yes|n|no|1|0)$"  # as PostgreSQL reads one


class Names(Frozen):
    """The database, and the names that it and its likes bear on the way. All of one run."""

    database: str
    carried: str  # what came from the copy, until the cut
    kept: str  # the damaged one, after the cut
    later: str  # what was in service after the cut, once it was swapped back

    @classmethod
    def of(cls, database: str, run_id: str) -> Names:
        """``<database>_recovered_<run>``, ``_before_`` and ``_after_``; a long database's name is cut."""
        run = run_id.lower().replace("-", "_")

        def named(what: str) -> str:
            end = f"_{what}_{run}"
            return database.encode()[: _LONGEST - len(end)].decode(errors="ignore") + end

        return cls(database=database, carried=named("recovered"), kept=named("before"), later=named("after"))

    @property
    def all(self) -> list[str]:
        return [self.database, self.carried, self.kept, self.later]


class Synced(Frozen):
    """An Argo CD Application and its automated sync before a run paused it."""

    namespace: str
    name: str
    automated: dict[str, bool]


class Before(Frozen):
    """How service was before the cut, as far as the run had changed it for the cut: what an undo puts back.

    Values only, and no statement or patch: who owns the database can change its comment, and an undo acts as superuser.
    """

    replicas: Annotated[int, Field(ge=0, le=10_000)]
    pooler_paused: bool = False
    synced: tuple[Synced, ...] = ()
    # default_transaction_read_only by role, "" being the database's own; an empty value: there was none.
    writes: dict[str, Annotated[str, StringConstraints(pattern=_BOOLEAN)]] = Field(default_factory=dict)


class RetainedDatabase(Frozen):
    """What is in the comment of a database that a cut has put aside: whose, since when, how long, and its own comment."""

    run: str
    what: str
    owner: str
    expires_at: Instant
    lsn: str
    at: Instant
    comment: str | None = None
    before: Before | None = None  # None: the cut did not note it

    @classmethod
    def read(cls, comment: str | None) -> RetainedDatabase | None:
        """What a comment says; None if no cut has written it."""
        try:
            found: Any = json.loads(comment or "")
            return cls.model_validate(found["drillbook"])
        except (ValueError, KeyError, TypeError):
            return None
