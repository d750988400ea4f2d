"""A PostgreSQL server of a test's own, which can be stopped, damaged and started again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from drillbook.errors import PostgresError
from drillbook.postgres.client import SQL, Address, Database
from drillbook_lab.addresses import free_port
from drillbook_lab.identity import prepare_dir, wrap
from drillbook_lab.pgbin import bin_dir

PASSWORD = "not a secret"
SUPERUSER = "postgres"
# As deploy/sql grants it to Drillbook's role on the source.
READER = "reader"
START_SECONDS = 60
PAGE_BYTES = 8192


class Server:
    """One cluster in a folder, on a loopback port; role ``reader`` reads everything and is no superuser."""

    def __init__(
        self,
        folder: Path,
        *,
        checksums: bool = True,
        settings: dict[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        self.programs = programs or bin_dir()
        self.pgdata = folder / "pgdata"
        self.address = Address("127.0.0.1", free_port())
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        prepare_dir(folder)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        sums = ["--data-checksums"] if checksums else ["--no-data-checksums"] if self.major >= 18 else []
        arguments = ["-D", str(self.pgdata), "-U", SUPERUSER, "-A", "scram-sha-256", f"--pwfile={password}"]
        arguments += [*sums, "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run(wrap([str(self.programs / "initdb"), *arguments]), check=True, capture_output=True, cwd="/")
        lines = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.address.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "32MB",
            "autovacuum": "off",
            "max_logical_replication_workers": "0",
            "wal_level": "logical",
            **(settings or {}),
        }
        with (self.pgdata / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    def start(self) -> None:
        """Start and wait until it answers, at most a minute."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                wrap([str(self.programs / "postgres"), "-D", str(self.pgdata)]), stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.superuser("postgres").close()
                return
            except PostgresError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(
                        f"no server after {START_SECONDS} s: {error}; {self._log.read_text()}"
                    ) from error
                time.sleep(0.05)

    def stop(self) -> None:
        """A fast shutdown with its checkpoint: what is in the files is what there is."""
        if self._process is not None:
            # The wrapped command is still one process: this signal is the postmaster's.
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return self._log.read_text()

    @property
    def major(self) -> int:
        """The server's major version."""
        told = subprocess.run(
            [self.programs / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        return int(told.split()[2].split(".")[0])

    def program(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's client programs as superuser."""
        address = ["-h", self.address.host, "-p", str(self.address.port), "-U", SUPERUSER]
        argv = wrap([str(self.programs / name), *address, *arguments])
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "PGPASSWORD": PASSWORD}
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/", env=env)
        assert done.returncode == 0, done.stderr

    def dumped_and_restored(self, database: str) -> str:
        """A new database, made of another's dump as pg_dump and pg_restore make it; its name."""
        copy = f"restored{next(self._names)}"
        self.sql("postgres", f"create database {copy} template template0")
        dump = self.pgdata.parent / f"{copy}.dump"
        self.program("pg_dump", "-Fc", "-f", str(dump), database)
        self.program("pg_restore", "--exit-on-error", "-d", copy, str(dump))
        return copy

    @contextmanager
    def standby(self, folder: Path) -> Iterator[Server]:
        """A server that streams from this one."""
        other = Server.__new__(Server)
        other.programs, other.pgdata, other.address = (
            self.programs,
            folder / "pgdata",
            Address("127.0.0.1", free_port()),
        )
        other._log, other._process, other._names = folder / "server.log", None, count(1)
        prepare_dir(folder)
        self.program("pg_basebackup", "-D", str(other.pgdata), "-R", "-X", "stream", "--checkpoint=fast", "--no-sync")
        source = f"hostaddr={self.address.host} port={self.address.port} user={SUPERUSER} password=''{PASSWORD}''"
        with (other.pgdata / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"port = '{other.address.port}'\nprimary_conninfo = 'host=orders-r1-rw {source}'\n")
        other.start()
        try:
            yield other
        finally:
            other.stop()

    def superuser(self, database: str, *, read_only: bool = False, timeout: int = 60) -> Database:
        """A superuser's session, as on a copy that a drill made."""
        return Database.connect(
            self.address,
            user=SUPERUSER,
            password=PASSWORD,
            dbname=database,
            read_only=read_only,
            statement_timeout_seconds=timeout,
        )

    def reader(self, database: str) -> Database:
        """A session of the least-privileged role, as on the source."""
        return Database.connect(self.address, user=READER, password=PASSWORD, dbname=database)

    def sql(self, database: str, *statements: str) -> None:
        """Run statements as superuser, each in its own transaction."""
        with self.superuser(database) as db:
            for statement in statements:
                run(db, statement)

    def new_database(self, *statements: str, like: str = "template1") -> str:
        """A new database, a copy of ``like``, with ``statements`` run in it; its name."""
        name = f"tenant{next(self._names)}"
        self.sql("postgres", f"create database {name} template {like}")
        if statements:
            self.sql(name, *statements)
        return name

    def file_of(self, database: str, relation: str) -> Path:
        """The file of a relation's first gigabyte."""
        with self.superuser(database) as db:
            ((path,),) = db.ask_text("select pg_relation_filepath(%s::text::regclass)", (relation,))
        return self.pgdata / str(path)


def run(db: Database, statement: str) -> None:
    """Run one statement as it is."""
    db.run(SQL(statement.replace("%", "%%")))


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Damage a file of a stopped server."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@contextmanager
def running(
    folder: Path, *, checksums: bool = True, settings: dict[str, str] | None = None, programs: Path | None = None
) -> Iterator[Server]:
    """A started server with role ``reader``; stopped at the end."""
    server = Server(folder, checksums=checksums, settings=settings, programs=programs)
    server.start()
    try:
        server.sql("postgres", f"create role {READER} login password '{PASSWORD}' in role pg_monitor, pg_read_all_data")
        yield server
    finally:
        server.stop()
