"""A change of an application's pools or of the limits behind them: which setting, from what to what, and whether it fits. Pure.

A setting is one variable of a container, one role's limit in a Cluster, or one parameter of a Pooler. Each remembers what
was there before it: so the way back sets these alone, whatever else has changed in the object since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from drillbook.connections import discovery
from drillbook.connections.limits import Moment, judge, room
from drillbook.connections.path import UNLIMITED, Path, PgBouncer, Server
from drillbook.model import Frozen

Object = Mapping[str, Any]

DEPLOYMENT, CLUSTER, POOLER = "Deployment", "Cluster", "Pooler"
_PLANNED = (Moment.STEADY, Moment.ROLLOUT, Moment.AUTOSCALED)
_GIVEN = re.compile(r"[^\s,=]+=[^\s,]*")
_MOST_TEXT = 60
_REVISION = "deployment.kubernetes.io/revision"


class Setting(Frozen):
    """One value of an object. ``place`` is the container or the role that it belongs to, "" for a Pooler's parameter.

    ``before`` and ``after`` are as the object holds them: of a container the whole entry of ``env``, as it may refer to a
    ConfigMap. None: it is not there, and what it comes from otherwise holds.
    """

    kind: str
    namespace: str
    name: str
    key: str
    place: str = ""
    before: Any = None
    after: Any = None

    @property
    def where(self) -> str:
        """The object, and the part of it."""
        inside = {DEPLOYMENT: f", container {self.place}", CLUSTER: f", role {self.place}"}.get(self.kind, "")
        return f"{self.kind} {self.namespace}/{self.name}{inside}"

    @property
    def old(self) -> str:
        """What was there, as a card shows it."""
        return shown(self.before)

    @property
    def new(self) -> str:
        """What is wanted, as a card shows it."""
        return shown(self.after)

    @property
    def what(self) -> str:
        """The setting in words, without its value."""
        return f"{self.key} of {self.where}"

    @property
    def words(self) -> str:
        """The setting with both values, as a card shows it."""
        return f"{self.key} {self.old} → {self.new} ({self.where})"

    @property
    def reversed(self) -> Setting:
        """The way back."""
        return self.model_copy(update={"before": self.after, "after": self.before})


def shown(value: Any) -> str:
    """A setting's value in a few words."""
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        text = value.get("value") if "value" in value else json.dumps(value.get("valueFrom"), sort_keys=True)
        return str(text)[:_MOST_TEXT]
    return str(value)[:_MOST_TEXT]


def given(text: str, what: str, faults: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` pairs, by space or comma; one that is no pair, or is given twice, is a fault."""
    found: dict[str, str] = {}
    for word in re.split(r"[\s,]+", text.strip()):
        if not word:
            continue
        if not _GIVEN.fullmatch(word):
            faults.append(f"{what}: {word!r} is no NAME=VALUE")
            continue
        name, _, value = word.partition("=")
        if name in found:
            faults.append(f"{what}: {name} is given twice")
        found[name] = value
    return found


def current(obj: Object, setting: Setting) -> Any:
    """What the object has in the setting's place now; None if nothing. KeyError where the place itself is gone."""
    if setting.kind == DEPLOYMENT:
        container = _named(obj["spec"]["template"]["spec"]["containers"], setting.place)
        return next((entry for entry in container.get("env") or () if entry["name"] == setting.key), None)
    if setting.kind == CLUSTER:
        role = _named((obj["spec"].get("managed") or {}).get("roles") or (), setting.place)
        return role.get(setting.key)
    return ((obj["spec"].get("pgbouncer") or {}).get("parameters") or {}).get(setting.key)


def patch(obj: Object, settings: Sequence[Setting]) -> dict[str, Any]:
    """A merge patch that gives one object its settings: lists are whole in it, as merge patches want them."""
    kinds = {setting.kind for setting in settings}
    if kinds == {DEPLOYMENT}:
        containers = [_with_env(one, settings) for one in obj["spec"]["template"]["spec"]["containers"]]
        return {"spec": {"template": {"spec": {"containers": containers}}}}
    if kinds == {CLUSTER}:
        roles = [_with_limit(role, settings) for role in (obj["spec"].get("managed") or {}).get("roles") or ()]
        return {"spec": {"managed": {"roles": roles}}}
    return {"spec": {"pgbouncer": {"parameters": {setting.key: setting.after for setting in settings}}}}


def _named(items: Sequence[Any], name: str) -> dict[str, Any]:
    found = next((dict(item) for item in items if item["name"] == name), None)
    if found is None:
        raise KeyError(name)
    return found


def _with_env(container: Object, settings: Sequence[Setting]) -> dict[str, Any]:
    mine = {setting.key: setting.after for setting in settings if setting.place == container["name"]}
    if not mine:
        return dict(container)
    env: list[Any] = []
    for entry in container.get("env") or ():
        if entry["name"] not in mine:
            env.append(entry)
        elif (wanted := mine.pop(entry["name"])) is not None:
            env.append(wanted)
    return {**container, "env": [*env, *(entry for entry in mine.values() if entry is not None)]}


def _with_limit(role: Object, settings: Sequence[Setting]) -> dict[str, Any]:
    found = dict(role)
    for setting in settings:
        if setting.place == role["name"]:
            found[setting.key] = setting.after
    return {key: value for key, value in found.items() if value is not None}


class ObjectSeen(Frozen):
    """An object as it was before anything was changed: its UID, and a digest of what people and controllers declare in it."""

    kind: str
    namespace: str
    name: str
    uid: str
    digest: str

    @classmethod
    def of(cls, obj: Object) -> ObjectSeen:
        """The status is left out, and what the API server and the Deployment controller count."""
        meta = obj["metadata"]
        notes = {key: value for key, value in (meta.get("annotations") or {}).items() if key != _REVISION}
        declared = {"spec": obj["spec"], "labels": meta.get("labels") or {}, "annotations": notes}
        text = json.dumps(declared, sort_keys=True, separators=(",", ":"))
        return cls(
            kind=obj["kind"],
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            digest=hashlib.sha256(text.encode()).hexdigest(),
        )


class ConnectionChange(Frozen):
    """What is changed. ``database`` is the tenant's; ``undoes`` is the run that this goes back from, "" for none.

    ``objects`` are those that it touches, as they were. ``fits`` is what the model says of it, ``notes`` what else is worth knowing, both in words.
    """

    database: str
    settings: tuple[Setting, ...] = ()
    objects: tuple[ObjectSeen, ...] = ()
    undoes: str = ""
    notes: tuple[str, ...] = ()
    fits: tuple[str, ...] = ()

    @property
    def of_pools(self) -> tuple[Setting, ...]:
        """What changes in the application's Deployment: option A."""
        return tuple(item for item in self.settings if item.kind == DEPLOYMENT)

    @property
    def of_limits(self) -> tuple[Setting, ...]:
        """What changes behind it, in the Cluster and the Pooler: option B."""
        return tuple(item for item in self.settings if item.kind != DEPLOYMENT)

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        found = [("setting", item.words) for item in self.settings]
        return found + [("by the model", line) for line in self.fits] + [("note", note) for note in self.notes]


def misfits(now: Path, steps: Sequence[Path], *, canary: bool) -> tuple[list[str], list[str]]:
    """Where the path, changed step by step, serves fewer connections than are wanted; and how it fits, both in words.

    ``steps`` are the path after each part of the change, the last as it is to stay: that one must serve whatever happens
    by itself. On the way nothing may be worse than it is today: a path that is too narrow already could else never be
    changed. With a ``canary`` one pod more has its pool for a while, and a rolling update then mixes old and new pods.
    """
    faults, told = [], []
    last = steps[-1]
    largest = max(last.pods.replicas, last.pods.most_replicas)
    for judged in (item for item in judge(last) if item.moment in _PLANNED):
        words = f"{judged.moment}: {judged.demand} wanted, {'all' if judged.served is None else judged.served} served"
        if judged.breaks:
            faults.append(f"{words}; {judged.limit} binds: {judged.outcome}")
        elif judged.starves:
            words += f", {judged.unluckily} if a Service spreads them unluckily over PgBouncer's instances"
        told.append(words)
    today = now.pods.rolling(largest) - (room(now).evenly or now.pods.rolling(largest))
    for path in steps[:-1]:
        served, wanted = room(path).evenly, path.pods.rolling(largest)
        if served is not None and wanted - served > max(0, today):
            faults.append(f"in between, before the application is changed: {wanted} wanted, {served} served")
    if canary:
        served, ordinary = room(last).evenly, now.pods.rolling(largest)
        surge = now.pods.surge_of(largest)
        sizes = now.pods.connections(1), last.pods.connections(1)
        mixed = largest * max(sizes) + surge * (min(sizes) + last.pods.startup_pool)
        alone = now.pods.connections(largest) + sizes[1] + last.pods.startup_pool
        for what, wanted in (("the canary alongside the others", alone), ("old and new pods at once", mixed)):
            words = f"{what}: {wanted} wanted, {'all' if served is None else served} served"
            if served is not None and wanted > served:
                words += f"; an ordinary rolling update wants {ordinary} today"
                if wanted > ordinary:
                    faults.append(words)
            told.append(words)
    return faults, told


def resized(path: Path, pooler: Object | None, settings: Sequence[Setting], *, pool: str, timeout: str) -> Path:
    """The path with these settings. ``pool`` and ``timeout`` are the variables of a pool's size and of its time limit.

    ``pooler`` is the Pooler on the path, as it is.
    """
    found = path
    values = {item.key: str((item.after or {}).get("value", "")) for item in settings if item.kind == DEPLOYMENT}
    pods = path.pods
    if values.get(pool, "").isdecimal():
        pods = pods.model_copy(update={"pool": int(values[pool])})
    if values.get(timeout, "").isdecimal():
        pods = pods.model_copy(update={"acquire_seconds": int(values[timeout]) / 1000})
    found = found.model_copy(update={"pods": pods})
    for item in settings:
        if item.kind == CLUSTER and item.after is not None:
            limits = {**found.server.role_limits, item.place: int(item.after)}
            limits = {role: limit for role, limit in limits.items() if limit >= 0}
            found = found.model_copy(update={"server": found.server.model_copy(update={"role_limits": limits})})
    if pooler is not None and found.pgbouncer is not None and any(item.kind == POOLER for item in settings):
        keep = {"version": found.pgbouncer.version, "clients": found.pgbouncer.clients}
        found = found.model_copy(update={"pgbouncer": sized(pooler, settings).model_copy(update=keep)})
    return found


def sized(pooler: Object, settings: Sequence[Setting]) -> PgBouncer:
    """The Pooler's sizes with these settings."""
    inside = dict(pooler["spec"].get("pgbouncer") or {})
    new = {item.key: item.after for item in settings if item.kind == POOLER}
    parameters = {**(inside.get("parameters") or {}), **new}
    inside["parameters"] = {key: value for key, value in parameters.items() if value is not None}
    return discovery.pgbouncer({**pooler, "spec": {**pooler["spec"], "pgbouncer": inside}})


def starved(pooler: PgBouncer, server: Server, role: str, database: str) -> str:
    """Why the Pooler's instances together, one more in its own rolling update, find no room behind them; "" if they do."""
    most = (pooler.instances + pooler.surge) * pooler.most_of_a_pair
    rooms = [("max_connections", server.slots - server.taken)]
    if (limit := server.role_limits.get(role, UNLIMITED)) != UNLIMITED:
        rooms.append(("the role's limit", limit - server.of_role(role)))
    if (limit := server.database_limits.get(database, UNLIMITED)) != UNLIMITED:
        rooms.append(("the database's limit", limit - server.in_database(database)))
    what, room = min(rooms, key=lambda item: item[1])
    if most <= room:
        return ""
    return (
        f"Pooler {pooler.name}: {pooler.instances} instances, {pooler.surge} more in its own rolling update, each with up to "
        f"{pooler.most_of_a_pair} connections, are {most}; {what} leaves {room}: the last instance starves"
    )


__all__ = [
    "CLUSTER",
    "DEPLOYMENT",
    "POOLER",
    "ConnectionChange",
    "ObjectSeen",
    "Setting",
    "current",
    "given",
    "misfits",
    "patch",
    "resized",
    "shown",
    "sized",
    "starved",
]
