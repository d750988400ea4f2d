"""The app over HTTP: health, one resource, metrics."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from aiohttp import web
from psycopg_pool import PoolTimeout

from drillbook_lab.sample_app.database import Database
from drillbook_lab.sample_app.settings import Settings

log = logging.getLogger("app.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MOST_ROWS = 200


class Service:
    """The handlers, and what they count."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds = 0.0
        self.draining = False

    def application(self) -> web.Application:
        """What the server runs."""
        app = web.Application(middlewares=[self._told])
        app.router.add_get(self._settings.health, self._health)
        app.router.add_get("/livez", self._alive)
        for path in ("/metrics", "/actuator/prometheus"):  # the second one is where Spring Boot has them
            app.router.add_get(path, self._metrics)
        app.router.add_post(self._settings.resource, self._create)
        app.router.add_get(self._settings.resource, self._list)
        return app

    # -- around every call -------------------------------------------------------------------------------------

    @web.middleware
    async def _told(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count and log a call; a fault becomes an answer, and the log has it whole."""
        began = time.monotonic()
        try:
            answer = await handler(request)
        except web.HTTPException as refusal:
            answer = _json(refusal.status, {"error": refusal.reason})
        except PoolTimeout as fault:
            self._log_fault(request, fault)
            answer = _json(503, {"error": str(fault)})
        except psycopg.Error as fault:
            self._log_fault(request, fault)
            said = {"error": str(fault).strip() or type(fault).__name__, "sqlstate": fault.sqlstate}
            answer = _json(_status_of(fault), said)
        spent = time.monotonic() - began
        self._answers[request.method, answer.status] += 1
        self._seconds += spent
        if request.path == self._settings.resource:
            about = {
                "method": request.method,
                "path": request.path,
                "status": answer.status,
                "milliseconds": round(spent * 1000, 1),
            }
            log.info("%s %s %d", request.method, request.path, answer.status, extra={"fields": about})
        return answer

    @staticmethod
    def _log_fault(request: web.Request, fault: Exception) -> None:
        about = {"path": request.path, "sqlstate": getattr(fault, "sqlstate", None)}
        text = str(fault).strip() or type(fault).__name__
        log.error("%s %s: %s", request.method, request.path, text, exc_info=fault, extra={"fields": about})

    # -- handlers ----------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.StreamResponse:
        """Up only if a query was answered just now."""
        if self.draining:
            return _json(503, {"status": "OUT_OF_SERVICE", "components": {}})
        try:
            found = await self._database.about()
        except (psycopg.Error, OSError) as fault:
            self._log_fault(request, fault)
            down = {"status": "DOWN", "details": {"error": f"{type(fault).__name__}: {str(fault).strip()}"}}
            return _json(503, {"status": "DOWN", "components": {"db": down}})
        pool = self._database.gauges()
        details = {
            **found,
            "pool": {key.rpartition("_")[2]: pool[f"hikaricp_connections_{key}"] for key in ("active", "idle", "max")},
        }
        return _json(200, {"status": "UP", "components": {"db": {"status": "UP", "details": details}}})

    async def _alive(self, _: web.Request) -> web.StreamResponse:
        return _json(200, {"status": "UP"})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        try:
            sent = await request.json() if request.can_read_body else {}
        except json.JSONDecodeError as fault:
            return _json(400, {"error": f"the body is no JSON: {fault}"})
        if not isinstance(sent, dict):
            return _json(400, {"error": "the body is no object"})
        unknown = sorted(set(sent) - set(self._settings.defaults))
        if unknown:
            return _json(400, {"error": f"unknown fields: {', '.join(unknown)}"})
        made = await self._database.create(self._settings.create, {**self._settings.defaults, **sent})
        return _json(201, made)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        asked = request.query.get("limit", "20")
        limit = min(int(asked), _MOST_ROWS) if asked.isdecimal() else 20
        return _json(200, {"items": await self._database.find(self._settings.find, {"limit": limit})})

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        lines = [f'{name}{{pool="pool-1"}} {value:g}' for name, value in self._database.gauges().items()]
        for (method, status), count in sorted(self._answers.items()):
            lines.append(f'http_server_requests_seconds_count{{method="{method}",status="{status}"}} {count}')
        lines.append(f"http_server_requests_seconds_sum {self._seconds:.6f}")
        return web.Response(text="\n".join([*lines, ""]), content_type="text/plain")


def _status_of(fault: psycopg.Error) -> int:
    """Whose fault it was: the data's (400, 409), or the database's (503 while it can't be reached, else 500)."""
    state = fault.sqlstate or ""
    if state == "23505":
        return 409
    if state[:2] in ("22", "23"):
        return 400
    # Connections, shutdowns, too many clients, read-only standbys: another attempt may fare better.
    return (
        503
        if isinstance(fault, psycopg.OperationalError) or state[:2] in ("08", "53", "57") or state == "25006"
        else 500
    )


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(body, default=str), content_type="application/json")
