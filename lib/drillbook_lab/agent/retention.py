"""The upkeep of an archive: what the retention policy lets go is removed, and the catalogue is read.

`python -m drillbook_lab.agent.retention --spec FILE [--policy 30d]`: the last line on stdout is one JSON object with
the catalogue's backups and the window that they open. Which backups are let go, and which WAL goes with
them, is barman's decision alone.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from pathlib import Path
from typing import Any

from drillbook_lab import identity
from drillbook_lab.agent import barman, main, procs
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.spec import PodSpec, StoreSpec
from drillbook_lab.agent.targets import Backup, catalogue

_POLICY = re.compile(r"([1-9][0-9]*)([dwm])")
_UNITS = {"d": "DAYS", "w": "WEEKS", "m": "MONTHS"}


def barman_policy(policy: str) -> str:
    """`30d` in barman's words."""
    found = _POLICY.fullmatch(policy)
    if found is None:
        raise main.JobFailed(f"not a valid policy: {policy}")
    return f"RECOVERY WINDOW OF {found[1]} {_UNITS[found[2]]}"


async def enforce(spec: PodSpec, store: StoreSpec, policy: str, log: Log) -> None:
    """Let barman remove what the policy no longer wants."""
    command = "barman-cloud-backup-delete"
    options = ["--retention-policy", barman_policy(policy)]
    log.info("Applying backup retention policy", retentionPolicy=policy)
    argv = [barman.program(command), *options, *barman.store_arguments(store)]
    done = await procs.run(identity.wrap(argv), env=_environment(spec, store), log=log.named(command))
    if done.returncode:
        raise main.JobFailed(f"{command}: exit status {done.returncode}: {done.last_words}")


async def listing(spec: PodSpec, store: StoreSpec) -> dict[str, Any]:
    """barman's own catalogue of one server."""
    command = "barman-cloud-backup-list"
    argv = [barman.program(command), "--format", "json", *barman.store_arguments(store)]
    done = await procs.run(identity.wrap(argv), env=_environment(spec, store))
    if done.returncode:
        raise main.JobFailed(f"{command}: exit status {done.returncode}: {done.last_words}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def window(listed: dict[str, Any]) -> dict[str, Any]:
    """Every backup of the catalogue, and from when to when the complete ones reach."""
    backups = catalogue(listed)
    return {
        "backupIds": sorted(entry["backup_id"] for entry in listed.get("backups_list", ())),
        "firstRecoverabilityPoint": utc(backups[0]) if backups else None,
        "lastSuccessfulBackupTime": utc(backups[-1]) if backups else None,
    }


def utc(backup: Backup) -> str:
    """When a backup ended: from then on it can be recovered from."""
    return backup.end_at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _environment(spec: PodSpec, store: StoreSpec) -> dict[str, str]:
    return barman.environment(store, home=spec.run_dir)


if __name__ == "__main__":
    flags = main.parser("Apply the retention policy and read the catalogue.")
    flags.add_argument("--policy", default="", help="30d, 4w or 3m; without it nothing is removed")
    chosen = flags.parse_args()

    async def program(spec: PodSpec, _: Path, log: Log) -> int:
        """Remove, read, and say what is there."""
        if spec.archive is None:
            raise main.JobFailed("no backup section defined for the target cluster")
        if chosen.policy:
            await enforce(spec, spec.archive, chosen.policy, log)
        sys.stdout.write(json.dumps(window(await listing(spec, spec.archive))) + "\n")
        return 0

    sys.exit(main.run(program, chosen.spec, "Retention policy enforcement failed"))
