"""Changing an object so that the old value is known before, and putting it back: without any code of the procedure.

The promise holds the old value and the new one as JSON merge patches. It is put back only on the very object (by UID)
and only while the value is still the one that the run set: what another controller has changed since is not ours to
undo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drillbook import kube as k8s
from drillbook.engine.step import Context, Obligation
from drillbook.errors import Changed, ConflictError, KubernetesError, PreconditionError
from drillbook.postgres.client import by_parameters_only

Object = Mapping[str, Any]
SYNCED = "Synced"
CLOSED = "Connections"
"""The kind of the promise to let everybody into a database again."""


def restoration(obj: Object, patch: Object, what: str, *, verb: str = "patch") -> Obligation:
    """The promise to put back, in ``obj`` as it is now, what ``patch`` is going to change.

    ``verb`` is ``patch``, or ``scale`` where the change goes through the scale subresource.
    """
    metadata = obj["metadata"]
    place = {"kind": obj["kind"], "namespace": metadata.get("namespace", ""), "name": metadata["name"]}
    undo = {"verb": verb, **place, "uid": metadata["uid"], "patch": _old(obj, patch), "set": dict(patch)}
    return Obligation(place["kind"], place["namespace"], place["name"], what, undo=undo)


def change(
    ctx: Context, kind: k8s.Kind, namespace: str, name: str, patch: Object, what: str, *, verb: str = "patch"
) -> Obligation | None:
    """Promise to put the old value back, then merge ``patch`` into the object; the promise, None if nothing differs.

    Done again after a kill it keeps the first promise, which knows the value from before the change. Raises
    PreconditionError if the object isn't there, LeaseLost before anything is changed.
    """
    obj = ctx.kube.get(kind, namespace, name)
    if obj is None:
        raise PreconditionError(f"{kind.where(namespace, name)} does not exist", todo="Check the profile.")
    promise = restoration(obj, patch, what, verb=verb)
    kept = next((item for item in ctx.recorder.promises() if item.id == promise.id), None)
    if matches(obj, patch):
        return kept
    ctx.require_lease()
    if kept is None:
        ctx.recorder.obligation(promise)
    _apply(ctx.kube, kind, obj, patch, verb)
    return kept or promise


def restore(ctx: Context, promise: Obligation) -> tuple[str, str]:
    """Put back what was promised and note it as settled; returns how, and the proof. Safe to repeat."""
    ctx.require_lease()
    how, proof = put_back(ctx.kube, promise.undo or {})
    ctx.recorder.settled(promise, how, proof)
    return how, proof


def put_back(kube: k8s.Kube, undo: Object) -> tuple[str, str]:
    """Undo what a promise tells of; returns how, and what was read back. Safe to repeat.

    Raises Overtaken if the value is neither the one that was set nor the old one.
    """
    if undo["verb"] == "sql":
        return _run_sql(kube, undo)
    if undo["verb"] == "recreate":
        return _recreate(kube, undo)
    kind = _kind(str(undo["kind"]))
    namespace, name, uid = str(undo.get("namespace", "")), str(undo["name"]), str(undo.get("uid", ""))
    where = kind.where(namespace, name)
    for _ in range(5):
        obj = kube.get(kind, namespace, name)
        if obj is None:
            return "nothing to put back", f"{where} is gone"
        if uid and obj["metadata"]["uid"] != uid:
            return "nothing to put back", f"{where} is another object now (UID {obj['metadata']['uid']})"
        if undo["verb"] == "delete":
            return _delete(kube, kind, obj)
        if matches(obj, undo["patch"]):
            return "put back", f"{where} is as it was: {_says(undo['patch'])}"
        if undo.get("set") and not matches(obj, undo["set"]):
            raise ConflictError(
                f"{where} is neither as it was ({_says(undo['patch'])}) nor as this run set it ({_says(undo['set'])})",
                changed=Changed.DONE,
                todo="Somebody else has changed it since: look at it, and put it as it should be by hand.",
            )
        try:
            _apply(kube, kind, obj, undo["patch"], str(undo["verb"]))
        except KubernetesError as error:
            if error.status != 409:  # changed in the meantime: look again
                raise
    raise ConflictError(f"{where} is being changed all the time", changed=Changed.DONE, todo="Look who does it.")


def before(ctx: Context, obj: Object) -> dict[str, Any]:
    """The object as it was before this run, with every value that the run has promised to put back of it.

    What is made in the likeness of an object that is held, paused or suspended for the time of a cut must not inherit
    that.
    """
    metadata, was = obj["metadata"], dict(obj)
    place = (obj["kind"], metadata.get("namespace", ""), metadata["name"])
    for promise in reversed(ctx.recorder.promises()):
        undo = promise.undo or {}
        of_it = (promise.kind, promise.namespace, promise.name) == place and undo.get("uid") == metadata["uid"]
        if of_it and undo.get("verb") in ("patch", "scale"):
            was = merged(was, undo["patch"])
    return was


def merged(obj: Any, patch: Any) -> Any:
    """``obj`` with a merge patch applied (RFC 7396): None takes a field away."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(obj) if isinstance(obj, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def synced(kube: k8s.Kube, namespace: str, name: str) -> str:
    """What Argo CD says of its Application: whether what is declared is what is there; "" if it says nothing."""
    found = kube.get(k8s.APPLICATION, namespace, name) or {}
    return str(((found.get("status") or {}).get("sync") or {}).get("status", ""))


def require_agreed(kube: k8s.Kube, undo: Object, replaced: str) -> None:
    """Raise Overtaken if putting this back would let Argo CD undo a cut: something else is in the place of what it declares."""
    if not replaced or undo["kind"] != k8s.APPLICATION.kind:
        return
    if (status := synced(kube, str(undo["namespace"]), str(undo["name"]))) != SYNCED:
        raise ConflictError(
            f"it stays paused, for {replaced}, and Git declares what was before ({status or 'no status'})",
            changed=Changed.DONE,
            todo="Change Git by the run's logs/git.patch.yaml, then let it sync by itself again.",
        )


def matches(obj: Any, wanted: Any) -> bool:
    """Whether ``obj`` has every value of a merge patch: None is absent; of an object only the fields named count."""
    if isinstance(wanted, Mapping):
        here = obj if isinstance(obj, Mapping) else {}
        return all(matches(here.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(obj, list) and len(obj) == len(wanted) and all(map(matches, obj, wanted))
    return bool(obj == wanted)


def _old(obj: Any, patch: Object) -> dict[str, Any]:
    here = obj if isinstance(obj, Mapping) else {}
    return {
        key: _old(here.get(key), value) if isinstance(value, Mapping) and value else here.get(key)
        for key, value in patch.items()
    }


def _apply(kube: k8s.Kube, kind: k8s.Kind, obj: Object, patch: Object, verb: str) -> None:
    metadata = obj["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    if verb == "scale":
        kube.patch(kind, namespace, name, dict(patch), subresource="scale")
        return
    # The version makes it a swap: it fails if anybody has written since it was read.
    swap = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    kube.patch(kind, namespace, name, dict(patch) | {"metadata": {**(patch.get("metadata") or {}), **swap}})


def _delete(kube: k8s.Kube, kind: k8s.Kind, obj: Object) -> tuple[str, str]:
    metadata = obj["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    kube.delete(kind, namespace, name, uid=metadata["uid"])
    kube.wait(
        kind,
        namespace,
        name,
        lambda found: found is None or found["metadata"]["uid"] != metadata["uid"],
        timeout_seconds=120.0,
        what=f"{kind.where(namespace, name)} to be gone",
    )
    return "removed", f"{kind.where(namespace, name)} is gone"


def _recreate(kube: k8s.Kube, undo: Object) -> tuple[str, str]:
    """Make the object again as it was, in place of the one of its name: what is immutable in it can't be patched."""
    kind, wanted = _kind(str(undo["kind"])), dict(undo["object"])
    namespace, name = str(undo["namespace"]), str(undo["name"])
    where = kind.where(namespace, name)
    found = kube.get(kind, namespace, name)
    if found is not None and matches(found, {"spec": wanted["spec"]}):
        return "put back", f"{where} is as it was"
    if found is not None:
        uid = found["metadata"]["uid"]
        kube.delete(kind, namespace, name, uid=uid, propagation="Foreground")  # what it owns has its name
        kube.wait(
            kind,
            namespace,
            name,
            lambda item: item is None or item["metadata"]["uid"] != uid,
            timeout_seconds=120.0,
            what=f"{where} to be gone",
        )
    kube.create(wanted)
    return "put back", f"{where} was recreated as it was"


def _run_sql(kube: k8s.Kube, undo: Object) -> tuple[str, str]:
    """Run the promised statement as superuser in the Cluster's current primary; what it sets must be safe to set twice.

    In ``database``, by default postgres. One that ends in ``\\gexec`` is left to psql.
    """
    namespace, name = str(undo["namespace"]), str(undo["name"])
    cluster = kube.get(k8s.CLUSTER, namespace, name)
    if cluster is None:
        return "nothing to put back", f"Cluster {namespace}/{name} is gone"
    pod = str(cluster.get("status", {}).get("currentPrimary", ""))
    words = ["psql", "-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-f", "-"]
    argv = by_parameters_only([*words, "-d", str(undo.get("database", "postgres"))])
    end = "" if str(undo["sql"]).endswith("\\gexec") else ";"
    done = kube.exec(
        namespace,
        pod,
        "postgres",
        argv,
        stdin=f"set client_encoding to 'UTF8';\n{undo['sql']}{end}\n".encode(),
        timeout_seconds=120.0,
        repeatable=True,
    )
    if done.exit_code:
        first = next(
            (line for line in done.error_text.splitlines() if "ERROR" in line), "it ended with no error output"
        )
        raise ConflictError(
            f"{undo['sql']} in pod {pod}: {first[:200]}",
            changed=Changed.UNKNOWN,
            todo="Run the statement by hand as superuser, if the database is still to be as it was.",
        )
    said = done.text.strip() if undo.get("tells") else ""
    return "put back", said or f"{undo['sql']} in pod {pod}"


def _kind(name: str) -> k8s.Kind:
    found = next((kind for kind in k8s.KINDS if kind.kind == name), None)
    if found is None:
        raise LookupError(f"no runbook deals with {name}; add it to drillbook.kube.kinds")
    return found


def _says(patch: Object, path: str = "") -> str:
    told = []
    for key, value in patch.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            told.append(_says(value, inner))
        else:
            told.append(f"no {inner}" if value is None else f"{inner}={value}")
    return ", ".join(told)
