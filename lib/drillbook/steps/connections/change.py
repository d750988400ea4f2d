"""What a change of connections is going to do here: read, counted by the model, and refused with every fault while nothing is touched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections import change as changing
from drillbook.connections.change import CLUSTER, DEPLOYMENT, POOLER, ConnectionChange, ObjectSeen, Setting
from drillbook.connections.path import Path
from drillbook.engine import undo
from drillbook.engine.noted import CONNECTION_CHANGES
from drillbook.engine.step import Context, Step
from drillbook.errors import ConflictError, KubernetesError, NotReady, ParameterError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.kube import connection_env, workloads
from drillbook.kube.reconcilers import reconcilers_on
from drillbook.manifests import canary
from drillbook.profile.schema import Application, Tenant
from drillbook.steps.connections.path import PLANNED, FoundPath
from drillbook.steps.connections.server import ServerSeen
from drillbook.steps.preflight.readiness import CheckReadiness, Rights, SourceCluster, denied

KINDS = {DEPLOYMENT: k8s.DEPLOYMENT, CLUSTER: k8s.CLUSTER, POOLER: k8s.POOLER}
POOL_RIGHTS: Rights = (
    *((verb, k8s.DEPLOYMENT, "") for verb in ("create", "get", "list", "watch", "patch", "delete")),
    *((verb, k8s.POD, "") for verb in ("get", "list")),
    ("create", k8s.POD, "portforward"),
)
_GRANTED_BY = "deploy/change/"
_TRIES, _GLANCE = 25, 0.3
_PARAMETER_KEYS = ("default_pool_size", "min_pool_size", "reserve_pool_size", "max_db_connections")
_SIZES = {*_PARAMETER_KEYS, "max_user_connections", "max_client_conn"}


@dataclass(frozen=True)
class CheckConnectionReadiness(CheckReadiness):
    """The right cluster, and the grants to look at its connections.

    Cluster, identity pin, rights and the role's grants are checked together, so that all faults are reported together
    while nothing has been touched.
    """

    drill_rights: ClassVar[Rights] = ()
    makes_a_copy: ClassVar[bool] = False
    compares_rows: ClassVar[bool] = False

    def do(self, ctx: Context) -> SourceCluster:
        found = super().do(ctx)
        ctx.recorder.note(Facts(test=TestKind(type="connections changed step by step, and watched")))
        return found


def application_of(ctx: Context, database: str) -> tuple[Tenant, Application]:
    """The tenant and its application, both in the profile. ParameterError if the profile has none."""
    tenant = next((item for item in ctx.site.tenants if item.database == database), None)
    if tenant is None or tenant.application is None:
        raise ParameterError([f"database: {database!r} has no application in the profile"], where="connections")
    return tenant, tenant.application


@dataclass(frozen=True)
class ReadConnectionChange(Step[ConnectionChange]):
    """Read what is to be changed, and let the model say whether it fits, before anything is touched.

    Every setting as it is now, who else holds its object, and every limit of the path with the new values: the autoscaler's
    maximum and a rolling update's surge counted. All faults at once.
    """

    cluster: SourceCluster
    found: FoundPath
    seen: ServerSeen
    variables: str = ""
    role_limit: int = 0
    pooler_parameters: str = ""

    def do(self, ctx: Context) -> ConnectionChange:
        faults: list[str] = []
        _, app = application_of(ctx, self.found.database)
        variables = changing.given(self.variables, "variables", faults)
        parameters = changing.given(self.pooler_parameters, "pooler_parameters", faults)
        if self.role_limit < 0:
            faults.append("role_limit: give a number of sessions; 0 leaves the limit as it is")
        if not (variables or parameters or self.role_limit or faults):
            faults.append("nothing is to be changed: give variables, role_limit or pooler_parameters")
        objects: dict[str, dict[str, Any]] = {}
        settings: list[Setting] = []
        if variables:
            objects[DEPLOYMENT] = workloads.deployment(ctx.kube, app)
            settings += _variables(objects[DEPLOYMENT], app, variables, faults)
        if self.role_limit > 0:
            objects[CLUSTER] = ctx.cluster_object(self.cluster.ref)
            settings += _role_limit(objects[CLUSTER], self.found.role, self.role_limit, faults)
        if parameters:
            settings += self._parameters(ctx, objects, parameters, faults)
        settings = [item for item in settings if item.before != item.after]
        if not settings and not faults:
            faults.append("nothing is to be changed: every value is there already")
        faults += refusals(ctx, self.cluster, app, objects, settings)
        fits: list[str] = []
        if settings and not faults:
            unfit, fits = self._fits(app, objects.get(POOLER), settings)
            faults += unfit
        if faults:
            raise NotReady(faults, where=f"change of connections of {self.found.database}, {self.cluster.ref}")
        notes = list(self.found.doubts)
        if variables and not canary.services(objects[DEPLOYMENT], ctx.kube.list(k8s.SERVICE, app.namespace)):
            notes.append(
                "no Service sends to the application's pods: a canary gets only the work that it fetches itself"
            )
        return noted(ctx, self.found.database, settings, objects, fits=tuple(fits), notes=tuple(notes))

    def _parameters(
        self, ctx: Context, objects: dict[str, dict[str, Any]], wanted: dict[str, str], faults: list[str]
    ) -> list[Setting]:
        known = self.found.pooler or (self.found.other if self.found.other_is != PLANNED else None)
        if known is None:
            faults.append(f"pooler_parameters: Cluster {self.cluster.ref} has no Pooler of type rw")
            return []
        namespace = self.cluster.ref.namespace
        pooler = ctx.kube.get(k8s.POOLER, namespace, known.name)
        if pooler is None:
            faults.append(f"pooler_parameters: Pooler {namespace}/{known.name} is gone")
            return []
        objects[POOLER] = pooler
        faults += [
            f"pooler_parameters: {key} wants a number, not {value!r}"
            for key, value in wanted.items()
            if key in _SIZES and not value.isdecimal()
        ]
        now = (pooler["spec"].get("pgbouncer") or {}).get("parameters") or {}
        return [
            Setting(kind=POOLER, namespace=namespace, name=known.name, key=key, before=now.get(key), after=value)
            for key, value in wanted.items()
        ]

    def _fits(
        self, app: Application, pooler: dict[str, Any] | None, settings: list[Setting]
    ) -> tuple[list[str], list[str]]:
        now = Path(
            role=self.found.role,
            database=self.found.database,
            pods=self.found.pods,
            server=self.seen.server,
            pgbouncer=self.found.pooler,
        )
        names = app.connections
        steps, done = [], []
        for part in (
            [item for item in settings if item.kind != DEPLOYMENT],
            [item for item in settings if item.kind == DEPLOYMENT],
        ):
            if part:
                done += part
                steps.append(
                    changing.resized(now, pooler, done, pool=names.pool_variable, timeout=names.timeout_variable)
                )
        unfit, fits = changing.misfits(now, steps, canary=any(item.kind == DEPLOYMENT for item in settings))
        last = steps[-1]
        unfit += _unreachable(last, settings)
        if (
            pooler is not None
        ):  # also one that is not on the path: what it may open counts for those that come through it
            why = changing.starved(changing.sized(pooler, settings), last.server, last.role, last.database)
            unfit += [why] if why else []
        return unfit, fits


def _unreachable(path: Path, settings: list[Setting]) -> list[str]:
    """A limit that what is behind it never lets anybody reach."""
    found = []
    server = path.server
    others = server.taken - server.of_role(path.role)
    room = server.slots - others
    raised = next((item for item in settings if item.kind == CLUSTER), None)
    if raised is not None and int(raised.after) > room:
        found.append(
            f"role_limit {raised.after} is never reached: max_connections {server.max_connections} leaves {room} for role "
            f"{path.role} ({server.max_connections - server.slots} reserved, {others} of others)"
        )
    return found


def _variables(
    deployment: dict[str, Any], app: Application, wanted: dict[str, str], faults: list[str]
) -> list[Setting]:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    holds = [one for one in containers if any(entry["name"] == app.address_variable for entry in one.get("env") or ())]
    container = (holds or containers)[0]
    env = container.get("env") or []
    if app.address_variable in wanted:
        faults.append(f"variables: {app.address_variable} is the address: where the connections go is not changed here")
    sizes = {app.connections.pool_variable, app.connections.timeout_variable} - {""}
    faults += [
        f"variables: {name} wants a whole number above 0, not {value!r}"
        for name, value in wanted.items()
        if name in sizes and not (value.isdecimal() and int(value))
    ]
    faults += [
        f"variables: {name} is in container {container['name']} twice: remove one first"
        for name in wanted
        if sum(entry["name"] == name for entry in env) > 1
    ]
    trial = {
        **deployment,
        "spec": {"template": {"spec": {"containers": [{"name": "", "env": _entries(wanted)}]}}},
    }
    faults += [
        f"variables: {name} is or holds a secret: keep it in a Secret, and change it, as this run's record holds its parameters"
        for name in connection_env.literal_secrets(trial)
    ]
    meta = deployment["metadata"]
    return [
        Setting(
            kind=DEPLOYMENT,
            namespace=meta["namespace"],
            name=meta["name"],
            place=container["name"],
            key=name,
            before=next((entry for entry in env if entry["name"] == name), None),
            after={"name": name, "value": value},
        )
        for name, value in wanted.items()
    ]


def _entries(wanted: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in wanted.items()]


def _role_limit(cluster: dict[str, Any], role: str, limit: int, faults: list[str]) -> list[Setting]:
    meta = cluster["metadata"]
    roles = (cluster["spec"].get("managed") or {}).get("roles") or []
    managed = next((item for item in roles if item["name"] == role), None)
    if managed is None:
        faults.append(
            f"role_limit: role {role} is not managed by Cluster {meta['namespace']}/{meta['name']}: add it to spec.managed.roles "
            f"(name: {role}, ensure: present, login: true, connectionLimit, passwordSecret with its Secret, and whatever else it has now: what "
            "is left out there is taken away), let CloudNativePG reconcile it, then run again; Drillbook gives no ALTER ROLE "
            "that the operator does not know of"
        )
        return []
    return [
        Setting(
            kind=CLUSTER,
            namespace=meta["namespace"],
            name=meta["name"],
            place=role,
            key="connectionLimit",
            before=managed.get("connectionLimit"),
            after=limit,
        )
    ]


def refusals(
    ctx: Context,
    cluster: SourceCluster,
    app: Application,
    objects: dict[str, dict[str, Any]],
    settings: list[Setting],
) -> list[str]:
    """Rights that are missing, who would put an object back, what the API server says of the change: all of it."""
    kinds = {item.kind for item in settings}
    missing = denied(ctx, POOL_RIGHTS, app.namespace) if DEPLOYMENT in kinds else []
    for kind in (CLUSTER, POOLER):
        if kind in kinds:
            missing += denied(ctx, (("patch", KINDS[kind], ""),), cluster.ref.namespace)
    faults = [f"missing right: {right} ({_GRANTED_BY})" for right in missing]
    for obj in objects.values():
        where = f"{obj['kind']} {obj['metadata']['namespace']}/{obj['metadata']['name']}"
        faults += [
            f"another controller would revert this change of {where}: {hand}; make it where that one reads, or stop its sync "
            "for the time of this run and of the change"
            for hand in reconcilers_on(ctx.kube, obj)
            if hand.acts and not hand.who.startswith("KEDA")  # that one sets the number of replicas alone
        ]
    if DEPLOYMENT in kinds:
        deployment = objects[DEPLOYMENT]
        faults += [f"Deployment {app.namespace}/{app.deployment}: {fault}" for fault in canary.faults(deployment)]
        faults += [
            f"Deployment {app.namespace}/{app.deployment} holds a secret itself ({name}): keep it in a Secret, as a run's record "
            "would hold it"
            for name in connection_env.literal_secrets(deployment)
        ]
    if faults:
        return faults
    for kind in kinds:
        mine, obj = [item for item in settings if item.kind == kind], objects[kind]
        try:
            ctx.kube.patch(
                KINDS[kind],
                obj["metadata"]["namespace"],
                obj["metadata"]["name"],
                changing.patch(obj, mine),
                dry_run=True,
            )
        except KubernetesError as error:
            faults.append(f"the API server refuses it: {error.what}")
    return faults


def noted(
    ctx: Context,
    database: str,
    settings: list[Setting],
    objects: dict[str, dict[str, Any]],
    *,
    undoes: str = "",
    fits: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> ConnectionChange:
    """The change as the run's record keeps it."""
    change = ConnectionChange(
        database=database,
        settings=tuple(settings),
        objects=tuple(ObjectSeen.of(obj) for obj in objects.values()),
        undoes=undoes,
        fits=fits,
        notes=notes,
    )
    ctx.recorder.note(Facts(connection_change=change.model_dump(mode="json", include={"settings", "fits", "undoes"})))
    return change


def differences(ctx: Context, change: ConnectionChange) -> list[str]:
    """What is not as it was when the change was read, in words; nothing where everything is."""
    found = []
    for seen in change.objects:
        where = f"{seen.kind} {seen.namespace}/{seen.name}"
        obj = ctx.kube.get(KINDS[seen.kind], seen.namespace, seen.name)
        if obj is None or obj["metadata"]["uid"] != seen.uid:
            found.append(f"{where} is gone" if obj is None else f"{where} is another object now")
            continue
        found += [
            f"{item.what} is {changing.shown(value)}, and was {item.old}"
            for item in change.settings
            if item.kind == seen.kind and (value := _value(obj, item)) != item.before
        ]
        if ObjectSeen.of(obj).digest != seen.digest and not any(where in line for line in found):
            found.append(f"{where} differs from what it was in a field that this run does not change")
    return found


def _value(obj: dict[str, Any], item: Setting) -> Any:
    try:
        return changing.current(obj, item)
    except KeyError:
        return None


def set_values(ctx: Context, change: ConnectionChange, kind: str) -> None:
    """Give an object its settings, by its version, after the old ones were promised to be put back. Safe to repeat.

    ConflictError if one of them is neither as it was read nor as it is to be.
    """
    mine = [item for item in change.settings if item.kind == kind]
    place = KINDS[kind], mine[0].namespace, mine[0].name
    for attempt in range(_TRIES):
        obj = ctx.kube.get(*place)
        others = [
            f"{item.what} is {changing.shown(value)}, neither {item.old} nor {item.new}"
            for item in mine
            if obj is not None and (value := changing.current(obj, item)) not in (item.before, item.after)
        ]
        if obj is None or others:
            raise ConflictError(
                "; ".join(others) or f"{kind} {place[1]}/{place[2]} is gone",
                todo="Somebody changed it since it was read: find out who, then open a new run.",
            )
        try:
            undo.change(ctx, *place, changing.patch(obj, mine), "has the settings that this run has tried")
            return
        except KubernetesError as error:
            if error.status != 409 or attempt == _TRIES - 1:  # its status was written in between: look again
                raise
            ctx.pause(_GLANCE)


def note_begin(ctx: Context, change: ConnectionChange, settings: tuple[Setting, ...]) -> None:
    """Note the settings in Drillbook's own database before the first of them is changed; safe to repeat."""
    with ctx.source(read_only=False) as own:
        own.run("ensure_connection_changes")
        for item in settings:
            own.run(
                "note_connection_change",
                run_id=ctx.run_id,
                undoes=change.undoes,
                database=change.database,
                **item.model_dump(include={"kind", "namespace", "name", "place", "key"}),
                before=json.dumps(item.before),
                after=json.dumps(item.after),
            )


@dataclass(frozen=True)
class FindConnectionChange(Step[ConnectionChange]):
    """Find what a run changed of this application's connections, by what it noted in Drillbook's own database, and reverse it.

    Each setting by itself: what else has changed in the object since stays. A setting that somebody has changed since is
    named, and nothing is touched. All faults at once.
    """

    cluster: SourceCluster
    database: str
    of_run: str

    def do(self, ctx: Context) -> ConnectionChange:
        _, app = application_of(ctx, self.database)
        rows = CONNECTION_CHANGES.rows(ctx, self.database, self.of_run)
        mine = [row for row in rows if row["done_at"] and not row["undone_by"] and (self.of_run or not row["undoes"])]
        if not mine:
            raise NotReady(
                [CONNECTION_CHANGES.nothing_left(ctx, self.database, self.of_run)], where=f"{self.cluster.ref}"
            )
        run_id = str(mine[0]["run_id"])
        settings = [_setting(row).reversed for row in mine if row["run_id"] == run_id]
        objects: dict[str, dict[str, Any]] = {}
        faults: list[str] = []
        left = [item for item in settings if self._is_left(ctx, item, objects, faults)]
        if not left and not faults:
            faults.append(f"everything is as it was before run {run_id}")
        faults += refusals(ctx, self.cluster, app, objects, left) if not faults else []
        if faults:
            raise NotReady(faults, where=f"the way back of run {run_id} on {self.database} of {self.cluster.ref}")
        ctx.recorder.note(Facts(undoes={"run": run_id, "database": self.database}))
        return noted(ctx, self.database, left, objects, undoes=run_id)

    def _is_left(self, ctx: Context, item: Setting, objects: dict[str, dict[str, Any]], faults: list[str]) -> bool:
        if item.kind not in objects:
            obj = ctx.kube.get(KINDS[item.kind], item.namespace, item.name)
            if obj is None:
                faults.append(f"{item.kind} {item.namespace}/{item.name} is gone")
                return False
            objects[item.kind] = obj
        try:
            value = changing.current(objects[item.kind], item)
        except KeyError:
            faults.append(f"{item.what}: {item.place} is gone")
            return False
        if value == item.after:
            return False
        if value != item.before:
            faults.append(
                f"{item.what} is {changing.shown(value)}, neither what the run set ({item.old}) nor what was there before "
                f"({item.new}): somebody has changed it since"
            )
            return False
        return True


def _setting(row: dict[str, Any]) -> Setting:
    keys = ("kind", "namespace", "name", "place", "key")
    return Setting(**{key: row[key] for key in keys}, before=json.loads(row["before"]), after=json.loads(row["after"]))


__all__ = [
    "KINDS",
    "POOL_RIGHTS",
    "CheckConnectionReadiness",
    "FindConnectionChange",
    "ReadConnectionChange",
    "application_of",
    "differences",
    "note_begin",
    "set_values",
]
