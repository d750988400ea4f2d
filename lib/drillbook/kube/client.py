"""The Kubernetes API as runbooks use it: plain objects in, plain objects out, our errors."""

from __future__ import annotations

import base64
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from drillbook.errors import KubernetesError
from drillbook.kube import watching
from drillbook.kube.endurance import PATIENCE_SECONDS, Endurance
from drillbook.kube.execution import CommandLost, ExecResult, execute
from drillbook.kube.forwarding import Forward
from drillbook.kube.kinds import POD, SECRET, SELF_SUBJECT_ACCESS_REVIEW, SELF_SUBJECT_REVIEW, Kind, kind_of
from drillbook.kube.kubeconfig import Access
from drillbook.kube.lease import Lease, holder_of
from drillbook.kube.logs import LogStream
from drillbook.kube.loop import LoopThread
from drillbook.kube.piping import Command, Pipe, Piped
from drillbook.kube.redaction import Redactor, decoded
from drillbook.kube.transport import HttpAnswer, Transport
from drillbook.model import Actor

Object = dict[str, Any]
_PAGE = 500
_REPEAT_SECONDS = 0.5
_STRICT = {"fieldValidation": "Strict", "fieldManager": "drillbook"}


def _close(streams: LoopThread, transport: Transport) -> None:
    streams.close()
    transport.close()


class Kube:
    """A client of one API server. Safe to use from several threads, also next to a running event loop.

    Every method raises KubernetesError with the API server's own words when it is refused or not answered.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._streams = LoopThread(transport)
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        # Also at the interpreter's end, so that no loop is left open by a notebook that never closes.
        self._end = weakref.finalize(self, _close, self._streams, transport)

    @classmethod
    def open(
        cls,
        kubeconfig: str = "",
        context: str = "",
        *,
        mask: Callable[[str], None] | None = None,
        say: Callable[[str, float], None] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Kube:
        """A client for the named kubeconfig and context; ``""`` means $KUBECONFIG, ~/.kube/config, then in-cluster.

        ``mask`` is called with every secret that is read, ``say`` while the API server is away, with the reason and
        for how many seconds. A server that has answered once may be away for ``patience_seconds``. Raises
        ParameterError when no usable configuration is found; the API server is not asked yet.
        """
        endurance = Endurance(patience_seconds) if say is None else Endurance(patience_seconds, say)
        return cls(Transport(Access(kubeconfig, context), Redactor(mask), endurance))

    def close(self) -> None:
        """End forwards, streams and connections; Leases are no longer renewed. Safe to call twice."""
        for lease in list(self._leases):
            lease.stop_renewing()
        self._end()

    def __enter__(self) -> Kube:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- who and where -----------------------------------------------------------------------

    @property
    def cluster_entry(self) -> Object:
        """The API server's address and CA as a kubeconfig's cluster entry; no credentials are in it."""
        return self._transport.access.cluster_entry

    def whoami(self) -> Actor:
        """Who the API server says we are (SelfSubjectReview)."""
        user = self._post_review(SELF_SUBJECT_REVIEW, {}, "ask who we are")["status"]["userInfo"]
        return Actor(
            username=user["username"],
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            strength="api",
        )

    def can_i(self, verb: str, kind: Kind, *, subresource: str = "", namespace: str = "", name: str = "") -> bool:
        """Whether the API server would allow it (SelfSubjectAccessReview)."""
        attributes = {
            "verb": verb,
            "group": kind.group,
            "version": kind.version,
            "resource": kind.plural,
            "subresource": subresource,
            "namespace": namespace if kind.namespaced else "",
            "name": name,
        }
        spec = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
        answer = self._post_review(SELF_SUBJECT_ACCESS_REVIEW, spec, f"ask whether we may {verb} {kind.plural}")
        return bool(answer["status"].get("allowed"))

    def _post_review(self, kind: Kind, spec: Object, what: str) -> Object:
        body: Object = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}}
        if spec:
            body["spec"] = spec
        return self._transport.call(
            "POST", kind.path(), what=what, body=body, repeatable=True
        ).json()  # nothing is stored

    def server_version(self) -> str:
        """The API server's version, e.g. ``v1.32.1``."""
        return str(self._transport.call("GET", "/version", what="read the API server's version").json()["gitVersion"])

    def serves(self, group: str) -> bool:
        """Whether the API server knows an API group, so whether what brings it is installed."""
        found = self._transport.call("GET", "/apis", what="read the API groups").json().get("groups") or []
        return any(item.get("name") == group for item in found)

    def api_time_offset_seconds(self) -> float | None:
        """By how many seconds the API server's clock is ahead of this machine's, to about one; None if it says no time."""
        if self._transport.offset_seconds is None:
            self.server_version()
        return self._transport.offset_seconds

    # -- objects -----------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object as it is now, or None if there isn't one."""
        try:
            return self._transport.call(
                "GET", kind.path(namespace, name), what=f"read {kind.where(namespace, name)}"
            ).json()
        except KubernetesError as error:
            if _absent(error):
                return None
            raise

    def list(self, kind: Kind, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        """Every object that the selectors match; ``namespace=""`` means all namespaces."""
        what = f"list {kind.plural}" + (f" in {namespace}" if namespace else "")
        found: list[Object] = []
        onward = ""
        while True:
            query = {"labelSelector": labels, "fieldSelector": fields, "limit": _PAGE, "continue": onward}
            try:
                page = self._transport.call("GET", kind.path(namespace), what=what, query=query).json()
            except KubernetesError as error:
                if error.status != 410 or not onward:
                    raise
                found, onward = [], ""  # the token of the next page has expired: from the beginning
                continue
            # Items of a list carry neither kind nor apiVersion.
            found += [{"apiVersion": kind.api_version, "kind": kind.kind} | item for item in page.get("items") or []]
            onward = page["metadata"].get("continue", "")
            if not onward:
                return found

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Create ``obj`` and return it as stored; an unknown field is refused. ``dry_run``: judged, not stored."""
        kind = kind_of(obj)
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"].get("name", "")
        if kind is SECRET:
            self._learn(obj)
        return self._transport.call(
            "POST",
            kind.path(namespace),
            what=f"create {kind.where(namespace, name)}",
            query=_STRICT | _dry(dry_run),
            body=obj,
            repeatable=bool(name),
            settle=lambda: self._as_wanted(kind, namespace, name, obj),
        ).json()

    def patch(
        self, kind: Kind, namespace: str, name: str, merge: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        """Merge ``merge`` into the object (RFC 7396) and return it; with ``metadata.resourceVersion`` it is a swap."""
        if kind is SECRET:
            self._learn(merge)
        return self._transport.call(
            "PATCH",
            kind.path(namespace, name, subresource),
            what=f"patch {kind.where(namespace, name)}",
            query=_STRICT | _dry(dry_run),
            body=merge,
            content_type="application/merge-patch+json",
            repeatable=True,  # a merge patch sets the same values twice; with a resourceVersion the second is a conflict
            settle=lambda: self._as_wanted(kind, namespace, name, merge),
        ).json()

    def _as_wanted(self, kind: Kind, namespace: str, name: str, wanted: Object) -> HttpAnswer | None:
        """The object as it is, if it has every value that an unanswered request was to give it: then that request did it."""
        try:
            answer = self._transport.call("GET", kind.path(namespace, name), what=f"read {kind.where(namespace, name)}")
        except KubernetesError as error:
            if _absent(error):
                return None
            raise
        return answer if _has(answer.json(), _content(kind, wanted)) else None

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str,
        propagation: str = "Background",
        dry_run: bool = False,
        resource_version: str = "",
    ) -> None:
        """Delete the object with this UID; gone already is fine, another object of the name is a 409.

        ``propagation``: Background, Foreground or Orphan. ``resource_version``: and only as it was read then; changed
        since is a 409.
        """
        if not uid:
            raise ValueError("delete needs the UID of the object that is meant")
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {}),
            "propagationPolicy": propagation,
        }
        try:
            self._transport.call(
                "DELETE",
                kind.path(namespace, name),
                what=f"delete {kind.where(namespace, name)}",
                query=_dry(dry_run),
                body=body,
                repeatable=True,  # by UID: an object of the same name that came later is never meant
            )
        except KubernetesError as error:
            if not _absent(error):
                raise

    def wait(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        until: Callable[[Object | None], bool],
        *,
        timeout_seconds: float,
        what: str,
        on_change: Callable[[Object | None], None] | None = None,
    ) -> Object | None:
        """Wait until ``until(object)`` is true and return that object; None stands for a missing object.

        Lists and watches, and starts again when the watch ends or the API server is away for a while. ``on_change`` is
        called with the first and every changed state. What ``until`` and ``on_change`` raise ends the wait. After
        ``timeout_seconds`` StepTimeoutError says what was last seen.
        """
        return watching.wait(
            self._transport,
            kind,
            namespace,
            name,
            until,
            timeout_seconds=timeout_seconds,
            what=what,
            on_change=on_change,
        )

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """The decoded entries of a Secret; the secret ones are masked from now on. 404 is a KubernetesError."""
        path = SECRET.path(namespace, name)
        data = self._transport.call("GET", path, what=f"read {SECRET.where(namespace, name)}").json().get("data") or {}
        entries = decoded(data)
        self._transport.redactor.add_entries(entries)
        return entries

    def _learn(self, secret: Object) -> None:
        self._transport.redactor.add_entries(decoded(secret.get("data") or {}))
        self._transport.redactor.add_entries(secret.get("stringData") or {})

    # -- pods --------------------------------------------------------------------------------

    def log(self, namespace: str, pod: str, container: str, *, since: str = "") -> str:
        """The container's log until now; ``since`` an instant (RFC 3339), "" for its beginning."""
        answer = self._transport.call(
            "GET",
            POD.path(namespace, pod, "log"),
            what=f"read the log of {container} in {POD.where(namespace, pod)}",
            query={"container": container} | ({"sinceTime": since} if since else {}),
        )
        return answer.data.decode(errors="replace")

    def follow_log(self, namespace: str, pod: str, container: str, *, timeout_seconds: float = 7200.0) -> LogStream:
        """The container's log from its beginning, line by line as it is written, until the container ends.

        Close it (``with``, or ``close()`` from any thread) to stop earlier. StepTimeoutError if nothing is written for
        ``timeout_seconds``.
        """
        return LogStream(self._transport, namespace, pod, container, timeout_seconds)

    def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_seconds: float,
        repeatable: bool = False,
    ) -> ExecResult:
        """Run ``argv`` in the container and wait for its end; no shell is involved.

        Any exit code is a result; KubernetesError if the command could not be run or its end was not seen (the output
        is then not used), StepTimeoutError after ``timeout_seconds``. A ``repeatable`` command, which changes nothing
        or may be run twice, is run again when its end was not seen, as long as an API server may be away. A command
        that ends before it has read megabytes of ``stdin`` may count as not seen: the server resets the connection
        that is still being sent to.
        """
        until = time.monotonic() + self._transport.endurance.patience_seconds
        while True:
            try:
                return execute(
                    self._streams, namespace, pod, container, [*argv], stdin=stdin, timeout_seconds=timeout_seconds
                )
            except CommandLost:
                if not repeatable or time.monotonic() > until:
                    raise
            time.sleep(_REPEAT_SECONDS)

    def pipe(
        self,
        writer: Command,
        reader: Command,
        *,
        timeout_seconds: float,
        on_bytes: Callable[[int], bool | None] = lambda _: None,
    ) -> Piped:
        """``writer | reader``, each in a container: the writer's output is the reader's input; no shell is involved.

        The bytes pass through this machine, with back-pressure; ``on_bytes`` receives how many, about twice a second;
        while it says False nothing more is read. Any
        exit code is a result; the reader's input is ended only when the writer has ended well, and whichever runs
        when the other has failed is ended. KubernetesError if one could not be run or its end was not seen,
        StepTimeoutError after ``timeout_seconds``.
        """
        return Pipe(self._streams, writer, reader).run(timeout_seconds, on_bytes)

    def forward(self, namespace: str, pod: str, port: int) -> Forward:
        """A local port that leads to the pod's ``port``; a context manager."""
        return Forward(self._streams, namespace, pod, port)

    # -- one at a time -----------------------------------------------------------------------

    def lease(self, namespace: str, name: str, holder: str, *, ttl_seconds: int) -> Lease:
        """Take the Lease for ``holder`` and keep it renewed until it is released; RunInProgress names another holder.

        A holder that dies without releasing it blocks others for ``ttl_seconds``.
        """
        lease = Lease(self, namespace, name, holder, ttl_seconds, on_end=self._leases.discard)
        lease.acquire()
        self._leases.add(lease)
        return lease

    def lease_holder(self, namespace: str, name: str) -> str:
        """Who holds the Lease now, by the API server's clock; "" if nobody does."""
        return holder_of(self, namespace, name)


def _absent(error: KubernetesError) -> bool:
    """Whether there is no such object; a kind that isn't installed (also 404) is an error."""
    return error.status == 404 and error.reason == "NotFound" and "requested resource" not in error.what


def _content(kind: Kind, wanted: Object) -> Object:
    """What a request sets, without the version that it was based on; a Secret's ``stringData`` as it is stored."""
    metadata = {key: value for key, value in (wanted.get("metadata") or {}).items() if key != "resourceVersion"}
    rest = {key: value for key, value in wanted.items() if key not in ("metadata", "stringData")}
    if kind is SECRET and wanted.get("stringData"):
        stored = {key: base64.b64encode(str(value).encode()).decode() for key, value in wanted["stringData"].items()}
        rest["data"] = {**(rest.get("data") or {}), **stored}
    return {**rest, "metadata": metadata}


def _has(found: Any, wanted: Any) -> bool:
    """Whether ``found`` has every value of ``wanted``: None is absent, of an object only the fields named count."""
    if isinstance(wanted, dict):
        here = found if isinstance(found, dict) else {}
        return all(_has(here.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_has, found, wanted))
    return bool(found == wanted)


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}
