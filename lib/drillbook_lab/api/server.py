"""The HTTP side: who calls, may they, what do they want, and the answer on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from drillbook_lab.api import autoscaling_v1, discovery, errors, listing, rbac, reviews, scaling, token_requests
from drillbook_lab.api.audit import AuditLog
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.interference import INTERFERENCE, Interference
from drillbook_lab.api.logs import serve_log
from drillbook_lab.api.quota_keeper import Keeper
from drillbook_lab.api.rbac import Action
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.requests import (
    APPLY,
    CONNECTING,
    PATCHES,
    Asked,
    WriteOptions,
    read_body,
    read_object,
    understand,
    write_options,
)
from drillbook_lab.api.resources import Resource
from drillbook_lab.api.runtime import PodRuntime
from drillbook_lab.api.streams import serve_exec, serve_forward
from drillbook_lab.api.tokens import TokenDirectory, User
from drillbook_lab.api.watches import serve_watch
from drillbook_lab.kubectl import openapi, tables
from drillbook_lab.kubectl.proxying import serve_proxy

_PUBLIC = frozenset({"/version", "/healthz", "/livez", "/readyz"})
# Kinds whose deletion is answered with the object; the others answer with a Status.
_RETURNED = frozenset(
    {"Pod", "PersistentVolumeClaim", "PersistentVolume", "Service", "ServiceAccount", "ResourceQuota"}
)

_USER = web.RequestKey("user", User)
_ACTION = web.RequestKey("action", Action)
_DRY = web.RequestKey("dry_run", bool)


def build_server(
    registry: Registry, runtime: PodRuntime, tokens: TokenDirectory, *, audit: Path | None
) -> web.Application:
    """The API server as an aiohttp application; `serving.serve` puts it on a port."""
    server = _Server(registry, runtime, tokens, AuditLog(audit))
    app = web.Application(client_max_size=8 * 1024 * 1024, middlewares=[server.middleware])
    app[INTERFERENCE] = server.interference
    app.router.add_route("*", "/{path:.*}", server.handle)
    app.on_response_prepare.append(server.write_down)
    app.on_startup.append(server.keep_quotas)
    app.on_cleanup.append(server.close)
    return app


class _Server:
    def __init__(self, registry: Registry, runtime: PodRuntime, tokens: TokenDirectory, audit: AuditLog) -> None:
        self._registry = registry
        self._runtime = runtime
        self._tokens = tokens
        self._audit = audit
        self.interference = Interference()

    async def keep_quotas(self, app: web.Application) -> None:
        Keeper(self._registry)

    async def close(self, app: web.Application) -> None:
        self._audit.close()

    # -- every request -----------------------------------------------------------------------

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer failures as Status objects, and write the audit line; interfere where that was asked for."""
        if not self.interference.rules:
            return await self._answer(request, handler)
        return await self.interference.around(request, lambda asked: self._answer(asked, handler))

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        asked = understand(self._registry, request)
        request[_ACTION] = asked.action if asked else Action(request.method.lower(), "", request.path)
        request[_DRY] = "dryRun" in request.query
        try:
            user = self._tokens.who(request.headers.get("Authorization", ""), token_requests.looks_up(self._registry))
            if user is not None:
                request[_USER] = user
            elif request.path not in _PUBLIC:
                raise errors.unauthorized()
            return await (self._resource(request, asked, user) if asked and user else handler(request))
        except ApiError as error:
            return _json(error.to_status(), error.code)
        except web.HTTPException as error:
            return _json(ApiError(error.status, error.reason, error.reason).to_status(), error.status)

    async def write_down(self, request: web.Request, response: web.StreamResponse) -> None:
        """The audit line, when the answer begins: a stream that is still open has been recorded."""
        if _ACTION in request:
            self._audit.record(request.get(_USER), request[_ACTION], dry_run=request[_DRY], code=response.status)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Everything that isn't a resource: health, version, discovery, OpenAPI."""
        kinds = self._registry.resources()
        parts = [part for part in request.path.split("/") if part]
        aggregated = discovery.aggregated_wanted(request.headers.get("Accept", ""))
        found: Object | None = None
        match parts:
            case ["healthz" | "livez" | "readyz"]:
                return web.Response(text="ok")
            case ["version"]:
                found = discovery.VERSION
            case ["api" | "apis" as root] if aggregated:
                document = discovery.aggregated(kinds, core=root == "api")
                return _json(document, content_type=discovery.aggregated_type())
            case ["api"]:
                found = discovery.api_versions(request.host)
            case ["apis"]:
                found = discovery.group_list(kinds)
            case ["api", version]:
                found = discovery.resource_list(kinds, "", version)
            case ["apis", group]:
                found = discovery.group_info(kinds, group)
            case ["apis", group, version]:
                found = discovery.resource_list(kinds, group, version)
            case ["openapi", "v3"]:
                found = openapi.index(kinds)
            case ["openapi", "v3", "api", version]:
                return await self._described(kinds, "", version)
            case ["openapi", "v3", "apis", group, version]:
                return await self._described(kinds, group, version)
        if found is None:
            raise errors.no_such_resource()
        return _json(found)

    async def _described(self, kinds: list[Resource], group: str, version: str) -> web.Response:
        # In a thread: the first answer of a group loads classes for a second, and nobody else should wait.
        body = await asyncio.to_thread(openapi.document, tuple(kinds), group, version)
        if body is None:
            raise errors.no_such_resource()
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    # -- resources ---------------------------------------------------------------------------

    async def _resource(self, request: web.Request, asked: Asked, user: User) -> web.StreamResponse:
        action = asked.action
        review = discovery.REVIEWS.get((action.group, action.plural))
        if review is not None and action.verb == "create":
            # Anybody who is known may ask about themselves.
            if not review.startswith("Self"):
                rbac.demand(self._registry, user, action)
            body = await read_body(request)
            return _json(reviews.answer(self._registry, self._tokens, user, review, action.group, body), 201)
        if asked.resource is None:
            raise errors.no_such_resource()
        rbac.demand(self._registry, user, action)
        if action.subresource in CONNECTING and action.verb != "create":
            # Newer servers ask for `create` however the stream is opened; a role must do for both.
            rbac.demand(
                self._registry,
                user,
                Action("create", action.group, action.plural, action.subresource, action.namespace, action.name),
            )
        if action.subresource == "scale" and asked.resource.scale is not None and action.name:
            return await self._scale(request, asked.resource, action)
        if action.subresource not in ("", "status"):
            return await self._subresource(request, asked)
        if action.subresource == "status" and not asked.resource.has_status:
            raise errors.no_such_resource()
        if asked.old:
            return await self._older(request, asked)
        match action.verb:
            case "watch":
                return await serve_watch(self._registry, request, asked.resource, action.namespace or None)
            case "list":
                return self._list(request, asked.resource, action.namespace or None)
            case "get":
                return self._get(request, asked.resource, action)
            case "create" if not action.name:
                return await self._create(request, asked)
            case "update":
                return await self._update(request, asked)
            case "patch":
                return await self._patch(request, asked)
            case "delete" | "deletecollection" if not action.subresource:
                return await self._delete(request, asked.resource, action)
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    async def _older(self, request: web.Request, asked: Asked) -> web.Response:
        """A kind in the version before the stored one: to be made and read, as kubectl does."""
        action = asked.action
        if action.verb == "create" and not action.name:
            options = write_options(request)
            made = await read_object(request, asked)
            created = self._registry.create(made, dry_run=options.dry_run, manager=options.manager)
            return _json(autoscaling_v1.v1_of(created), 201)
        if action.verb == "get" and not action.subresource:
            return _json(
                autoscaling_v1.v1_of(self._registry.get("HorizontalPodAutoscaler", action.namespace, action.name))
            )
        raise errors.no_such_resource()

    async def _subresource(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        action = asked.action
        if (action.plural, action.subresource, action.verb) == ("serviceaccounts", "token", "create"):
            body = await read_body(request)
            return _json(token_requests.answer(self._registry, self._tokens, action.namespace, action.name, body), 201)
        if asked.resource is not None and asked.resource.kind in ("Pod", "Service") and action.subresource == "proxy":
            return await serve_proxy(self._registry, request, asked.resource.kind, action.namespace, action.name)
        if asked.resource is not None and asked.resource.kind == "Pod":
            match action.subresource:
                case "log" if action.verb == "get":
                    return await serve_log(self._registry, self._runtime, request, action.namespace, action.name)
                case "exec":
                    return await serve_exec(self._registry, self._runtime, request, action.namespace, action.name)
                case "portforward":
                    return await serve_forward(self._registry, self._runtime, request, action.namespace, action.name)
        raise errors.no_such_resource()

    def _list(self, request: web.Request, resource: Resource, namespace: str | None) -> web.Response:
        page = listing.page(self._registry, resource, namespace, request.query)
        if tables.wanted(request.headers.get("Accept", "")):
            return self._table(request, resource, page.objects, page.meta)
        return _json(
            {
                "kind": f"{resource.kind}List",
                "apiVersion": resource.api_version,
                "metadata": page.meta,
                "items": page.objects,
            }
        )

    def _table(
        self, request: web.Request, resource: Resource, objects: Sequence[Object], meta: Object | None = None
    ) -> web.Response:
        include = request.query.get("includeObject", "Metadata")
        table = tables.table(resource, objects, self._registry.version, include)
        return _json({**table, "metadata": meta} if meta else table)

    async def _scale(self, request: web.Request, resource: Resource, action: Action) -> web.Response:
        where = self._registry, resource, action.namespace, action.name
        if action.verb == "get":
            return _json(scaling.scale_of(resource, self._registry.get(resource.kind, action.namespace, action.name)))
        options = write_options(request)
        body = await read_body(request)
        how: dict[str, Any] = {"dry_run": options.dry_run, "manager": options.manager}
        if action.verb == "update":
            return _json(scaling.put(*where, body, **how))
        form = PATCHES.get(request.content_type)
        if action.verb != "patch" or form is None:
            raise errors.unsupported_media_type("a Scale is read, replaced or patched")
        return _json(scaling.patch(*where, form, body, **how))

    def _get(self, request: web.Request, resource: Resource, action: Action) -> web.Response:
        obj = self._registry.get(resource.kind, action.namespace, action.name)
        if tables.wanted(request.headers.get("Accept", "")):
            return self._table(request, resource, [obj])
        return _json(obj)

    async def _create(self, request: web.Request, asked: Asked) -> web.Response:
        options = write_options(request)
        warnings: list[str] = []
        created = self._registry.create(
            await read_object(request, asked, warnings),
            dry_run=options.dry_run,
            strict=options.strict,
            warnings=warnings,
            manager=options.manager,
        )
        return _json(created, 201, warnings=options.told(warnings))

    async def _update(self, request: web.Request, asked: Asked) -> web.Response:
        options = write_options(request)
        warnings: list[str] = []
        obj = await read_object(request, asked, warnings)
        resource = asked.resource
        assert resource is not None  # noqa: S101  (read_object has refused it)
        if resource.custom and not obj["metadata"].get("resourceVersion"):
            fault = errors.Fault("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            raise errors.invalid(resource.kind, resource.group, asked.action.name, [fault])
        updated = self._registry.update(
            obj,
            subresource=asked.action.subresource,
            dry_run=options.dry_run,
            strict=options.strict,
            warnings=warnings,
            manager=options.manager,
        )
        return _json(updated, warnings=options.told(warnings))

    async def _patch(self, request: web.Request, asked: Asked) -> web.Response:
        options = write_options(request)
        if request.content_type in APPLY:
            return await self._apply(request, asked, options)
        form = PATCHES.get(request.content_type)
        if form is None:
            raise errors.unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join((*PATCHES, APPLY[0]))
            )
        action = asked.action
        assert asked.resource is not None  # noqa: S101  (the caller has refused it)
        warnings: list[str] = []
        # The body is read before the object, so that nothing comes between reading and writing it.
        patch = await read_body(request, warnings)
        patched = self._registry.patch(
            asked.resource.kind,
            action.namespace,
            action.name,
            patch,
            type=form,
            subresource=action.subresource,
            dry_run=options.dry_run,
            strict=options.strict,
            warnings=warnings,
            manager=options.manager,
        )
        return _json(patched, warnings=options.told(warnings))

    async def _apply(self, request: web.Request, asked: Asked, options: WriteOptions) -> web.Response:
        warnings: list[str] = []
        config = await read_object(request, asked, warnings)
        obj, new = self._registry.apply(
            config,
            manager=options.manager,
            force=options.force,
            subresource=asked.action.subresource,
            dry_run=options.dry_run,
            strict=options.strict,
            warnings=warnings,
        )
        return _json(obj, 201 if new else 200, warnings=options.told(warnings))

    async def _delete(self, request: web.Request, resource: Resource, action: Action) -> web.Response:
        body: Any = await read_body(request)
        options: Object = body if isinstance(body, dict) else {}
        dry = write_options(request).dry_run or options.get("dryRun") == ["All"]
        request[_DRY] = dry
        propagation = options.get("propagationPolicy") or request.query.get("propagationPolicy") or "Background"
        if options.get("orphanDependents"):
            propagation = "Orphan"
        conditions = options.get("preconditions") or {}
        if not action.name or action.verb == "deletecollection":
            return self._delete_all(request, resource, action, propagation, dry)
        last = self._registry.delete(
            resource.kind,
            action.namespace,
            action.name,
            uid=conditions.get("uid") or "",
            resource_version=conditions.get("resourceVersion") or "",
            propagation=propagation,
            dry_run=dry,
        )
        held = last["metadata"].get("finalizers") and last["metadata"].get("deletionTimestamp")
        if held or resource.kind in _RETURNED:
            return _json(last)
        details: Object = {"name": action.name, "kind": resource.plural, "uid": last["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_all(
        self, request: web.Request, resource: Resource, action: Action, propagation: str, dry: bool
    ) -> web.Response:
        gone = [
            self._registry.delete(
                resource.kind,
                obj["metadata"].get("namespace"),
                obj["metadata"]["name"],
                propagation=propagation,
                dry_run=dry,
            )
            for obj in self._registry.peek(
                resource.kind,
                action.namespace or None,
                labels=request.query.get("labelSelector", ""),
                fields=request.query.get("fieldSelector", ""),
            )
        ]
        return _json(
            {
                "kind": f"{resource.kind}List",
                "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(self._registry.version)},
                "items": gone,
            }
        )


def _json(
    document: Object, code: int = 200, *, warnings: Sequence[str] = (), content_type: str = "application/json"
) -> web.Response:
    response = web.Response(
        body=json.dumps(document, separators=(",", ":")).encode(),
        status=code,
        headers={"Content-Type": content_type, "Cache-Control": "no-cache, private"},
    )
    for text in warnings:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response
