"""What goes wrong in life, done for real and undone again: `lab fault NAME`.

Each fault changes the thing itself (an object in the bucket, a key at the gate, a process), never what somebody
reports about it. What an undo needs is kept under the lab's home.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome, write_json
from drillbook_lab.usage import UsageFault

Undo = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One thing that can be broken."""

    name: str
    about: str
    inject: Callable[[LabHome], Undo]
    mend: Callable[[LabHome, Undo], None]


def catalogue() -> list[Fault]:
    """Every fault of the lab."""
    return list(_FAULTS)


def in_force(home: LabHome) -> list[str]:
    """The faults that have not been undone."""
    return sorted(path.stem for path in home.faults.glob("*.json"))


def inject(home: LabHome, name: str) -> str:
    """Break it; what was done, in a sentence."""
    fault = _named(name)
    record = home.faults / f"{name}.json"
    if record.exists():
        raise UsageFault("this fault is in force already", name, f"undo it first: drillbook lab fault {name} --undo")
    undo = fault.inject(home)
    home.faults.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(record, undo)
    return str(undo.get("did", fault.about))


def mend(home: LabHome, name: str) -> None:
    """Put it back as it was."""
    fault = _named(name)
    record = home.faults / f"{name}.json"
    if not record.exists():
        raise UsageFault("this fault is not in force", name, "drillbook lab fault --list")
    fault.mend(home, json.loads(record.read_text(encoding="utf-8")))
    record.unlink()


def _named(name: str) -> Fault:
    for fault in _FAULTS:
        if fault.name == name:
            return fault
    raise UsageFault(
        "there is no such fault", repr(name), f"choose one of {', '.join(fault.name for fault in _FAULTS)}"
    )


# -- the object store ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bucket:
    """The lab's bucket, reached with the lab's own key."""

    client: Any
    name: str
    prefix: str

    def keys(self, below: str) -> list[str]:
        """Keys below a path of the cluster's folder, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{self.prefix}/{below}")
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        """Replace an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body)


def _admin(home: LabHome) -> dict[str, str]:
    path = home.s3 / "admin.json"
    if not path.exists():
        raise LabError("no lab runs here", str(home.root), "drillbook lab up")
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _bucket(home: LabHome) -> _Bucket:
    admin = _admin(home)
    client = boto3.client(
        "s3",
        endpoint_url=admin["endpoint"],
        aws_access_key_id=admin["access"],
        aws_secret_access_key=admin["secret"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, proxies={}),
    )
    return _Bucket(client, admin["bucket"], admin["prefix"])


def _newest_backup(bucket: _Bucket) -> tuple[str, str]:
    """The newest base backup's id and its begin WAL, from its `backup.info`."""
    infos = [key for key in bucket.keys("base/") if key.endswith("/backup.info")]
    if not infos:
        raise LabError("there is no base backup to damage", f"s3://{bucket.name}/{bucket.prefix}/base/")
    text = bucket.read(infos[-1]).decode()
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return infos[-1].split("/")[-2], facts["begin_wal"]


def _remove_wal(home: LabHome) -> Undo:
    """A segment in the middle of the chain that a recovery needs."""
    bucket = _bucket(home)
    backup, begin = _newest_backup(bucket)
    segments = [key for key in bucket.keys("wals/") if len(_wal(key)) == 24 and _wal(key)[8:] > begin[8:]]
    if len(segments) < 2:
        raise LabError(
            "the archive has no segment to lose", f"{len(segments)} segment(s) after {begin}",
            "switch WAL (SELECT pg_switch_wal()) until two more segments are archived, then inject this again",
        )  # fmt: skip
    return _take_away(home, bucket, segments[0], f"removed {_wal(segments[0])}, needed after base backup {backup}")


def _take_away(home: LabHome, bucket: _Bucket, key: str, did: str) -> Undo:
    kept = home.faults / "kept" / key.replace("/", "_")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.write_bytes(bucket.read(key))
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    return {"did": did, "key": key, "kept": str(kept)}


def _tear_backup(home: LabHome) -> Undo:
    """The newest base backup loses its second half: the upload that nobody noticed was cut."""
    bucket = _bucket(home)
    backup, _ = _newest_backup(bucket)
    parts = [key for key in bucket.keys(f"base/{backup}/") if "/data" in key]
    # Of several parts the largest: the one that surely holds tables.
    sizes = {key: bucket.client.head_object(Bucket=bucket.name, Key=key)["ContentLength"] for key in parts}
    key = max(sizes, key=lambda part: sizes[part])
    body = bucket.read(key)
    kept = home.faults / "kept" / key.replace("/", "_")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.write_bytes(body)
    bucket.write(key, body[: len(body) // 2])
    return {"did": f"cut {key.rpartition('/')[2]} of base backup {backup} in half", "key": key, "kept": str(kept)}


def _put_back(home: LabHome, undo: Undo) -> None:
    kept = Path(undo["kept"])
    _bucket(home).write(undo["key"], kept.read_bytes())
    kept.unlink()


def _wal(key: str) -> str:
    """A segment's name without its compression's suffix; the name of a backup label or a history file stays long."""
    name = key.rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    return stem if suffix in ("gz", "bz2", "xz", "snappy", "zst", "lz4") else name


# -- the gate --------------------------------------------------------------------------------------------------


def _gate(home: LabHome, change: Callable[[dict[str, Any]], None]) -> None:
    path = home.s3 / "faults.json"
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(state)
    write_json(path, state)


def _deny(which: str) -> tuple[Callable[[LabHome], Undo], Callable[[LabHome, Undo], None]]:
    def inject_(home: LabHome) -> Undo:
        key = _admin(home)[which]
        _gate(home, lambda state: state.setdefault("deny_keys", []).append(key))
        return {"did": f"the object store refuses key {key}", "key": key}

    def mend_(home: LabHome, undo: Undo) -> None:
        def allow(state: dict[str, Any]) -> None:
            state["deny_keys"] = [key for key in state.get("deny_keys", []) if key != undo["key"]]

        _gate(home, allow)

    return inject_, mend_


def _flag(name: str, value: Any, did: str) -> tuple[Callable[[LabHome], Undo], Callable[[LabHome, Undo], None]]:
    def inject_(home: LabHome) -> Undo:
        _admin(home)
        _gate(home, lambda state: state.update({name: value}))
        return {"did": did}

    def mend_(home: LabHome, undo: Undo) -> None:
        _gate(home, lambda state: state.pop(name, None))

    return inject_, mend_


# -- the daemon ------------------------------------------------------------------------------------------------


def control(home: LabHome, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon for what only it can do."""
    path = str(home.state().get("socket_dir", "")) + "/ctl"
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            line.connect(path)
            line.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile().readline())
    except (OSError, ValueError) as fault:
        raise LabError("the lab's daemon does not answer", str(home.root), "drillbook lab up") from fault
    if not answer.get("ok"):
        raise LabError("the lab's daemon refused", str(answer.get("error")))
    return answer


def _stop_writer(home: LabHome) -> Undo:
    control(home, {"op": "writer", "run": False})
    return {"did": "the tenants' writer process has ended"}


def _start_writer(home: LabHome, undo: Undo) -> None:
    control(home, {"op": "writer", "run": True})


_FAULTS = (
    Fault("wal-removed", "a WAL segment that a recovery needs is gone from the bucket", _remove_wal, _put_back),
    Fault("backup-torn", "the newest base backup's data is cut in half", _tear_backup, _put_back),
    Fault("archiver-broken", "the object store refuses the cluster's key: archiving fails", *_deny("cluster_key")),
    Fault("drill-denied", "the object store refuses the drill's key", *_deny("drill_key")),
    Fault("store-down", "the object store cuts every connection", *_flag("down", True, "the object store is down")),
    Fault("store-slow", "every request to the object store takes half a second more", *_flag("slow_ms", 500, "slowed")),
    Fault("writer-stopped", "the tenants' writer is stopped", _stop_writer, _start_writer),
)
