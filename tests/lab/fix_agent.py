"""What the agent's tests stand on: a real store, a source cluster with a backup and a known history, copies."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drillbook_lab import pgbin
from drillbook_lab.agent.spec import PodSpec, StoreSpec

BUCKET = "lab-backups"
FOLDER = "pg"
DEADLINE_SECONDS = 300


def wait_for(what: str, condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not seen in {seconds} s: {what}")


class Store:
    """`python -m drillbook_lab.store` and its files."""

    def __init__(self, state: Path, *more: str) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        (state / "ready").unlink(missing_ok=True)  # a killed one's
        self.keys({"writer": {"secret": "w", "policy": "readwrite"}, "reader": {"secret": "r", "policy": "readonly"}})
        argv = [sys.executable, "-m", "drillbook_lab.store", "--state", str(state), "--bucket", BUCKET, *more]
        self.process = subprocess.Popen(argv)
        wait_for("the store", (state / "ready").exists)
        self.endpoint = (state / "ready").read_text().strip()

    def keys(self, keys: dict[str, Any]) -> None:
        replace(self.state / "keys.json", keys)

    def faults(self, **faults: Any) -> None:
        replace(self.state / "faults.json", faults)

    def client(self, key: str = "writer") -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=key[0],  # the secrets above
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )

    def names(self, prefix: str) -> list[str]:
        listed = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in listed.get("Contents", [])]

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "access.jsonl").read_text().splitlines()]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait()


def processes_with(text: str) -> list[str]:
    """The command lines of processes that have it there, or in their working directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if text in command or text in str((folder / "cwd").readlink()):
                found.append(command)
        except OSError:
            continue
    return found


def replace(path: Path, value: Any) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value))
    draft.replace(path)


def certificates(folder: Path, address: str) -> Path:
    """server.crt, server.key and ca.crt for a pod's address; the key readable by all, as it comes from a Secret."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "server.crt").write_bytes(pem)
    (folder / "ca.crt").write_bytes(pem)
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return folder


@dataclass
class Ended:
    """A program that ran to its end."""

    returncode: int
    lines: list[dict[str, Any]]
    stderr: str

    def messages(self) -> list[str]:
        """Each line's text; of a PostgreSQL record, the record's."""
        return [line.get("record", {}).get("message") or line.get("msg", "") for line in self.lines]

    @property
    def error(self) -> str:
        """The reason in the last error line."""
        return str([line["error"] for line in self.lines if line.get("level") == "error" and "error" in line][-1])

    def said(self, text: str) -> bool:
        return any(text in message for message in self.messages())


class Pod:
    """A spec file and the programs that are run with it."""

    def __init__(self, home: Path, name: str, **fields: Any) -> None:
        self.home = home / name
        self.home.mkdir()
        self.spec = PodSpec(
            namespace="tests",
            cluster=name,
            pod=f"{name}-1",
            pgdata=str(self.home / "volume" / "pgdata"),
            run_dir=str(self.home / "run"),
            socket_dir=tempfile.mkdtemp(prefix="dbl-", dir="/tmp"),
            bin_dir=str(pgbin.bin_dir()),
            **fields,
        )
        self.spec_file = self.home / "spec.json"
        self.spec.write(self.spec_file)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.home / "instance.log"

    @property
    def sidecar_log(self) -> Path:
        """What the plugin's container has said."""
        return Path(self.spec.run_dir) / "logs" / "plugin-barman-cloud.log"

    def run(self, program: str, *arguments: str) -> Ended:
        """A program to its end; what both containers of the pod have said, in the order of time."""
        argv = [sys.executable, "-m", f"drillbook_lab.agent.{program}", "--spec", str(self.spec_file), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
        said = done.stdout + (self.sidecar_log.read_text() if self.sidecar_log.exists() else "")
        self.sidecar_log.unlink(missing_ok=True)
        lines = [json.loads(line) for line in said.splitlines()]
        return Ended(done.returncode, sorted(lines, key=lambda line: str(line.get("ts", "~"))), done.stderr)

    def start(self) -> None:
        argv = [sys.executable, "-m", "drillbook_lab.agent.instance", "--spec", str(self.spec_file)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(argv, stdout=out)
        wait_for(f"{self.spec.pod} accepting connections", self._accepts)

    def _accepts(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, database: str = "postgres", **fields: Any) -> psycopg.Connection:
        fields = {"host": self.spec.socket_dir, "port": self.spec.port, "user": "postgres", **fields}
        return psycopg.connect(dbname=database, autocommit=True, **fields)

    def ask(self, question: str, database: str = "postgres") -> Any:
        with self.connect(database) as connection:
            row = connection.execute(question.encode()).fetchone()
        return row[0] if row else None

    def outcomes(self) -> list[dict[str, Any]]:
        path = Path(self.spec.run_dir) / "archive.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def stop(self) -> int | None:
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """As a node fails: nothing is said to PostgreSQL, which dies with its parent."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        wait_for("PostgreSQL gone", lambda: not (Path(self.spec.pgdata) / "postmaster.pid").exists())

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home)
        shutil.rmtree(self.spec.socket_dir, ignore_errors=True)


@dataclass
class Site:
    """The source cluster's history: what was backed up, what came after, and when."""

    home: Path
    store: Store
    source: Pod
    backup: dict[str, Any] = field(default_factory=dict)
    before_second: datetime.datetime = field(init=False)
    last_wal: str = ""
    serial: Iterator[int] = field(default_factory=itertools.count)

    def side(self, server: str = "source", key: str = "reader", **fields: Any) -> StoreSpec:
        return side(self.home, self.store, server, key, **fields)

    def broken(self, name: str) -> str:
        """A copy of the source's folder under another serverName, for a test to damage."""
        client = self.store.client()
        for key in self.store.names(f"{FOLDER}/source/"):
            client.copy_object(
                Bucket=BUCKET, Key=key.replace("/source/", f"/{name}/"), CopySource={"Bucket": BUCKET, "Key": key}
            )
        return name

    def pod(self, **fields: Any) -> Pod:
        number = next(self.serial)
        return Pod(self.home, f"copy{number}", listen_address=f"127.77.{os.getpid() % 250}.{number + 10}", **fields)


def side(home: Path, store: Store, server: str, key: str, **fields: Any) -> StoreSpec:
    credentials = home / f"{key}.json"
    if not credentials.exists():
        secrets = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": key[0]}
        credentials.write_text(json.dumps(secrets))
        credentials.chmod(0o600)
    return StoreSpec(f"s3://{BUCKET}/{FOLDER}", server, store.endpoint, str(credentials), **fields)


def archived(pod: Pod, wal: str) -> None:
    wait_for(f"{wal} archived", lambda: (pod.ask("select last_archived_wal from pg_stat_archiver") or "") >= wal)


@pytest.fixture(scope="session")
def agent_home() -> Iterator[Path]:
    """A short path, readable by whom PostgreSQL runs as."""
    home = Path(tempfile.mkdtemp(prefix="dbl-agent-", dir="/tmp"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def store(agent_home: Path) -> Iterator[Store]:
    """The object store, with a bucket and two keys."""
    running = Store(agent_home / "s3")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def site(agent_home: Path, store: Store) -> Iterator[Site]:
    """Markers: 0 before the backup, 1 and 2 after it (`before_second` in between), 3 a later commit; all archived."""
    password = agent_home / "password"
    password.write_text("app-password")
    archive = side(agent_home, store, "source", "writer", wal_compression="gzip", wal_max_parallel=4)
    archive.immediate_checkpoint = True
    pod = Pod(
        agent_home,
        "source",
        listen_address=f"127.77.{os.getpid() % 250}.1",
        archive=archive,
        database="app",
        owner="app",
        owner_password_file=str(password),
        parameters={"max_connections": "137"},
    )
    pod.spec.tls_dir = str(certificates(agent_home / "tls", pod.spec.listen_address))
    pod.spec.write(pod.spec_file)
    made = pod.run("initdb")
    assert made.returncode == 0, made
    pod.start()
    here = Site(agent_home, store, pod)
    with pod.connect("app") as connection:
        connection.execute("create table marker (number int, at timestamptz default clock_timestamp())")
        connection.execute("insert into marker values (0)")
        taken = pod.run("backup", "--name", "backup-20260101000000")
        assert taken.returncode == 0, taken
        here.backup = taken.lines[-1]
        connection.execute("insert into marker values (1)")
        for _ in range(3):  # segments between the backup and the target
            connection.execute("create table filler as select g, md5(g::text) from generate_series(1, 1000) g")
            connection.execute("drop table filler")
            connection.execute("select pg_switch_wal()")
        row = connection.execute("select clock_timestamp()").fetchone()
        assert row is not None
        here.before_second = row[0]
        for number in (2, 3):
            connection.execute("insert into marker values (%s)", [number])
            row = connection.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            assert row is not None
            here.last_wal = row[0]
    archived(pod, here.last_wal)
    yield here
    assert pod.stop() == 0
    pod.remove()
