"""The API server's verbs, after authentication and authorisation: validate, admit, store, tell.

Everything runs on one event loop and nothing here waits, so a read-modify-write between two
awaits can't be interleaved; a caller elsewhere relies on `resourceVersion`, as on a real server.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from drillbook_lab.api import (
    admission,
    cel_rules,
    collector,
    errors,
    intake,
    limits,
    managed_fields,
    patches,
    quota,
    server_side_apply,
    strategies,
)
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.followed import Events
from drillbook_lab.api.patches import copy
from drillbook_lab.api.persistence import Journal
from drillbook_lab.api.resources import BUILT_IN, Resource, from_crd
from drillbook_lab.api.selectors import predicate
from drillbook_lab.api.store import Store, key_of
from drillbook_lab.api.watching import History, Watch

__all__ = ["ApiError", "Events", "Registry"]

# Named here, because inside the class `list` is the verb.
Objects = list[Object]
Texts = list[str]


class Registry:
    """All kinds and all objects of one API server."""

    def __init__(self, *, history: int = 8192, watcher_limit: int = 4096) -> None:
        self._kinds: dict[str, Resource] = {resource.kind: resource for resource in BUILT_IN}
        self._store = Store(History(keep=history, watcher_limit=watcher_limit))
        self._collector = collector.Collector(self._store, self.delete)
        self.operator_answers = True  # who is behind the registered webhooks
        for name in ("default", "kube-system"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def keep(self, journal: Journal) -> bool:
        """Go on from what a journal holds, and keep every change in it; whether it held anything."""
        shipped = self.list("CustomResourceDefinition")
        resumed = self._store.keep(journal)
        for crd in self.peek("CustomResourceDefinition"):
            self._establish(crd)
        for crd in shipped if resumed else ():
            crd["metadata"].pop("resourceVersion", None)
            self.register_crd(crd)
        return resumed

    def close(self) -> None:
        """Let the journal go."""
        self._store.close()

    # -- kinds -------------------------------------------------------------------------------

    def register_crd(self, crd: Object) -> None:
        """Serve the kind that a CustomResourceDefinition declares, and store the definition."""
        name = crd["metadata"]["name"]
        if self._store.find("CustomResourceDefinition", "", name) is None:
            self.create(crd)

    def _is_called(self, webhook: str) -> bool:
        """Whether a webhook is registered: its configuration is an object like others, and may be deleted."""
        kinds = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
        known = (hook for kind in kinds for found in self._store.of_kind(kind, None) for hook in found["webhooks"])
        registered = any(hook["name"] == webhook for hook in known)
        if registered and not self.operator_answers:
            raise admission.unreachable(webhook)
        return registered

    def _establish(self, crd: Object) -> None:
        resource = from_crd(crd)
        known = self._kinds.get(resource.kind)
        if known is not None and known.group != resource.group:
            raise errors.bad_request(f"kind {resource.kind} is already served by group {known.group or 'core'}")
        assert resource.schema is not None  # noqa: S101  (from_crd always sets it)
        cel_rules.compile_all(resource.schema)
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
        """A copy of one object; 404 if there isn't one."""
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

    def peek_at(self, kind: str, namespace: str | None, version: int, *, labels: str = "", fields: str = "") -> Objects:
        """The list as it was at a version; 410 when the history no longer reaches back that far."""
        present = self.peek(kind, namespace, labels=labels, fields=fields)
        if version == self.version:
            return present
        wanted = predicate(kind, labels, fields)
        space = namespace if self.resource(kind).namespaced else None
        then = {key_of(obj): obj for obj in self.peek(kind, namespace)}
        for change in self._store.history.since(version):
            if change.kind != kind or (space and change.namespace != space):
                continue
            then.pop(key_of(change.object), None)
            if change.before is not None:
                then[key_of(change.before)] = change.before
        return [obj for _, obj in sorted(then.items(), key=lambda item: item[0]) if wanted(obj)]

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
        self,
        obj: Object,
        *,
        dry_run: bool = False,
        strict: bool = False,
        warnings: Texts | None = None,
        manager: str = managed_fields.LAB,
    ) -> Object:
        """Store a new object and return it as stored. `manager`: whom its fields belong to."""
        return self._create(copy(obj), [], dry_run=dry_run, strict=strict, warnings=warnings, manager=manager)

    def _create(
        self, new: Object, managed: Objects, *, dry_run: bool, strict: bool, warnings: Texts | None, manager: str
    ) -> Object:
        resource = self._resource_of(new)
        meta = new.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for part in (*intake.SERVER_OWNED, "managedFields", "resourceVersion"):
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
        limits.default(self._store, resource, new)
        intake.admit(resource, new, None, strict=strict, warnings=warnings, is_called=self._is_called)
        limits.check(self._store, resource, new)
        quota.check(self._store, resource, new)
        status = strategies.first_status(resource.kind)
        if status is not None and resource.has_status:
            new["status"] = status
        if resource.kind == "CustomResourceDefinition":
            self._establish(new)
            new["status"] = intake.established(new)
        if managed:
            meta["managedFields"] = managed
        else:
            managed_fields.track(resource, None, new, manager)
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
        manager: str = managed_fields.LAB,
    ) -> Object:
        """Replace an object, or only its status; 409 if the caller's version isn't the stored one.

        `manager`: whom the changed fields belong to from now on; empty if the object says so itself.
        """
        resource = self._resource_of(obj)
        sent = obj.get("metadata") or {}
        old = self._stored(resource.kind, sent.get("namespace"), sent.get("name", ""))
        meta = old["metadata"]
        if sent.get("uid") and sent["uid"] != meta["uid"]:
            raise errors.conflict(
                resource.plural,
                resource.group,
                meta["name"],
                f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {meta['uid']}",
            )
        if sent.get("resourceVersion") and sent["resourceVersion"] != meta["resourceVersion"]:
            raise errors.conflict(resource.plural, resource.group, meta["name"])
        new = intake.merged(resource, old, obj, subresource)
        if not manager and "managedFields" in sent:
            new["metadata"]["managedFields"] = sent["managedFields"]
        intake.admit(
            resource, new, old, strict=strict, warnings=warnings, subresource=subresource, is_called=self._is_called
        )
        if not subresource:
            quota.check(self._store, resource, new, old)
        if new == old:
            unchanged: Object = copy(old)
            return unchanged
        if manager:
            managed_fields.track(resource, old, new, manager, subresource)
        if resource.has_generation and intake.substance(new, resource) != intake.substance(old, resource):
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
        manager: str = managed_fields.LAB,
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
        errors.check_place(new.get("metadata") or {}, name, old["metadata"].get("namespace"))
        return self.update(
            new, subresource=subresource, dry_run=dry_run, strict=strict, warnings=warnings, manager=manager
        )

    def apply(
        self,
        config: Object,
        *,
        manager: str,
        force: bool = False,
        subresource: str = "",
        dry_run: bool = False,
        strict: bool = False,
        warnings: Texts | None = None,
    ) -> tuple[Object, bool]:
        """Server-side apply: the object as it is now, and whether it is new. 409 where fields are somebody else's."""
        resource = self._resource_of(config)
        meta = config.get("metadata") or {}
        space = (meta.get("namespace") or "") if resource.namespaced else ""
        intake.demand_declared(resource, config, strict=strict)
        live = self._store.find(resource.kind, space, meta.get("name", ""))
        if live is None and (subresource or meta.get("uid")):
            raise errors.not_found(resource.plural, resource.group, meta.get("name", ""))
        new = server_side_apply.applied(resource, live, config, manager, force=force, subresource=subresource)
        if live is None:
            managed = new["metadata"].get("managedFields") or []
            return self._create(new, managed, dry_run=dry_run, strict=strict, warnings=warnings, manager=manager), True
        return self.update(
            new, subresource=subresource, dry_run=dry_run, strict=strict, warnings=warnings, manager=""
        ), False

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
        for what, asked, actual in (
            ("UID", uid, meta["uid"]),
            ("ResourceVersion", resource_version, meta["resourceVersion"]),
        ):
            if asked and asked != actual:
                raise errors.conflict(
                    resource.plural,
                    resource.group,
                    name,
                    f"Precondition failed: {what} in precondition: {asked}, {what} in object meta: {actual}",
                )
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
                resource.plural,
                resource.group,
                meta.get("name", ""),
                f"unable to create new content in namespace {name} because it is being terminated",
            )
