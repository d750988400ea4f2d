"""What runs have left on production, read from production itself: it shows whatever became of the run's own folder."""

from __future__ import annotations

from dataclasses import dataclass

from drillbook import kube as k8s
from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.model import show_instant
from drillbook.steps.preflight.instances import is_fenced
from drillbook.swap.names import RetainedDatabase


@dataclass(frozen=True)
class Remain:
    """One thing that is not as it is without a recovery: ``what`` it is, and what to do."""

    what: str
    todo: str


def remains(ctx: Context) -> list[Remain]:
    """Databases put aside or transferred, writes held, instances fenced or hibernated, schedules suspended. Reads only.

    What can't be read is its own item: silence would say that nothing is there.
    """
    return [*_of_cluster(ctx), *_of_server(ctx)]


def _of_cluster(ctx: Context) -> list[Remain]:
    ref = ctx.source_ref
    try:
        cluster = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
        schedules = ctx.kube.list(k8s.SCHEDULED_BACKUP, ref.namespace)
    except RunbookError as error:
        return [Remain(f"Cluster {ref} can't be read: {error.what}", error.todo)]
    if cluster is None:
        return [
            Remain(
                f"Cluster {ref} does not exist",
                "See drillbook list for a run that stopped midway; else recover-full-restore.",
            )
        ]
    found = []
    if is_fenced(cluster):
        todo = f"If no run needs it any more: kubectl cnpg fencing off {ref.name} '*' -n {ref.namespace}"
        found.append(Remain(f"Cluster {ref} is fenced: PostgreSQL is stopped on every instance", todo))
    if (cluster["metadata"].get("annotations") or {}).get("cnpg.io/hibernation") == "on":
        found.append(
            Remain(f"Cluster {ref} is hibernated", f"kubectl cnpg hibernate off {ref.name} -n {ref.namespace}")
        )
    asleep = [
        one["metadata"]["name"]
        for one in schedules
        if one["spec"]["cluster"]["name"] == ref.name and one["spec"].get("suspend")
    ]
    if asleep:
        todo = "If nobody suspended them on purpose: set spec.suspend to false."
        found.append(Remain(f"ScheduledBackups of {ref} are suspended: {', '.join(asleep)}", todo))
    return found


def _of_server(ctx: Context) -> list[Remain]:
    try:
        with ctx.source() as db:
            rows = db.ask("remains")
    except RunbookError as error:
        return [Remain(f"the databases of {ctx.source_ref} can't be read: {error.what}", error.todo)]
    found = []
    for row in rows:
        name, kept = str(row["name"]), RetainedDatabase.read(row["comment"])
        if kept is not None:
            what = f"database {name} was put aside by run {kept.run} ({kept.what}), for {kept.owner} until {show_instant(kept.expires_at)}"
            found.append(Remain(what, f"When nobody needs the way back any more: DROP DATABASE {name}"))
        elif row["named_by_a_run"]:
            found.append(
                Remain(
                    f"database {name} was made by a run and is not in service",
                    f"If its run has ended: DROP DATABASE {name}",
                )
            )
        if row["read_only"]:
            todo = f"ALTER DATABASE {name} RESET default_transaction_read_only, then end its sessions: they keep the setting."
            found.append(Remain(f"database {name} takes no writes: default_transaction_read_only is on", todo))
    return found


__all__ = ["Remain", "remains"]
