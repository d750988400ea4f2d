"""Server-side apply: an applied configuration laid over the live object, field by field and owner by owner."""

from __future__ import annotations

import json

from drillbook_lab.api import errors, field_sets, managed_fields
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.field_sets import Fields
from drillbook_lab.api.managed_fields import Managed, Manager, Owned
from drillbook_lab.api.patches import copy
from drillbook_lab.api.resources import Resource

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def demand_options(manager: str, *, force: bool, applies: bool) -> None:
    """Apply needs a manager's name; only apply may force."""
    found: list[Fault] = []
    if applies and not manager:
        found.append(Fault("fieldManager", "Required value: is required for apply patch", "FieldValueRequired"))
    if force and not applies:
        why = "Forbidden: may not be specified for non-apply patch"
        found.append(Fault("force", why, "FieldValueForbidden"))
    if len(manager) > 128:
        found.append(Fault("fieldManager", "Too long: may not be more than 128 bytes", "FieldValueTooLong"))
    if found:
        raise errors.invalid("PatchOptions", "meta.k8s.io", "", found)


def applied(
    resource: Resource, live: Object | None, config: Object, manager: str, *, force: bool, subresource: str = ""
) -> Object:
    """The object that an apply makes of the live one; 409 where it would take a field from somebody else."""
    config = _configured(resource, config, subresource)
    me = Manager(manager, "Apply", subresource)
    named = field_sets.fields_of(config, resource.schema)
    if live is None:
        config["metadata"].pop("managedFields", None)
        managed_fields.write(config["metadata"], {me: Owned(named, resource.api_version)})
        return config
    managed = managed_fields.read(live["metadata"])
    before = managed.get(me)
    result: Object = field_sets.combined(live, config, resource.schema)
    result["metadata"] = {**field_sets.combined(live["metadata"], config["metadata"], None)}
    if before is not None:
        result = _pruned(resource, result, field_sets.minus(before.fields, named), _others(managed, me, named))
    touched, removed = field_sets.compare(live, result, resource.schema)
    if not force:
        allowed = _left_by_client_side_apply(resource, live) if manager == "kubectl" else {}
        found = managed_fields.conflicts(managed, field_sets.minus(touched, allowed), me)
        if found:
            raise managed_fields.refusal(found)
    managed = managed_fields.lose(managed_fields.lose(managed, touched, but=me), removed, but=me)
    if touched or removed or before is None or before.fields != named:
        managed[me] = managed_fields.written(resource, before, named)
    managed_fields.write(result["metadata"], managed)
    _annotate(live, result, config, manager)
    return copy_but_record(result)


def copy_but_record(obj: Object) -> Object:
    """A deep copy, but for the record of managers, which nobody writes to."""
    result: Object = {key: copy(value) for key, value in obj.items() if key != "metadata"}
    result["metadata"] = {
        key: value if key == "managedFields" else copy(value) for key, value in obj["metadata"].items()
    }
    return result


def _configured(resource: Resource, config: Object, subresource: str) -> Object:
    """The part of a configuration that the endpoint takes."""
    if (config.get("metadata") or {}).get("managedFields"):
        raise errors.bad_request("metadata.managedFields must be nil")
    result: Object = copy(config)
    result.setdefault("metadata", {})
    if subresource == "status":
        return {key: value for key, value in result.items() if key in ("apiVersion", "kind", "status")} | {
            "metadata": {key: result["metadata"][key] for key in ("name", "namespace") if key in result["metadata"]}
        }
    if resource.has_status:
        result.pop("status", None)
    return result


def _others(managed: Managed, me: Manager, named: Fields) -> Fields:
    owned = named
    for manager, theirs in managed.items():
        if manager != me:
            owned = field_sets.union(owned, theirs.fields)
    return owned


def _pruned(resource: Resource, obj: Object, gone: Fields, owned: Fields) -> Object:
    """Without the fields that this manager has applied before and now leaves out, if nobody else owns them."""
    gone = field_sets.minus(gone, owned)
    if not gone:
        return obj
    result = dict(obj)
    for key, fields in gone.items():
        name = key[2:]
        if name not in result:
            continue
        shape = None if name == "metadata" else _shape(resource, name)
        value, stays = field_sets.without(result[name], fields, owned.get(key, {}), shape, name)
        if stays or name == "metadata":
            result[name] = value
        else:
            del result[name]
    return result


def _shape(resource: Resource, name: str) -> Fields | None:
    if resource.schema is None:
        return None
    shape: Fields = (resource.schema.get("properties") or {}).get(name) or {}
    return shape


def _left_by_client_side_apply(resource: Resource, live: Object) -> Fields:
    """What kubectl applied before it applied on the server's side, and nobody has changed since: kubectl may go on."""
    text = (live["metadata"].get("annotations") or {}).get(_LAST_APPLIED, "")
    try:
        last = json.loads(text) if text else None
    except ValueError:
        last = None
    if not isinstance(last, dict) or not isinstance(last.get("metadata"), dict):
        return {}
    touched, removed = field_sets.compare(last, live, resource.schema)
    named = field_sets.fields_of(last, resource.schema)
    return field_sets.minus(field_sets.minus(named, touched), removed)


def _annotate(live: Object, result: Object, config: Object, manager: str) -> None:
    """kubectl's own record for client-side apply is kept true once it is there, as upstream does."""
    annotations = live["metadata"].get("annotations") or {}
    if manager != "kubectl" or _LAST_APPLIED not in annotations:
        return
    text = json.dumps(config, separators=(",", ":"), sort_keys=True) + "\n"
    if len(text) < 200_000 and json.loads(annotations[_LAST_APPLIED]) != config:
        meta = result["metadata"]
        meta["annotations"] = {**(meta.get("annotations") or {}), _LAST_APPLIED: text}
