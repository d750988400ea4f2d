"""Faults of the object store: objects that are gone, cut or damaged, and a gate that refuses, waits or is down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome, write_json

Undo = dict[str, Any]
Inject = Callable[[LabHome], Undo]
Mend = Callable[[LabHome, Undo], None]


@dataclass(frozen=True)
class Bucket:
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


def admin(home: LabHome) -> dict[str, str]:
    """The lab's own way to the store."""
    path = home.s3 / "admin.json"
    if not path.exists():
        raise LabError("no lab runs here", str(home.root), "drillbook lab up")
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def bucket(home: LabHome) -> Bucket:
    """The site's bucket."""
    known = admin(home)
    client = boto3.client(
        "s3",
        endpoint_url=known["endpoint"],
        aws_access_key_id=known["access"],
        aws_secret_access_key=known["secret"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, proxies={}),
    )
    return Bucket(client, known["bucket"], known["prefix"])


# -- objects ---------------------------------------------------------------------------------------------------


def newest_backup(store: Bucket) -> tuple[str, str]:
    """The newest base backup's id and its begin WAL, from its `backup.info`."""
    infos = [key for key in store.keys("base/") if key.endswith("/backup.info")]
    if not infos:
        raise LabError("there is no base backup to damage", f"s3://{store.name}/{store.prefix}/base/")
    text = store.read(infos[-1]).decode()
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return infos[-1].split("/")[-2], facts["begin_wal"]


def _needed_wal(home: LabHome, store: Bucket) -> tuple[str, str]:
    """A segment in the middle of the chain that a recovery needs, that no other fault has in hand; its backup."""
    backup, begin = newest_backup(store)
    segments = [key for key in store.keys("wals/") if len(_wal(key)) == 24 and _wal(key)[8:] > begin[8:]]
    if len(segments) < 2:
        raise LabError(
            "the archive has no segment to lose", f"{len(segments)} segment(s) after {begin}",
            "switch WAL (SELECT pg_switch_wal()) until two more segments are archived, then inject this again",
        )  # fmt: skip
    return _free(home, segments), backup


def _free(home: LabHome, keys: list[str]) -> str:
    """The first that is not kept for another fault's undo."""
    taken = {json.loads(path.read_text(encoding="utf-8")).get("key") for path in home.faults.glob("*.json")}
    left = [key for key in keys if key not in taken]
    if not left:
        raise LabError("other faults have it already", keys[0], "lift them first: drillbook lab fault --all-off")
    return left[0]


def remove_wal(home: LabHome) -> Undo:
    """The segment is gone."""
    store = bucket(home)
    key, backup = _needed_wal(home, store)
    kept = _keep(home, key, store.read(key))
    store.client.delete_object(Bucket=store.name, Key=key)
    return {"did": f"removed {_wal(key)}, needed after base backup {backup}", "key": key, "kept": kept}


def tear_wal(home: LabHome) -> Undo:
    """The segment has lost its second half."""
    store = bucket(home)
    key, backup = _needed_wal(home, store)
    body = store.read(key)
    kept = _keep(home, key, body)
    store.write(key, body[: len(body) // 2])
    return {"did": f"cut {_wal(key)} in half, needed after base backup {backup}", "key": key, "kept": kept}


def damage_wal(home: LabHome) -> Undo:
    """The segment has its length, and a run of wrong bytes from its middle on."""
    store = bucket(home)
    key, backup = _needed_wal(home, store)
    body = store.read(key)
    kept = _keep(home, key, body)
    store.write(key, _damaged(body))
    return {"did": f"damaged bytes of {_wal(key)}, needed after base backup {backup}", "key": key, "kept": kept}


def _damaged(body: bytes) -> bytes:
    # What begins a page of WAL or lies in a compressed stream; past the end of records nobody would ever look.
    at, length = len(body) // 4, max(1, len(body) // 4)
    return body[:at] + bytes(byte ^ 0xFF for byte in body[at : at + length]) + body[at + length :]


def tear_backup(home: LabHome) -> Undo:
    """The newest base backup loses its second half: the upload that nobody noticed was cut."""
    store = bucket(home)
    backup, _ = newest_backup(store)
    parts = [key for key in store.keys(f"base/{backup}/") if "/data" in key]
    # Of several parts the largest: the one that surely holds tables.
    sizes = {key: store.client.head_object(Bucket=store.name, Key=key)["ContentLength"] for key in parts}
    key = max(sizes, key=lambda part: sizes[part])
    body = store.read(key)
    kept = _keep(home, key, body)
    store.write(key, body[: len(body) // 2])
    return {"did": f"cut {key.rpartition('/')[2]} of base backup {backup} in half", "key": key, "kept": kept}


def _keep(home: LabHome, key: str, body: bytes) -> str:
    kept = home.faults / "kept" / key.replace("/", "_")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.write_bytes(body)
    return str(kept)


def put_back(home: LabHome, undo: Undo) -> None:
    """The object as it was."""
    kept = Path(undo["kept"])
    bucket(home).write(undo["key"], kept.read_bytes())
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


def deny(which: str) -> tuple[Inject, Mend]:
    """The store refuses one of its keys."""

    def inject(home: LabHome) -> Undo:
        key = admin(home)[which]
        _gate(home, lambda state: state.setdefault("deny_keys", []).append(key))
        return {"did": f"the object store refuses key {key}", "denied": key}

    def mend(home: LabHome, undo: Undo) -> None:
        def allow(state: dict[str, Any]) -> None:
            state["deny_keys"] = [key for key in state.get("deny_keys", []) if key != undo["denied"]]

        _gate(home, allow)

    return inject, mend


def flag(name: str, value: Any, did: str) -> tuple[Inject, Mend]:
    """A switch of the gate."""

    def inject(home: LabHome) -> Undo:
        admin(home)
        _gate(home, lambda state: state.update({name: value}))
        return {"did": did}

    def mend(home: LabHome, undo: Undo) -> None:
        _gate(home, lambda state: state.pop(name, None))

    return inject, mend


def hold_wal(home: LabHome) -> Undo:
    """WAL uploads are taken on and never answered: nothing fails, nothing ends."""
    known = admin(home)
    prefix = f"{known['bucket']}/{known['prefix']}/wals/"
    _gate(home, lambda state: state.update({"hold_writes": [prefix]}))
    return {"did": f"uploads to s3://{prefix} hang"}


def release_wal(home: LabHome, undo: Undo) -> None:
    """Those that hang go on, too."""
    _gate(home, lambda state: state.pop("hold_writes", None))
