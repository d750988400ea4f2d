"""`pods/x:port/proxy/…` and `services/x:port/proxy/…`: an HTTP request handed on to a port of a pod."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from drillbook_lab.api import errors
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry

_NOT_HANDED_ON = frozenset(
    {"authorization", "connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"}
)
_CHUNK = 64 * 1024
_SECONDS = 60.0


async def serve_proxy(
    registry: Registry, request: web.Request, kind: str, namespace: str, name: str
) -> web.StreamResponse:
    """Hand the request on, and the answer back, as they come."""
    scheme, target, port_name = _split(name)
    obj = registry.get(kind, namespace, target)
    address, port = _pod_port(obj, port_name) if kind == "Pod" else _service_port(obj, port_name)
    _, _, rest = request.path.partition(f"/{name}/proxy")
    url = f"{scheme}://{address}:{port}{rest or '/'}"
    headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_HANDED_ON}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    began = False
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session,
            session.request(
                request.method,
                url,
                params=request.query,
                headers=headers,
                data=await request.read() or None,
                allow_redirects=False,
                ssl=False,
            ) as answer,
        ):
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _NOT_HANDED_ON}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            began = True
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
            await response.write_eof()
            return response
    except (aiohttp.ClientError, TimeoutError) as fault:
        if began:
            raise
        why = f"dial tcp {address}:{port}: connect: connection refused"
        if not isinstance(fault, aiohttp.ClientConnectorError):
            why = str(fault) or "i/o timeout"
        raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {why}") from fault


def _split(name: str) -> tuple[str, str, str]:
    """`[scheme:]name[:port]`, as Kubernetes writes it."""
    parts = name.split(":")
    if len(parts) == 3:
        return parts[0] or "http", parts[1], parts[2]
    return "http", parts[0], parts[1] if len(parts) == 2 else ""


def _pod_port(pod: Object, port: str) -> tuple[str, int]:
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        raise errors.bad_request("address not allowed")
    offered = [entry for container in pod["spec"]["containers"] for entry in container.get("ports") or ()]
    if port.isdigit():
        return address, int(port)
    named = [entry for entry in offered if not port or entry.get("name") == port]
    if not named and port:
        raise errors.bad_request(f'no port named "{port}"')
    return address, int(named[0]["containerPort"]) if named else 80


def _service_port(service: Object, port: str) -> tuple[str, int]:
    for entry in service["spec"].get("ports") or ():
        if port in ("", str(entry["port"]), entry.get("name")):
            return str(service["spec"].get("clusterIP")), int(entry["port"])
    raise ApiError(503, "ServiceUnavailable", f'no endpoints available for service "{service["metadata"]["name"]}"')
