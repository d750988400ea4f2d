"""The statements of the cut: connections disallowed and ended, both names changed in one transaction, allowed again.

Pure: nothing is sent. All of it goes to one psql in one piece, so that a caller who dies midway leaves no half of it.
That psql bears a name, and begins nothing after a deadline of the server's clock: anyone who comes later can end it,
and knows from when on it can't begin any more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drillbook.model import show_instant
from drillbook.postgres.client import SQL, Composed, Identifier, Literal, as_text
from drillbook.swap.names import Before, RetainedDatabase

Statement = SQL | Composed
BEGIN_SECONDS = 30
"""How long after it was asked for a cut may still begin."""
_END_SECONDS = 20
# Nobody waits behind a lock of the cut, nor the cut behind another's; a standby that is away holds up no commit.
_SETTINGS = (
    "lock_timeout = '10s'",
    "statement_timeout = '60s'",
    "synchronous_commit = local",
    "idle_in_transaction_session_timeout = '60s'",
)


def session_of(run_id: str) -> str:
    """The application name of the psql that makes this run's cut."""
    return f"drillbook_cut_{run_id}"


def begin(run_id: str) -> list[Statement]:
    """The session's own settings, and its name."""
    named = SQL("SET application_name = {}").format(Literal(session_of(run_id)))
    return [*(SQL(f"SET {setting}") for setting in _SETTINGS), named]


def not_after(deadline: str) -> Statement:
    """Begin nothing after this instant of the server's clock."""
    body = SQL("begin if pg_catalog.clock_timestamp() > {} then raise 'this cut was given up'; end if; end").format(
        Literal(deadline)
    )
    return SQL("DO {}").format(Literal(as_text(body)))


def close(names: Sequence[str]) -> list[Statement]:
    """Let nobody in, and end anyone who is in; waits at most `_END_SECONDS` for their ends."""
    shut: list[Statement] = [
        SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name)) for name in names
    ]
    # All are reported together; renaming waits five seconds more for what is left.
    body = SQL(
        "begin for n in 1..{} loop perform pg_catalog.pg_stat_clear_snapshot(); "
        "perform pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity "
        "where datname = any({}::text[]) and pid <> pg_catalog.pg_backend_pid(); "
        "exit when not found; perform pg_catalog.pg_sleep(0.1); end loop; end"
    ).format(Literal(10 * _END_SECONDS), Literal(list(names)))
    return [*shut, SQL("DO {}").format(Literal(as_text(body)))]


def give_up(run_id: str, oids: Sequence[int], deadline: str, aside: str) -> str:
    """As one text: end this run's cut if it still runs, wait until none can begin, and let everybody in again, by id.

    Says whether the cut was made. Safe to run twice, and after the cut.
    """
    session = SQL("(select pid from pg_catalog.pg_stat_activity where application_name = {})").format(
        Literal(session_of(run_id))
    )
    ended = SQL(
        "begin loop perform pg_catalog.pg_stat_clear_snapshot(); "
        "perform pg_catalog.pg_terminate_backend(pid) from {} s(pid); "
        "exit when not found and pg_catalog.clock_timestamp() > {}; perform pg_catalog.pg_sleep(0.2); end loop; end"
    ).format(session, Literal(deadline))
    opened = SQL(
        "declare name text; begin for name in select datname from pg_catalog.pg_database where oid = any({}::oid[]) and not datallowconn loop "
        "execute pg_catalog.format('alter database %I allow_connections true', name); end loop; end"
    ).format(Literal(list(oids)))
    told = SQL(
        "select case when exists (select from pg_catalog.pg_database where datname = {}) "
        "then 'the cut WAS made: ' || {} || ' is what was in service before it' else 'no cut was made' end"
    ).format(Literal(aside), Literal(aside))
    return ";\n".join(
        [*(as_text(SQL("do {}").format(Literal(as_text(body)))) for body in (ended, opened)), as_text(told)]
    )


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
    """A database is dropped, with anyone who is in it; none is fine."""
    return SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name))


def note(run: str, what: str, owner: str, expires_at: Any, before: Before) -> dict[str, Any]:
    """What is said of a database that is put aside; the server adds LSN, instant and the comment that was there."""
    said = {"run": run, "what": what, "owner": owner, "expires_at": show_instant(expires_at)}
    return said | {"before": before.model_dump(mode="json")}


__all__ = [
    "BEGIN_SECONDS",
    "RetainedDatabase",
    "begin",
    "close",
    "drop",
    "exchange",
    "forget",
    "give_up",
    "not_after",
    "note",
    "reopen",
    "session_of",
]
