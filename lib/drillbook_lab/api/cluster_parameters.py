"""The Cluster's PostgreSQL settings as its webhook looks at them: names, the operator's own ones, sizes, WAL level."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from drillbook_lab.api import cluster_defaults
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import denied_value
from drillbook_lab.quantities import quantity

# The operator's own: refused, unless they repeat what it sets anyway (as a spec that was read back does).
FIXED = frozenset(
    """
    allow_system_table_mods archive_cleanup_command archive_command archive_mode bonjour bonjour_name cluster_name
    config_file data_directory data_sync_retry event_source external_pid_file hba_file hot_standby ident_file
    jit_provider listen_addresses log_destination log_directory log_file_mode log_filename log_rotation_age
    log_rotation_size log_truncate_on_rotation logging_collector pg_failover_slots.primary_dsn
    pg_failover_slots.standby_slot_names port primary_conninfo primary_slot_name promote_trigger_file
    recovery_end_command recovery_min_apply_delay recovery_target recovery_target_action recovery_target_inclusive
    recovery_target_lsn recovery_target_name recovery_target_time recovery_target_timeline recovery_target_xid
    restart_after_crash restore_command shared_preload_libraries ssl ssl_ca_file ssl_cert_file ssl_crl_file
    ssl_dh_params_file ssl_ecdh_curve ssl_key_file ssl_passphrase_command ssl_passphrase_command_supports_reload
    ssl_prefer_server_ciphers stats_temp_directory synchronized_standby_slots synchronous_standby_names
    syslog_facility syslog_ident syslog_sequence_numbers syslog_split_messages temp_tablespaces
    unix_socket_directories unix_socket_group unix_socket_permissions
    """.split()  # noqa: SIM905 - sixty quoted names would be harder to read
)
_PATH = "spec.postgresql.parameters"
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$")
_SIZE = re.compile(r"^\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>B|kB|MB|GB|TB)?\s*$")
_UNITS = {"B": 0, "kB": 1, "MB": 2, "GB": 3, "TB": 4}
_TRUTH = ("on", "off", "true", "false", "yes", "no", "1", "0")
_OFF = ("off", "false", "no", "0")


def size(text: str) -> Decimal | None:
    """A size as PostgreSQL's settings have it, in bytes; without a unit it counts as megabytes here."""
    found = _SIZE.match(text)
    return Decimal(found["number"]) * 1024 ** _UNITS[found["unit"] or "MB"] if found else None


def faults(cluster: Object) -> Iterator[Fault]:
    """Everything wrong with the settings of a Cluster."""
    spec = cluster["spec"]
    given: dict[str, str] = (spec.get("postgresql") or {}).get("parameters") or {}
    ours = {**cluster_defaults.PARAMETERS, "archive_mode": cluster_defaults.archive_mode(cluster)}
    for name, value in given.items():
        if not _NAME.match(name):
            yield denied_value(
                f"{_PATH}.{name}",
                name,
                "must be a valid PostgreSQL configuration parameter name (a GUC "
                "name, optionally namespaced with a single dot)",
            )
        elif name in FIXED and ours.get(name) != value:
            yield denied_value(f"{_PATH}.{name}", value, "Can't set fixed configuration parameter")
    yield from _wal_level(cluster, given, ours["archive_mode"])
    if given.get("shared_buffers") and size(given["shared_buffers"]) is None:
        yield denied_value(
            f"{_PATH}.shared_buffers",
            "shared_buffers",
            "Invalid value for configuration parameter "
            "shared_buffers. More info on accepted values format: https://www.postgresql.org/docs/current/"
            "config-setting.html#CONFIG-SETTING-NAMES-VALUES",
        )
    for name in ("hot_standby_feedback", "sync_replication_slots", "wal_log_hints"):
        if name in given and given[name].lower() not in _TRUTH:
            yield denied_value(f"{_PATH}.{name}", given[name], f"invalid `{name}` value. Must be a postgres boolean")
    if spec["instances"] > 1 and given.get("wal_log_hints", "on").lower() in _OFF:
        yield denied_value(
            f"{_PATH}.wal_log_hints", given["wal_log_hints"], "`wal_log_hints` must be set to `on` when `instances` > 1"
        )
    yield from _wal_sizes(spec, given)


def _wal_level(cluster: Object, given: dict[str, str], archive_mode: str) -> Iterator[Fault]:
    level, path = given.get("wal_level", "logical"), f"{_PATH}.wal_level"
    needed = cluster["spec"]["instances"] > 1 or archive_mode != "off" or cluster_defaults.is_replica(cluster)
    if level not in ("logical", "replica", "minimal"):
        yield denied_value(
            path, level, "unrecognized `wal_level` value - allowed values: `logical`, `replica`, `minimal`"
        )
    elif level == "minimal" and needed:
        yield denied_value(
            path,
            level,
            "`wal_level` should be set at `logical` or `replica` when `archive_mode` is `on`, "
            "'.instances' field is greater than 1, or this is a replica cluster",
        )
    if level == "minimal" and given.get("max_wal_senders") != "0":
        yield denied_value(
            f"{_PATH}.max_wal_senders", level, "`max_wal_senders` should be set at `0` when `wal_level` is `minimal`"
        )


def _wal_sizes(spec: Object, given: dict[str, str]) -> Iterator[Fault]:
    texts = {name: given.get(name) or usual for name, usual in (("min_wal_size", "80MB"), ("max_wal_size", "1GB"))}
    sizes = {name: size(text) for name, text in texts.items()}
    for name, value in sizes.items():
        if value is None:
            yield denied_value(f"{_PATH}.{name}", texts[name], f"Invalid value for configuration parameter {name}")
    low, high = sizes["min_wal_size"], sizes["max_wal_size"]
    if low and high and low >= high:
        yield denied_value(
            f"{_PATH}.min_wal_size",
            texts["min_wal_size"],
            "Invalid value. Parameter min_wal_size "
            "(default 80MB) should be smaller than parameter max_wal_size (default 1GB)",
        )
    volume = quantity(str((spec.get("walStorage") or {}).get("size") or ""))
    for name, usual in (("min_wal_size", "80MB"), ("max_wal_size", "1GB")):
        value = sizes[name]
        if volume and given.get(name) and value and value >= volume:
            yield denied_value(
                f"{_PATH}.{name}",
                texts[name],
                f"Invalid value. Parameter {name} (default {usual}) should be smaller than WAL volume size",
            )
