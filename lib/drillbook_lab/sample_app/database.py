"""The app's side of the database: one pool, and what is asked through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from drillbook_lab.sample_app.settings import Settings

Connection = AsyncConnection[DictRow]
Row = dict[str, Any]

_LIFETIME_SECONDS = 1800.0
_IDLE_SECONDS = 600.0
_ABOUT = "SELECT current_database() AS database, current_user AS role, pg_is_in_recovery() AS in_recovery"


class Database:
    """A pool as HikariCP's: so many connections at most, a bounded wait, and each one tried before it is given out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.in_use = 0
        self.timeouts = 0
        self._given = 0
        self._leaked: list[Connection] = []  # as a bug that never closes what it has opened
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            "",
            connection_class=AsyncConnection[DictRow],
            kwargs=self._parameters,
            min_size=settings.minimum_idle,
            max_size=settings.pool_size,
            timeout=settings.connection_timeout,
            max_lifetime=_LIFETIME_SECONDS,
            max_idle=_IDLE_SECONDS,
            reconnect_timeout=settings.connection_timeout,
            check=AsyncConnectionPool.check_connection,
            name="pool-1",
            open=False,
        )

    async def _parameters(self) -> dict[str, Any]:
        """What each connection is opened with."""
        threshold = 5 if self._settings.prepares else None
        return {**self._settings.dialled(), "row_factory": dict_row, "prepare_threshold": threshold}

    async def open(self) -> None:
        """Begin to connect; an app that needs its database at the start fails here without it."""
        if not self._settings.starts_without_database:
            # The pool would tell only that time has run out; a connection of our own says why.
            async with await AsyncConnection.connect(**self._settings.dialled()):  # type: ignore[arg-type]
                pass
        await self._pool.open()

    async def close(self) -> None:
        """Give every connection back to the server."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in its own transaction; `PoolTimeout` when none was free in time."""
        try:
            async with self._pool.connection() as connection:
                self.in_use += 1
                try:
                    yield connection
                    await self._misbehave()
                finally:
                    self.in_use -= 1
        except PoolTimeout:
            self.timeouts += 1
            raise

    async def _misbehave(self) -> None:
        """Be the worse release that the environment asks for: hold the connection longer, or leak another one."""
        if self._settings.delay:
            await asyncio.sleep(self._settings.delay)
        self._given += 1
        if self._settings.leaks_every and self._given % self._settings.leaks_every == 0:
            leaked = await self._pool.getconn()
            await leaked.execute("SELECT 1")  # begins a transaction that nobody ends
            self._leaked.append(leaked)
            self.in_use += 1

    async def about(self) -> Row:
        """What the server answers to a question, and how long that took."""
        began = time.monotonic()
        async with self.connection() as connection:
            found = await (await connection.execute(_ABOUT)).fetchone()
        return {**(found or {}), "milliseconds": round((time.monotonic() - began) * 1000, 1)}

    async def create(self, statements: tuple[str, ...], values: Row) -> Row:
        """All the statements in one transaction; the first one's row. Each sees that row's values too."""
        async with self.connection() as connection:
            made: Row = {}
            for statement in statements:
                cursor = await connection.execute(statement.encode(), {**values, **made})
                if not made and cursor.description is not None:
                    made = await cursor.fetchone() or {}
        return made

    async def find(self, statement: str, values: Row) -> list[Row]:
        """The rows of a question."""
        async with self.connection() as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()

    def gauges(self) -> dict[str, float]:
        """The pool as its library's metrics tell of it."""
        stats = self._pool.get_stats()
        size = stats.get("pool_size", 0)
        return {
            "hikaricp_connections": size,
            "hikaricp_connections_active": self.in_use,
            "hikaricp_connections_idle": stats.get("pool_available", 0),
            "hikaricp_connections_pending": stats.get("requests_waiting", 0),
            "hikaricp_connections_max": self._settings.pool_size,
            "hikaricp_connections_min": self._settings.minimum_idle,
            "hikaricp_connections_timeout_total": self.timeouts,
        }
