"""Who is on the server, and what it and its roles allow: read over a while, the most counts."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from drillbook.connections.diagnosis import Diagnosis, Seen, diagnose
from drillbook.connections.path import UNLIMITED, Server, Sessions
from drillbook.engine.step import Context, Step
from drillbook.errors import PreconditionError
from drillbook.model import Frozen, show_seconds
from drillbook.steps.connections.path import PLANNED, FoundPath, PoolerUse, use_of

_SQLSTATE = re.compile(r"\b(?:53[0-9A-Z]{3}|08[0-9A-Z]{3})\b")
LONG_SECONDS = 60.0
"""A transaction of this age keeps a connection of a pool from everybody else."""


class RoleSeen(Frozen):
    """A role that has sessions, or a limit: the most of each state at one time."""

    role: str
    superuser: bool
    limit: int  # -1: none
    sessions: int
    active: int = 0
    in_transaction: int = 0
    idle: int = 0


class ServerSeen(Frozen):
    """The server's limits, and its sessions while it was watched.

    ``server.sessions`` are the ones that do not come along the application's path; ``own`` are the application's, at the
    most; ``pooler`` is the most that one PgBouncer on the path has of each. ``oldest_seconds`` is the age of the oldest transaction.
    """

    server: Server
    roles: tuple[RoleSeen, ...]
    own: int
    pooler: PoolerUse | None = None
    oldest_seconds: float = 0.0
    oldest_role: str = ""
    samples: int = 1

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows: limits, then who is there, the largest first."""
        server = self.server
        reserved = server.max_connections - server.slots
        found = [
            ("max_connections", f"{server.max_connections}, {reserved} of them reserved"),
            ("the application", f"{self.own} sessions at the most, of {self.samples} readings"),
        ]
        found += [(f"role {item.role}", _words(item)) for item in self.roles if item.sessions][:8]
        if self.pooler:
            use = self.pooler
            words = f"{use.clients} clients, {use.servers} connections to the server, {use.waiting} waiting"
            found.append(("the fullest PgBouncer", words))
        if self.oldest_seconds >= LONG_SECONDS:
            held = f"{show_seconds(self.oldest_seconds)}, of role {self.oldest_role}"
            found.append(("oldest transaction", f"{held}: its connection serves nobody else"))
        return found


@dataclass(frozen=True)
class ReadServer(Step[ServerSeen]):
    """Read the server's limits and its sessions, by role and state, for a while.

    One reading a second; of each figure the most counts. No query's text is read.
    """

    found: FoundPath
    watch_seconds: int = 5

    def do(self, ctx: Context) -> ServerSeen:
        roles: dict[str, RoleSeen] = {}
        own, others, oldest, samples = 0, Counter[tuple[str, str]](), (0.0, ""), 0
        until = time.monotonic() + self.watch_seconds
        with ctx.source() as db:
            limits = db.ask_one("connection_limits", role=self.found.role, database=self.found.database)
            _require(limits, self.found)
            while True:
                samples += 1
                roles = _most(roles, db.ask("connections_by_role"))
                mine, rest = _split(self.found, db.ask("connections_by_address"))
                own = max(own, mine)
                others |= rest  # of each pair the most
                oldest = max(
                    [
                        oldest,
                        *((row["transaction_seconds"] or 0.0, row["role"]) for row in db.ask("connections_oldest")),
                    ]
                )
                if time.monotonic() >= until:
                    break
                ctx.recorder.progress(f"{own} sessions of the application, {sum(others.values())} of others")
                ctx.pause(1)
        server = Server(
            major=limits["major"],
            max_connections=limits["max_connections"],
            superuser_reserved=limits["superuser_reserved"],
            reserved=limits["reserved"],
            role_limits={item.role: item.limit for item in roles.values() if item.limit != UNLIMITED},
            database_limits={}
            if limits["database_limit"] == UNLIMITED
            else {self.found.database: limits["database_limit"]},
            sessions=tuple(Sessions(role=role, database=name, count=count) for (role, name), count in others.items()),
        )
        uses = use_of(ctx, self.found.pooler.name, self.found.role, self.found.database) if self.found.pooler else []
        return ServerSeen(
            server=server,
            roles=tuple(sorted(roles.values(), key=lambda item: (-item.sessions, item.role))),
            own=own,
            pooler=_fullest(uses),
            oldest_seconds=oldest[0],
            oldest_role=oldest[1],
            samples=samples,
        )


class Diagnosed(Frozen):
    """What an error from a log means; None: none was given."""

    diagnosis: Diagnosis | None = None

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows."""
        if self.diagnosis is None:
            return [("error", "none was given")]
        found = self.diagnosis
        return [("cause", str(found.cause)), ("because", found.because), ("what to do", found.todo)]


@dataclass(frozen=True)
class DiagnoseError(Step[Diagnosed]):
    """Say what an error from the application's log means.

    By its words, its SQLSTATE, and what was full while the sessions were watched: an application's own pool reports a
    time-out whatever is full behind it.
    """

    found: FoundPath
    seen: ServerSeen
    error: str = ""

    def do(self, ctx: Context) -> Diagnosed:
        if not self.error.strip():
            return Diagnosed()
        found, seen = self.found, self.seen
        state = _SQLSTATE.search(self.error)
        own = next((item.sessions for item in seen.roles if item.role == found.role), None)
        taken = sum(item.sessions for item in seen.roles)
        there = bool(found.declared or (found.other and found.other_is != PLANNED))
        return Diagnosed(
            diagnosis=diagnose(
                self.error,
                state[0] if state else "",
                Seen(
                    through_pooler=found.pooler is not None,
                    pooler_expected=there or found.pooler is not None,
                    role_sessions=own,
                    role_limit=seen.server.role_limits.get(found.role, UNLIMITED),
                    sessions=taken,
                    slots=seen.server.slots,
                    waiting=seen.pooler.waiting if seen.pooler else None,
                ),
            )
        )


def _fullest(uses: list[PoolerUse]) -> PoolerUse | None:
    if not uses:
        return None
    return PoolerUse(
        clients=max(use.clients for use in uses),
        servers=max(use.servers for use in uses),
        waiting=max(use.waiting for use in uses),
    )


def _require(limits: dict[str, Any], found: FoundPath) -> None:
    missing = [
        f"{what} {name}"
        for what, name, value in (
            ("role", found.role, limits["role_limit"]),
            ("database", found.database, limits["database_limit"]),
        )
        if value is None
    ]
    if missing:
        raise PreconditionError(
            f"the server has no {' and no '.join(missing)}", todo="Correct tenants[] in the profile."
        )


def _split(found: FoundPath, rows: list[dict[str, Any]]) -> tuple[int, Counter[tuple[str, str]]]:
    """The application's own sessions, and everybody else's by role and database.

    They come from its own pods or a Pooler's. Where no session does (translated addresses), all of its role in its
    database are its own.
    """
    pair = (found.role, found.database)
    ours = [row for row in rows if (row["role"], row["database"]) == pair]
    known = [row for row in ours if row["address"] in found.addresses]
    own = known or ours
    others = Counter[tuple[str, str]]()
    for row in rows:
        if not any(row is item for item in own):
            others[row["role"], row["database"]] += row["sessions"]
    return sum(row["sessions"] for row in own), others


def _most(before: dict[str, RoleSeen], rows: list[dict[str, Any]]) -> dict[str, RoleSeen]:
    found = dict(before)
    for row in rows:
        now = RoleSeen(
            role=row["role"],
            superuser=row["superuser"],
            limit=row["connection_limit"],
            sessions=row["sessions"],
            active=row["active"],
            in_transaction=row["in_transaction"],
            idle=row["idle"],
        )
        then = found.get(now.role, now)
        most = {
            name: max(getattr(then, name), getattr(now, name))
            for name in ("sessions", "active", "in_transaction", "idle")
        }
        found[now.role] = now.model_copy(update=most)
    return found


def _words(item: RoleSeen) -> str:
    limit = (
        "superuser, no limit" if item.superuser else "no limit" if item.limit == UNLIMITED else f"limit {item.limit}"
    )
    if item.sessions and not item.active + item.in_transaction + item.idle:
        return f"{item.sessions} sessions ({limit}); their state is not shown to Drillbook's role (pg_read_all_stats)"
    return (
        f"{item.sessions} sessions ({limit}): {item.active} active, {item.in_transaction} idle in a transaction, "
        f"{item.idle} idle"
    )


__all__ = ["LONG_SECONDS", "DiagnoseError", "Diagnosed", "ReadServer", "RoleSeen", "ServerSeen"]
