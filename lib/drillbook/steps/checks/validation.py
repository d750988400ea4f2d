"""The application after the cut: well, able to write and to read back, and silent in its log.

Everything goes through the application's own pods, by port-forward: no Service has to be exposed, and what is asked is
the very pod that serves.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import CheckGroup, Checks, CheckStep, Context, Plan, read
from drillbook.errors import KubernetesError
from drillbook.kube import workloads
from drillbook.model import Check, Effect, Verdict, show_instant
from drillbook.postgres import checks as integrity
from drillbook.profile.schema import Application

NO_CUT = "nothing was cut: the application is on the database that it was on"
_SECONDS = 20.0
_MOST_BYTES = 1 << 20
_ERROR = re.compile(r"\b(ERROR|FATAL|SEVERE)\b")
_LEVELS = {"error", "fatal", "critical", "severe"}


def application_of(ctx: Context, database: str) -> Application | None:
    """The application of the profile's tenant with this database; None if it names none."""
    return ctx.site.tenant(database).application


def _pods(ctx: Context, app: Application) -> list[str]:
    found = workloads.pods(ctx.kube, workloads.deployment(ctx.kube, app))
    return [
        str(pod["metadata"]["name"])
        for pod in found
        if (pod.get("status") or {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    ]


def _ask(ctx: Context, app: Application, pod: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of the pod's answer (None if it is no JSON). KubernetesError if it does not answer."""
    sent = json.dumps(body).encode() if body is not None else None
    headers = {"Host": pod, "Accept": "application/json"} | ({"Content-Type": "application/json"} if sent else {})
    try:
        with ctx.kube.forward(app.namespace, pod, app.port) as forward:
            connection = http.client.HTTPConnection(forward.host, forward.port, timeout=_SECONDS)
            try:
                connection.request(method, path, body=sent, headers=headers)
                answer = connection.getresponse()
                data = answer.read(_MOST_BYTES)
            finally:
                connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise KubernetesError(
            f"{method} {path} of pod {app.namespace}/{pod}: {workloads.no_answer(forward.why() or f'{type(error).__name__}: {error}')}",
            todo="Look at the pod's log; nothing was retried.",
        ) from error
    try:
        return answer.status, json.loads(data)
    except ValueError:
        return answer.status, None


@dataclass(frozen=True)
class PodsAreWell(CheckStep):
    """Every pod of the application says on its health path that it is well, and as many are ready as are wanted."""

    database: str
    name: ClassVar[str] = "application health"
    proves: ClassVar[str] = "the application reaches its database again"

    def observe(self, ctx: Context) -> Sequence[Check]:
        app = application_of(ctx, self.database)
        if app is None:
            return [self.result(Verdict.NOT_APPLICABLE, reason=f"the profile names no application of {self.database}")]
        found = workloads.deployment(ctx.kube, app)
        wanted = int(found["spec"].get("replicas", 1))
        said = {pod: workloads.ask_health(ctx.kube, app, pod) for pod in _pods(ctx, app)}
        ill = [f"{pod}: {words}" for pod, words in said.items() if words]
        well = len(said) - len(ill)
        return [
            self.result(
                Verdict.VERIFIED if wanted and well >= wanted and not ill else Verdict.FAILED,
                expected=f"{wanted} pods, each well on {app.health_path}",
                observed=f"{well} well" + (f"; {'; '.join(ill[:4])}" if ill else ""),
            )
        ]


@dataclass(frozen=True)
class SmokeTest(CheckStep):
    """The application makes a record through its API, and lists it again."""

    database: str
    name: ClassVar[str] = "smoke test"
    proves: ClassVar[str] = "the application can write to its database, and read back"

    def observe(self, ctx: Context) -> Sequence[Check]:
        app = application_of(ctx, self.database)
        if app is None or not app.smoke_path:
            reason = f"the profile names no smoke_path for {self.database}"
            return [self.result(Verdict.NOT_APPLICABLE, reason=reason)]
        pods = _pods(ctx, app)
        if not pods:
            return [self.result(Verdict.FAILED, expected="a pod that runs", observed="none")]
        status, made = _ask(ctx, app, pods[0], "POST", app.smoke_path, dict(app.smoke_body))
        expected = f"POST {app.smoke_path} answered 2xx, and the record is in the list"
        if not 200 <= status < 300:
            return [self.result(Verdict.FAILED, expected=expected, observed=f"HTTP {status}")]
        listed, items = _ask(ctx, app, pods[-1], "GET", app.smoke_path)
        there = 200 <= listed < 300 and _contains(items, made)
        observed = f"HTTP {status}, {'listed again' if there else f'not in the list (HTTP {listed})'}"
        return [self.result(Verdict.VERIFIED if there else Verdict.FAILED, expected=expected, observed=observed)]


def _contains(answer: Any, made: Any) -> bool:
    """Whether a list that an API answered has the record that it made: by its id, else by every plain field."""
    if not isinstance(made, dict):
        return False
    rows = answer if isinstance(answer, list) else next((v for v in (answer or {}).values() if isinstance(v, list)), [])
    keys = [key for key in made if key.lower() == "id" or key.lower().endswith("_id")]
    keys = keys or [key for key, value in made.items() if isinstance(value, str | int | bool)]
    return any(isinstance(row, dict) and keys and all(row.get(key) == made[key] for key in keys) for row in rows)


@dataclass(frozen=True)
class LogIsSilent(CheckStep):
    """No error is in the log of the application's pods, which were started after the cut; or since an instant."""

    database: str
    since: str = ""
    name: ClassVar[str] = "application log"
    proves: ClassVar[str] = "the application meets no error on the recovered data"

    def observe(self, ctx: Context) -> Sequence[Check]:
        app = application_of(ctx, self.database)
        if app is None:
            return [self.result(Verdict.NOT_APPLICABLE, reason=f"the profile names no application of {self.database}")]
        counts = {pod: self._errors(ctx, app, pod) for pod in _pods(ctx, app)}
        bad = {pod: number for pod, number in counts.items() if number}
        return [
            self.result(
                Verdict.FAILED if bad else Verdict.VERIFIED,
                expected="no line of level error or worse",
                observed=", ".join(f"{pod}: {number}" for pod, number in bad.items()) or f"none in {len(counts)} pods",
                reason="see `kubectl logs`: lines may hold rows, so they are counted here and not kept" if bad else "",
            )
        ]

    def _errors(self, ctx: Context, app: Application, pod: str) -> int:
        container = (ctx.kube.get(k8s.POD, app.namespace, pod) or {})["spec"]["containers"][0]["name"]
        return sum(
            is_error(line) for line in ctx.kube.log(app.namespace, pod, container, since=self.since).splitlines()
        )


def is_error(line: str) -> bool:
    """Whether a log line is of level error or worse: by its JSON, else by the word."""
    try:
        entry = json.loads(line)
    except ValueError:
        return bool(_ERROR.search(line))
    if not isinstance(entry, dict):
        return False
    level = next((str(entry[key]) for key in ("level", "severity", "log.level", "levelname") if key in entry), "")
    return level.lower() in _LEVELS


@dataclass(frozen=True)
class EventsPending(CheckStep):
    """How many events will be sent again from the database that is in service now."""

    database: str
    served: Any = None
    name: ClassVar[str] = "pending events in service"
    proves: ClassVar[str] = "how many events are sent a second time is known"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        tenant = ctx.site.tenant(self.database)
        if not tenant.pending_events:
            return [self.result(Verdict.NOT_APPLICABLE, reason="the profile names no pending_events")]
        line = getattr(self.served, "line", None)
        of = line.ref if line else None
        with integrity.Watch(ctx.source(self.database, of=of)) as watch, ctx.source(self.database, of=of) as db:

            def count() -> Any:
                with watch.reading(db):
                    return db.ask_text(tenant.pending_events)

            ((pending,),) = integrity.patiently(count)
        return [self.result(Verdict.VERIFIED, observed=f"{pending} pending: their receivers may get them twice")]


@dataclass(frozen=True)
class ApplicationIsBack(CheckGroup):
    """The application is back: well, able to write and read, silent in its log.

    The smoke test makes one record through the application's own API. Events that were sent after the target are
    pending again in what was recovered.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    database: str
    swapped: Any

    def plan(self, ctx: Context) -> Plan:
        app = application_of(ctx, self.database)
        if app is None:
            return Plan(summary=f"Nothing: the profile names no application of {self.database}")
        place = f"{app.namespace}/{app.deployment}"
        smoke = f", then POST {app.smoke_path} once and list it" if app.smoke_path else ""
        return Plan(summary=f"Ask every pod of {place} on {app.health_path}{smoke}; count errors in their logs")

    def checks(self) -> Sequence[CheckStep]:
        return [
            PodsAreWell(self.database),
            SmokeTest(self.database),
            LogIsSilent(self.database),
            EventsPending(self.database, self.swapped),
        ]

    def do(self, ctx: Context) -> Checks:
        if ctx.recorder.facts.cut:
            return super().do(ctx)
        # The database may still be held read only by this run: what the application does now says nothing.
        return Checks(checks=tuple(check.result(Verdict.NOT_APPLICABLE, reason=NO_CUT) for check in self.checks()))


@dataclass(frozen=True)
class ApplicationsAreBack(CheckGroup):
    """Every application of the profile is back: well, able to write and read, silent in its log since the cut.

    The smoke test makes one record through each application's own API. A pod that lived through the outage has said so
    in its log: lines from before it was well again don't count.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    old: Any
    in_service: Any

    def plan(self, ctx: Context) -> Plan:
        named = [tenant.application.deployment for tenant in ctx.site.tenants if tenant.application]
        return Plan(summary=f"Ask every pod of {', '.join(named) or 'no application'}; make one record by each API")

    def checks(self) -> Sequence[CheckStep]:
        return _of_application("", "")

    def do(self, ctx: Context) -> Checks:
        found: list[Check] = []
        for tenant in ctx.site.tenants:
            if (app := tenant.application) is None:
                continue
            wanted = int(workloads.deployment(ctx.kube, app)["spec"].get("replicas", 1))
            workloads.wait_until_well(
                ctx.kube,
                app,
                wanted,
                timeout_seconds=ctx.site.limits.step.total_seconds(),
                say=lambda text: ctx.recorder.progress(text),
            )
            since = show_instant(datetime.now(UTC))
            checks = read(ctx, _of_application(tenant.database, since))
            found += [item.model_copy(update={"name": f"{item.name}: {tenant.database}"}) for item in checks]
        if not found:
            reason = "the profile names no application"
            found = [check.result(Verdict.NOT_APPLICABLE, reason=reason) for check in self.checks()]
        return Checks(checks=tuple(found))


def _of_application(database: str, since: str) -> list[CheckStep]:
    return [PodsAreWell(database), SmokeTest(database), LogIsSilent(database, since)]


__all__ = ["ApplicationIsBack", "ApplicationsAreBack", "application_of", "is_error"]
