"""A pooler's `/metrics` on port 9127: what PgBouncer's console says, under CloudNativePG's names."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from aiohttp import web

Console = Callable[[str], Awaitable[list[dict[str, Any]]]]

_PREFIX = "cnpg_pgbouncer"
_POOL_MODES = {"session": 1, "transaction": 2, "statement": 3}


class Metrics:
    """Asks PgBouncer whenever it is asked."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._runner: web.AppRunner | None = None
        self._collections = 0

    async def start(self, address: str, port: int) -> None:
        """Serve on the pod's address."""
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()

    async def close(self) -> None:
        """Stop to serve."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        samples: list[str] = []
        self._collections += 1
        failed = 0
        try:
            samples += _pools(await self._console("SHOW POOLS"))
            samples += _stats(await self._console("SHOW STATS"))
            samples += _lists(await self._console("SHOW LISTS"))
        except psycopg.Error:
            failed = 1
        samples += _sample("last_collection_error", {}, failed, "1 if the last collection ended with an error, else 0.")
        samples += _sample("collections_total", {}, self._collections, "How often PgBouncer was asked.", "counter")
        took = round(time.monotonic() - began, 6)
        samples += _sample("collection_duration_seconds", {}, took, "How long the collection took.")
        return web.Response(text="\n".join(_grouped(samples)) + "\n", content_type="text/plain")


def _pools(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        labels = {"database": row["database"], "user": row["user"]}
        for name, value in row.items():
            if name == "pool_mode":
                value = _POOL_MODES.get(str(value), -1)
            if name not in labels and str(value).lstrip("-").isdigit():
                found += _sample(f"pools_{name}", labels, value, f"SHOW POOLS: {name}.")
    return found


def _stats(rows: list[dict[str, Any]]) -> list[str]:
    return [
        line
        for row in rows
        for name, value in row.items()
        if name != "database"
        for line in _sample(f"stats_{name}", {"database": row["database"]}, value, f"SHOW STATS: {name}.")
    ]


def _lists(rows: list[dict[str, Any]]) -> list[str]:
    return [line for row in rows for line in _sample(f"lists_{row['list']}", {}, row["items"], "SHOW LISTS.")]


def _sample(name: str, labels: dict[str, str], value: object, about: str, kind: str = "gauge") -> list[str]:
    full = f"{_PREFIX}_{name}"
    marks = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    return [
        f"# HELP {full} {about}",
        f"# TYPE {full} {kind}",
        f"{full}{{{marks}}} {value}" if marks else f"{full} {value}",
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _grouped(lines: list[str]) -> list[str]:
    """The samples of a metric together, under one heading, as the format wants it."""
    groups: dict[str, list[str]] = {}
    heading: list[str] = []
    for line in lines:
        if line.startswith("#"):
            heading.append(line)
            continue
        group = groups.setdefault(heading[0].split()[2], heading)
        group.append(line)
        heading = []
    return [line for group in groups.values() for line in group]
