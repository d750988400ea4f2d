"""A base backup of the running instance.

`python -m drillbook_lab.agent.backup --spec FILE --name backup-YYYYMMDDHHMMSS`: the last line on stdout is one JSON
object with what barman's catalogue then says of the backup. A failure is an exit status other than 0, after an error
line with barman's reason.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from drillbook_lab.agent import barman, main, procs, retention
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.spec import PodSpec, StoreSpec
from drillbook_lab.agent.targets import catalogue


def arguments(store: StoreSpec, name: str, *, immediate_checkpoint: bool) -> list[str]:
    """barman-cloud-backup's options, in CNPG's order."""
    options = ["--user", "postgres", "--name", name]
    if store.data_compression:
        options.append(f"--{store.data_compression}")
    if immediate_checkpoint or store.immediate_checkpoint:
        options.append("--immediate-checkpoint")
    if store.jobs:
        options += ["--jobs", str(store.jobs)]
    return [barman.program("barman-cloud-backup"), *options, *barman.store_arguments(store)]


async def take(spec: PodSpec, log: Log, name: str, *, immediate_checkpoint: bool) -> dict[str, Any]:
    """Take the backup and read it back from the store."""
    store = spec.archive
    if store is None:
        raise main.JobFailed("no backup section defined for the target cluster")
    env = barman.environment(store, home=spec.run_dir, PGHOST=spec.socket_dir, PGPORT=str(spec.port))
    log.info("Starting barman-cloud-backup", backupName=name)
    # Not under PostgreSQL's identity: it only reads PGDATA, and its workers need semaphores in /dev/shm.
    done = await procs.run(
        arguments(store, name, immediate_checkpoint=immediate_checkpoint),
        env=env,
        log=log.named("barman-cloud-backup"),
    )
    if done.returncode:
        raise main.JobFailed(f"exit status {done.returncode}: {done.last_words}")
    log.info("Completed barman-cloud-backup", backupName=name)
    # The listing says of each backup all that `barman-cloud-backup-show` would, and names the oldest one as well.
    listed = await retention.listing(spec, store)
    backups = catalogue(listed)
    backup = [one for one in backups if one.name == name][-1]
    (entry,) = [one for one in listed["backups_list"] if one["backup_id"] == backup.backup_id]
    return {
        "backupId": backup.backup_id,
        "backupName": backup.name,
        "beginWal": backup.begin_wal,
        "endWal": backup.end_wal,
        "beginLSN": backup.begin_lsn,
        "endLSN": backup.end_lsn,
        "startedAt": _utc(backup.begin_at),
        "stoppedAt": _utc(backup.end_at),
        "timeline": backup.timeline,
        "systemId": backup.system_id,
        "majorVersion": int(entry["version"]) // 10000 if entry.get("version") else None,
        "serverName": store.server_name,
        **retention.window(listed),
    }


def _utc(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    flags = main.parser("Take a base backup of the running instance.")
    flags.add_argument("--name", required=True, help="the backup's name, backup-YYYYMMDDHHMMSS")
    flags.add_argument("--immediate-checkpoint", action="store_true")
    chosen = flags.parse_args()

    async def program(spec: PodSpec, _: Path, log: Log) -> int:
        """Take it, and say what was taken."""
        taken = await take(spec, log, chosen.name, immediate_checkpoint=chosen.immediate_checkpoint)
        sys.stdout.write(json.dumps(taken) + "\n")
        return 0

    sys.exit(main.run(program, chosen.spec, "Backup failed"))
