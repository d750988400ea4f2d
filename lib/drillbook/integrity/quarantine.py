"""Quarantine: a restored copy is live software; this asks the server what it could do to the world outside by itself."""

from __future__ import annotations

from collections.abc import Sequence

from drillbook.errors import PostgresError
from drillbook.integrity.common import Rung, counted
from drillbook.model import Check, ClusterRef, Verdict
from drillbook.postgres import Database, hosts_of

# Archive commands that write nowhere.
_IDLE_COMMANDS = {"", "true", "/bin/true", "/usr/bin/true", ":"}
# CloudNativePG's own, which does nothing while the Cluster has neither spec.backup nor an archiving plugin: that is for
# the Cluster object and the archive to show, the server can't say.
_OPERATORS_COMMAND = "/controller/manager wal-archive"
# Libraries whose background workers act by themselves once the server runs: jobs, replication, HTTP. A worker without a
# database shows in no view, so the setting is looked at as well.
_LAUNCHERS = {
    "bdr",
    "citus",
    "pg_cron",
    "pg_failover_slots",
    "pg_net",
    "pg_partman_bgw",
    "pg_squeeze",
    "pgactive",
    "pglogical",
    "timescaledb",
}


def launchers(preloaded: str) -> list[str]:
    """Those libraries of ``shared_preload_libraries`` that are known to act by themselves."""
    libraries = (item.strip().strip('"').rpartition("/")[2].removesuffix(".so") for item in preloaded.split(","))
    return [library for library in libraries if library in _LAUNCHERS]


def foreign_hosts(conninfo: str, copy: ClusterRef | None) -> list[str]:
    """The hosts of a ``primary_conninfo`` that are not the copy's own Services.

    CloudNativePG sets ``host=<cluster>-rw`` on every instance, primaries too, where it has no effect: that one is no way out.
    A string that can't be parsed, or names no host (libpq would then take its default), counts as foreign.
    """
    if not conninfo.strip():
        return []
    hosts = hosts_of(conninfo)
    if not hosts:
        return ["a connection string without a host"]
    if copy is None:
        return hosts
    own = f"{copy.name}-rw"
    within = f"{own}.{copy.namespace}"
    return [host for host in hosts if host not in (own, within) and not host.startswith(f"{within}.svc")]


def quarantined(db: Database, own_standbys: Sequence[str] = (), copy: ClusterRef | None = None) -> Check:
    """Whether the copy keeps to itself: no archiving, no replication from or to elsewhere, no launcher of jobs.

    ``own_standbys`` are the names of the copy's own other instances: as CloudNativePG's replication user they may stream.
    ``copy`` is the copy's Cluster, whose own Service may stand in ``primary_conninfo``. ``db`` is a session on its primary.
    Needs a role with ``pg_monitor`` and ``pg_read_all_settings``. Foreign servers are counted only: a query opens their
    connections, and only the network can forbid that.
    """
    rung = Rung(
        "quarantine",
        "the copy does nothing outside by itself",
        "no archiving, no subscription worker, no foreign process",
    )
    try:
        row = db.ask_one("integrity_quarantine", own_standbys=list(own_standbys))
    except PostgresError as error:
        return rung.error(error)
    faults: list[tuple[str, str]] = []
    command = row["archive_command"].strip()
    if row["archive_library"]:
        faults.append(("archive_library", row["archive_library"]))
    if command not in _IDLE_COMMANDS and not command.startswith(_OPERATORS_COMMAND):
        # The command itself may hold credentials.
        faults.append(("archive_command", "archives somewhere"))
    if row["logical_workers"] > 0:
        faults.append(("max_logical_replication_workers", f"{row['logical_workers']}, must be 0"))
    if row["subscription_workers"]:
        faults.append(("subscription workers", str(row["subscription_workers"])))
    if row["walsenders"]:
        faults.append(("standbys that are not its own", str(row["walsenders"])))
    if row["wal_receivers"]:
        faults.append(("WAL receiver", "it streams from another server"))
    if strangers := foreign_hosts(row["primary_conninfo"], copy):
        faults.append(("primary_conninfo", ", ".join(strangers)))
    if preloaded := launchers(row["preloaded"]):
        faults.append(("launchers in shared_preload_libraries", ", ".join(preloaded)))
    if row["other_processes"]:
        faults.append(("processes that are not PostgreSQL's own", row["other_processes"]))
    quiet = [
        ("archive_mode", row["archive_mode"]),
        ("subscriptions enabled, without a worker", str(row["subscriptions_enabled"])),
        ("foreign servers, reached only by a query", str(row["foreign_servers"])),
        ("shared_preload_libraries", row["preloaded"] or "none"),
    ]
    if faults:
        names = ", ".join(name for name, _ in faults)
        return rung.verdict(Verdict.FAILED, f"{counted(len(faults), 'way')} out: {names}", details=[*faults, *quiet])
    return rung.verdict(Verdict.VERIFIED, "nothing that acts outside", details=quiet)
