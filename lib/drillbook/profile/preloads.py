"""What a restored copy does with the libraries that its source preloads: one table for manifest and quarantine check.

A library either has to be loaded for its databases to be read, or it is wanted only by what acts: jobs, replication,
HTTP. The first kind is kept and its background workers are switched off by its own settings; the second is left out.
Settings and worker names are those of the libraries' own documentation and of ``pg_stat_activity.backend_type``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Library:
    """One library: whether a copy preloads it, what keeps it quiet, and the workers that it then still shows.

    ``workers`` are regular expressions for the whole of ``backend_type``. ``outward`` are settings (or prefixes ending
    in a dot) that name places outside: never carried.
    """

    kept: bool
    why: str
    quiet: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    outward: tuple[str, ...] = ()


def _acts(what: str, *outward: str) -> Library:
    return Library(kept=False, why=f"{what}; its tables can be read without it", outward=outward)


def _harmless(*workers: str) -> Library:
    return Library(kept=True, why="acts on this server only", workers=workers)


LIBRARIES: Mapping[str, Library] = {
    # Without these a database can't be read: hypertables, distributed tables, tables of their own access method.
    "timescaledb": Library(
        kept=True,
        why="its databases can't be opened without it",
        # 0 leaves no slot for a scheduler, so that no policy or job runs; the launcher itself stays and starts nothing.
        quiet={"timescaledb.max_background_workers": "0", "timescaledb.telemetry_level": "off"},
        workers=(r"TimescaleDB Background Worker Launcher",),
    ),
    "citus": Library(
        kept=True,
        why="its tables can't be read without it",
        quiet={
            "citus.recover_2pc_interval": "-1",
            "citus.distributed_deadlock_detection_factor": "-1",
            "citus.background_task_queue_interval": "-1",
            "citus.defer_shard_delete_interval": "-1",
            "citus.max_background_task_executors": "1",
            "citus.enable_statistics_collection": "off",
        },
        workers=(r"Citus Maintenance Daemon.*",),
    ),
    "orioledb": Library(kept=True, why="its tables can't be read without it", workers=(r"orioledb .*",)),
    "pg_search": Library(kept=True, why="its indexes can't be read without it", workers=(r"pg_search.*",)),
    # Workers that stay on this server. pg_failover_slots acts on a standby only, towards its own primary.
    "pg_failover_slots": Library(
        kept=True,
        why="acts on a standby only, towards its own primary",
        workers=(r"pg_failover_slots worker.*",),
        outward=("pg_failover_slots.",),
    ),
    "pg_prewarm": _harmless(r"autoprewarm (leader|worker)"),
    "autoprewarm": _harmless(r"autoprewarm (leader|worker)"),
    "pg_wait_sampling": _harmless(r"pg_wait_sampling collector"),
    "pg_stat_monitor": _harmless(),
    "pg_stat_kcache": _harmless(r"pg_stat_kcache.*"),
    "pg_ivm": _harmless(),
    "powa": Library(
        kept=True, why="its snapshots are switched off", quiet={"powa.frequency": "-1"}, workers=(r"powa.*",)
    ),
    # Needed only by what acts.
    "pg_cron": _acts("runs scheduled jobs as soon as the server is up", "cron."),
    "pg_timetable": _acts("runs scheduled jobs as soon as the server is up", "pg_timetable."),
    "pgagent": _acts("runs scheduled jobs as soon as the server is up", "pgagent."),
    "pg_dbms_job": _acts("runs scheduled jobs as soon as the server is up", "pg_dbms_job."),
    "pg_partman_bgw": _acts("makes and drops partitions as soon as the server is up", "pg_partman_bgw."),
    "pg_squeeze": _acts("rewrites tables as soon as the server is up", "squeeze."),
    "pg_net": _acts("sends HTTP requests that wait in its queue", "pg_net."),
    "pg_later": _acts("runs queued queries as soon as the server is up", "pg_later."),
    "vectorize": _acts("calls an embedding service as soon as the server is up", "vectorize."),
    "pglogical": _acts("has no setting that stops its replication, which would use the source's slots", "pglogical."),
    "spock": _acts("has no setting that stops its replication, which would use the source's slots", "spock."),
    "bdr": _acts("has no setting that stops its replication, which would use the source's slots", "bdr."),
    "pgactive": _acts("has no setting that stops its replication, which would use the source's slots", "pgactive."),
    "bucardo": _acts("replicates to other servers", "bucardo."),
    "pgautofailover": _acts("reports to a monitor", "pgautofailover."),
    "pg_stat_ch": _acts("sends statistics to another server", "pg_stat_ch."),
}

# Settings of PostgreSQL itself by which a server follows, or waits for, another one.
_REPLICATION = ("primary_", "synchronous_standby_names")

# What PostgreSQL's own replication workers are called: a copy has none of them.
_REPLICATES = re.compile(r"logical replication .*|walreceiver")


def name_of(entry: str) -> str:
    """The library that an entry of ``shared_preload_libraries`` names: ``$libdir/pg_cron.so`` is pg_cron."""
    return entry.strip().strip('"').rpartition("/")[2].removesuffix(".so")


def names_of(preloaded: str) -> list[str]:
    """The libraries of ``shared_preload_libraries`` as the server shows it."""
    return [name for name in map(name_of, preloaded.split(",")) if name]


def kept(preloaded: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """What a copy preloads of it, and what not, with the reason. An unknown library is kept: its tables may need it."""
    stays, goes = [], []
    for entry in preloaded:
        known = LIBRARIES.get(name_of(entry))
        if known is None or known.kept:
            stays.append(entry)
        else:
            goes.append((entry, known.why))
    return stays, goes


def quiet_settings(preloaded: Iterable[str]) -> dict[str, str]:
    """The settings that switch off the background workers of what is preloaded."""
    found: dict[str, str] = {}
    for entry in preloaded:
        known = LIBRARIES.get(name_of(entry))
        found |= known.quiet if known is not None and known.kept else {}
    return found


def outward(setting: str) -> str:
    """Why a copy may not have this setting of its source; "" if it may."""
    if setting.startswith(_REPLICATION):
        return "would make the copy follow, or wait for, another server"
    for library, known in LIBRARIES.items():
        if any(setting == name or (name.endswith(".") and setting.startswith(name)) for name in known.outward):
            return f"belongs to {library}: {known.why}" if not known.kept else f"names a place outside for {library}"
    return ""


def judged(workers: Iterable[str], preloaded: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the processes that aren't PostgreSQL's own: those that reach out, and those that nobody here knows."""
    known = [LIBRARIES[name] for name in map(name_of, preloaded) if name in LIBRARIES]
    harmless = [pattern for library in known if library.kept for pattern in library.workers]
    reaching = [worker for worker in workers if _REPLICATES.fullmatch(worker)]
    unknown = [
        worker
        for worker in workers
        if worker not in reaching and not any(re.fullmatch(pattern, worker) for pattern in harmless)
    ]
    return reaching, unknown
