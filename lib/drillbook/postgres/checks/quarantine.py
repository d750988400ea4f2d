"""Quarantine: a restored copy is live software; this asks the server what it could do to the world outside by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drillbook.errors import PostgresError
from drillbook.model import Check, ClusterRef, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted
from drillbook.postgres.client import Database, hosts_of
from drillbook.profile.preloads import LIBRARIES, judged, kept, name_of, names_of, quiet_settings

# Archive commands that write nowhere.
_IDLE_COMMANDS = {"", "true", "/bin/true", "/usr/bin/true", ":"}
# CloudNativePG's own, which does nothing while the Cluster has neither spec.backup nor an archiving plugin: that is for
# the Cluster object and the archive to show, the server can't say.
_OPERATORS_COMMAND = "/controller/manager wal-archive"
# Every setting that keeps some library quiet.
_QUIET = sorted(quiet_settings(LIBRARIES))


def launchers(preloaded: str) -> list[str]:
    """Those libraries of ``shared_preload_libraries`` that act by themselves and have no setting that stops them."""
    return [name_of(entry) for entry, _ in kept(names_of(preloaded))[1]]


def foreign_hosts(conninfo: str, copy: ClusterRef | None) -> list[str]:
    """The hosts of a ``primary_conninfo`` that are not the copy's own Services.

    CloudNativePG sets ``host=<cluster>-rw`` on every instance, primaries too, where it has no effect: that one is no
    way out. A string that can't be parsed, or names no host (libpq would then take its default), counts as foreign.
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


def quarantined(
    db: Database, own_standbys: Sequence[str] = (), known_workers: Sequence[str] = (), copy: ClusterRef | None = None
) -> Check:
    """Whether the copy keeps to itself: no archiving, no replication from or to elsewhere, no launcher of jobs.

    ``own_standbys`` are the names of the copy's own other instances: as CloudNativePG's replication user they may
    stream. ``known_workers`` are background workers (``backend_type``) that the site itself vouches for. ``copy`` is
    the copy's Cluster, whose own Service may be in ``primary_conninfo``. ``db`` is a session on its primary. FAILED
    names each way out; a worker that nobody knows leaves it UNPROVEN. Needs a role with ``pg_monitor`` and
    ``pg_read_all_settings``. Foreign servers are counted only: a query opens their connections, and only the network
    can forbid that.
    """
    frame = CheckFrame(
        "quarantine",
        "the copy does nothing outside by itself",
        "no archiving, no subscription worker, no foreign process",
    )
    try:
        row = db.ask_one("integrity_quarantine", own_standbys=list(own_standbys), settings=_QUIET)
    except PostgresError as error:
        return frame.error(error)
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
    libraries = names_of(row["preloaded"])
    if acting := launchers(row["preloaded"]):
        faults.append(("launchers in shared_preload_libraries", ", ".join(acting)))
    faults += _awake(libraries, row["settings"])
    reaching, unknown = judged(row["other_processes"], libraries)
    unknown = [worker for worker in unknown if worker not in known_workers]
    if reaching:
        faults.append(("processes that replicate", ", ".join(reaching)))
    quiet = [
        ("archive_mode", row["archive_mode"]),
        ("subscriptions enabled, without a worker", str(row["subscriptions_enabled"])),
        ("foreign servers, reached only by a query", str(row["foreign_servers"])),
        ("shared_preload_libraries", row["preloaded"] or "none"),
        ("processes that are not PostgreSQL's own", ", ".join(row["other_processes"]) or "none"),
    ]
    if faults:
        names = ", ".join(name for name, _ in faults)
        return frame.verdict(Verdict.FAILED, f"{counted(len(faults), 'way')} out: {names}", details=[*faults, *quiet])
    if unknown:
        return frame.verdict(
            Verdict.UNPROVEN,
            f"what these do is not known: {', '.join(unknown)}; if it is harmless, name it in copy.known_workers",
            details=[("background workers that are not known", ", ".join(unknown)), *quiet],
        )
    return frame.verdict(Verdict.VERIFIED, "nothing that acts outside", details=quiet)


def _awake(libraries: Sequence[str], settings: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Settings of preloaded libraries that do not keep their workers quiet. One the library doesn't have says nothing."""
    wanted = quiet_settings(libraries)
    return [
        (name, f"{settings[name]}, must be {value}")
        for name, value in wanted.items()
        if settings.get(name) is not None and settings[name] != value
    ]
