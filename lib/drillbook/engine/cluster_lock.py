"""One run at a time on a cluster: the Lease, taken at the opening, given back at a gate, and taken again."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from drillbook import kube as k8s
from drillbook.engine.opening import lease_name
from drillbook.engine.step import Context
from drillbook.errors import RunInProgress
from drillbook.evidence import gates
from drillbook.profile import Site

LEASE_SECONDS = 60


_WAITING = "waiting.drillbook.io/"  # the annotation's prefix; the run's id follows


def acts_elsewhere(kube: k8s.Kube, site: Site, events: Sequence[gates.Event]) -> str:
    """The machine that acts for this run now, by the run's Lease; "" if none does, or if it would be this one.

    The evidence may be in a folder that several machines share, where another's lock on a file isn't seen: so the Lease
    is asked first. On this machine the lock is the better witness, for a Lease outlives its holder by a minute.
    """
    began = [event for event in events if event["type"] in ("opened", "resumed")]
    host = str(((began[-1].get("actor") or {}).get("host", "")) if began else "")
    opened = gates.opening(events) or {}
    if not began or host == socket.gethostname():
        return ""
    held = kube.lease_holder(site.drillbook_namespace, lease_name(site)) == opened.get("run_id")
    return (host or "a machine that is not named") if held else ""


def require_ended(kube: k8s.Kube, site: Site, events: Sequence[gates.Event]) -> None:
    """Raise RunInProgress if another machine still acts for this run."""
    if host := acts_elsewhere(kube, site, events):
        raise RunInProgress(
            f"the run is still open on {host}, which holds its Lease",
            todo=f"Go on there, or stop it there; a dead one's Lease expires {LEASE_SECONDS} s after its end.",
        )


def note_waiting(kube: k8s.Kube, site: Site, run_id: str, waits: str) -> None:
    """Note on the Lease that the run waits, for anyone who opens a run on another machine; "" takes the note away."""
    key, name = f"{_WAITING}{run_id}", lease_name(site)
    found = kube.get(k8s.LEASE, site.drillbook_namespace, name)
    noted = ((found or {}).get("metadata") or {}).get("annotations") or {}
    if found is not None and noted.get(key, "") != waits:
        kube.patch(k8s.LEASE, site.drillbook_namespace, name, {"metadata": {"annotations": {key: waits or None}}})


def require_none_waits(kube: k8s.Kube, site: Site, known: Collection[str]) -> None:
    """Raise RunInProgress if a run whose evidence is not here (``known``) waits with something on the cluster."""
    name = lease_name(site)
    found = kube.get(k8s.LEASE, site.drillbook_namespace, name)
    noted = ((found or {}).get("metadata") or {}).get("annotations") or {}
    for key, waits in sorted(noted.items()):
        run_id = key.removeprefix(_WAITING)
        if run_id != key and run_id not in known:
            raise RunInProgress(
                f"{waits}. Its evidence is not in this outputs folder",
                todo=f"Where its evidence lies: `drillbook resume {run_id}` or `drillbook abandon {run_id}`. If that is lost, undo by "
                f"hand what it holds, then: kubectl annotate lease {name} -n {site.drillbook_namespace} {key}-",
            )


class ClusterLock:
    """A run's hold on its cluster; in plan mode none exists, and nothing is asked."""

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
        note_waiting(self._context.kube, site, self._context.run_id, "")

    def take_over(self, events: Sequence[gates.Event]) -> None:
        """Take the Lease for a run that is resumed; RunInProgress if another machine still acts for it."""
        if self._lease is None:
            require_ended(self._context.kube, self._context.site, events)
        self.take()

    def require(self) -> None:
        """LeaseLost unless the Lease, read now, is this run's; given back at a gate, it is taken again.

        To be called before every change: a laptop that slept must not act on a Lease that another run now holds.
        """
        if self._lease is None:
            self.take()
        else:
            self._lease.ensure_held()

    def give_back(self, waits: str = "") -> None:
        """Let another run have the cluster; safe to call twice. ``waits`` is noted on the Lease: where it waits, what it holds."""
        if self._lease is not None:
            if waits:
                note_waiting(self._context.kube, self._context.site, self._context.run_id, waits)
            self._lease.release()
            self._lease = None
