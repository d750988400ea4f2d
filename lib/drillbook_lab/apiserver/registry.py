"""The API server's verbs, after authentication and authorisation: validate, admit, store, tell.

Everything runs on one event loop and nothing here waits, so a read-modify-write between two
awaits can't be interleaved; a caller elsewhere relies on `resourceVersion`, as on a real server.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from drillbook_lab.apiserver import admission, celrules, collector, errors, patches, schema, strategies
from drillbook_lab.apiserver.errors import ApiError, Fault, Object
from drillbook_lab.apiserver.patches import copy
from drillbook_lab.apiserver.resources import BUILT_IN, Resource, from_crd
from drillbook_lab.apiserver.selectors import predicate
from drillbook_lab.apiserver.store import Store
from drillbook_lab.apiserver.watching import History, Watch

__all__ = ["ApiError", "Events", "Registry"]

# Named here, because inside the class `list` is the verb.
Objects = list[Object]
Texts = list[str]

# Set by the server alone; what a client sends for them is replaced.
_SERVER_OWNED = (
    "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink",
)  # fmt: skip


class Registry:
    """All kinds and all objects of one API server."""

    def __init__(self, *, history: int = 8192, watcher_limit: int = 4096) -> None:
        self._kinds: dict[str, Resource] = {resource.kind: resource for resource in BUILT_IN}
        self._store = Store(History(keep=history, watcher_limit=watcher_limit))
        self._collector = collector.Collector(self._store, self.delete)
        for name in ("default", "kube-system"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # -- kinds -------------------------------------------------------------------------------

    def register_crd(self, crd: Object) -> None:
        """Serve the kind that a CustomResourceDefinition declares, and store the definition."""
        name = crd["metadata"]["name"]
        if self._store.find("CustomResourceDefinition", "", name) is None:
            self.create(crd)

    def _establish(self, crd: Object) -> None:
        resource = from_crd(crd)
        known = self._kinds.get(resource.kind)
        if known is not None and known.group != resource.group:
            raise errors.bad_request(f"kind {resource.kind} is already served by group {known.group or 'core'}")
        assert resource.schema is not None  # noqa: S101  (from_crd always sets it)
        celrules.compile_all(resource.schema)
        self._kinds[resource.kind] = resource

    def resource(self, kind: str) -> Resource:
        """What is known of a kind; 404 for a kind that isn't served."""
        try:
            return self._kinds[kind]
        except KeyError:
            raise errors.no_such_resource() from None

    def resources(self) -> list[Resource]:
        """Every served kind."""
        return list(self._kinds.values())

    @property
    def version(self) -> int:
        """The newest resource version."""
        return self._store.history.version

    # -- reading -----------------------------------------------------------------------------

    def get(self, kind: str, namespace: str | None, name: str) -> Object:
        """A copy of one object; 404 if there is none."""
        found: Object = copy(self._stored(kind, namespace, name))
        return found

    def _stored(self, kind: str, namespace: str | None, name: str) -> Object:
        resource = self.resource(kind)
        obj = self._store.find(kind, (namespace or "") if resource.namespaced else "", name)
        if obj is None:
            raise errors.not_found(resource.plural, resource.group, name)
        return obj

    def peek(self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Objects:
        """Like `list`, without copies: for callers that only read, such as the server encoding a list."""
        resource = self.resource(kind)
        wanted = predicate(kind, labels, fields)
        space = namespace if resource.namespaced else None
        return [obj for obj in self._store.of_kind(kind, space or None) if wanted(obj)]

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Objects:
        """Copies of the objects that match, by namespace and name; all namespaces if none is given."""
        return [copy(obj) for obj in self.peek(kind, namespace, labels=labels, fields=fields)]

    def follow(
        self, kind: str, namespace: str | None = None, *, since: int | None = None, labels: str = "", fields: str = ""
    ) -> Watch:
        """The raw watch behind `watch`, from just after version `since` (now, if None)."""
        resource = self.resource(kind)
        wanted = predicate(kind, labels, fields)
        space = namespace if resource.namespaced and namespace else None
        return self._store.history.follow(kind, space, wanted, self.version if since is None else since)

    def watch(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
    ) -> Events:
        """Events as (ADDED | MODIFIED | DELETED, object). Following begins at the call, not at the first step.

        Without a version the objects that exist come first, as ADDED. 410 when the version is too old.
        """
        if resource_version in ("", "0"):
            present = self.list(kind, namespace, labels=labels, fields=fields)
            stream = self.follow(kind, namespace, labels=labels, fields=fields)
        else:
            present = []
            stream = self.follow(kind, namespace, since=int(resource_version), labels=labels, fields=fields)
        return Events(present, stream)

    def subscribe(self, callback: Callable[[str, Object], None]) -> None:
        """Be called with (event type, copy of the object) for every change of every kind, at once."""
        self._store.subscribe(callback)

    # -- writing -----------------------------------------------------------------------------

    def create(
        self, obj: Object, *, dry_run: bool = False, strict: bool = False, warnings: Texts | None = None
    ) -> Object:
        """Store a new object and return it as stored."""
        resource = self._resource_of(obj)
        new: Object = copy(obj)
        meta = new.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for part in (*_SERVER_OWNED, "managedFields", "resourceVersion"):
            meta.pop(part, None)
        self._place(resource, meta)
        if meta.get("generateName") and not meta.get("name"):
            meta["name"] = strategies.generated_name(meta["generateName"])
        space = meta.get("namespace") or ""
        if self._store.find(resource.kind, space, meta.get("name", "")) is not None:
            raise errors.already_exists(resource.plural, resource.group, meta["name"])
        if resource.has_status:
            new.pop("status", None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = strategies.now()
        if resource.has_generation:
            meta["generation"] = 1
        self._admit(resource, new, None, strict=strict, warnings=warnings)
        status = strategies.first_status(resource.kind)
        if status is not None and resource.has_status:
            new["status"] = status
        if resource.kind == "CustomResourceDefinition":
            self._establish(new)
            new["status"] = _established(new)
        if dry_run:
            return new
        stored = self._store.put(new)
        self._collector.added(stored)
        result: Object = copy(stored)
        return result

    def update(
        self,
        obj: Object,
        *,
        subresource: str = "",
        dry_run: bool = False,
        strict: bool = False,
        warnings: Texts | None = None,
    ) -> Object:
        """Replace an object, or only its status; 409 if the caller's version isn't the stored one."""
        resource = self._resource_of(obj)
        sent = obj.get("metadata") or {}
        old = self._stored(resource.kind, sent.get("namespace"), sent.get("name", ""))
        meta = old["metadata"]
        if sent.get("uid") and sent["uid"] != meta["uid"]:
            raise errors.conflict(
                resource.plural, resource.group, meta["name"],
                f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {meta['uid']}",
            )  # fmt: skip
        if sent.get("resourceVersion") and sent["resourceVersion"] != meta["resourceVersion"]:
            raise errors.conflict(resource.plural, resource.group, meta["name"])
        new = self._merged(resource, old, obj, subresource)
        self._admit(resource, new, old, strict=strict, warnings=warnings, subresource=subresource)
        if new == old:
            unchanged: Object = copy(old)
            return unchanged
        if resource.has_generation and _substance(new, resource) != _substance(old, resource):
            new["metadata"]["generation"] = meta.get("generation", 0) + 1
        if dry_run:
            return new
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            # Stored first, so that a watcher sees the last finalizer go before the object does.
            last: Object = copy(self._collector.remove(self._store.put(new)))
            return last
        stored = self._store.put(new)
        if resource.kind == "CustomResourceDefinition":
            self._establish(stored)
        self._collector.added(stored)
        result: Object = copy(stored)
        return result

    def patch(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        type: str = "merge",
        subresource: str = "",
        dry_run: bool = False,
        strict: bool = False,
        warnings: Texts | None = None,
    ) -> Object:
        """Change part of an object: `merge`, `json`, or `strategic` (built-in kinds only)."""
        resource = self.resource(kind)
        old = self._stored(kind, namespace, name)
        if type == "json":
            new = patches.json_patch(old, patch)
        elif not isinstance(patch, dict):
            raise errors.bad_request("the patch must be an object")
        elif type == "strategic":
            if resource.custom:
                raise errors.unsupported_media_type(
                    "the body of the request was in an unknown format - accepted media types include: "
                    "application/json-patch+json, application/merge-patch+json"
                )
            new = patches.strategic_merge(old, patch)
        else:
            new = patches.merge(old, patch)
        changed = new.get("metadata") or {}
        if changed.get("name") != name or changed.get("namespace") != old["metadata"].get("namespace"):
            raise errors.bad_request("the name and the namespace of the object can't be changed by a patch")
        return self.update(new, subresource=subresource, dry_run=dry_run, strict=strict, warnings=warnings)

    def delete(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
        dry_run: bool = False,
    ) -> Object:
        """Delete an object. What comes back is its last state; while finalizers hold it, it still exists.

        `propagation`: Background (dependents after the owner), Foreground (before it), Orphan.
        """
        resource = self.resource(kind)
        obj = self._stored(kind, namespace, name)
        meta = obj["metadata"]
        for what, asked, actual in (("UID", uid, meta["uid"]),
                                    ("ResourceVersion", resource_version, meta["resourceVersion"])):  # fmt: skip
            if asked and asked != actual:
                raise errors.conflict(
                    resource.plural, resource.group, name,
                    f"Precondition failed: {what} in precondition: {asked}, {what} in object meta: {actual}",
                )  # fmt: skip
        if dry_run:
            same: Object = copy(obj)
            return same
        last: Object = copy(self._collector.delete(obj, propagation))
        return last

    # -- the way in --------------------------------------------------------------------------

    def _resource_of(self, obj: Object) -> Resource:
        resource = self.resource(str(obj.get("kind", "")))
        if obj.get("apiVersion") != resource.api_version:
            raise errors.bad_request(
                f"no kind {resource.kind!r} is registered for version {obj.get('apiVersion')!r}; "
                f"it is served as {resource.api_version}"
            )
        return resource

    def _place(self, resource: Resource, meta: dict[str, Any]) -> None:
        """The namespace an object goes into must be there and stay there."""
        if not resource.namespaced:
            meta.pop("namespace", None)
            return
        name = meta.get("namespace")
        if not name:
            raise errors.bad_request("an empty namespace may not be set during creation")
        namespace = self._store.find("Namespace", "", name)
        if namespace is None:
            raise errors.not_found("namespaces", "", name)
        if namespace["metadata"].get("deletionTimestamp"):
            raise errors.forbidden(
                resource.plural, resource.group, meta.get("name", ""),
                f"unable to create new content in namespace {name} because it is being terminated",
            )  # fmt: skip

    def _merged(self, resource: Resource, old: Object, sent: Object, subresource: str) -> Object:
        """What a caller may change of the stored object, by the endpoint that was used."""
        new: Object
        if subresource == "status":
            new = copy(old)
            new.pop("status", None)
            if "status" in sent:
                new["status"] = copy(sent["status"])
            return new
        new = copy(sent)
        meta, before = new["metadata"], old["metadata"]
        for part in (*_SERVER_OWNED, "resourceVersion", "managedFields", "namespace", "generateName"):
            if part in before:
                meta[part] = copy(before[part])
            else:
                meta.pop(part, None)
        if resource.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = copy(old["status"])
        return new

    def _admit(
        self,
        resource: Resource,
        new: Object,
        old: Object | None,
        *,
        strict: bool,
        warnings: Texts | None,
        subresource: str = "",
    ) -> None:
        """Prune, default and validate an object in place, in the order of the real server."""
        name = new["metadata"].get("name", "")
        found = strategies.metadata_faults(resource.kind, new["metadata"])
        if old is not None and old["metadata"].get("deletionTimestamp"):
            added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
            if added:
                why = "Forbidden: no new finalizers can be added if the object is being deleted"
                found.append(Fault("metadata.finalizers", why, "FieldValueForbidden"))
        if resource.schema is not None:
            unknown = schema.prune(resource.schema, new)
            if unknown and strict:
                raise errors.unknown_fields(resource.kind, resource.version, unknown)
            if warnings is not None:
                warnings.extend(f'unknown field "{field}"' for field in unknown)
            schema.default(resource.schema, new)
        if not resource.custom:
            strategies.prepare(new)
        rules = admission.rules_for(resource.group, resource.kind) if not subresource else None
        if rules is not None:
            rules.default(new)
        if resource.schema is not None:
            broken = schema.faults(resource.schema, new)
            # A rule may assume what the schema promises, so rules are asked of well-typed objects only.
            found.extend(broken or celrules.faults(resource.schema, new, old))
        if not resource.custom:
            found.extend(strategies.built_in_faults(new, old))
        if found:
            raise errors.invalid(resource.kind, resource.group, name, found)
        if rules is not None and not admission.switched_off(new):
            denied = rules.faults(new, old)
            if denied:
                raise errors.invalid(resource.kind, resource.group, name, denied, webhook=rules.webhook)
            if warnings is not None:
                warnings.extend(rules.warnings(new))


def _substance(obj: Object, resource: Resource) -> Object:
    """What a generation counts: everything but metadata and, where it is apart, status."""
    left_out = {"metadata", "status"} if resource.has_status else {"metadata"}
    return {key: value for key, value in obj.items() if key not in left_out}


def _established(crd: Object) -> Object:
    at = strategies.now()
    return {
        "acceptedNames": copy(crd["spec"]["names"]),
        "storedVersions": [version["name"] for version in crd["spec"]["versions"] if version.get("storage", True)],
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found",
             "lastTransitionTime": at},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
             "message": "the initial names have been accepted", "lastTransitionTime": at},
        ],
    }  # fmt: skip


class Events(AsyncIterator[tuple[str, Object]]):
    """What `Registry.watch` gives: events with copies of the objects. Close it when done."""

    def __init__(self, present: Objects, stream: Watch) -> None:
        self._present = deque(present)
        self._stream = stream

    async def __anext__(self) -> tuple[str, Object]:
        if self._present:
            return "ADDED", self._present.popleft()
        type_, change = await anext(self._stream)
        return type_, copy(change.object)

    async def aclose(self) -> None:
        """Stop following."""
        self._stream.close()
