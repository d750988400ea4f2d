"""The join job: a new replica's PGDATA, copied from the primary. `python -m drillbook_lab.agent.join --spec FILE`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import conf, main, procs
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.spec import PodSpec


async def join(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """The whole job."""
    if not spec.upstream:
        raise main.JobFailed("the primary has no address now")
    await clone(spec, log)
    log.info("PostgreSQL instance joined", pgdata=spec.pgdata)
    return 0


async def clone(spec: PodSpec, log: Log) -> None:
    """Copy the primary; what was in PGDATA goes, for it is no longer of any use."""
    pgdata = Path(spec.pgdata)
    if pgdata.exists():
        log.info("Removing the previous data directory", pgdata=spec.pgdata)
        shutil.rmtree(pgdata)
    options = ["-D", spec.pgdata, "-v", "-w", "-X", "stream", "--checkpoint=fast", "--no-sync", "-d", spec.upstream]
    log.info("Starting pg_basebackup", pgdata=spec.pgdata)
    done = await procs.run(
        identity.wrap([str(Path(spec.bin_dir) / "pg_basebackup"), *options]),
        log=log.named("pg_basebackup"),
        env={"LC_ALL": "C", "PATH": "/bin", "HOME": spec.run_dir},
    )
    if done.returncode:
        raise main.JobFailed(f"error in pg_basebackup, exit status {done.returncode}: {done.last_words}")
    demote(spec)


def demote(spec: PodSpec) -> None:
    """Make PGDATA a standby's."""
    pgdata = Path(spec.pgdata)
    (pgdata / conf.EMPTY_ARCHIVE_MARKER).unlink(missing_ok=True)  # the primary's business
    signal_file = pgdata / "standby.signal"
    signal_file.touch(mode=0o600)
    identity.hand_over(signal_file)


if __name__ == "__main__":
    chosen = main.parser("Join a new replica to a cluster.").parse_args()
    sys.exit(main.run(join, chosen.spec, "Error while joining the cluster"))
