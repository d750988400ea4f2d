"""archive_command: `wal_archive --spec FILE %p`. Exit 0 when the segment is in the object store.

Like CNPG's: the first time it looks whether the destination is empty, and with `wal.maxParallel` it sends along what
else waits; those are noted, and answered from the note when PostgreSQL asks. Each outcome is a line of `archive.jsonl`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__" and __package__ is None:  # `python -I -S FILE`: no path to the package yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from drillbook_lab.agent import barman
from drillbook_lab.agent.log import Log, now
from drillbook_lab.agent.spec import PodSpec, StoreSpec

MARKER = ".check-empty-wal-archive"
OUTCOMES = "archive.jsonl"


def main(argv: list[str]) -> int:
    """Archive the segment, and with it others that are ready."""
    if len(argv) != 3 or argv[0] != "--spec":
        sys.stderr.write("usage: wal_archive --spec FILE PATH\n")
        return 3
    spec = PodSpec.read(argv[1])
    wal = Path(spec.pgdata, argv[2])  # %p is relative to PGDATA
    store = spec.archive
    if store is None:
        return 0
    sent = Path(spec.run_dir, "wal-archived")
    sent.mkdir(mode=0o700, exist_ok=True)
    note = sent / wal.name
    if note.exists():
        note.unlink()
        return 0
    marker = Path(spec.pgdata, MARKER)
    if marker.exists() and not spec.skip_empty_archive_check and not destination_is_empty(spec, store, wal.name):
        return 1
    others = waiting(spec, wal.name, sent)[: max(1, store.wal_max_parallel) - 1]
    started = [(path, upload(spec, store, path)) for path in (wal, *others)]
    returncode = 1
    for path, process in started:
        said = process.communicate()[1].decode(errors="replace").strip()
        report(spec, path.name, process.returncode, "barman-cloud-wal-archive", said)
        if process.returncode == 0:
            marker.unlink(missing_ok=True)
        if path == wal:
            returncode = 1 if process.returncode else 0
        elif process.returncode == 0:
            (sent / path.name).touch()
    return returncode


def destination_is_empty(spec: PodSpec, store: StoreSpec, wal: str) -> bool:
    """barman's own check: no WAL of anybody may be where this new cluster begins to archive."""
    argv = [barman.program("barman-cloud-check-wal-archive"), *barman.store_arguments(store)]
    env = barman.environment(store, home=spec.run_dir)
    done = subprocess.run(argv, env=env, stderr=subprocess.PIPE, check=False)
    if done.returncode == 0:
        return True
    report(spec, wal, done.returncode, "barman-cloud-check-wal-archive", done.stderr.decode(errors="replace").strip())
    return False


def waiting(spec: PodSpec, wal: str, sent: Path) -> list[Path]:
    """Other segments that PostgreSQL wants archived, oldest first; history files go alone and first."""
    status = Path(spec.pgdata, "pg_wal", "archive_status")
    names = sorted(name.removesuffix(".ready") for name in os.listdir(status) if name.endswith(".ready"))  # noqa: PTH208
    return [
        Path(spec.pgdata, "pg_wal", name)
        for name in names
        if len(name) == 24 and name > wal and not (sent / name).exists()
    ]


def upload(spec: PodSpec, store: StoreSpec, path: Path) -> subprocess.Popen[bytes]:
    """Start sending one file."""
    compression = [f"--{store.wal_compression}"] if store.wal_compression else []
    argv = [barman.program("barman-cloud-wal-archive"), *compression, *barman.store_arguments(store), str(path)]
    env = barman.environment(store, home=spec.run_dir)
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def report(spec: PodSpec, wal: str, returncode: int, program: str, said: str) -> None:
    """One line for the controller, and on failure barman's own words for the pod's log."""
    outcome: dict[str, object] = {"ts": now(), "wal": wal, "ok": returncode == 0, "message": ""}
    if returncode:
        # CNPG names this program whichever of the two has failed.
        outcome["message"] = f"unexpected failure invoking barman-cloud-wal-archive: exit status {returncode}"
        outcome["program"] = program
        outcome["detail"] = barman.last_words(said)
        if spec.archive is not None and spec.archive.by_plugin:
            sidecar = Log(spec.pod).sidecar(spec.run_dir).named(program)
            sidecar.error(f"Error invoking {program}", said, walName=wal, exitCode=returncode)
        else:
            sys.stderr.write(said + "\n")
    with open(os.path.join(spec.run_dir, OUTCOMES), "a", encoding="utf-8") as out:  # noqa: PTH118, PTH123
        out.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
