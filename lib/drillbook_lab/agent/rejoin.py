"""How a former primary comes back as a standby: its last WAL into the archive, then pg_rewind, else a new copy."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import join, procs, wal_archive
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.spec import PodSpec

_SEGMENT = re.compile(r"[0-9A-F]{24}")


def is_standby(spec: PodSpec) -> bool:
    """Whether PGDATA is a standby's already."""
    return (Path(spec.pgdata) / "standby.signal").exists()


async def rejoin(spec: PodSpec, spec_file: Path, log: Log) -> None:
    """Follow the new primary; what this server wrote after the two have parted is given up."""
    log.info("This is an old primary instance, demoting it", upstream=spec.upstream.partition(" user=")[0])
    await _archive_what_waits(spec, spec_file, log)
    argv = [str(Path(spec.bin_dir) / "pg_rewind"), "--source-server", spec.upstream, "--target-pgdata", spec.pgdata]
    done = await procs.run(
        identity.wrap([*argv, "--no-sync"]),
        log=log.named("pg_rewind"),
        log_stdout=True,
        env={"LC_ALL": "C", "PATH": f"{spec.bin_dir}:/bin", "HOME": spec.run_dir},
    )
    if done.returncode:
        log.error("pg_rewind failed, copying the primary instead", f"exit status {done.returncode}: {done.last_words}")
        await join.clone(spec, log)
    join.demote(spec)


async def _archive_what_waits(spec: PodSpec, spec_file: Path, log: Log) -> None:
    """Segments that only this server knows to be unarchived: its standbys took them for done."""
    if spec.archive is None:
        return
    folder = Path(spec.pgdata) / "pg_wal" / "archive_status"
    for note in sorted(folder.glob("*.ready")):
        name = note.name.removesuffix(".ready")
        if _SEGMENT.fullmatch(name) and (Path(spec.pgdata) / "pg_wal" / name).exists():
            code = await asyncio.to_thread(wal_archive.main, ["--spec", str(spec_file), f"pg_wal/{name}"])
            if code:
                log.error("A WAL file of the old primary can't be archived", f"exit status {code}", walName=name)
                return
            log.info("Archived a WAL file of the old primary", walName=name)
        note.rename(note.with_suffix(".done"))
