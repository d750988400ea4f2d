"""The gate in front of moto: who may do what, what goes wrong on purpose, and a line for every request.

`keys.json` and `faults.json` are read again when they change, so that a running lab can be broken and fixed. In the
latter, `after` lets so many requests pass before what else it says begins, and `requests` ends it after so many more.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from yarl import URL

from drillbook_lab.store import locks
from drillbook_lab.store.signature import Refused, read_claim, verify

_CHUNK = 1 << 18
# Between two parties, not end to end. `Expect` is answered here.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "expect", "proxy-connection"}
)
_READS = frozenset({"GET", "HEAD"})
_WRITES = frozenset({"PUT", "POST"})
_HOLD_SECONDS = 0.25
_PATIENCE_SECONDS = 20.0  # clients give a silent server a minute


class _CutError(Exception):
    """The connection was ended without an answer, on purpose."""


class WatchedJson:
    """A JSON object in a file, read again when the file changes; a missing file is an empty object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._value: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """What the file says now; while it is half written, what it said before."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._value = json.loads(self._path.read_text(encoding="utf-8"))
                self._seen = seen
        except FileNotFoundError:
            self._value, self._seen = {}, None
        except ValueError:
            pass
        return self._value


@dataclass
class Entry:
    """A line of the access log."""

    method: str
    bucket: str
    object: str
    query: str
    key: str = ""
    status: int = 0  # 0: the connection was cut without an answer
    bytes_in: int = 0
    bytes_out: int = 0
    lost: bool = False  # done, and its answer is cut off
    halved: bool = False  # an object's bytes, of which half are sent


class Gate:
    """Checks a request, then streams it to moto and the answer back."""

    def __init__(self, state: Path, backend: URL) -> None:
        self._keys = WatchedJson(state / "keys.json")
        self._faults = WatchedJson(state / "faults.json")
        self._backend = backend
        self._counted: dict[str, Any] = {}  # the faults since which requests are counted, for ``after``
        self._passed = 0
        self._writing: dict[str, asyncio.Lock] = {}
        self._access_log: TextIO = (state / "access.jsonl").open("a", encoding="utf-8", buffering=1)
        self._client: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """The aiohttp application; any method, any path."""
        application = web.Application(client_max_size=1 << 62)
        application.router.add_route("*", "/{path:.*}", self.handle)
        application.cleanup_ctx.append(self._clients)
        return application

    async def _clients(self, _: web.Application) -> Any:
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=600),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        yield
        await self._client.close()
        self._access_log.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from its signature to its line in the access log."""
        started = time.monotonic()
        bucket, _, name = unquote(request.raw_path.partition("?")[0]).lstrip("/").partition("/")
        entry = Entry(request.method, bucket, name, request.query_string)
        try:
            await self._fail_on_purpose(request, entry)
            self._admit(request, entry)
            await self._hold(request, entry)
            batch = await self._admit_batch(request, entry)
            async with self._alone(request, entry):
                known = await self._admit_lock(request, entry)
                if isinstance(known, web.Response):
                    if entry.lost:
                        self._cut(request)
                    entry.status = known.status
                    return known
                response = await self._pass_on(request, entry, batch if batch is not None else known)
            entry.status = response.status
            return response
        except Refused as refusal:
            entry.status = refusal.status
            return _error(request, refusal)
        except _CutError:
            return web.Response()  # to a connection that is gone
        finally:
            self._note(entry, time.monotonic() - started)

    async def _fail_on_purpose(self, request: web.Request, entry: Entry) -> None:
        faults = self._faults.read()
        if faults != self._counted:
            self._counted, self._passed = dict(faults), 0
        self._passed += 1
        begins = int(faults.get("after", 0))
        if not begins < self._passed <= begins + float(faults.get("requests", "inf")):
            return
        entry.lost, entry.halved = bool(faults.get("lose_answers")), bool(faults.get("halve_bodies"))
        if faults.get("slow_ms"):
            await asyncio.sleep(faults["slow_ms"] / 1000)
        if faults.get("down"):
            self._cut(request)
        if faults.get("refuse"):
            raise Refused(403, "AccessDenied", "Access Denied")
        if faults.get("busy"):
            raise Refused(503, "SlowDown", "Please reduce your request rate.")
        hidden = any(f"{entry.bucket}/{entry.object}".startswith(prefix) for prefix in faults.get("hide", []))
        if hidden and entry.object and request.method in _READS:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")

    @staticmethod
    def _cut(request: web.Request) -> NoReturn:
        if request.transport is not None:
            request.transport.abort()
        raise _CutError

    async def _hold(self, request: web.Request, entry: Entry) -> None:
        """Keep a writer waiting for as long as the fault lasts; an interim answer now and then keeps it patient."""
        waited = 0.0
        while request.method in _WRITES and any(
            f"{entry.bucket}/{entry.object}".startswith(prefix) for prefix in self._faults.read().get("hold_writes", [])
        ):
            if request.transport is None or request.transport.is_closing():
                raise _CutError
            if waited >= _PATIENCE_SECONDS:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                waited = 0.0
            await asyncio.sleep(_HOLD_SECONDS)
            waited += _HOLD_SECONDS

    def _admit(self, request: web.Request, entry: Entry) -> None:
        keys = self._keys.read()
        try:
            entry.key = read_claim(request.headers, request.query_string).access_key
        except Refused:
            entry.key = ""
        verify(
            request.method,
            request.raw_path,
            request.headers,
            lambda key: keys.get(key, {}).get("secret"),
            datetime.datetime.now(datetime.UTC),
        )
        grant = keys[entry.key]
        denied = entry.key in self._faults.read().get("deny_keys", [])
        if denied or not allowed(grant, request.method, entry.bucket, entry.object, request.query_string):
            raise Refused(403, "AccessDenied", "Access Denied")

    async def _admit_batch(self, request: web.Request, entry: Entry) -> bytes | None:
        """DeleteObjects names its objects in the body, which is read here: a key may delete what its prefixes hold."""
        if not is_batch_delete(entry.method, entry.object, entry.query):
            return None
        body = await self._body(request, entry)
        grant = self._keys.read()[entry.key]
        for name in batch_names(body):
            if not allowed(grant, "DELETE", entry.bucket, name, ""):
                raise Refused(403, "AccessDenied", "Access Denied")
        return body

    @asynccontextmanager
    async def _alone(self, request: web.Request, entry: Entry) -> AsyncIterator[None]:
        """Writes of one key come one after the other, parts of uploads apart: moto looks, then writes, in two moves."""
        if request.method in _READS or not entry.object or "partNumber" in request.query:
            yield
            return
        lock = self._writing.setdefault(f"{entry.bucket}/{entry.object}", asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock._waiters:
                self._writing.pop(f"{entry.bucket}/{entry.object}", None)

    async def _admit_lock(self, request: web.Request, entry: Entry) -> bytes | web.Response | None:
        """What S3 refuses under Object Lock and moto does not; the body, where it had to be read, or a whole answer."""
        query, now = request.query, datetime.datetime.now(datetime.UTC)
        write = request.method in _WRITES
        if write or request.method == "DELETE":
            permitted = bool(self._keys.read()[entry.key].get("bypass_governance"))
            bypass = locks.admit_bypass(request.headers, permitted=permitted)
            locks.admit_condition(request.headers)
        if not entry.object:
            if request.method == "PUT" and "versioning" in query and await self._is_locked_bucket(entry.bucket):
                body = await self._body(request, entry)
                locks.admit_versioning(body)
                return body
            return None
        if request.method == "GET" and "retention" in query:
            return web.Response(text=(await self._retention(request, entry)).as_xml(), content_type="application/xml")
        if request.method == "PUT" and "retention" in query:
            body = await self._body(request, entry)
            wanted = locks.Retention.of_xml(body)
            locks.admit_retention(await self._retention(request, entry), wanted, now, bypass=bypass)
            return body
        if request.method == "PUT" and "versionId" in query and not set(query) & {"acl", "tagging", "legal-hold"}:
            raise Refused(400, "InvalidArgument", "This operation does not accept a version-id.")
        if write and locks.asks_for_a_lock(request.headers):
            locks.admit_locked(request.headers, now)
            if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
                return None  # its body is in signed chunks: moto unpacks it
            body = await self._body(request, entry)
            locks.admit_body(request.headers, body)
            return body
        return None

    @staticmethod
    async def _body(request: web.Request, entry: Entry) -> bytes:
        body = await request.read()
        entry.bytes_in = len(body)
        return body

    async def _is_locked_bucket(self, bucket: str) -> bool:
        assert self._client is not None  # noqa: S101 - set before the first request
        async with self._client.get((self._backend / bucket).with_query("object-lock")) as answer:
            return answer.status == 200

    async def _retention(self, request: web.Request, entry: Entry) -> locks.Retention:
        """How a version is kept, as moto has it."""
        assert self._client is not None  # noqa: S101 - set before the first request
        url = URL(f"{self._backend}{quote(f'{entry.bucket}/{entry.object}')}", encoded=True)
        if version := request.query.get("versionId", ""):
            url = url.with_query({"versionId": version})
        # moto asks for a signature, and doesn't check it.
        signed = {"Authorization": request.headers.get("Authorization", "")}
        async with self._client.head(url, headers=signed) as answer:
            if answer.status >= 400:
                code = "NoSuchVersion" if version else "NoSuchKey"
                raise Refused(404, code, f"The specified {'version' if version else 'key'} does not exist.")
            found = locks.Retention.of(answer.headers)
        if not found.mode and not await self._is_locked_bucket(entry.bucket):
            raise Refused(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
        return found

    async def _pass_on(self, request: web.Request, entry: Entry, batch: bytes | None) -> web.StreamResponse:
        assert self._client is not None  # noqa: S101 - set before the first request
        url = URL(f"{self._backend}{request.raw_path.lstrip('/')}", encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        if request.headers.get(locks.BYPASS, "true").lower() != "true":  # moto takes any value for yes
            headers = [(name, value) for name, value in headers if name.lower() != locks.BYPASS]
        if locks.asks_for_a_lock(request.headers) and "x-amz-sdk-checksum-algorithm" not in request.headers:
            # moto asks for the header by which SDKs announce a checksum; S3 takes the checksum alone.
            named = (name[15:].upper() for name, _ in headers if name.lower().startswith("x-amz-checksum-"))
            headers += [("x-amz-sdk-checksum-algorithm", name) for name in list(named)[:1]]

        async def body() -> Any:
            async for chunk in request.content.iter_chunked(_CHUNK):
                entry.bytes_in += len(chunk)
                yield chunk

        try:
            async with self._client.request(
                request.method,
                url,
                headers=headers,
                data=batch if batch is not None else body() if request.can_read_body else None,
                allow_redirects=False,
            ) as answer:
                if entry.lost:
                    await answer.read()  # it is done behind the gate
                    self._cut(request)
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                if entry.halved and request.method == "GET":
                    whole = await answer.read()
                    await response.write(whole[: len(whole) // 2])
                    self._cut(request)
                if request.method != "HEAD":
                    async for chunk in answer.content.iter_chunked(_CHUNK):
                        entry.bytes_out += len(chunk)
                        await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError as error:
            raise Refused(503, "ServiceUnavailable", f"the store behind the gate: {error}") from error

    def _note(self, entry: Entry, seconds: float) -> None:
        line = {
            "ts": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "key": entry.key,
            "method": entry.method,
            "bucket": entry.bucket,
            "object": entry.object,
            "query": entry.query,
            "status": entry.status,
            "bytes": entry.bytes_in or entry.bytes_out,
            "ms": round(seconds * 1000),
        }
        self._access_log.write(json.dumps(line) + "\n")


def allowed(grant: dict[str, Any], method: str, bucket: str, name: str, query: str) -> bool:
    """Whether a key's policy lets it do this. `prefixes` are `bucket` or `bucket/prefix`; none means everywhere.

    `readwrite`, `readonly`, or `retrieval`: RestoreObject and nothing else.
    """
    policy = grant.get("policy", "readwrite")
    if policy == "retrieval":
        if not (method == "POST" and name and "restore" in dict(parse_qsl(query, keep_blank_values=True))):
            return False
    elif policy not in ("readwrite", "readonly") or (policy == "readonly" and method not in _READS):
        return False
    prefixes = grant.get("prefixes")
    if not prefixes:
        return True
    if is_batch_delete(method, name, query):
        return True  # so far: each name in its body is judged by itself
    if name:
        return any(_under(f"{bucket}/{name}", prefix) for prefix in prefixes)
    if method == "HEAD":  # HeadBucket: barman asks it before anything else
        return any(prefix.partition("/")[0] == bucket for prefix in prefixes)
    listed = dict(parse_qsl(query)).get("prefix", "")
    return any(_under(f"{bucket}/{listed}", prefix) for prefix in prefixes)


def is_batch_delete(method: str, name: str, query: str) -> bool:
    """Whether a request is DeleteObjects: a POST to the bucket itself, marked by its query."""
    return method == "POST" and not name and "delete" in dict(parse_qsl(query, keep_blank_values=True))


def batch_names(body: bytes) -> list[str]:
    """The objects that a DeleteObjects names; one that can't be read is refused."""
    try:
        tree = ElementTree.fromstring(body)  # noqa: S314 - from the holder of a key, on loopback
    except ElementTree.ParseError as error:
        raise Refused(400, "MalformedXML", f"The XML you provided was not well-formed: {error}") from error
    return [element.text or "" for element in tree.iter() if element.tag.rpartition("}")[2] == "Key"]


def _under(path: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return path == prefix or path.startswith(prefix + "/")


def _error(request: web.Request, refusal: Refused) -> web.Response:
    """S3's error body; a HEAD has none, and the connection ends because the body of a refused PUT is still unread."""
    response = web.Response(status=refusal.status)
    if request.method != "HEAD":
        response.content_type = "application/xml"
        response.text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
            f"<Resource>{escape(request.path)}</Resource><RequestId>lab</RequestId></Error>"
        )
    if request.can_read_body:
        response.force_close()
    return response
