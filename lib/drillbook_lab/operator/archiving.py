"""`ContinuousArchiving`: follows each instance's record of archive attempts, and says what really came of them."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.operator import object_store
from drillbook_lab.operator.context import Operator

log = logging.getLogger(__name__)

_OUTCOMES = "archive.jsonl"


class ArchiveWatch:
    """Tails `archive.jsonl` of every running instance."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._offsets: dict[Path, int] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for worker in self._operator.kubelet.workers():
                if worker.container == "postgres" and worker.running:
                    try:
                        self._look(worker)
                    except Exception:
                        log.exception("archive record of %s/%s", worker.namespace, worker.name)
            await asyncio.sleep(self._operator.settings.archive_poll_seconds)

    def _look(self, worker: PodWorker) -> None:
        newest = self._newest(worker.places.run_dir / _OUTCOMES)
        if newest is None:
            return
        pod = self._operator.find("Pod", worker.namespace, worker.name)
        if pod is None:
            return
        cluster = self._operator.find("Cluster", worker.namespace, pod["metadata"]["labels"]["cnpg.io/cluster"])
        if cluster is None:
            return
        if newest["ok"]:
            reason, message = "ContinuousArchivingSuccess", "Continuous archiving is working"
        else:
            reason, message = "ContinuousArchivingFailing", str(newest.get("message") or "archiving failed")
            use = object_store.archive_use(cluster)
            if use is not None and use.object_store is not None:  # the instance hears of it by a remote call
                message = f"rpc error: code = Unknown desc = {message}"
        self._operator.set_condition(cluster, "ContinuousArchiving", bool(newest["ok"]), reason, message)

    def _newest(self, path: Path) -> dict[str, Any] | None:
        """The newest complete line since the last look."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        offset = self._offsets.get(path, 0)
        if size <= offset:
            return None
        with path.open("rb") as source:
            source.seek(offset)
            chunk = source.read(size - offset)
        complete, _, _ = chunk.rpartition(b"\n")
        if not complete:
            return None
        self._offsets[path] = offset + len(complete) + 1
        newest: dict[str, Any] = json.loads(complete.splitlines()[-1])
        return newest
