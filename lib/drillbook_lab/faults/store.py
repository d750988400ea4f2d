"""Faults of the object store itself: a gate that refuses, waits or is down. What is in it: `faults.archive`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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

    def write(self, key: str, body: bytes, storage_class: str = "STANDARD") -> None:
        """Replace an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body, StorageClass=storage_class)

    def remove(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=self.name, Key=key)


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

    def restore(home: LabHome, undo: Undo) -> None:
        def allow(state: dict[str, Any]) -> None:
            state["deny_keys"] = [key for key in state.get("deny_keys", []) if key != undo["denied"]]

        _gate(home, allow)

    return inject, restore


def flag(name: str, value: Any, did: str) -> tuple[Inject, Mend]:
    """A switch of the gate."""

    def inject(home: LabHome) -> Undo:
        admin(home)
        _gate(home, lambda state: state.update({name: value}))
        return {"did": did}

    def restore(home: LabHome, undo: Undo) -> None:
        _gate(home, lambda state: state.pop(name, None))

    return inject, restore


def hold_wal(home: LabHome) -> Undo:
    """WAL uploads are taken on and never answered: nothing fails, nothing ends."""
    known = admin(home)
    prefix = f"{known['bucket']}/{known['prefix']}/wals/"
    _gate(home, lambda state: state.update({"hold_writes": [prefix]}))
    return {"did": f"uploads to s3://{prefix} hang"}


def release_wal(home: LabHome, undo: Undo) -> None:
    """Those that hang go on, too."""
    _gate(home, lambda state: state.pop("hold_writes", None))
