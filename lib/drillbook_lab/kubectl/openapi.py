"""OpenAPI v3: the fields of every kind, for `kubectl explain`, `apply`, `diff` and `edit`.

A custom kind's schema is that of its definition, with `metadata` filled in; a built-in one's
comes from `models`. Strategic merge isn't advertised: the classes don't say by which keys lists
merge, and kubectl then goes by the types that it was built with.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from drillbook_lab.api import models
from drillbook_lab.api.discovery import VERSION, by_version, gvk
from drillbook_lab.api.errors import Object
from drillbook_lab.api.resources import Resource

_ANYTHING: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_METADATA = "V1ObjectMeta"
_PATCHES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
_BODIES = ("application/json", "application/yaml")

# One document for each group and version, under the mark of the kinds that it was made for.
_documents: dict[tuple[str, str], tuple[str, bytes]] = {}


def index(resources: list[Resource]) -> Object:
    """`/openapi/v3`: where the description of each group and version is."""
    paths: Object = {}
    for (group, version), kinds in by_version(resources).items():
        base = _base(group, version)
        paths[base] = {"serverRelativeURL": f"/openapi/v3/{base}?hash={_mark(kinds)}"}
    return {"paths": paths}


def document(resources: tuple[Resource, ...], group: str, version: str) -> bytes | None:
    """One group's description as JSON; None if the group isn't served."""
    kinds = by_version(resources).get((group, version))
    if kinds is None:
        return None
    mark = _mark(kinds)
    known = _documents.get((group, version))
    if known is None or known[0] != mark:
        known = mark, json.dumps(_document(kinds, group, version), separators=(",", ":")).encode()
        _documents[group, version] = known
    return known[1]


def _base(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _mark(kinds: list[Resource]) -> str:
    """What changes when a description does: clients keep descriptions by it."""
    marked = hashlib.sha256(VERSION["gitVersion"].encode())
    for resource in kinds:
        marked.update(repr(gvk(resource)).encode())
        if resource.schema is not None:
            marked.update(json.dumps(resource.schema, sort_keys=True).encode())
    return marked.hexdigest()[:32].upper()


def _document(kinds: list[Resource], group: str, version: str) -> Object:
    paths: Object = {}
    schemas: Object = {}
    for resource in kinds:
        body = {"$ref": f"#/components/schemas/{_component(resource, schemas)}"}
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        path = f"/{_base(group, version)}{scope}/{resource.plural}"
        kind = gvk(resource)
        paths[path] = {"get": _operation(kind, "list", body), "post": _operation(kind, "post", body, _BODIES)}
        item = {
            "get": _operation(kind, "get", body),
            "put": _operation(kind, "put", body, _BODIES),
            "patch": _operation(kind, "patch", body, _PATCHES),
            "delete": _operation(kind, "delete", body),
        }
        paths[path + "/{name}"] = item
        if resource.has_status:
            paths[path + "/{name}/status"] = {verb: item[verb] for verb in ("get", "put", "patch")}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _component(resource: Resource, schemas: Object) -> str:
    """Describe a kind and all that it refers to; the name of its component."""
    if resource.schema is not None:
        name = f"{'.'.join(reversed(resource.group.split('.')))}.{resource.version}.{resource.kind}"
        published = {**resource.schema, "properties": dict(resource.schema.get("properties") or {})}
        published["properties"]["metadata"] = _published({"allOf": [{"$ref": _METADATA}]}, schemas)
    else:
        model = models.model_of(resource.kind, resource.group, resource.version)
        name = models.spoken(model) if model else f"io.k8s.api.{resource.group or 'core'}.v1.{resource.kind}"
        published = _published(models.definition(model), schemas) if model else dict(_ANYTHING)
    published["x-kubernetes-group-version-kind"] = [gvk(resource)]
    schemas[name] = published
    return name


def _published(schema: Any, schemas: Object) -> Any:
    """A schema with its references as the document has them, and what they lead to next to it."""
    if isinstance(schema, list):
        return [_published(part, schemas) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result: Object = {}
    for key, part in schema.items():
        # Only a reference's own value is a class's name: a field may be called `$ref` too.
        if key == "$ref" and isinstance(part, str):
            name = models.spoken(part)
            if name not in schemas:
                schemas[name] = {}
                schemas[name] = _published(models.definition(part), schemas)
            result[key] = f"#/components/schemas/{name}"
        else:
            result[key] = _published(part, schemas)
    return result


_WRITE_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]
_FORCE = {"name": "force", "in": "query", "schema": {"type": "boolean", "uniqueItems": True}}


def _operation(kind: Object, action: str, body: Object, forms: tuple[str, ...] = ()) -> Object:
    operation: Object = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": body}}}},
    }
    if forms:
        operation["parameters"] = [*_WRITE_PARAMETERS, *([_FORCE] if action == "patch" else [])]
        operation["requestBody"] = {"content": {form: {"schema": body} for form in forms}}
    return operation
