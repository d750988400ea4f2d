"""PostgreSQL itself recovers to what was resolved, and to nothing later: barman's archive, random load, twenty times."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fix_archive import ACCESS_KEY, S3, SECRET_KEY, Server, running_s3
from fix_recovery import Recovery

from drillbook.errors import TargetOutsideWindow
from drillbook.model import Lsn, RecoveryTarget
from drillbook.objectstore import Holdings, S3Store, catalogue, resolve

DESTINATION, NAME = "s3://archive/recovered", "pg"
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def archived() -> Iterator[tuple[S3, Server]]:
    with running_s3() as s3:
        server = Server(s3, DESTINATION, NAME)
        try:
            server.start()
            server.sql("CREATE TABLE load (xid xid8 DEFAULT pg_current_xact_id(), filler text)")
            yield s3, server
        finally:
            server.remove()


def load(server: Server, chance: random.Random, seconds: float) -> None:
    """Several sessions at once: commits, rollbacks, savepoints and prepared transactions of every length."""
    end = time.monotonic() + seconds

    def session(seed: int, number: int) -> None:
        mine = random.Random(seed)  # noqa: S311 - a load, not a secret
        with server.connect() as connection:
            while time.monotonic() < end:
                connection.execute("BEGIN")
                insert = "INSERT INTO load (filler) SELECT repeat('x', %s) FROM generate_series(1, %s)"
                connection.execute(insert, (mine.randrange(400), mine.randrange(1, 40)))
                kind = mine.randrange(10)
                if kind == 0:
                    connection.execute("SAVEPOINT s")
                    connection.execute(insert, (10, 1))
                    connection.execute("RELEASE s")
                if kind == 1:
                    connection.execute("ROLLBACK")
                elif kind == 2:
                    connection.execute(f"PREPARE TRANSACTION 'p{number}'".encode())
                    connection.execute(f"COMMIT PREPARED 'p{number}'".encode())
                else:
                    connection.execute("COMMIT")
                time.sleep(mine.random() * 0.02)

    threads = [
        threading.Thread(target=session, args=(chance.randrange(1 << 30), number))
        for number in range(chance.randrange(1, 4))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


<<<<<<< HEAD
@dataclass
class Recovery:
    """A base backup restored by barman-cloud-restore, and PostgreSQL that recovers a copy of it to a target."""

    server: Server
    backup_id: str
    base: Path

    @classmethod
    def of(cls, server: Server, backup_id: str) -> Recovery:
        root = identity.prepare_dir(tempfile.mkdtemp(prefix="dbr-"))
        s3 = ("--endpoint-url", server.s3.endpoint_url)
        server._run(BIN / "barman-cloud-restore", *s3, DESTINATION, NAME, backup_id, root / "base")
        return cls(server, backup_id, root)

    def remove(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def fetch(self, held: Holdings) -> None:
        """The archived WAL, unpacked beside the base: a `cp` each, not half a second of Python."""
        wal = self.base / "wal"
        wal.mkdir(exist_ok=True)
        for segment in held.listing.segments():
            if not (wal / segment.name).exists():
                (wal / segment.name).write_bytes(read_segment(held.store, segment))

    def reaches(self, found: ResolvedTarget, xid: int) -> bool | None:
        """Whether transaction ``xid`` is there after recovery; ``None``: PostgreSQL did not reach the target."""
        target = found.target
        settings = {
            "recovery_target_time": f"{target.target_time:%Y-%m-%d %H:%M:%S.%f}+00" if target.target_time else "",
            "recovery_target_lsn": str(target.target_lsn or ""),
            "recovery_target_xid": str(target.target_xid or ""),
            "recovery_target_timeline": str(target.timeline or "latest"),
        }
        data = self.base / "data"
        shutil.rmtree(data, ignore_errors=True)
        self.server._run("cp", "-a", self.base / "base", data)
        restore = f"cp {self.base}/wal/%f %p"
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"unix_socket_directories = '{self.base}'\narchive_mode = off\nrestore_command = '{restore}'\n"
                "recovery_target_action = promote\n"
            )
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items() if value)
        (data / "recovery.signal").touch()
        identity.hand_over(data / "recovery.signal")
        log = self.base / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                identity.wrap([pgbin.program("postgres"), "-D", str(data)]),
                env=self.server.environment, cwd="/", stdout=stream, stderr=stream,
            )  # fmt: skip
        try:
            until("recovery ends", lambda: process.poll() is not None or self._promoted(), seconds=240)
            if process.poll() is not None:
                assert "recovery ended before configured recovery target was reached" in log.read_text(), (
                    log.read_text()
                )
                return None
            with psycopg.connect(host=str(self.base), user="postgres", dbname="postgres") as connection:
                row = connection.execute(
                    "SELECT count(*) > 0 FROM load WHERE xid::text::numeric %% 4294967296 = %s", (xid,)
                ).fetchone()
                assert row is not None
                return bool(row[0])
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
            process.wait(30)

    def _promoted(self) -> bool:
        try:
            with psycopg.connect(host=str(self.base), user="postgres", dbname="postgres") as connection:
                row = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
                return bool(row and row[0])
        except psycopg.OperationalError:
            return False


=======
@pytest.mark.long
>>>>>>> e909f6f (Recovery keeps to the cluster's own timeline and system: a stranger's history in the folder is a finding, and nothing is guessed)
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("rounds", [pytest.param(4, marks=pytest.mark.long), pytest.param(20, marks=pytest.mark.soak)])
def test_the_newest_commit_is_the_border_of_what_can_be_reached(archived: tuple[S3, Server], rounds: int) -> None:
    """By time to 1 µs before it, to it by LSN and by XID; what is later is refused, and PostgreSQL would have failed.

    Three recoveries a round; in every fourth round what is later is tried on PostgreSQL itself.
    """
    s3, server = archived
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)  # noqa: S311
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    recovery: Recovery | None = None
    try:
        for number in range(rounds):
            if number % 5 == 0:
                server.backup("--gzip")
            load(server, chance, chance.uniform(0.1, 0.8))
            server.switch()
            backups = catalogue(store, NAME).usable
            held = Holdings.read(store, backups, NAME, system_id=backups[0].system_id)
            newest = resolve(held, RecoveryTarget()).last_before
            assert newest is not None
            by_time = resolve(held, RecoveryTarget(target_time=newest.committed_at - MICROSECOND))
            by_lsn = resolve(held, RecoveryTarget(target_lsn=newest.lsn))
            by_xid = resolve(held, RecoveryTarget(target_xid=newest.xid))
            assert by_time.backup == by_lsn.backup == by_xid.backup
            if recovery is None or recovery.backup_id != by_time.backup.backup_id:
                if recovery is not None:
                    recovery.remove()
                recovery = Recovery.of(server, by_time.backup.backup_id)
            what = f"seed {seed}, round {number}, {newest}"
            recovery.fetch(held)
            assert recovery.reaches(by_time, newest.xid) is False, what
            assert recovery.reaches(by_lsn, newest.xid) is True, what
            assert recovery.reaches(by_xid, newest.xid) is True, what
            last = next(scan.last_record for _, scan in held.stretch(backups[-1]).backwards() if scan.last_record)
            later = [
                RecoveryTarget(target_time=newest.committed_at),
                RecoveryTarget(target_time=newest.committed_at + timedelta(hours=1)),
                RecoveryTarget(target_lsn=Lsn(last.value + 1)),
                RecoveryTarget(target_xid=newest.xid + 1000),
            ]
            for wanted in later:
                with pytest.raises(TargetOutsideWindow, match="nearest"):
                    resolve(held, wanted)
            if number % 4 == 3:
                # Not the newest commit's own time: a rollback after it would stop PostgreSQL there as well.
                beyond = later[1 + number // 4 % 3]
                assert recovery.reaches(by_time.model_copy(update={"target": beyond}), newest.xid) is None, what
    finally:
        if recovery is not None:
            recovery.remove()
        store.close()
