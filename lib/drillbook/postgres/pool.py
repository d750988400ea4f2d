"""An application's connection pool, for load: the only user of psycopg_pool. Runs in a process of its own, for one loop.

What it shares with HikariCP: a bounded number of connections, a bounded wait, first come first served. What it does not:
connections are opened by several workers, none is tried before it is given out, and a broken one is found by its use.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from drillbook.postgres.client import LIBPQ_VARIABLES, Address

__all__ = ["LIBPQ_VARIABLES", "ConnectionRefused", "NoConnection", "Pool", "PoolState", "PoolTarget"]

_CONNECT_SECONDS = 5


class NoConnection(Exception):
    """No connection was free within the pool's time limit."""


class ConnectionRefused(Exception):
    """A statement failed: SQLSTATE and primary message, which for a limit is all that an application ever sees."""


@dataclass(frozen=True)
class PoolTarget:
    """Where to and as whom; the password is never shown."""

    address: Address
    user: str
    dbname: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class PoolState:
    """How the pool stands: connections that are open, those that are free, and clients that wait for one."""

    open: int
    free: int
    waiting: int


class Pool:
    """A pool of at most ``size`` connections; a client waits ``timeout_seconds`` for one at most.

    Statements are never prepared on the server: a PgBouncer before 1.21 in transaction mode would lose them.
    """

    def __init__(self, target: PoolTarget, *, size: int, idle: int, timeout_seconds: float) -> None:
        self.size = size
        self.refusals: dict[str, int] = {}  # why connections could not be opened, which its clients never learn
        self._password = target.password
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            "",
            kwargs={
                "host": target.address.host,
                "port": target.address.port,
                "user": target.user,
                "password": target.password,
                "dbname": target.dbname,
                "sslmode": "prefer",
                "gssencmode": "disable",
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "drillbook-load",
                "prepare_threshold": None,
            },
            min_size=min(idle, size),
            max_size=size,
            timeout=timeout_seconds,
            open=False,
        )
        self._noting = _Noting(self)

    async def __aenter__(self) -> Pool:
        """Open it and wait until its idle connections are there. NoConnection if they can't be had."""
        logger = logging.getLogger("psycopg.pool")
        logger.propagate = False
        logger.addHandler(self._noting)
        await self._pool.open()
        try:
            await self._pool.wait(timeout=max(_CONNECT_SECONDS, 2 * self._pool.timeout))
        except PoolTimeout:
            await self.__aexit__()
            why = "; ".join(self.refusals) or "no answer"
            raise NoConnection(f"{self._pool.min_size} connections could not be opened: {why}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close(timeout=5)
        logging.getLogger("psycopg.pool").removeHandler(self._noting)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection in a transaction, which is committed at the end. NoConnection, ConnectionRefused."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise NoConnection(f"none was free within {self._pool.timeout:g} s") from None
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error).strip()
            raise ConnectionRefused(f"{error.sqlstate or '08006'} {self._clean(said)}") from None

    def state(self) -> PoolState:
        """How it stands now."""
        stats = self._pool.get_stats()
        return PoolState(
            open=stats.get("pool_size", 0),
            free=stats.get("pool_available", 0),
            waiting=stats.get("requests_waiting", 0),
        )

    def refused(self, text: str) -> None:
        """Count why a connection could not be opened."""
        words = self._clean(text.rpartition("FATAL:")[2].strip().partition("\n")[0])
        self.refusals[words] = self.refusals.get(words, 0) + 1

    def _clean(self, text: str) -> str:
        return text.replace(self._password, "***") if len(self._password) > 3 else text


class _Noting(logging.Handler):
    """The pool's workers say why they can't connect in the log, and nowhere else."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(logging.WARNING)
        self._pool = pool

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "error connecting" in text:
            self._pool.refused(text)
