"""What a running server says of itself: the instance manager's status report, asked through the private socket."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import roles
from drillbook_lab.operator.context import Operator

log = logging.getLogger(__name__)

# A standby must have at least what its primary has of these, so a decrease begins at the primary.
SENSITIVE = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
)
_QUESTION = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (pg_control_checkpoint()).timeline_id)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       (pg_control_system()).system_identifier::text,
       (SELECT archived_count FROM pg_stat_archiver),
       EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
       CASE WHEN pg_is_in_recovery()
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn END,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0'::pg_lsn END,
       EXISTS (SELECT FROM pg_settings WHERE pending_restart),
       (SELECT json_object_agg(name, setting::int) FROM pg_settings WHERE name = ANY(%(names)s)),
       CASE WHEN EXISTS (SELECT FROM pg_settings WHERE pending_restart)
            THEN (SELECT json_object_agg(name, setting::int) FROM pg_file_settings WHERE name = ANY(%(names)s)) END
"""


@dataclass(frozen=True)
class Reply:
    """One server's answer."""

    in_recovery: bool
    timeline: int
    system_id: str
    archived: int
    receiving: bool  # a WAL receiver streams from the primary
    received: int  # bytes from the beginning of all WAL; 0 on a primary
    replayed: int
    pending_restart: bool
    sensitive: dict[str, int]
    wanted: dict[str, int]  # the same by its configuration file, while a restart is pending


async def ask(connection: psycopg.AsyncConnection[Any]) -> Reply:
    """Ask through an open session."""
    cursor = await connection.execute(_QUESTION, {"names": list(SENSITIVE)})
    row = await cursor.fetchone()
    if row is None:
        raise psycopg.OperationalError("no answer")
    return Reply(
        in_recovery=row[0],
        timeline=int(row[1]),
        system_id=row[2],
        archived=int(row[3] or 0),
        receiving=row[4],
        received=int(row[5] or 0),
        replayed=int(row[6] or 0),
        pending_restart=row[7],
        sensitive=row[8],
        wanted=row[9] or {},
    )


async def ask_all(operator: Operator, pods: list[Object]) -> dict[str, Reply]:
    """Ask every one of these pods; one that doesn't answer is left out."""
    answers = await asyncio.gather(*(_ask_pod(operator, pod) for pod in pods))
    return {pod["metadata"]["name"]: reply for pod, reply in zip(pods, answers, strict=True) if reply is not None}


async def _ask_pod(operator: Operator, pod: Object) -> Reply | None:
    meta = pod["metadata"]
    try:
        worker = operator.kubelet.worker(meta["namespace"], meta["name"])
        async with await roles.connect(str(worker.places.socket_dir)) as connection:
            return await ask(connection)
    except (psycopg.Error, KeyError) as fault:
        log.debug("%s: not answering: %s", meta["name"], fault)
        return None
