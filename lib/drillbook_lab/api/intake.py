"""On the way in: what a caller may change, and whether the result is an object that may be stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drillbook_lab.api import admission, cel_rules, decoding, errors, schema, strategies
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.resources import Resource

# Set by the server alone; what a client sends for them is replaced.
SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


def merged(resource: Resource, old: Object, sent: Object, subresource: str) -> Object:
    """What a caller may change of the stored object, by the endpoint that was used."""
    new: Object
    if subresource == "status":
        new = {key: copy(value) for key, value in old.items() if key not in ("metadata", "status")}
        new["metadata"] = _shared(old["metadata"])
        if "status" in sent:
            new["status"] = copy(sent["status"])
        return new
    new = copy(sent)
    meta, before = new["metadata"], old["metadata"]
    for part in (*SERVER_OWNED, "resourceVersion", "namespace", "generateName"):
        if part in before:
            meta[part] = copy(before[part])
        else:
            meta.pop(part, None)
    # Nobody's record of managers is lost for leaving it out; and what is equal is shared, since it is never written to.
    if "managedFields" in before and meta.get("managedFields") in (None, [], before["managedFields"]):
        meta["managedFields"] = before["managedFields"]
    if resource.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = copy(old["status"])
    return new


def _shared(meta: dict[str, Any]) -> dict[str, Any]:
    """A copy of metadata, but for the record of managers: that is long, and never written to."""
    return {key: value if key == "managedFields" else copy(value) for key, value in meta.items()}


def admit(
    resource: Resource,
    new: Object,
    old: Object | None,
    *,
    strict: bool,
    warnings: list[str] | None,
    subresource: str = "",
    is_called: Callable[[str], bool] = lambda webhook: True,
) -> None:
    """Prune, default and validate an object in place, in the order of the real server.

    `is_called` says of a webhook whether one is registered under that name.
    `warnings` is where to tell a client what it should know; it may hold what decoding has met already. A
    caller without it is the lab itself, whose built-in objects are taken as they are.
    """
    name = new["metadata"].get("name", "")
    unknown, found = decoding.decode(resource, new, old) if strict or warnings is not None else ([], [])
    if resource.schema is not None:
        unknown += schema.prune(resource.schema, new)
    problems = [f'unknown field "{field}"' for field in unknown]
    if strict and (problems or warnings):
        raise errors.undecodable(resource.kind, resource.version, [*(warnings or ()), *problems])
    if warnings is not None:
        warnings.extend(problems)
    found.extend(strategies.metadata_faults(resource.kind, new["metadata"]))
    if old is not None and old["metadata"].get("deletionTimestamp"):
        added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            why = "Forbidden: no new finalizers can be added if the object is being deleted"
            found.append(Fault("metadata.finalizers", why, "FieldValueForbidden"))
    if resource.schema is not None:
        schema.default(resource.schema, new)
    if not resource.custom:
        strategies.prepare(new)
    rules = admission.rules_for(resource.group, resource.kind) if not subresource else None
    if rules is not None and rules.defaulter and is_called(rules.defaulter):
        rules.default(new)
        if resource.schema is not None:  # once more, for the sections that the webhook has made
            schema.default(resource.schema, new)
    if resource.schema is not None:
        broken = schema.faults(resource.schema, new)
        # A rule may assume what the schema promises, so rules are asked of well-typed objects only.
        found.extend(broken or cel_rules.faults(resource.schema, new, old))
    if not resource.custom:
        found.extend(strategies.built_in_faults(new, old))
    if found:
        raise errors.invalid(resource.kind, resource.group, name, found)
    if rules is not None and is_called(rules.webhook):
        denied, told = admission.review(rules, new, old)
        if denied:
            raise errors.invalid(resource.kind, resource.group, name, denied, webhook=rules.webhook)
        if warnings is not None:
            warnings.extend(told)


def demand_declared(resource: Resource, config: Object, *, strict: bool) -> None:
    """An applied configuration may name only fields that its kind has: an owner of nothing makes no sense."""
    probe: Object = copy(config)
    unknown, _ = decoding.decode(resource, probe, None)
    if resource.schema is not None:
        unknown += schema.prune(resource.schema, probe)
    if unknown and strict:
        raise errors.undecodable(resource.kind, resource.version, [f'unknown field "{field}"' for field in unknown])
    if unknown:
        meta = config.get("metadata") or {}
        where = "/".join(part for part in (meta.get("namespace"), meta.get("name")) if part)
        raise errors.ApiError(
            500,
            "InternalError",
            f"failed to create typed patch object ({where}; {resource.api_version}, Kind={resource.kind}): "
            + ", ".join(f".{field}: field not declared in schema" for field in unknown),
        )


def substance(obj: Object, resource: Resource) -> Object:
    """What a generation counts: everything but metadata and, where it is apart, status."""
    left_out = {"metadata", "status"} if resource.has_status else {"metadata"}
    return {key: value for key, value in obj.items() if key not in left_out}


def established(crd: Object) -> dict[str, Any]:
    """The status of a CustomResourceDefinition that is served."""
    at = strategies.now()
    return {
        "acceptedNames": copy(crd["spec"]["names"]),
        "storedVersions": [version["name"] for version in crd["spec"]["versions"] if version.get("storage", True)],
        "conditions": [
            {
                "type": "NamesAccepted",
                "status": "True",
                "reason": "NoConflicts",
                "message": "no conflicts found",
                "lastTransitionTime": at,
            },
            {
                "type": "Established",
                "status": "True",
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
                "lastTransitionTime": at,
            },
        ],
    }
