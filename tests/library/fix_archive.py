"""A real archive: PostgreSQL, barman-cloud-* and an S3 server over HTTP."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3.session
import psycopg

from drillbook_lab import identity, pgbin
from drillbook_lab.addresses import free_port

BIN = Path(sys.executable).parent
ACCESS_KEY, SECRET_KEY = "AKIATESTARCHIVE01", "planted/secret+of-the-tests"
BUCKET = "archive"


def until(what: str, true: Callable[[], Any], *, seconds: float = 60) -> Any:
    """Wait for something to be true; says what it waited for."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


class S3:
    """A running S3 server, with a client of the tests' own that may write."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def take(self, key: str) -> bytes:
        """Remove an object; gives what it held."""
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        self.client.delete_object(Bucket=BUCKET, Key=key)
        return body

    @contextmanager
    def without(self, key: str) -> Iterator[bytes]:
        """Within, the object is not there, or is what the test puts in its place."""
        body = self.take(key)
        try:
            yield body
        finally:
            self.put(key, body)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


@contextmanager
def running_s3(**environment: str) -> Iterator[S3]:
    port = free_port()
    process = subprocess.Popen(
        [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        endpoint = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, "the S3 server has ended"
            try:
                with urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1):  # noqa: S310
                    return True
            except OSError:
                return False

        until("the S3 server answers", answers)
        s3 = S3(endpoint)
        s3.client.create_bucket(Bucket=BUCKET)
        yield s3
        s3.client.close()
    finally:
        process.kill()
        process.wait()


class Server:
    """A PostgreSQL server that archives with barman-cloud-wal-archive, in 1 MiB segments."""

    def __init__(self, s3: S3, destination: str, name: str, *, compression: str = "--gzip") -> None:
        self.s3, self.destination, self.name = s3, destination, name
        self.root = identity.prepare_dir(tempfile.mkdtemp(prefix="dba-"))
        self.data = self.root / "data"
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "TZ": "UTC",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._run(pgbin.program("initdb"), "-D", self.data, "-U", "postgres", "--auth=trust", "--wal-segsize=1")
        archive = (
            f"{BIN}/barman-cloud-wal-archive --endpoint-url {s3.endpoint_url} {compression} {destination} {name} %p"
        )
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.root}'\nfsync = off\n"
                f"archive_mode = on\narchive_command = '{archive}'\nwal_level = logical\n"
                "max_prepared_transactions = 10\nmin_wal_size = 2MB\nautovacuum = off\nwal_keep_size = 64MB\n"
            )

    def _run(self, *argv: object) -> None:
        done = subprocess.run(
            identity.wrap([str(a) for a in argv]), env=self.environment, cwd="/", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                identity.wrap([pgbin.program("postgres"), "-D", str(self.data)]),
                env=self.environment,
                cwd="/",
                stdout=log,
                stderr=log,
            )

        def answers() -> bool:
            assert self._process and self._process.poll() is None, (self.root / "log").read_text()
            try:
                self.connect().close()
            except psycopg.OperationalError:
                return False
            return True

        until("PostgreSQL answers", answers)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(30)
        self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.root, ignore_errors=True)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.root), user="postgres", dbname="postgres", autocommit=True)

    def sql(self, *statements: str) -> Any:
        """Run statements, each a transaction of its own; gives the last one's first value."""
        with self.connect() as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]

    def switch(self) -> str:
        """Switch the WAL segment, wait until it is archived; gives its name."""
        name: str = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
        # A history file may be the last archived; it sorts by its timeline.
        until(f"{name} is archived", lambda: self.sql(archived)[:24] >= name)
        return name

    def promote_to_new_timeline(self) -> None:
        """Stop, start as a standby and promote: a real new timeline."""
        self.stop()
        (self.data / "standby.signal").touch()
        identity.hand_over(self.data / "standby.signal")
        self.start()
        self.sql("SELECT pg_promote(true, 30)")

    def twin(self) -> Server:
        """A server on a copy of this stopped one's data, archiving to the same place: an old primary that lives on."""
        twin = copy.copy(self)
        twin.root = identity.prepare_dir(tempfile.mkdtemp(prefix="dba-"))
        twin.data = twin.root / "data"
        self._run("cp", "-a", self.data, twin.data)
        with (twin.data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{twin.root}'\n")
        return twin

    def backup(self, *options: str) -> None:
        argv = [BIN / "barman-cloud-backup", "--endpoint-url", self.s3.endpoint_url, "--immediate-checkpoint"]
        argv += ["--host", self.root, "--user", "postgres", *options, self.destination, self.name]
        done = subprocess.run([str(a) for a in argv], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def archive_by_hand(self, segment: str, *options: str, name: str) -> None:
        """barman-cloud-wal-archive on one segment, to another server name."""
        argv = [BIN / "barman-cloud-wal-archive", "--endpoint-url", self.s3.endpoint_url, *options]
        argv += [self.destination, name, self.data / "pg_wal" / segment]
        done = subprocess.run([str(a) for a in argv], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
