"""A point-in-time recovery by hand: barman-cloud-restore, barman-cloud-wal-restore, postgres, and nothing of Drillbook's.

The baseline of the benchmark. The operator is a good one: the base backup's id is known beforehand, the server keeps
the source's own settings, and nobody looks at anything before the next command is typed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drillbook_lab import identity, pgbin

END = "archive recovery complete"


@dataclass(frozen=True)
class Archive:
    """Where the archive is, and a key that reads it."""

    endpoint: str
    destination: str
    server: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """Only what barman needs: nothing of the machine's own AWS configuration."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": "/",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    @property
    def words(self) -> list[str]:
        """What every barman-cloud command begins with."""
        return ["--endpoint-url", self.endpoint, "--cloud-provider", "aws-s3", self.destination, self.server]


@dataclass(frozen=True)
class Recovery:
    """How long it took, from the first command to PostgreSQL's own word that the recovery is over; and what it replayed."""

    seconds: float
    fetch_seconds: float
    segments: int


def recover(archive: Archive, backup_id: str, settings: dict[str, str]) -> Recovery:
    """Recover into a new directory, which is removed again. RuntimeError with PostgreSQL's last words if it fails."""
    with _places() as (pgdata, sockets, spool):
        began = time.monotonic()
        argv = [_barman("barman-cloud-restore"), *archive.words, backup_id, str(pgdata)]
        subprocess.run(identity.wrap(argv), env=archive.environment, check=True, capture_output=True)
        pgdata.chmod(0o700)
        fetched = time.monotonic()
        (pgdata / "recovery.signal").touch()
        identity.hand_over(pgdata / "recovery.signal")
        fetch = [_barman("barman-cloud-wal-restore"), "--spool-dir", str(spool), *archive.words]
        chosen = settings | {
            "restore_command": f"{shlex.join(fetch)} %f %p",
            "recovery_target_action": "promote",
            "archive_mode": "off",
            "ssl": "off",
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        ended, segments = _replay(pgdata, chosen, archive.environment)
        return Recovery(ended - began, fetched - began, segments)


def _replay(pgdata: Path, settings: dict[str, str], env: dict[str, str]) -> tuple[float, int]:
    """Start the server, read its log until the recovery is over, stop it."""
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    argv = identity.wrap([pgbin.program("postgres"), "-D", str(pgdata), *options])
    said: list[str] = []
    segments = 0
    with subprocess.Popen(argv, env=env, cwd=pgdata, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                said.append(line)
                segments += "restored log file" in line
                if END in line:
                    return time.monotonic(), segments
        finally:
            server.terminate()
    raise RuntimeError(f"the recovery by hand failed: {''.join(said[-5:])}")


@contextmanager
def _places() -> Iterator[tuple[Path, Path, Path]]:
    """PGDATA, a folder for the socket and one for barman's spool, on the file system that the lab's volumes are on."""
    root = Path(tempfile.mkdtemp(prefix="drillbook-bench-hand-"))
    try:
        for name in ("volume", "sockets", "spool"):
            identity.prepare_dir(root / name)
        yield root / "volume" / "pgdata", root / "sockets", root / "spool"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _barman(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
