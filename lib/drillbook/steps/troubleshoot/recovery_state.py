"""What there is of a recovery: its Cluster, Job, pods, claims, warnings and logs, and the WAL that it has before it. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from drillbook import archive
from drillbook import kube as k8s
from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.engine.run_folders import run_dirs
from drillbook.engine.step import Context
from drillbook.errors import KubernetesError, ObjectStoreError, ParameterError, PreconditionError, RunbookError
from drillbook.evidence import Journal
from drillbook.evidence.facts import facts
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.model import ClusterRef
from drillbook.postgres.recovery_log import BOOTSTRAP, RecoveryLog, asked_in_vain, sidecar_cause
from drillbook.steps.preflight.readiness import HEALTHY
from drillbook.steps.troubleshoot.answer import SIDECAR
from drillbook.steps.troubleshoot.recovery_causes import Progress, RecoverySeen

ATTEMPTS = 3
"""So many of the newest attempts are asked why they failed."""


def made_by_runs(ctx: Context) -> list[dict[str, Any]]:
    """The Clusters that runs have made by recovery, in the drill namespace and the source's; those not finished last, newest last."""
    spaces = dict.fromkeys((ctx.site.drill_namespace, ctx.site.cluster.namespace))
    found = [one for space in spaces for one in ctx.kube.list(k8s.CLUSTER, space, labels=RUN_LABEL)]
    made = [one for one in found if "recovery" in (one["spec"].get("bootstrap") or {})]
    return sorted(made, key=lambda one: (_phase(one) != HEALTHY, one["metadata"]["creationTimestamp"]))


class Reader:
    """Reads one recovery; what the rights did not let it read is in ``unread``, in words."""

    def __init__(self, ctx: Context, cluster: dict[str, Any]) -> None:
        self.ctx, self.cluster = ctx, cluster
        self.name, self.space = str(cluster["metadata"]["name"]), str(cluster["metadata"]["namespace"])
        self.unread: list[str] = []

    def read(self, expected: timedelta | None) -> RecoverySeen:
        """Everything, at one instant; ``expected`` None: as its run forecast it, else the site's objective."""
        job, pods = self._job(), self._list(k8s.POD)
        pods = sorted((pod for pod in pods if _of(job, pod)), key=_born)
        words, progress = self._logs(job, pods)
        store = self._object_store()
        return RecoverySeen(
            now=datetime.now(UTC),
            cluster=self.cluster,
            job=job,
            pods=tuple(pods),
            claims=tuple(self._list(k8s.PVC)),
            events=tuple(self._events()),
            object_store=store,
            object_store_there=bool(store) and self._get(k8s.OBJECT_STORE, store) is not None,
            backup=self._backup_object(),
            words=words,
            progress=progress,
            **self._expectation(expected),
        )

    def _list(self, kind: k8s.Kind, labels: str = "") -> list[dict[str, Any]]:
        try:
            return self.ctx.kube.list(kind, self.space, labels=labels or f"cnpg.io/cluster={self.name}")
        except KubernetesError as error:
            if error.status != 403:
                raise
            self._refused(kind.plural)
            return []

    def _refused(self, what: str) -> None:
        role = "drills" if self.space == self.ctx.site.drill_namespace else "troubleshoot"
        self.unread.append(f"{what}: the right is missing, apply deploy/rbac/{role}.yaml")

    def _get(self, kind: k8s.Kind, name: str) -> dict[str, Any] | None:
        """None: it is not there; empty: it may not be read."""
        try:
            return self.ctx.kube.get(kind, self.space, name)
        except KubernetesError as error:
            if error.status != 403:
                raise
            self._refused(kind.plural)
            return {}

    def _job(self) -> dict[str, Any] | None:
        """The Job that is not done, or the last one: of the first instance, else of a replica."""
        jobs = sorted(self._list(k8s.JOB), key=_born)
        open_ = [job for job in jobs if not int((job.get("status") or {}).get("succeeded") or 0)]
        last = open_ or jobs
        return last[-1] if last else None

    def _events(self) -> list[dict[str, Any]]:
        try:
            found = self.ctx.kube.list(k8s.EVENT, self.space, fields="type=Warning")
        except KubernetesError as error:
            if error.status != 403:
                raise
            self._refused("events")
            return []
        own = re.compile(rf"{re.escape(self.name)}(-\d+(-[a-z0-9-]+)?(\..*)?)?")
        mine = [event for event in found if own.fullmatch(str(event["involvedObject"].get("name", "")))]
        return sorted(mine, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    def _object_store(self) -> str:
        """The ObjectStore that the recovery reads; of a Cluster that does not recover, none."""
        plugin = self._source().get("plugin") or {}
        named = plugin.get("parameters") or {} if plugin.get("name") == BARMAN_PLUGIN else {}
        return str(named.get("barmanObjectName", ""))

    def _source(self) -> dict[str, Any]:
        wanted = self._recovery().get("source")
        entries = self.cluster["spec"].get("externalClusters") or ()
        return next((one for one in entries if wanted and one.get("name") == wanted), {})

    def _recovery(self) -> dict[str, Any]:
        return dict((self.cluster["spec"].get("bootstrap") or {}).get("recovery") or {})

    def _backup_object(self) -> str:
        """What is wrong with the Backup object that is named as the source; "" if nothing is, or none is named."""
        name = str((self._recovery().get("backup") or {}).get("name", ""))
        if not name:
            return ""
        found = self._get(k8s.BACKUP, name)
        if not found:
            return f"Backup {name}: not found" if found is None else ""
        if (phase := (found.get("status") or {}).get("phase")) != "completed":
            return f"Backup {name}: {phase or 'pending'}"
        if found["spec"].get("method") == "plugin":
            return f"Backup {name} was made by the plugin: it does not say where it is, and each attempt would fail"
        return ""

    # -- logs ----------------------------------------------------------------------------------

    def _logs(self, job: Mapping[str, Any] | None, pods: list[dict[str, Any]]) -> tuple[str, Progress]:
        """Why the newest attempts failed, and how far the newest is."""
        container = str(((job or {}).get("metadata") or {}).get("labels", {}).get("cnpg.io/jobRole") or "full-recovery")
        container = BOOTSTRAP if job is None else container
        started = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in (None, "", "Pending")]
        if job is None:
            started = pods
        words, progress, vain, ended_after = "", Progress(), "", ""
        for pod in list(reversed(started))[:ATTEMPTS]:
            name = str(pod["metadata"]["name"])
            own, sidecar = self._log(name, container), self._log(name, SIDECAR)
            log = RecoveryLog()
            for line in own.split("\n"):
                log.feed(line)
            reached = _progress(log)
            if progress.begun is None:
                progress = reached
            elif progress.server and (not reached.server or reached.segments < progress.segments):
                break  # the attempt that runs has come further: what the earlier one failed of is over
            vain = vain or asked_in_vain(sidecar)
            words = "; ".join(dict.fromkeys(said for said in (sidecar_cause(sidecar), log.cause) if said))
            if words:
                ended_after = reached.last_segment
                break
        return words, self._before_it(progress, vain, ended_after)

    def _log(self, pod: str, container: str) -> str:
        try:
            return self.ctx.kube.log(self.space, pod, container)
        except KubernetesError as error:
            if error.status == 403:
                self._refused(f"log of {container}")
            return ""  # the container is not in this pod, has not begun, or is gone

    def _before_it(self, progress: Progress, vain: str, ended_after: str) -> Progress:
        entry = self._source()
        named = (entry.get("plugin") or {}).get("parameters") or entry.get("barmanObjectStore") or {}
        return _with_listing(self.ctx, progress, str(named.get("serverName") or ""), vain, ended_after, self.unread)

    # -- how long it was to take ---------------------------------------------------------------

    def _expectation(self, given: timedelta | None) -> dict[str, Any]:
        if given is not None:
            return {"expected": given, "expected_by": "the parameter expected_minutes"}
        run = str((self.cluster["metadata"].get("labels") or {}).get(RUN_LABEL, ""))
        if run and self.ctx.outputs is not None:
            for path in self.ctx.outputs.glob(f"*/{run}/journal.jsonl"):
                try:
                    high = getattr(facts(Journal(path).events()).forecast, "high", None)
                except RunbookError:
                    continue
                if high is not None:
                    return {
                        "expected": timedelta(seconds=high),
                        "expected_by": f"the upper end of the forecast of run {run}",
                    }
        return {"expected": self.ctx.site.objectives.recovery_time, "expected_by": "objectives.recovery_time"}


def recovery_cluster(ctx: Context, namespace: str, name: str) -> dict[str, Any] | None:
    """The Cluster that is asked for by name, else the newest unfinished one that a run has made; None if there is none.

    ParameterError: a namespace without a name. PreconditionError: it does not exist.
    """
    if name:
        return ctx.cluster_object(ClusterRef(namespace=namespace or ctx.site.drill_namespace, name=name))
    if namespace:
        raise ParameterError(["recovery_namespace is given, and recovery_cluster is empty"], where="parameters")
    made = made_by_runs(ctx)
    return made[-1] if made else None


def of_ended_run(ctx: Context, run: str) -> RecoverySeen:
    """What a run whose recovery failed has kept of it: its logs tell the cause when its copy is gone. ParameterError: no such run."""
    folders = [folder for folder in run_dirs(ctx.outputs) if folder.name == run] if ctx.outputs else []
    if not folders:
        raise ParameterError([f"failed_run {run!r} has no folder on this machine"], where="parameters")
    logs = folders[0] / "logs"
    own, sidecar = (_read(sorted(logs.glob(pattern))) for pattern in ("*recovery.log", "*recovery-plugin.log"))
    if not own and not sidecar:
        raise ParameterError([f"run {run} has kept no log of a recovery"], where="failed_run")
    learned = facts(Journal(folders[0] / "journal.jsonl").events())
    made: Mapping[str, Any] = learned.copy_ or learned.replacement or {}
    ref, log = made.get("ref") or {}, RecoveryLog()
    for line in own.split("\n"):
        log.feed(line)
    name = str(ref.get("name") or run)
    # Judged at the log's own end: until now it would only be late.
    ended = max(filter(None, (log.first_at, log.last_segment_at, log.redo_ended_at)), default=datetime.now(UTC))
    metadata = {
        "name": name,
        "namespace": str(ref.get("namespace") or ctx.site.drill_namespace),
        "creationTimestamp": made.get("created_at") or ended.isoformat(),
    }
    well = log.seen and not log.cause
    return RecoverySeen(
        now=ended,
        cluster={"metadata": metadata, "spec": {}, "status": {"phase": HEALTHY if well else ""}},
        job={"metadata": {"name": f"{name}-1-full-recovery"}, "status": {"failed": 0 if well else 1}},
        words="; ".join(dict.fromkeys(said for said in (sidecar_cause(sidecar), log.cause) if said)),
        progress=_with_listing(ctx, _progress(log), ctx.archive.server_name, asked_in_vain(sidecar), "", []),
    )


def _with_listing(
    ctx: Context, progress: Progress, server: str, vain: str, ended_after: str, unread: list[str]
) -> Progress:
    """The progress with what the archive's listing adds: how much is left, and whether the next segment is missing.

    That is ``vain``, which was asked for in vain; else the one after ``ended_after``, the last of the attempt that failed.
    """
    last = progress.last_segment
    if not server or not (last or vain or ended_after):
        return progress
    try:
        listing = archive.wal_names(ctx.store, server, since=min(filter(None, (last, vain, ended_after))))
    except (ObjectStoreError, PreconditionError, KubernetesError) as error:
        unread.append(f"the archive's listing: {error.what}")
        return progress
    names = [segment.name for segment in listing.segments()]
    wanted = vain or _after(ended_after or last, names)
    # What retention has removed since is older than all that is there, and no gap.
    same = [name for name in names if name[:8] == wanted[:8]]
    missing = wanted if same and min(same) < wanted < max(same) and wanted not in same else ""
    left = sum(name[8:] > last[8:] for name in names) if last else None
    return progress.model_copy(update={"left": left, "missing": missing})


def _after(last: str, names: Sequence[str]) -> str:
    """The segment after ``last``; how many a log file number has is seen from the ``names`` of several of them."""
    log, number = int(last[8:16], 16), int(last[16:], 16) + 1
    logs = {name[8:16] for name in names}
    if len(logs) > 1 and number >= 1 << max(int(name[16:], 16) for name in names).bit_length():
        log, number = log + 1, 0
    return f"{last[:8]}{log:08X}{number:08X}"


def _read(paths: Sequence[Path]) -> str:
    """The last of these files; "" if there is none."""
    return paths[-1].read_text(encoding="utf-8", errors="replace") if paths else ""


def _progress(log: RecoveryLog) -> Progress:
    first, last = log.first_segment_at, log.last_segment_at
    return Progress(
        doing=log.doing,
        begun=log.first_at,
        server=log.server_started_at is not None,
        redo_done=log.redo_ended_at is not None,
        segments=log.segments,
        last_segment=log.last_segment,
        last_at=last or log.server_started_at,
        seconds=(last - first).total_seconds() if first and last else 0.0,
        paused=log.paused,
    )


def _of(job: Mapping[str, Any] | None, pod: Mapping[str, Any]) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get("job-name") == job["metadata"]["name"] if job else "job-name" not in labels


def _phase(cluster: Mapping[str, Any]) -> str:
    return str((cluster.get("status") or {}).get("phase", ""))


def _born(item: Mapping[str, Any]) -> tuple[str, bool]:
    """By age; of two of the same second the ended one is the older."""
    return str(item["metadata"]["creationTimestamp"]), (item.get("status") or {}).get("phase") != "Failed"


def names_of(clusters: Iterable[Mapping[str, Any]]) -> str:
    """Clusters as a card names them."""
    return ", ".join(
        f"{one['metadata']['namespace']}/{one['metadata']['name']} ({_phase(one) or 'no phase'})" for one in clusters
    )


__all__ = ["Reader", "made_by_runs", "names_of", "of_ended_run", "recovery_cluster"]
