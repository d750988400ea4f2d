"""Step, Effect, Plan and Later, and the Context that gives a step its clients.

A step knows nothing of Jupyter, papermill or evidence: it is handed a :class:`Context` and reports to it what it saw.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, Protocol, TypeVar, cast

from drillbook import errors
from drillbook import kube as k8s
from drillbook.archive import ObjectStore, lost_cluster
from drillbook.archive.location import SourceArchive, open_store
from drillbook.engine.plan import Action, Obligation, Plan
from drillbook.errors import Changed, KubernetesError, PostgresError, PreconditionError, RunbookError, StillRunning
from drillbook.evidence.facts import Facts
from drillbook.model import Check, ClusterRef, Effect, Frozen, Verdict, causes
from drillbook.postgres.client import Address, Database
from drillbook.profile import Site

T = TypeVar("T")
# A sentence of a docstring that says which error is raised when: that is for who calls it, not for who reads a card.
_NAMES = "|".join(
    name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, RunbookError)
)
_ERRORS = re.compile(rf"(?<![^\s])(?:Raises )?(?:{_NAMES})\b[^.]*\.\s*")


class Pending:
    """A result that isn't known yet: its attributes are ``Pending`` too; it prints why; its truth can't be asked."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Pending:
        if name.startswith("_"):
            raise AttributeError(name)
        return Pending(self._why)

    def __str__(self) -> str:
        return self._why

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has said it."""

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(f"this value is {self._why}; it can't be decided on now")

    __bool__ = __iter__ = __len__ = __int__ = __float__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse


class Recorder(Protocol):
    """Where a step's observations go; the run implements it on its journal."""

    def check(self, check: Check) -> None: ...
    def note(self, learned: Facts) -> None: ...
    def phase(self, name: str, started_at: datetime, seconds: float, how: str) -> None: ...
    def obligation(self, obligation: Obligation) -> None: ...
    def settled(self, obligation: Obligation, how: str, proof: str) -> None: ...
    def promises(self) -> list[Obligation]: ...
    def log(self, name: str, text: str) -> None: ...
    def progress(self, text: str, *, fraction: float | None = None, rows: Sequence[tuple[str, str]] = ()) -> None: ...
    def unmet(self) -> list[Check]: ...
    @property
    def facts(self) -> Facts: ...


class NullRecorder:
    """A recorder that keeps nothing: a look at a cluster is not a run."""

    def check(self, check: Check) -> None: ...
    def note(self, learned: Facts) -> None: ...
    def phase(self, name: str, started_at: datetime, seconds: float, how: str) -> None: ...
    def obligation(self, obligation: Obligation) -> None: ...
    def settled(self, obligation: Obligation, how: str, proof: str) -> None: ...
    def log(self, name: str, text: str) -> None: ...
    def progress(self, text: str, *, fraction: float | None = None, rows: Sequence[tuple[str, str]] = ()) -> None: ...
    def promises(self) -> list[Obligation]:
        return []

    def unmet(self) -> list[Check]:
        return []

    @property
    def facts(self) -> Facts:
        return Facts()


def pod_of(cluster: dict[str, Any]) -> str:
    """The name of the Cluster's current primary pod, or ``""`` while there isn't one."""
    return str(cluster.get("status", {}).get("currentPrimary", ""))


@dataclass
class Context:
    """The site, the run's identity and the clients, each opened when first used and closed with the run."""

    site: Site
    run_id: str
    mode: str
    recorder: Recorder
    mask: Callable[[str], None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    digest_key: bytes = b""
    outputs: Path | None = None  # where this site's earlier runs lie; None: nothing is known of them
    require_lease: Callable[[], None] = lambda: None  # raises LeaseLost unless this run may still change the cluster
    results: dict[str, Any] = field(default_factory=dict)
    _open: list[Any] = field(default_factory=list)
    _forwards: dict[tuple[str, str], k8s.Forward] = field(default_factory=dict)

    @cached_property
    def kube(self) -> k8s.Kube:
        """The Kubernetes API that the profile (or the machine's kubeconfig) names."""
        api = k8s.Kube.open(
            self.site.kubernetes.kubeconfig,
            self.site.kubernetes.context,
            mask=self.mask,
            say=lambda why, seconds: self.recorder.progress(
                f"the API server does not answer since {seconds:.0f} s: {why}"
            ),
        )
        self._open.append(api)
        return api

    @property
    def source_ref(self) -> ClusterRef:
        return ClusterRef(namespace=self.site.cluster.namespace, name=self.site.cluster.name)

    @cached_property
    def store(self) -> ObjectStore:
        """The source's archive, with the read-only credentials that the drill namespace holds."""
        opened = open_store(self.kube, self.site, self.archive)
        self._open.append(opened)
        return opened

    @cached_property
    def archive(self) -> SourceArchive:
        """How and where the source archives (or did, if it is gone): by the Barman Cloud Plugin, or in-tree."""
        return lost_cluster.archive_of(self.kube, self.site, self.run_id)

    def cluster_object(self, ref: ClusterRef) -> dict[str, Any]:
        """The Cluster as the API server has it now."""
        found = self.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
        if found is None:
            raise PreconditionError(f"Cluster {ref} does not exist", todo="Check the profile's cluster and context.")
        return found

    def forward(self, namespace: str, pod: str) -> Address:
        """A local address of the pod's PostgreSQL; one forward a pod for the whole run."""
        key = (namespace, pod)
        if key not in self._forwards:
            self._forwards[key] = self.kube.forward(namespace, pod, 5432).__enter__()
        forward = self._forwards[key]
        return Address(forward.host, forward.port, why=forward.why)

    def source(
        self, dbname: str = "", *, read_only: bool = True, of: ClusterRef | None = None, pod: str = ""
    ) -> Database:
        """A session on the source's primary as Drillbook's least-privilege role; the caller closes it.

        ``of`` another Cluster: the one that has taken the source's place, with all its roles. ``pod``: another of its
        instances, which is read.
        """
        cluster = of or self.source_ref
        secret = self.kube.secret(self.site.sql.secret.namespace, self.site.sql.secret.name)
        instance = pod or pod_of(self.cluster_object(cluster))
        if not instance:
            raise KubernetesError(f"Cluster {cluster} has no primary", todo="Wait until it is healthy.")
        return self._session(
            self.forward(cluster.namespace, instance),
            user=secret["username"],
            password=secret["password"],
            dbname=dbname or self.site.sql.database,
            read_only=read_only,
            statement_timeout_seconds=self.site.limits.step.total_seconds(),
            # Others queue behind the session that waits for a lock; in Drillbook's own database nobody else does.
            lock_timeout_seconds=1 if dbname not in ("", self.site.sql.database) else 5,
        )

    def copy_address(self, copy: ClusterRef) -> Address:
        """Where the copy's PostgreSQL is reached from here."""
        return self.forward(copy.namespace, pod_of(self.cluster_object(copy)))

    def copy(self, copy: ClusterRef, dbname: str, *, read_only: bool = False) -> Database:
        """A session on a copy that this run made, as its superuser; the caller closes it."""
        secret = self.kube.secret(copy.namespace, f"{copy.name}-superuser")
        return self._session(
            self.copy_address(copy),
            user=secret["username"],
            password=secret["password"],
            dbname=dbname,
            read_only=read_only,
            statement_timeout_seconds=self.site.limits.step.total_seconds(),
        )

    def _session(self, address: Address, **how: Any) -> Database:
        """A session; while the API server, through which it goes, is away, it is waited for as with any request.

        Connections that were open before may still be served while new ones are refused: so an answer to a request is
        no sign that a session will be let through.
        """
        deadline = time.monotonic() + k8s.PATIENCE_SECONDS
        while True:
            try:
                return Database.connect(address, **how)
            except PostgresError:
                if address.why is None or k8s.NO_ANSWER not in address.why() or time.monotonic() > deadline:
                    raise
            self.kube.server_version()
            self.pause(1)

    def forget_pod(self, namespace: str, pod: str) -> None:
        """Close the forward to a pod that is about to go."""
        forward = self._forwards.pop((namespace, pod), None)
        if forward is not None:
            forward.__exit__(None, None, None)

    def forget_pods(self, namespace: str) -> None:
        """Close the forwards into a namespace whose pods are about to go."""
        for place, pod in list(self._forwards):
            if place == namespace:
                self.forget_pod(place, pod)

    def pause(self, seconds: float) -> None:
        """Wait before looking again."""
        time.sleep(seconds)

    def wait_while(
        self,
        look: Callable[[], T],
        limit: float,
        say: Callable[[T], str],
        late: Callable[[T], RunbookError],
        *,
        every: float = 0.3,
    ) -> None:
        """Look until nothing is left, and show what is waited for; after ``limit`` seconds raises what ``late`` makes."""
        deadline = time.monotonic() + limit
        while found := look():
            if time.monotonic() > deadline:
                raise late(found)
            self.recorder.progress(say(found))
            self.pause(every)

    def close(self) -> None:
        """Close what was opened; safe to call twice. What is used afterwards is opened again."""
        for namespace, pod in list(self._forwards):
            self.forget_pod(namespace, pod)
        while self._open:
            self._open.pop().close()
        for name in ("kube", "store", "archive"):
            self.__dict__.pop(name, None)

    def require_preconditions(self) -> None:
        """Raise unless every required check so far is VERIFIED: nothing is created on a doubtful ground."""
        unmet = self.recorder.unmet()
        if not unmet:
            return
        raise PreconditionsNotMet(causes(unmet), failed=any(check.verdict is Verdict.FAILED for check in unmet))


class PreconditionsNotMet(PreconditionError):
    """A step that changes something was reached while an earlier check is not VERIFIED."""

    def __init__(self, causes: str, *, failed: bool) -> None:
        super().__init__(f"not started, because of {causes}", todo="Fix the cause, then start a new run.")
        self.verdict = Verdict.FAILED if failed else Verdict.UNPROVEN  # type: ignore[misc]
        self.exit_code = 1 if failed else 2  # type: ignore[misc]
        self.changed = Changed.NOTHING


@dataclass(frozen=True)
class Step(Generic[T]):
    """One step of a procedure: the docstring's first line is its title, the rest says why.

    A run that was killed is resumed at the first step that isn't complete, and that step is done **again**. So ``do``
    of a step with an effect must converge: what it makes is named by the run's id and looked for first; what it
    changes is promised before it is changed (:func:`drillbook.engine.undo.change` keeps the first old value); a
    destructive one first looks whether it has happened already, by UID. Its result goes to the journal as JSON and is
    built again from there by ``do``'s return annotation: a value that doesn't come back equal can't be resumed past.
    """

    effect: ClassVar[Effect] = Effect.READS
    settles: ClassVar[bool] = False
    """Whether the step only removes what this run made, so that it also runs after a failure."""
    serves: ClassVar[bool] = False
    """Whether it brings service back, although it settles: behind the point of no return its failure halts the run."""
    looks_again: ClassVar[bool] = False
    """Whether its cell, run again, looks again while a check that isn't required does not hold: a person may have fixed it."""
    gated: ClassVar[bool] = False
    """Whether the step is in a destructive section and is done only after that section was confirmed."""
    point_of_no_return: ClassVar[bool] = False
    """Whether from its beginning a client may write to the new place, or what was replaced is gone: if this step or a later
    one fails, the run halts as it is. Nothing is put back or removed by itself then."""
    lasting: ClassVar[bool] = False
    """Whether what a reading step found must still hold when a run is resumed before anything destructive has begun."""

    @property
    def title(self) -> str:
        return (type(self).__doc__ or type(self).__name__).strip().partition("\n")[0].rstrip(".")

    @property
    def why(self) -> str:
        """What follows, for people: without the names of errors, which are for who calls it, and without code quotes."""
        rest = " ".join((type(self).__doc__ or "").strip().partition("\n")[2].split()).replace("``", "")
        return _ERRORS.sub("", rest).strip()

    @property
    def inputs(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @property
    def unknown(self) -> Pending | None:
        """The first input that isn't known yet."""
        return next((value for value in self.inputs.values() if isinstance(value, Pending)), None)

    def check(self, ctx: Context) -> None:
        """Precondition: raises if the world isn't as the step needs it."""

    def plan(self, ctx: Context) -> Plan:
        """What would happen. Works with inputs that are ``Pending`` and changes nothing.

        A gated step's ``touches``, ``objects`` and ``sql`` are what is confirmed. They are computed again just before
        the step is done, after the steps before it in its section, and must then be the same.
        """
        return Plan(summary=self.title)

    def do(self, ctx: Context) -> T:
        """The work; its typed result goes to the journal."""
        raise TypeError(f"{type(self).__name__} has no do()")

    def verify(self, ctx: Context, result: T) -> None:
        """Postcondition, read back from the world."""


class Checks(Frozen):
    """What a check observed."""

    checks: tuple[Check, ...]

    def _ipython_display_(self) -> None:
        """Nothing: the step's card shows the checks."""

    @property
    def verdict(self) -> Verdict:
        return Verdict.worst([check.verdict for check in self.checks if check.required])


@dataclass(frozen=True)
class CheckStep(Step[Checks]):
    """A step that only observes and judges: it never stops a run, its verdict counts in the run's."""

    name: ClassVar[str]
    proves: ClassVar[str]
    required: ClassVar[bool] = True

    def observe(self, ctx: Context) -> Sequence[Check]:
        """The checks; an error becomes its own check with the error's verdict."""
        raise TypeError(f"{type(self).__name__} has no observe()")

    def do(self, ctx: Context) -> Checks:
        started = datetime.now(UTC)
        try:
            checks = list(self.observe(ctx))
        except RunbookError as error:
            if error.verdict is None or isinstance(error, StillRunning):
                raise
            checks = [self.from_error(error)]
        seconds = (datetime.now(UTC) - started).total_seconds()
        timed = tuple(check if check.seconds else check.model_copy(update={"seconds": seconds}) for check in checks)
        return Checks(checks=timed)

    def from_error(self, error: RunbookError) -> Check:
        """What an error says about this check's claim: contradicted, or only not observed."""
        contradicts = getattr(error, "contradicts", None)
        verdict = Verdict.FAILED if contradicts else cast(Verdict, error.verdict)
        return self.result(verdict, expected="an answer", observed=error.what, reason=type(error).__name__)

    def not_run(self, reason: str) -> list[Check]:
        """The check as not observed."""
        return [self.result(Verdict.UNPROVEN, reason=f"not run: {reason}")]

    def result(self, verdict: Verdict, **fields: Any) -> Check:
        """A check of this check."""
        values: dict[str, Any] = {"name": self.name, "proves": self.proves, "required": self.required} | fields
        return Check(verdict=verdict, **values)


@dataclass(frozen=True)
class CheckGroup(Step[Checks]):
    """Checks that are read together: each observes and judges for itself. ``under`` is put before each one's name."""

    under: ClassVar[str] = ""

    def checks(self) -> Sequence[CheckStep]:
        """The checks, in order."""
        raise TypeError(f"{type(self).__name__} has no checks()")

    def do(self, ctx: Context) -> Checks:
        return Checks(checks=tuple(self._named(read(ctx, self.checks()))))

    def not_run(self, reason: str) -> list[Check]:
        """Every check as not observed."""
        return self._named([result for check in self.checks() for result in check.not_run(reason)])

    def _named(self, checks: list[Check]) -> list[Check]:
        return (
            [check.model_copy(update={"name": f"{self.under}: {check.name}"}) for check in checks]
            if self.under
            else checks
        )


def read(ctx: Context, checks: Sequence[CheckStep]) -> list[Check]:
    """What each check says, in order; one that fails doesn't stop the next."""
    return [result for check in checks for result in check.do(ctx).checks]


__all__ = [
    "Action",
    "CheckGroup",
    "CheckStep",
    "Checks",
    "Context",
    "Obligation",
    "Pending",
    "Plan",
    "PreconditionsNotMet",
    "Recorder",
    "Step",
    "pod_of",
    "read",
]
