"""A store with Object Lock in a process of its own (the lab's, or a real server: `fix_real_s3`), sealed runs, and a profile that archives them there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from evidence_sample import RUN_ID, RUNBOOK, SITE, failed, make_run
from fix_real_s3 import REAL_S3, RealStore

from drillbook.profile import Site, load_site

SITES = Path(__file__).parents[2] / "sites"
BUCKET, OPEN = "evidence", "no-lock"
FAILED = "20261130T100000Z-00000f"
RUNS = ("20261001T100000Z-000001", RUN_ID, FAILED)


class Store:
    """`python -m drillbook_lab.store` with a bucket under Object Lock and one without."""

    key, secret = "writer", "w"

    def __init__(self, state: Path) -> None:
        self.state = state
        self._clients: dict[str, Any] = {}
        state.mkdir(parents=True)
        writer = {"secret": "w", "policy": "readwrite"}
        self._write("keys.json", {"writer": writer, "admin": writer | {"bypass_governance": True}})
        argv = [sys.executable, "-m", "drillbook_lab.store", "--state", str(state), "--bucket", OPEN]
        self.process = subprocess.Popen([*argv, "--locked-bucket", BUCKET])
        while not (state / "ready").exists():
            assert self.process.poll() is None
            time.sleep(0.02)
        self.endpoint = (state / "ready").read_text().strip()

    def faults(self, **faults: Any) -> None:
        self._write("faults.json", faults)

    def _write(self, name: str, value: Any) -> None:
        draft = self.state / f"{name}.new"
        draft.write_text(json.dumps(value))
        draft.replace(self.state / name)

    def client(self, key: str = "writer") -> Any:
        if key not in self._clients:
            self._clients[key] = self._made(key)
        return self._clients[key]

    def _made(self, key: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key="w",
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, proxies={}),
        )

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "access.jsonl").read_text().splitlines()]

    def versions(self, prefix: str, bucket: str = BUCKET) -> list[dict[str, Any]]:
        return list(self.client().list_object_versions(Bucket=bucket, Prefix=prefix).get("Versions", []))

    def keys(self, prefix: str) -> list[str]:
        return sorted({str(entry["Key"]) for entry in self.versions(prefix)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store | RealStore]:
    if REAL_S3:
        yield RealStore(OPEN, BUCKET)
        return
    running = Store(tmp_path_factory.mktemp("store") / "s3")
    yield running
    running.process.terminate()
    running.process.wait()


class Machine:
    """A machine with an outputs folder and a profile that archives to the store, below a prefix of its own."""

    def __init__(self, home: Path, store: Store | RealStore, prefix: str, **archive: Any) -> None:
        self.home, self.store, self.prefix = home, store, prefix
        self.outputs = home / "outputs"
        self.profile = home / "site.yaml"
        settings = {
            "bucket": BUCKET,
            "prefix": prefix,
            "endpoint_url": store.endpoint,
            "mode": "COMPLIANCE",
            "years": 7,
        } | archive
        home.mkdir(exist_ok=True)
        values = {"extends": str(SITES / "synergyflow.yaml"), "name": SITE, "evidence": {"archive": settings}}
        self.profile.write_text(yaml.safe_dump(values))

    @property
    def site(self) -> Site:
        return load_site(str(self.profile))

    @property
    def location(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def folder(self, run_id: str) -> Path:
        return self.outputs / RUNBOOK / run_id

    def run(self, run_id: str) -> Path:
        """A sealed run that acted, VERIFIED or FAILED."""
        return make_run(self.outputs, run_id, failed() if run_id == FAILED else None, page=False)

    def prefix_of(self, run_id: str = "") -> str:
        return f"{self.prefix}/{SITE}/runs/{run_id}"


@pytest.fixture
def machine(
    store: Store | RealStore, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """Without faults, with this store's key in the environment, as boto3 finds it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret)
    made = Machine(tmp_path / "machine", store, f"p{abs(hash(request.node.nodeid)):x}")
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(made.outputs))
    yield made
    store.faults()
