"""A real S3 server in the place of the lab's store: ``DRILLBOOK_REAL_S3=http://127.0.0.1:9000,KEY,SECRET``.

It must be a scratch server on loopback with an empty data folder: what is put there is locked for years, and names are used again.
What only the lab's store can do (faults by order, a log of its requests, keys with other rights) is skipped with that reason.
"""

from __future__ import annotations

import os
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

REAL_S3 = os.environ.get("DRILLBOOK_REAL_S3", "")
_MADE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


class RealStore:
    """As the lab's store for a test, with one key that may do everything."""

    def __init__(self, plain: str, locked: str) -> None:
        self.endpoint, self.key, self.secret = REAL_S3.split(",")
        assert self.endpoint.startswith("http://127.0.0.1:"), "a scratch server on loopback only"
        self._locked = locked
        for bucket, lock in ((plain, False), (locked, True)):
            try:
                self.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
            except ClientError as error:
                assert error.response["Error"]["Code"] in _MADE

    def client(self, key: str = "") -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, proxies={}, s3={"addressing_style": "path"}),
        )

    def faults(self, **faults: Any) -> None:
        if faults:
            pytest.skip("a real server has no faults by order")

    def log(self) -> list[dict[str, Any]]:
        pytest.skip("a real server's log of requests is not read")

    def versions(self, prefix: str, bucket: str = "") -> list[dict[str, Any]]:
        return list(
            self.client().list_object_versions(Bucket=bucket or self._locked, Prefix=prefix).get("Versions", [])
        )

    def keys(self, prefix: str) -> list[str]:
        return sorted({str(entry["Key"]) for entry in self.versions(prefix)})
