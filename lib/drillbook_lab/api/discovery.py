"""What the server tells about itself: version, groups, kinds. `openapi` describes their fields."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from drillbook_lab.api.errors import Object
from drillbook_lab.api.resources import Resource

VERSION: Object = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0+drillbook.lab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "python",
}

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

# Kinds that are answered, never stored.
REVIEWS: dict[tuple[str, str], str] = {
    ("authentication.k8s.io", "selfsubjectreviews"): "SelfSubjectReview",
    ("authentication.k8s.io", "tokenreviews"): "TokenReview",
    ("authorization.k8s.io", "subjectaccessreviews"): "SubjectAccessReview",
    ("authorization.k8s.io", "selfsubjectaccessreviews"): "SelfSubjectAccessReview",
    ("authorization.k8s.io", "selfsubjectrulesreviews"): "SelfSubjectRulesReview",
}

SCALE: Object = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
_POD_STREAMS = (("exec", "PodExecOptions"), ("portforward", "PodPortForwardOptions"), ("log", "Pod"))


def aggregated_wanted(accept: str) -> bool:
    """Does an `Accept` header ask for aggregated discovery in its second version?"""
    return any("g=apidiscovery.k8s.io" in part and "v=v2;" in part + ";" for part in accept.split(","))


def aggregated_type() -> str:
    """The content type of aggregated discovery."""
    return _AGGREGATED


def by_version(resources: Sequence[Resource]) -> dict[tuple[str, str], list[Resource]]:
    """Kinds by group and version, reviews' groups included."""
    found: dict[tuple[str, str], list[Resource]] = defaultdict(list)
    for resource in resources:
        found[resource.group, resource.version].append(resource)
    for group, _ in REVIEWS:
        found.setdefault((group, "v1"), [])
    return dict(found)


def _scopes(resource: Resource) -> str:
    return "Namespaced" if resource.namespaced else "Cluster"


def aggregated(resources: list[Resource], *, core: bool) -> Object:
    """Discovery in one answer: all of `/api`, or all of `/apis`."""
    groups: dict[str, list[Object]] = {}
    for (group, version), kinds in by_version(resources).items():
        if bool(group) is core:
            continue
        entries = [_aggregated_entry(resource) for resource in kinds]
        entries += [
            {
                "resource": plural,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "scope": "Cluster",
                "singularResource": kind.lower(),
                "verbs": ["create"],
            }
            for (owner, plural), kind in REVIEWS.items()
            if owner == group
        ]
        groups.setdefault(group, []).append({"version": version, "freshness": "Current", "resources": entries})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {"metadata": {"name": name, "creationTimestamp": None}, "versions": versions}
            for name, versions in groups.items()
        ],
    }


def gvk(resource: Resource) -> Object:
    """A kind as descriptions name it."""
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _aggregated_entry(resource: Resource) -> Object:
    entry: Object = {
        "resource": resource.plural,
        "responseKind": gvk(resource),
        "scope": _scopes(resource),
        "singularResource": resource.singular,
        "verbs": _VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    subresources: list[Object] = []
    if resource.has_status:
        subresources.append(
            {"subresource": "status", "responseKind": gvk(resource), "verbs": ["get", "patch", "update"]}
        )
    if resource.scale is not None:
        subresources.append({"subresource": "scale", "responseKind": SCALE, "verbs": ["get", "patch", "update"]})
    if resource.kind == "Pod":
        subresources += [
            {
                "subresource": name,
                "responseKind": {"group": "", "version": "v1", "kind": kind},
                "verbs": ["get"] if name == "log" else ["create", "get"],
            }
            for name, kind in _POD_STREAMS
        ]
    if subresources:
        entry["subresources"] = subresources
    return entry


def api_versions(address: str) -> Object:
    """`/api` in its old form."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(resources: list[Resource]) -> Object:
    """`/apis` in its old form."""
    groups = dict.fromkeys(group for group, _ in by_version(resources) if group)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_info(resources, group) for group in groups]}


def group_info(resources: list[Resource], group: str) -> Object:
    """`/apis/<group>`."""
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version}
        for owner, version in by_version(resources)
        if owner == group
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions,
        "preferredVersion": versions[0] if versions else {},
    }


def resource_list(resources: list[Resource], group: str, version: str) -> Object | None:
    """`/api/v1` or `/apis/<group>/<version>`; None if that isn't served."""
    kinds = by_version(resources).get((group, version))
    if kinds is None:
        return None
    entries: list[Object] = []
    for resource in kinds:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": _VERBS,
            "storageVersionHash": "",
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        if resource.has_status:
            entries.append(_sub(resource, "status", resource.kind, ["get", "patch", "update"]))
        if resource.scale is not None:
            scale = _sub(resource, "scale", "Scale", ["get", "patch", "update"])
            entries.append({**scale, "group": "autoscaling", "version": "v1"})
        if resource.kind == "Pod":
            entries += [
                _sub(resource, name, kind, ["get"] if name == "log" else ["create", "get"])
                for name, kind in _POD_STREAMS
            ]
    entries += [
        {"name": plural, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["create"]}
        for (owner, plural), kind in REVIEWS.items()
        if owner == group
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def _sub(resource: Resource, name: str, kind: str, verbs: list[str]) -> Object:
    return {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": verbs,
    }
