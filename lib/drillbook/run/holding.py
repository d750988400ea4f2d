"""One run at a time on a cluster: the Lease, taken at the opening, given back at a gate, and taken again."""

from __future__ import annotations

from drillbook import kube as k8s
from drillbook.run.opening import lease_name
from drillbook.step import Context

LEASE_SECONDS = 60


class Hold:
    """A run's hold on its cluster; in plan mode there is none, and nothing is asked."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lease: k8s.Lease | None = None

    def take(self) -> None:
        """Take the Lease; RunInProgress if another run has it."""
        if self._context.mode != "apply" or self._lease is not None:
            return
        site = self._context.site
        name = lease_name(site)
        self._lease = self._context.kube.lease(
            site.drillbook_namespace, name, self._context.run_id, ttl_seconds=LEASE_SECONDS
        )

    def require(self) -> None:
        """LeaseLost unless the Lease, read now, is this run's; given back at a gate, it is taken again.

        To be called before every change: a laptop that slept must not act on a Lease that another run now holds.
        """
        if self._lease is None:
            self.take()
        else:
            self._lease.still_mine()

    def give_back(self) -> None:
        """Let another run have the cluster; safe to call twice."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
