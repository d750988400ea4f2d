"""The names of the databases of a cut-over, and what the kept one says of itself; no I/O."""

from __future__ import annotations

import json
from typing import Any

from drillbook.model import Frozen, Instant

_LONGEST = 63  # bytes of a PostgreSQL identifier


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


class RetainedDatabase(Frozen):
    """What is in the comment of a database that a cut has put aside: whose, since when, how long, and its own comment."""

    run: str
    what: str
    owner: str
    expires_at: Instant
    lsn: str
    at: Instant
    comment: str | None = None

    @classmethod
    def read(cls, comment: str | None) -> RetainedDatabase | None:
        """What a comment says; None if no cut has written it."""
        try:
            found: Any = json.loads(comment or "")
            return cls.model_validate(found["drillbook"])
        except (ValueError, KeyError, TypeError):
            return None
