"""Following a recovery's log while it is written: in the recovery Job's pod, or in the first instance's init container."""

from __future__ import annotations

import threading

from drillbook import kube as k8s
from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.postgres.recovery_log import RecoveryLog, attempt_to_follow, sidecar_cause


class Follower:
    """Reads the recovery pod's log as it grows, and once more when it ends.

    A thread follows the stream; a stream that breaks is begun again and lines already seen are skipped by count.
    """

    def __init__(self, ctx: Context, namespace: str, job: str) -> None:
        self.ctx, self.namespace, self.job = ctx, namespace, job
        self.log = RecoveryLog()
        self.lines: list[str] = []
        self._pod = ""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._fed = 0

    def step(self, *, others: bool = True) -> None:
        """Start following the newest pod once it runs (not ``others``: only the one that was followed), and take in what has come."""
        if self._thread is None or not self._thread.is_alive():
            pods = self.ctx.kube.list(k8s.POD, self.namespace, labels=f"job-name={self.job}")
            first = (
                None if pods else self.ctx.kube.get(k8s.POD, self.namespace, self.job.removesuffix("-full-recovery"))
            )
            where = attempt_to_follow(pods, first)
            known = where is not None and where[0] == self._pod
            if where is not None and (self._thread is not None if known else others):
                self._follow(*where)
        with self._lock:
            fresh = self.lines[self._fed :]
            self._fed = len(self.lines)
        for line in fresh:
            self.log.feed(line)

    def _follow(self, pod: str, container: str) -> None:
        known = len(self.lines) if pod == self._pod else 0
        self._pod = pod

        def work() -> None:
            try:
                with self.ctx.kube.follow_log(self.namespace, pod, container) as stream:
                    for number, line in enumerate(stream):
                        if number >= known:
                            with self._lock:
                                self.lines.append(line)
            except RunbookError:
                return  # the pod is gone, or the stream broke: step() begins again while the pod is there

        self._thread = threading.Thread(target=work, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait a moment for the end of the stream and take in the rest.

        The Job's next attempt may run by now: it says nothing of why this one failed.
        """
        if self._thread is None:
            self.step()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self.step(others=False)

    def cause(self) -> str:
        """Why the attempt failed: what the plugin's sidecar says of it, which knows the reason, and what the recovery itself says."""
        said = [words for words in (sidecar_cause(self._plugin_log()), self.log.cause) if words]
        return "; ".join(dict.fromkeys(said))

    def keep(self, ctx: Context, name: str) -> str:
        """Write the log to the run's folder; returns its place there."""
        self.finish()
        ctx.recorder.log(name, "\n".join(self.lines) + "\n")
        if plugin_log := self._plugin_log():
            ctx.recorder.log(f"{name.removesuffix('.log')}-plugin.log", plugin_log)
        return f"logs/{name}"

    def _plugin_log(self) -> str:
        """What the plugin's own container says of a restore that failed: barman's words are there, not in the job's log."""
        try:
            return self.ctx.kube.log(self.namespace, self._pod, "plugin-barman-cloud") if self._pod else ""
        except RunbookError:
            return ""  # an in-tree restore has none; a job that succeeded is gone by now, and its pod with it


__all__ = ["Follower"]
