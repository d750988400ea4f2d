"""From an HTTP request to what it asks for: verb, resource, namespace, name, options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from drillbook_lab.api import autoscaling_v1, decoding, errors
from drillbook_lab.api.errors import Object
from drillbook_lab.api.rbac import Action
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.resources import Resource
from drillbook_lab.api.server_side_apply import demand_options
from drillbook_lab.kubectl import protobuf

_TRUE = ("true", "1", "t", "True", "TRUE")
CONNECTING = frozenset({"exec", "portforward", "attach"})
"""Subresources that open a stream."""
PATCHES = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
"""The forms of a patch by their content types."""
APPLY = ("application/apply-patch+yaml", "application/apply-patch+json")
"""How server-side apply names its bodies."""


@dataclass(frozen=True)
class Asked:
    """A request for a resource, understood."""

    action: Action
    resource: Resource | None
    """None for the review kinds, which nobody stores."""
    old: bool = False
    """Whether it is asked in an older version than the stored one."""


def flag(request: web.Request, name: str) -> bool:
    """A boolean of the query string."""
    return request.query.get(name, "") in _TRUE


def understand(registry: Registry, request: web.Request) -> Asked | None:
    """What a request asks of which resource; None if its path names none."""
    parts = [part for part in request.path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    if len(rest) > 3 and subresource != "proxy":  # behind it comes a path of somebody else's
        return None
    served = "v2" if (group, version, plural) == autoscaling_v1.PLURAL else version
    resource = next(
        (r for r in registry.resources() if (r.group, r.version, r.plural) == (group, served, plural)), None
    )
    selected = _named_by_selector(request)
    return Asked(
        Action(_verb(request, name, subresource), group, plural, subresource, namespace, name or selected),
        resource,
        old=served != version,
    )


def _named_by_selector(request: web.Request) -> str:
    """`fieldSelector=metadata.name=x` asks for one name, and is authorised as such."""
    for term in request.query.get("fieldSelector", "").split(","):
        path, equals, value = term.partition("=")
        if path == "metadata.name" and equals:
            return value.lstrip("=")
    return ""


def _verb(request: web.Request, name: str, subresource: str) -> str:
    match request.method:
        case "GET" | "HEAD":
            if flag(request, "watch") and not subresource:
                return "watch"
            return "get" if name else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if name else "deletecollection"
    return request.method.lower()


@dataclass(frozen=True)
class WriteOptions:
    """How a change is to be made."""

    dry_run: bool
    validation: str
    manager: str
    force: bool

    @property
    def strict(self) -> bool:
        """Refuse unknown fields by name."""
        return self.validation == "Strict"

    def told(self, warnings: list[str]) -> list[str]:
        """What of the warnings a client wants to hear: of its fields nothing, if it said so."""
        if self.validation != "Ignore":
            return warnings
        return [text for text in warnings if not text.startswith(("unknown field ", "duplicate field "))]


def write_options(request: web.Request) -> WriteOptions:
    """`dryRun` and `fieldValidation` of the query string, refused if they are anything new."""
    dry = request.query.getall("dryRun", [])
    if dry not in ([], ["All"]):
        raise errors.bad_request(f'dryRun: Unsupported value: {dry}: supported values: "All"')
    validation = request.query.get("fieldValidation", "Warn") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise errors.bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    # Without a name the program's is taken, as upstream does.
    agent = request.headers.get("User-Agent", "").partition("/")[0] or "unknown"
    manager = request.query.get("fieldManager", "")
    applies = request.content_type in APPLY
    demand_options(manager, force=flag(request, "force"), applies=applies)
    return WriteOptions(bool(dry), validation, manager or agent[:128], flag(request, "force"))


async def read_body(request: web.Request, doubled: list[str] | None = None) -> Any:
    """The body, from JSON, YAML, or the little protobuf that kubectl needs.

    `doubled` takes what a decoder has to say of fields that stand twice.
    """
    kind = request.content_type
    raw = await request.read()
    if kind == protobuf.CONTENT_TYPE:
        return protobuf.decode(raw)
    if not raw:
        return None
    try:
        if kind in ("application/yaml", "application/x-yaml", "text/yaml") or (kind in APPLY and raw[:1] != b"{"):
            return yaml.safe_load(raw)
        body, twice = decoding.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise errors.bad_request(f"the body can't be read: {error}") from error
    if doubled is not None:
        doubled.extend(f'duplicate field "{path}"' for path in twice)
    return body


async def read_object(request: web.Request, asked: Asked, doubled: list[str] | None = None) -> Object:
    """The object in a body, of the kind and in the namespace that the path names."""
    body = await read_body(request, doubled)
    resource = asked.resource
    if not isinstance(body, dict) or resource is None:
        raise errors.bad_request("the body holds no object")
    body.setdefault("kind", resource.kind)
    if asked.old:
        body = autoscaling_v1.v2_of(body)
    body.setdefault("apiVersion", resource.api_version)
    if (body["kind"], body["apiVersion"]) != (resource.kind, resource.api_version):
        raise errors.bad_request(
            f"the object provided is unrecognized: {body['apiVersion']}, Kind={body['kind']} was sent to the path of "
            f"{resource.api_version}, Kind={resource.kind}"
        )
    obj: Object = body
    meta = obj.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise errors.bad_request("metadata must be an object")
    if resource.namespaced and meta.setdefault("namespace", asked.action.namespace) != asked.action.namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if asked.action.name and meta.setdefault("name", asked.action.name) != asked.action.name:
        raise errors.bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({asked.action.name})"
        )
    return obj
