"""One run at a time: a Kubernetes Lease that is renewed while the run lives and given back at its end.

Times in the Lease are the API server's (our clock corrected by the Date header of its answers), so that two machines
with different clocks agree on what has expired; the header's whole seconds are allowed for by ``SLACK_SECONDS``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from drillbook.errors import Changed, KubernetesError, LeaseLost, RunInProgress
from drillbook.kube.kinds import LEASE, Kind

SLACK_SECONDS = 2.0
Object = dict[str, Any]


class LeaseApi(Protocol):
    """What a Lease needs of the API client."""

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None: ...
    def create(self, obj: Object, *, dry_run: bool = False) -> Object: ...
    def patch(
        self, kind: Kind, namespace: str, name: str, merge: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object: ...
    def api_time_offset_seconds(self) -> float | None: ...


@dataclass(frozen=True)
class LeaseHolder:
    """Who holds a Lease, as it was read; ``expires_at`` by the API server's clock."""

    holder: str
    acquired: str
    expires_at: datetime | None
    version: str
    transitions: int
    uid: str

    @classmethod
    def read(cls, obj: Object) -> LeaseHolder:
        spec = obj.get("spec") or {}
        renewed = spec.get("renewTime")
        seconds = spec.get("leaseDurationSeconds")
        expires = None
        if renewed and seconds is not None:
            expires = datetime.fromisoformat(renewed).astimezone(UTC) + timedelta(seconds=seconds)
        return cls(
            holder=spec.get("holderIdentity") or "",
            acquired=spec.get("acquireTime") or "",
            expires_at=expires,
            version=obj["metadata"]["resourceVersion"],
            transitions=spec.get("leaseTransitions") or 0,
            uid=obj["metadata"]["uid"],
        )


def holder_of(api: LeaseApi, namespace: str, name: str) -> str:
    """Who holds the Lease now, by the API server's clock; "" if nobody does."""
    found = api.get(LEASE, namespace, name)
    if found is None:
        return ""
    held = LeaseHolder.read(found)
    now = datetime.now(UTC) + timedelta(seconds=api.api_time_offset_seconds() or 0.0)
    alive = held.expires_at is None or held.expires_at + timedelta(seconds=SLACK_SECONDS) > now
    return held.holder if alive else ""


def _micro(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Lease:
    """A Lease held by one run; make it with ``Kube.lease``. A thread renews it every third of its time to live."""

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        holder: str,
        ttl_seconds: int,
        *,
        on_end: Callable[[Lease], None],
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.holder = holder
        self.ttl_seconds = ttl_seconds
        self._api = api
        self._on_end = on_end
        self._acquired = ""
        self._uid = ""
        self._lost = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._api.api_time_offset_seconds() or 0.0)

    def _spec(self, now: datetime, transitions: int) -> Object:
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.ttl_seconds,
            "acquireTime": self._acquired,
            "renewTime": _micro(now),
            "leaseTransitions": transitions,
        }

    # -- taking it ---------------------------------------------------------------------------

    def acquire(self) -> None:
        """Take the Lease if it is free, expired or already ours; RunInProgress names another holder."""
        for _ in range(5):
            found = self._api.get(LEASE, self.namespace, self.name)
            now = self._now()
            self._acquired = _micro(now)
            try:
                taken = self._create(now) if found is None else self._take(LeaseHolder.read(found), now)
            except KubernetesError as error:
                if error.status == 409:  # someone was faster; see who
                    continue
                raise
            self._uid = taken["metadata"]["uid"]
            self._renewer = threading.Thread(target=self._keep, name=f"drillbook-{self.name}", daemon=True)
            self._renewer.start()
            return
        raise RunInProgress(
            f"{self} kept changing while it was being acquired", todo="Wait for the other run to end, then start again."
        )

    def _create(self, now: datetime) -> Object:
        labels = {"app.kubernetes.io/managed-by": "drillbook"}
        return self._api.create(
            {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
                "spec": self._spec(now, 0),
            }
        )

    def _take(self, held: LeaseHolder, now: datetime) -> Object:
        alive = held.expires_at is None or held.expires_at + timedelta(seconds=SLACK_SECONDS) > now
        if held.holder and held.holder != self.holder and alive:
            until = "indefinitely"
            if held.expires_at is not None:
                until = f"until {held.expires_at:%Y-%m-%dT%H:%M:%SZ} unless it is renewed"
            raise RunInProgress(
                f"{self} is held by {held.holder} {until}",
                todo="Wait for that run to end. If it is dead, its Lease expires by itself.",
            )
        transitions = held.transitions + (held.holder != self.holder)
        return self._write(held, self._spec(now, transitions))

    def _write(self, held: LeaseHolder, spec: Object) -> Object:
        # The version makes it a compare-and-swap: 409 if anyone has written since it was read.
        merge = {"metadata": {"resourceVersion": held.version, "uid": held.uid}, "spec": spec}
        return self._api.patch(LEASE, self.namespace, self.name, merge)

    # -- keeping it --------------------------------------------------------------------------

    def _ours(self, found: Object | None) -> tuple[LeaseHolder | None, str]:
        """The Lease as held by us, or why it isn't ours any more."""
        if found is None:
            return None, "it was deleted"
        held = LeaseHolder.read(found)
        if held.holder != self.holder:
            return None, f"it is held by {held.holder or 'nobody'}"
        if held.uid != self._uid or held.acquired != self._acquired:
            return None, "it was taken again under the same name"
        return held, ""

    def is_mine(self) -> bool:
        """Whether the Lease, read now, is ours. Expired but taken by nobody, it is renewed; once lost, it stays lost.

        Raises KubernetesError if the API server does not answer.
        """
        with self._lock:
            if not self._lost:
                held, self._lost = self._ours(self._api.get(LEASE, self.namespace, self.name))
                # Expired but taken by nobody: a renewal that wins makes it ours again.
                if held is not None and held.expires_at is not None and held.expires_at <= self._now():
                    self._renew(held)
            return not self._lost

    def ensure_held(self) -> None:
        """Raise LeaseLost unless the Lease, read now, is ours: to be called before every change."""
        if not self.is_mine():
            raise self._loss()

    def renew(self) -> None:
        """Prolong the Lease now. Raises LeaseLost if it is no longer ours."""
        with self._lock:
            if not self._lost:
                held, self._lost = self._ours(self._api.get(LEASE, self.namespace, self.name))
                if held is not None:
                    self._renew(held)
            if self._lost:
                raise self._loss()

    def _renew(self, held: LeaseHolder) -> None:
        try:
            self._write(held, {"renewTime": _micro(self._now()), "leaseDurationSeconds": self.ttl_seconds})
        except KubernetesError as error:
            if error.status not in (404, 409):
                raise
            _, self._lost = self._ours(self._api.get(LEASE, self.namespace, self.name))

    def _loss(self) -> LeaseLost:
        return LeaseLost(
            f"{self} is no longer held by {self.holder}: {self._lost}",
            changed=Changed.UNKNOWN,
            todo="Change nothing more. See what the other run did; `drillbook cleanup` removes what this one left.",
        )

    def _keep(self) -> None:
        while not self._stop.wait(self.ttl_seconds / 3):
            try:
                self.renew()
            except LeaseLost:
                return
            except KubernetesError:
                continue  # the API server is away: still_mine() tells before the next change

    # -- giving it back ----------------------------------------------------------------------

    def stop_renewing(self) -> None:
        """Let the Lease run out by itself; safe to call twice."""
        self._stop.set()
        if self._renewer is not None and self._renewer is not threading.current_thread():
            self._renewer.join()
        self._on_end(self)

    def release(self) -> None:
        """Give the Lease back if it is still ours; safe to call twice, and after a loss."""
        self.stop_renewing()
        with self._lock:
            if self._lost:
                return
            held, self._lost = self._ours(self._api.get(LEASE, self.namespace, self.name))
            if held is None:
                return
            try:
                # As client-go does it: no holder and a second to live; the object stays.
                now = _micro(self._now())
                given_back = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
                self._write(held, given_back)
            except KubernetesError as error:
                if error.status not in (404, 409):
                    raise
            self._lost = "it was released"

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
