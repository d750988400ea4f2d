"""The lab's bucket as its owner sees it, and base backups that seem to be of another time."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config
from fix_lab import RunningLab

_TIME = re.compile(r"^(begin_time|end_time)=.*$", re.MULTILINE)


class Bucket:
    """Everything below the site's path, with the key that may do all."""

    def __init__(self, lab: RunningLab) -> None:
        admin = json.loads((lab.home.s3 / "admin.json").read_text())
        self._root = admin["prefix"].rpartition("/")[0]
        self._name = admin["bucket"]
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=admin["endpoint"],
            aws_access_key_id=admin["access"],
            aws_secret_access_key=admin["secret"],
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def names(self, below: str) -> list[str]:
        """What is below a server's folder, without the site's path."""
        prefix = f"{self._root}/{below}"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
        found = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
        return sorted(key.removeprefix(f"{self._root}/") for key in found)

    def backups(self, server: str) -> list[str]:
        """The ids of a server's base backups."""
        return sorted({name.split("/")[2] for name in self.names(f"{server}/base/")})

    def antedate(self, server: str, backup_id: str, day: datetime, *, into: str = "") -> str:
        """Copy a base backup as if it had been made on that day, for the same server or another; its id."""
        made = f"{day:%Y%m%dT%H%M%S}"
        for name in self.names(f"{server}/base/{backup_id}/"):
            body: bytes = self._client.get_object(Bucket=self._name, Key=f"{self._root}/{name}")["Body"].read()
            if name.endswith("backup.info"):
                body = _TIME.sub(rf"\1={day.isoformat()}", body.decode()).encode()
            copy = name.replace(f"{server}/base/{backup_id}/", f"{into or server}/base/{made}/")
            self._client.put_object(Bucket=self._name, Key=f"{self._root}/{copy}", Body=body)
        return made
