"""A real archive: PostgreSQL, barman-cloud-* and an S3 server over HTTP."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import boto3.session
import psycopg

from drillbook.model import Lsn
from drillbook_lab import identity, pgbin
from drillbook_lab.addresses import free_port

DROP_ALL = "DO $$ BEGIN FOR i IN 1..120 LOOP EXECUTE format('DROP TABLE m%s', i); END LOOP;"
BEFORE_THE_END = "((2097152 - 20480 - (pg_current_wal_insert_lsn() - '0/0') % 1048576) % 1048576)"
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

    def __init__(
        self, s3: S3, destination: str, name: str, *, compression: str = "--gzip", binaries: Path | None = None
    ) -> None:
        self.binaries = binaries or pgbin.bin_dir()
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
        self._run(self.binaries / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--wal-segsize=1")
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
                identity.wrap([str(self.binaries / "postgres"), "-D", str(self.data)]),
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
        """Run statements, each its own transaction; gives the last one's first value."""
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


class Lived(NamedTuple):
    """Transactions that `every_kind_of_commit` has made."""

    prepared_xid: int
    savepoint_xid: int


def tables_to_drop(server: Server) -> None:
    """The tables that `every_kind_of_commit` works on."""
    server.sql(
        "CREATE TABLE t (a int)",
        "DO $$ BEGIN FOR i IN 1..120 LOOP EXECUTE format('CREATE TABLE m%s (a int PRIMARY KEY)', i); END LOOP; END $$",
    )


def every_kind_of_commit(server: Server) -> Lived:
    """Plain, long, over two segments, with savepoints, prepared, rolled back, and of a replication origin."""
    savepoint_xid = server.sql(
        "INSERT INTO t SELECT generate_series(1, 1000)",
        "SELECT pg_logical_emit_message(true, 'x', repeat('y', 3500000))",  # a record over several segments
        # Dropped tables make a commit record of many KiB, and the message before it puts it at a segment's end.
        f"{DROP_ALL} PERFORM pg_logical_emit_message(false, 'x', repeat('y', {BEFORE_THE_END}::int)); END $$",
        "DO $$ BEGIN INSERT INTO t VALUES (1); BEGIN INSERT INTO t VALUES (2); EXCEPTION WHEN others THEN END; END $$",
        "SELECT max(xmin::text::bigint) - 1 FROM t WHERE a = 2",
    )
    with server.connect() as connection:
        connection.autocommit = False
        connection.execute("CREATE TABLE u (a int)")
        connection.execute("SAVEPOINT s")
        connection.execute("DROP TABLE t")
        connection.execute("CREATE TABLE t (a int)")
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        connection.execute("PREPARE TRANSACTION 'two phases'")
        connection.commit()
    server.sql("COMMIT PREPARED 'two phases'", "INSERT INTO t VALUES (3)", "BEGIN; INSERT INTO t VALUES (4); ROLLBACK")
    server.sql(
        "SELECT pg_replication_origin_create('elsewhere')",
        "DO $$ BEGIN PERFORM pg_replication_origin_session_setup('elsewhere'); INSERT INTO t VALUES (5); END $$",
    )
    assert row is not None
    return Lived(int(row[0]), int(savepoint_xid))


_COMMIT = re.compile(
    r"tx: +(\d+), lsn: ([0-9A-F/]+), .*desc: (COMMIT|COMMIT_PREPARED) (?:(\d+): )?(\d{4}-[0-9-]+ [0-9:.]+) UTC"
)
_DELETED = re.compile(r"desc: DELETE .*?rel (\d+)/(\d+)/(\d+) ")


def waldump(folder: Path, first: str, last: str, binaries: Path | None = None) -> list[tuple[datetime, int, Lsn]]:
    """The commits that PostgreSQL's own pg_waldump sees."""
    found = _waldump("Transaction", folder, first, last, binaries)
    commits = [match.groups() for match in map(_COMMIT.search, found) if match]
    assert commits, found
    return [
        (datetime.fromisoformat(f"{at}+00:00"), int(prepared or xid), Lsn(lsn)) for xid, lsn, _, prepared, at in commits
    ]


def waldump_deletes(folder: Path, first: str, last: str, binaries: Path | None = None) -> Counter[tuple[int, ...]]:
    """How many rows of each file were deleted, as pg_waldump sees it."""
    found = _waldump("Heap", folder, first, last, binaries)
    return Counter(tuple(map(int, match.groups())) for match in map(_DELETED.search, found) if match)


def _waldump(rmgr: str, folder: Path, first: str, last: str, binaries: Path | None) -> list[str]:
    program = (binaries or pgbin.bin_dir()) / "pg_waldump"
    argv = [program, f"--rmgr={rmgr}", f"--path={folder}", first, last]
    done = subprocess.run(argv, capture_output=True, text=True, env={"TZ": "UTC"}, check=False)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]
