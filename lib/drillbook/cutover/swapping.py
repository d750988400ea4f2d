"""The statements of the cut: connections disallowed and ended, both names changed in one transaction, allowed again.

Pure: nothing is sent. All of it goes to one psql in one piece, so that a caller who dies midway leaves no half of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drillbook.cutover.names import Kept
from drillbook.model import show_instant
from drillbook.postgres import SQL, Composed, Identifier, Literal

Statement = SQL | Composed
_END_MILLISECONDS = 10_000


def close(names: Sequence[str]) -> list[Statement]:
    """Let nobody in, and end whoever is in."""
    shut: list[Statement] = [
        SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name)) for name in names
    ]
    # With a limit the server waits for each end; renaming waits five seconds more for what is left.
    ended = SQL(
        "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid, {})) FROM pg_catalog.pg_stat_activity "
        "WHERE datname = ANY({}) AND pid <> pg_catalog.pg_backend_pid()"
    )
    return [*shut, ended.format(Literal(_END_MILLISECONDS), Literal(list(names)))]


def reopen(names: Sequence[str]) -> list[Statement]:
    """Let everybody in again."""
    return [SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(Identifier(name)) for name in names]


def exchange(
    old: str, aside: str, new: str, *, kept: dict[str, Any], also: Sequence[Statement] = ()
) -> list[Statement]:
    """``old`` becomes ``aside`` and ``new`` becomes ``old``, in one transaction.

    What was put aside says in its comment whose it is, since which LSN and instant, and what its comment was before.
    ``also`` is done in the same transaction.
    """
    note = SQL(
        "SELECT pg_catalog.format('COMMENT ON DATABASE %I IS %L', {name}, pg_catalog.json_build_object('drillbook', "
        "{kept}::pg_catalog.jsonb || pg_catalog.jsonb_build_object('lsn', pg_catalog.pg_current_wal_insert_lsn(), "
        "'at', pg_catalog.clock_timestamp(), 'comment', (SELECT pg_catalog.shobj_description(oid, 'pg_database') "
        "FROM pg_catalog.pg_database WHERE datname = {name})))) \\gexec"
    ).format(name=Literal(aside), kept=Literal(json.dumps(kept)))
    return [
        SQL("BEGIN"),
        SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(old), Identifier(aside)),
        SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(new), Identifier(old)),
        note,
        *also,
        *reopen([old, aside]),
        SQL("COMMIT"),
    ]


def forget(name: str, comment: str | None) -> Statement:
    """The database's comment is its own again."""
    return SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(name), Literal(comment))


def drop(name: str) -> Statement:
    """A database is dropped, with whoever is in it; none is fine."""
    return SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name))


def note(run: str, what: str, owner: str, expires_at: Any) -> dict[str, Any]:
    """What is said of a database that is put aside; the server adds LSN, instant and the comment that was there."""
    return {"run": run, "what": what, "owner": owner, "expires_at": show_instant(expires_at)}


__all__ = ["Kept", "close", "drop", "exchange", "forget", "note", "reopen"]
