"""The questions behind the metrics, each asked of the running server; -1 stands for 'never', as in CNPG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from drillbook_lab.operator import roles


@dataclass(frozen=True)
class Sample:
    """One value of one metric."""

    name: str
    value: float
    labels: dict[str, str]


HELP = {
    "cnpg_collector_up": "1 if PostgreSQL is up, 0 otherwise.",
    "cnpg_collector_fencing_on": "1 if the instance is fenced, 0 otherwise",
    "cnpg_collector_pg_wal_archive_status": "Number of WAL segments in pg_wal/archive_status, by status",
    "cnpg_collector_pg_wal": "Total size in bytes, and number, of WAL segments in the 'pg_wal' directory",
    "cnpg_collector_last_collection_error": "1 if the last collection ended with error, 0 otherwise.",
    "cnpg_pg_replication_lag": "Replication lag behind primary in seconds",
    "cnpg_pg_replication_in_recovery": "Whether the instance is in recovery",
    "cnpg_pg_replication_streaming_replicas": "Number of streaming replicas connected to the instance",
    "cnpg_pg_postmaster_start_time": "Time at which postgres started (based on epoch)",
}

# As CNPG's own query has it: the last sixteen digits of the segment's name as one number.
_START = "coalesce(('x' || right(split_part({0}, '.', 1), 16))::bit(64)::bigint, -1)"
_SEGMENT = "(SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')"

_ARCHIVER = f"""
SELECT archived_count, failed_count,
       coalesce(extract(epoch FROM now() - last_archived_time), -1) AS seconds_since_last_archival,
       coalesce(extract(epoch FROM now() - last_failed_time), -1) AS seconds_since_last_failure,
       coalesce(extract(epoch FROM last_archived_time), -1) AS last_archived_time,
       coalesce(extract(epoch FROM last_failed_time), -1) AS last_failed_time,
       {_START.format("last_archived_wal")} AS last_archived_wal_start_lsn,
       {_START.format("last_failed_wal")} AS last_failed_wal_start_lsn,
       extract(epoch FROM stats_reset) AS stats_reset_time
  FROM pg_stat_archiver
"""
_REPLICATION = """
SELECT CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE greatest(0, extract(epoch FROM now() - pg_last_xact_replay_timestamp())) END AS lag,
       pg_is_in_recovery()::int AS in_recovery,
       EXISTS (SELECT FROM pg_stat_wal_receiver)::int AS is_wal_receiver_up,
       (SELECT count(*) FROM pg_stat_replication) AS streaming_replicas
"""
_WAL = f"""
SELECT coalesce(sum(size), 0) AS size, count(*) AS count, {_SEGMENT} AS segment,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_keep_size') AS keep,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'min_wal_size') AS min,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_wal_size') AS max
  FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{{24}}$'
"""
_SERVER = """
SELECT current_setting('server_version') AS full,
       extract(epoch FROM pg_postmaster_start_time()) AS started,
       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS synchronous,
       coalesce((SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'), '') AS expected
"""


async def ask(socket_dir: str, cluster: str) -> list[Sample]:
    """Everything that one server says."""
    async with await roles.connect(socket_dir) as connection:
        replication = await _row(connection, _REPLICATION)
        server = await _row(connection, _SERVER)
        wal = await _row(connection, _WAL)
        archiver = {} if replication["in_recovery"] else await _row(connection, _ARCHIVER)
    found = [_sample(f"pg_replication_{name}", value) for name, value in replication.items()]
    found += [_sample(f"pg_stat_archiver_{name}", value) for name, value in archiver.items()]
    megabyte, segment = 2**20, int(wal["segment"])
    found += [
        _sample("pg_postmaster_start_time", server["started"]),
        _sample("collector_postgres_version", _version(server["full"]), full=server["full"], cluster=cluster),
        _sample("collector_sync_replicas", server["synchronous"], value="observed"),
        _sample("collector_sync_replicas", 1 if server["expected"] else 0, value="expected"),
        _sample("collector_pg_wal", wal["size"], value="size"),
        _sample("collector_pg_wal", wal["count"], value="count"),
        _sample("collector_pg_wal", int(wal["keep"]) * megabyte // segment, value="keep"),
        _sample("collector_pg_wal", int(wal["min"]) * megabyte // segment, value="min"),
        _sample("collector_pg_wal", int(wal["max"]) * megabyte // segment, value="max"),
    ]
    return found


async def _row(connection: psycopg.AsyncConnection[Any], question: str) -> dict[str, Any]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(question.encode())
        return await cursor.fetchone() or {}


def _sample(name: str, value: Any, /, **labels: str) -> Sample:
    return Sample(f"cnpg_{name}", float(value), labels)


def _version(text: str) -> float:
    """`18.6` of `18.6 (Debian 18.6-1)`."""
    return float(".".join(text.split()[0].split(".")[:2]))
