"""Metrics of the instances: port 9187 of each pod, `/metrics`, asked of the server at every scrape.

Names, labels and meanings are CNPG's and the plugin's. An instance that doesn't answer still has its own word:
`cnpg_collector_up` is 0 then, and nothing that only a server knows is made up. As with CNPG's instance manager,
who listens here does so before the server starts, so a pod that is ready has metrics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from aiohttp import web

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import fencing, metric_queries, object_store
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.metric_queries import Sample
from drillbook_lab.operator.places import PodPlaces

log = logging.getLogger(__name__)

PORT = 9187
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One listener for each running instance."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    @asynccontextmanager
    async def attend(self, pod: Object, places: PodPlaces) -> AsyncIterator[None]:
        """Listen for an instance while its container runs; for a Job's pod do nothing."""
        if pod["spec"]["containers"][0]["name"] != "postgres":
            yield
            return
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        try:
            runner = await self._listen(namespace, name, places.address)
        except OSError as fault:  # somebody else's exporter has the port on every address of this machine
            log.warning("%s/%s has no metrics: %s", namespace, name, fault)
            self._operator.event(pod, "NoMetrics", f"port {PORT} can't be listened on: {fault}", kind="Warning")
            yield
            return
        try:
            yield
        finally:
            await runner.cleanup()

    async def _listen(self, namespace: str, name: str, address: str) -> web.AppRunner:
        async def answer(request: web.Request) -> web.Response:
            text = await self.text(namespace, name)
            return web.Response(body=text.encode(), headers={"Content-Type": _CONTENT_TYPE})

        application = web.Application()
        application.router.add_get("/metrics", answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, PORT).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner

    async def text(self, namespace: str, name: str) -> str:
        """One scrape."""
        pod = self._operator.find("Pod", namespace, name)
        labels = ((pod or {}).get("metadata") or {}).get("labels") or {}
        cluster = self._operator.find("Cluster", namespace, labels.get("cnpg.io/cluster", ""))
        samples = self._objects(cluster, name) if cluster is not None else []
        samples += await self._server(namespace, name, cluster)
        return exposition(samples)

    async def _server(self, namespace: str, name: str, cluster: Object | None) -> list[Sample]:
        up = {"cluster": cluster["metadata"]["name"]} if cluster is not None else {}
        try:
            worker = self._operator.kubelet.worker(namespace, name)
            found = await metric_queries.ask(str(worker.places.socket_dir), up.get("cluster", ""))
            found += await asyncio.to_thread(_wal_status, worker.places.pgdata / "pg_wal" / "archive_status")
        except (psycopg.Error, OSError, KeyError) as fault:
            log.debug("%s/%s: %s", namespace, name, fault)
            return [_gauge("collector_up", 0, **up), _gauge("collector_last_collection_error", 1)]
        if cluster is not None:
            found.append(_gauge("collector_sync_replicas", _synchronous(cluster, "min"), value="min"))
            found.append(_gauge("collector_sync_replicas", _synchronous(cluster, "max"), value="max"))
        return [*found, _gauge("collector_up", 1, **up), _gauge("collector_last_collection_error", 0)]

    def _objects(self, cluster: Object, name: str) -> list[Sample]:
        """What the operator and the plugin know without the server."""
        status, spec = cluster.get("status") or {}, cluster["spec"]
        manual = status.get("phase") == "Waiting for user action" and status.get("currentPrimary") == name
        found = [
            _gauge("collector_fencing_on", int(fencing.is_fenced(cluster, name))),
            _gauge("collector_replica_mode", int(bool((spec.get("replica") or {}).get("enabled")))),
            _gauge("collector_manual_switchover_required", int(manual)),
            _gauge("collector_nodes_used", 1),
            _gauge("collector_first_recoverability_point", _seconds(status.get("firstRecoverabilityPoint"))),
            _gauge("collector_last_available_backup_timestamp", _seconds(status.get("lastSuccessfulBackup"))),
            _gauge("collector_last_failed_backup_timestamp", _seconds(status.get("lastFailedBackup"))),
        ]
        use = object_store.backup_use(cluster)
        if use is None or not use.object_store:
            return found
        store = self._operator.find("ObjectStore", cluster["metadata"]["namespace"], use.object_store)
        windows = ((store or {}).get("status") or {}).get("serverRecoveryWindow") or {}
        window = windows.get(use.server_name) or {}
        for metric, field in (
            ("first_recoverability_point", "firstRecoverabilityPoint"),
            ("last_available_backup_timestamp", "lastSuccessfulBackupTime"),
            ("last_failed_backup_timestamp", "lastFailedBackupTime"),
        ):
            found.append(Sample(f"barman_cloud_cloudnative_pg_io_{metric}", _seconds(window.get(field)), {}))
        return found


def exposition(samples: Iterable[Sample]) -> str:
    """Prometheus' text format: each metric's samples together, under one TYPE line."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines = []
    for name in sorted(by_name):
        lines += [f"# HELP {name} {metric_queries.HELP.get(name, name)}", f"# TYPE {name} gauge"]
        for sample in by_name[name]:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(sample.labels.items()))
            value = repr(sample.value).removesuffix(".0")
            lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _gauge(name: str, value: float, /, **labels: str) -> Sample:
    return Sample(f"cnpg_{name}", value, labels)


def _wal_status(folder: Path) -> list[Sample]:
    """How many segments wait for the archive, and how many have gone there: the very files PostgreSQL keeps."""
    counts = {"ready": 0, "done": 0}
    for path in folder.iterdir():
        if (kind := path.suffix.removeprefix(".")) in counts:
            counts[kind] += 1
    return [_gauge("collector_pg_wal_archive_status", count, value=kind) for kind, count in counts.items()]


def _synchronous(cluster: Object, which: str) -> float:
    wanted = (cluster["spec"].get("postgresql") or {}).get("synchronous") or {}
    return float(wanted.get("number") or cluster["spec"].get(f"{which}SyncReplicas") or 0)


def _seconds(stamp: str | None) -> float:
    """An instant in seconds since 1970; 0 is none."""
    if not stamp:
        return 0.0
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).astimezone(UTC).timestamp()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
