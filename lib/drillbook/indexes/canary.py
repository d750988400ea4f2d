"""A steady canary writer: how long a writer of these tables would have had to wait while something was done to them.

It writes nothing. Twenty times a second it takes the lock that every INSERT, UPDATE and DELETE takes (ROW EXCLUSIVE on the
table) in a transaction of its own, and gives it back: it waits exactly when, and as long as, a writer would, and leaves no row,
no dead tuple and no WAL behind. The loop runs in the server, so that no network is measured. It ends by itself when the session that
started it goes away, because it watches an advisory lock of that session.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent import futures
from types import TracebackType
from typing import Self

from drillbook.errors import RunbookError
from drillbook.indexes.build import Sessions
from drillbook.model import Frozen
from drillbook.postgres.client import SQL, Composed, Database, Identifier, Literal, as_text

APPLICATION = "drillbook_canary"
PAUSE_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
_START_SECONDS = 5.0


class Stall(Frozen):
    """The longest wait of the canary, on which table and when; ``beats`` is how often every table was tried.

    ``reason`` says why there is no figure; ``longest_seconds`` is then the least that is known.
    """

    longest_seconds: float
    table: str = ""
    at: str = ""
    beats: int = 0
    reason: str = ""


class Canary:
    """The canary on ``tables`` (schema, name) of a database, for as long as the ``with`` block lasts; then :attr:`stall`.

    ``control`` is a session in the same database that holds no transaction; ``key`` the number of its advisory lock.
    """

    def __init__(
        self, server: Sessions, database: str, tables: Sequence[tuple[str, str]], control: Database, key: int
    ) -> None:
        self._server, self._database, self._control, self._key = server, database, control, key
        self._tables = sorted(set(tables))
        self._pool = futures.ThreadPoolExecutor(1)
        self.stall = Stall(longest_seconds=0.0, reason="not started")

    def __enter__(self) -> Self:
        self._control.ask(SQL("select pg_catalog.pg_advisory_lock({})").format(Literal(self._key)))
        self._began = time.monotonic()
        self._running = self._pool.submit(self._server.run, self._database, *canary_statements(self._tables, self._key))
        # What is measured begins when it runs; if it can't, its own error says why at the end.
        while not self._running.done() and time.monotonic() - self._began < _START_SECONDS and not self._is_there():
            time.sleep(PAUSE_SECONDS)
        return self

    def _is_there(self) -> bool:
        ours = SQL("select from pg_catalog.pg_stat_activity where application_name = {}").format(Literal(APPLICATION))
        return bool(self._control.ask(ours))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._control.ask(SQL("select pg_catalog.pg_advisory_unlock({})").format(Literal(self._key)))
            self.stall = self._result()
        except RunbookError as lost:
            # A figure less is no reason to call what was done undone.
            self.stall = Stall(longest_seconds=0.0, reason=lost.what)
        finally:
            self._pool.shutdown(wait=False)

    def _result(self) -> Stall:
        try:
            rows = self._running.result(_PATIENCE_SECONDS)
        except TimeoutError:
            waited = time.monotonic() - self._began
            self._control.ask(
                SQL(
                    "select pg_catalog.pg_cancel_backend(pid) from pg_catalog.pg_stat_activity where application_name = {}"
                ).format(Literal(APPLICATION))
            )
            return Stall(longest_seconds=_PATIENCE_SECONDS, reason=f"it still waited {waited:.0f} s after it began")
        found = Stall.model_validate(rows[-1])
        return found if found.beats else found.model_copy(update={"reason": "it had not begun"})


def canary_statements(tables: Sequence[tuple[str, str]], key: int) -> list[SQL | Composed]:
    """One session: the loop, until the advisory lock ``key`` is free, and what it saw as one row.

    A materialised view has no writer to wait, and LOCK TABLE refuses it: it is passed over, as is a table that is gone.
    """
    tries = SQL("\n").join(
        SQL(
            "if exists (select from pg_class where oid = to_regclass({quoted}) and relkind in ('r', 'p')) then\n"
            "begun := clock_timestamp(); lock table {place} in row exclusive mode;\n"
            "waited := extract(epoch from clock_timestamp() - begun);\n"
            "if waited > longest then longest := waited; at := begun; place := {name}; end if;\n"
            "end if; commit;"
        ).format(
            place=Identifier(schema, name),
            quoted=Literal(SQL("{}").format(Identifier(schema, name)).as_string(None)),
            name=Literal(f"{schema}.{name}"),
        )
        for schema, name in tables
    )
    body = SQL(
        "declare begun timestamptz; at timestamptz; waited float8; longest float8 := 0; place text := ''; beats int := 0;\n"
        "begin loop exit when pg_try_advisory_lock({key}); {tries}\n"
        "beats := beats + 1; perform pg_sleep({pause}); commit; end loop;\n"
        "perform set_config('drillbook.canary', json_build_object('longest_seconds', round(longest::numeric, 4), 'table', place,\n"
        "'at', coalesce(to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), ''), 'beats', beats)::text, false); end"
    ).format(key=Literal(key), tries=tries, pause=Literal(PAUSE_SECONDS))
    return [
        SQL("set application_name = {}").format(Literal(APPLICATION)),
        SQL("set search_path = pg_catalog"),
        SQL("set statement_timeout = 0"),
        SQL("set lock_timeout = 0"),
        SQL("do {}").format(Literal(as_text(body))),
        SQL("select pg_catalog.current_setting('drillbook.canary')"),
    ]


__all__ = ["Canary", "Stall", "canary_statements"]
