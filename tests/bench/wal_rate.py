"""How fast WAL is read: our reader and pg_waldump, one after the other, on the WAL of one pgbench run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drillbook.postgres.wal import ChangeReader, WalReader
from drillbook_lab import identity, pgbin

SECONDS = 20
CLIENTS = 4
MOST_SEGMENTS = 32
FPI_FREE = "full_page_writes = off"  # small records only: what a reader of records finds hardest


@dataclass(frozen=True)
class Rates:
    """MB (10^6 bytes) of WAL a second, each the best of three; ``commits`` a second are those of `commits`' reading."""

    megabytes: float
    segments: int
    commits_per_second: float
    reader: float
    checksums: float
    changes: float
    waldump: float
    waldump_commits: float


def measure() -> Rates:
    """Make the WAL and read it; PostgreSQL is gone afterwards."""
    root = Path(identity.prepare_dir(tempfile.mkdtemp(prefix="dbw-")))
    try:
        names = _pgbench(root)
        folder = root / "data" / "pg_wal"
        read = [(name, (folder / name).read_bytes()) for name in names]
        size = sum(len(data) for _, data in read) / 1e6
        count = sum(len(found) for found in _feed(WalReader(), read))
        tool = [str(pgbin.program("pg_waldump")), f"--path={folder}"]
        span = [names[0], names[-1]]
        reader = _best(lambda: _feed(WalReader(), read))
        return Rates(
            megabytes=size,
            segments=len(names),
            commits_per_second=count / reader,
            reader=size / reader,
            checksums=size / _best(lambda: _feed(WalReader(checksums=True), read)),
            changes=size
            / _best(lambda: [ChangeReader.changes(one, name, data) for one in [ChangeReader()] for name, data in read]),
            waldump=size / _best(lambda: _run([*tool, "--quiet", *span])),
            waldump_commits=size / _best(lambda: _run([*tool, "--rmgr=Transaction", *span])),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _feed(reader: WalReader, read: Sequence[tuple[str, bytes]]) -> list[Sequence[object]]:
    return [reader.feed(name, data) for name, data in read]


def _best(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def _run(argv: list[str]) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def _pgbench(root: Path) -> list[str]:
    """The full segments that pgbench wrote, oldest first."""
    data, environment = root / "data", {**os.environ, "TZ": "UTC", "PGHOST": str(root), "PGUSER": "postgres"}

    def run(program: str, *argv: object) -> str:
        command = identity.wrap([str(pgbin.program(program)), *map(str, argv)])
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    run("initdb", "-D", data, "-U", "postgres", "--auth=trust")
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(
            f"listen_addresses = ''\nunix_socket_directories = '{root}'\nwal_level = logical\nfsync = off\n"
            f"synchronous_commit = off\nmax_wal_size = 8GB\nwal_keep_size = 8GB\n{FPI_FREE}\n"
        )
    run("pg_ctl", "-D", data, "-w", "-l", root / "log", "start")
    try:
        run("pgbench", "-i", "-q", "-s", "10", "postgres")
        first = run("psql", "-XAtc", "SELECT pg_walfile_name(pg_switch_wal())", "postgres")
        run("pgbench", "-n", "-c", CLIENTS, "-T", SECONDS, "postgres")
        last = run("psql", "-XAtc", "SELECT pg_walfile_name(pg_switch_wal())", "postgres")
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    names = sorted(path.name for path in (data / "pg_wal").iterdir() if len(path.name) == 24)
    return [name for name in names if first < name < last][:MOST_SEGMENTS]


if __name__ == "__main__":
    print(measure())  # noqa: T201 - a measurement by hand
