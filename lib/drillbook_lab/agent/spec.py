"""What a pod's programs are given: plain data, one JSON file a pod, written by the controller and read by the agent.

The two WAL commands start once a segment and read the same file with `json` alone, so a field here is
always a plain JSON value.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class StoreSpec:
    """One side of an object store: `<destination_path>/<server_name>/` and how to reach it."""

    destination_path: str
    server_name: str
    endpoint_url: str | None = None
    credentials_file: str = ""  # JSON {"AWS_ACCESS_KEY_ID": ..., "AWS_SECRET_ACCESS_KEY": ...}, mode 0600
    wal_compression: str | None = None  # gzip bzip2 lz4 snappy xz zstd
    wal_max_parallel: int = 1
    data_compression: str | None = None  # gzip bzip2 lz4 snappy
    jobs: int | None = None
    immediate_checkpoint: bool = False
    by_plugin: bool = True  # else in-tree
    fault: str = ""  # why the plugin can't read its credentials: anyone who uses the store fails with it


@dataclass
class TargetSpec:
    """CNPG's `recoveryTarget`; admission has already refused combinations that make no sense."""

    backup_id: str | None = None
    target_tli: str | None = None
    target_xid: str | None = None
    target_name: str | None = None
    target_lsn: str | None = None
    target_time: str | None = None
    target_immediate: bool | None = None
    exclusive: bool = False


@dataclass
class PodSpec:
    """Everything that the programs of one pod need; nothing else reaches them but their arguments."""

    namespace: str
    cluster: str
    pod: str
    pgdata: str
    run_dir: str  # logs' FIFO, archive.jsonl, private copies of keys; belongs to this pod alone
    socket_dir: str  # short: a socket's path has room for 107 bytes
    bin_dir: str
    listen_address: str = "127.0.0.1"
    port: int = 5432
    parameters: dict[str, str] = field(default_factory=dict)
    shared_preload_libraries: list[str] = field(default_factory=list)
    hba: list[str] = field(default_factory=list)
    tls_dir: str | None = None  # server.crt, server.key, ca.crt
    archive: StoreSpec | None = None
    skip_empty_archive_check: bool = False
    source: StoreSpec | None = None
    target: TargetSpec | None = None
    database: str | None = None
    owner: str | None = None
    owner_password_file: str | None = None
    superuser_password_file: str | None = None
    # initdb: encoding, locale_collate, locale_ctype, data_checksums, wal_segment_size (MB),
    # post_init_sql, post_init_application_sql (lists of statements)
    initdb: dict[str, Any] = field(default_factory=dict)
    role: str = "primary"  # or "replica"
    candidate: bool = False  # a replica that is to be the primary, or has just become it
    own_conninfo: str = ""  # primary_conninfo of a primary, where it has no effect
    own_slot: str = ""
    upstream: str = ""  # how a replica reaches its primary; empty: none exists now
    slot: str = ""
    reload: str = ""  # changes when somebody asks for a reload

    def write(self, path: Path | str) -> None:
        """Replace the file in one step: a running pod reads it again for every segment."""
        target = Path(path)
        draft = target.with_name(target.name + ".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(dataclasses.asdict(self), out, indent=1)
        draft.replace(target)

    @classmethod
    def read(cls, path: Path | str) -> PodSpec:
        """The spec as written; an unknown or missing field is a TypeError that names it."""
        raw: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        for name in ("archive", "source"):
            if raw.get(name) is not None:
                raw[name] = StoreSpec(**raw[name])
        if raw.get("target") is not None:
            raw["target"] = TargetSpec(**raw["target"])
        return cls(**raw)
