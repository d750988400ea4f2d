"""Recovery of a barman backup by PostgreSQL itself, to a target that was resolved from the archive."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
from fix_archive import BIN, Server, until

from drillbook.archive import ArchiveSnapshot, ResolvedTarget, read_segment
from drillbook.archive.compression import decompress
from drillbook.model import RecoveryTarget
from drillbook_lab import identity, pgbin

UNREACHED = "recovery ended before configured recovery target was reached"


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
        server._run(BIN / "barman-cloud-restore", *s3, server.destination, server.name, backup_id, root / "base")
        return cls(server, backup_id, root)

    def remove(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def fetch(self, held: ArchiveSnapshot) -> None:
        """The archived WAL and history files, unpacked next to the base: a `cp` each, not half a second of Python."""
        wal = self.base / "wal"
        wal.mkdir(exist_ok=True)
        for segment in held.listing.segments():
            if not (wal / segment.name).exists():
                (wal / segment.name).write_bytes(read_segment(held.store, segment))
        for item in held.listing.histories.values():
            body = decompress(held.store.get(item.key), item.compression, name=item.key, limit=1 << 20)
            (wal / f"{item.timeline:08X}.history").write_bytes(body)

    def reaches(self, found: ResolvedTarget, xid: int, *, refusal: str = UNREACHED) -> bool | None:
        """Whether transaction ``xid`` is there after recovery; ``None``: PostgreSQL refused with ``refusal``."""
        there = self._recovered(found.target, refusal)
        return None if there is None else xid in there

    def to_the_end(self) -> set[int]:
        """The transactions that are there after recovery of all that was fetched."""
        there = self._recovered(RecoveryTarget(), "")
        assert there is not None
        return there

    def _recovered(self, target: RecoveryTarget, refusal: str) -> set[int] | None:
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
                env=self.server.environment,
                cwd="/",
                stdout=stream,
                stderr=stream,
            )
        try:
            until("recovery ends", lambda: process.poll() is not None or self._promoted(), seconds=240)
            if process.poll() is not None:
                assert refusal and refusal in log.read_text(), log.read_text()
                return None
            with psycopg.connect(host=str(self.base), user="postgres", dbname="postgres") as connection:
                found = connection.execute("SELECT DISTINCT (xid::text::numeric % 4294967296)::bigint FROM load")
                return {int(row[0]) for row in found}
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
