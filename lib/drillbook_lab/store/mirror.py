"""Around moto: after every request that changed something, and before its answer, the change goes to disk."""

from __future__ import annotations

import contextlib
import datetime
import gc
import io
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends
from moto.s3.utils import _VersionedKeyStore
from werkzeug.test import Client

from drillbook_lab.store.kept import Kept, StoredBody
from drillbook_lab.store.large import JoinedInAFile, one_range, pieces
from drillbook_lab.store.retrieval import ARCHIVED, Retrieval
from drillbook_lab.store.signature import Refused

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

_CHANGES = frozenset({"PUT", "POST", "DELETE"})
# Every other word in a bucket's query sets something on it: ?versioning, ?lifecycle, ?object-lock ...
_NOT_SETTINGS = frozenset({"delete", "uploads", "x-id"})
_KEPT_HEADERS = ("CONTENT_TYPE", "HTTP_X_AMZ_BUCKET_OBJECT_LOCK_ENABLED", "HTTP_X_AMZ_ACL", "HTTP_CONTENT_MD5")

_LOST = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchUpload</Code><Message>The specified upload does not '
    b"exist. The upload ID may be invalid, or the upload may have been aborted or completed.</Message></Error>"
)

_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'

# moto's requests are rings of references, each with its body: the collector is called after so many bytes of them.
_UNCOLLECTED_BYTES = 64 << 20

_touched = threading.local()


class NotedKeys(_VersionedKeyStore):
    """A bucket's keys; each thread knows which of them it has touched."""

    def setlist(self, key: Any, list_: Any) -> Any:
        _names().add(key)
        for version in list_:
            _joined(version)
        return super().setlist(key, list_)

    def __setitem__(self, key: str, value: Any) -> None:
        _names().add(key)
        super().__setitem__(key, value)

    def pop(self, key: str) -> None:  # type: ignore[override]
        _names().add(key)
        super().pop(key)


def _joined(version: Any) -> None:
    """An object whose parts were joined in a file reads from there before anybody can see it."""
    upload = getattr(version, "multipart", None)
    if isinstance(upload, JoinedInAFile) and upload.joined is not None:
        version._value_buffer.close()
        version._value_buffer = StoredBody(upload.joined)
        version.contentsize = upload.joined.stat().st_size
        version.multipart = None
        upload.dispose()


def _names() -> set[str]:
    if not hasattr(_touched, "names"):
        _touched.names = set()
    found: set[str] = _touched.names
    return found


class Mirror:
    """A WSGI application that passes requests on to moto and keeps what they did."""

    def __init__(self, moto: Wsgi, kept: Kept, retrieval: Retrieval) -> None:
        self._moto = moto
        self._kept = kept
        self._retrieval = retrieval
        self._lock = threading.Lock()
        self._uncollected = 0

    def restore(self) -> int:
        """Make moto what it was: buckets by the requests that made them, then their objects. How many versions."""
        # No server yet: straight at the application.
        client = Client(self._moto)
        for bucket, query, headers, body in self._kept.settings():
            answer = client.put(f"/{bucket}", query_string=query, data=body, environ_overrides=headers)
            if answer.status_code >= 300:
                raise RuntimeError(f"bucket {bucket}?{query} can't be made again: {answer.get_data(as_text=True)}")
        self._kept.sweep()
        return sum(self._kept.load(self._noted(bucket), _tag) for bucket in _backend().buckets.values())

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request."""
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace").lstrip("/")
        bucket, _, name = path.partition("/")
        if (key := self._archived(environ, bucket, name)) is not None:
            if environ["REQUEST_METHOD"] == "POST":
                return self._retrieve(environ, start_response, path, key)
            start_response = self._as_retrieved(start_response, path, key)
        self._know_source(environ)
        if environ["REQUEST_METHOD"] not in _CHANGES:
            sent = (
                self._from_file(environ, start_response, bucket, name) if environ["REQUEST_METHOD"] == "GET" else None
            )
            return self._moto(environ, start_response) if sent is None else sent
        if self._is_of_a_lost_upload(environ, bucket):
            self._take_body(environ)
            start_response("404 NOT FOUND", [("Content-Type", "application/xml"), ("Content-Length", str(len(_LOST)))])
            return [_LOST]
        setting = self._setting(environ) if bucket and not name else None
        body = self._take_body(environ) if setting is not None else b""
        statuses: list[int] = []

        def begin(status: str, headers: Any, exc_info: Any = None) -> Any:
            statuses.append(int(status.split()[0]))
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        _names().clear()
        answer = list(self._moto(environ, begin))
        if statuses and statuses[-1] < 300:
            with self._lock:
                if setting is not None:
                    self._keep_setting(environ, bucket, setting, body)
                self._keep_objects(bucket, {*_names(), name} - {""})
                for upload in getattr(_backend().buckets.get(bucket), "multiparts", {}).values():
                    JoinedInAFile.adopt(upload, self._kept.bodies)
        self._uncollected += int(environ.get("CONTENT_LENGTH") or 0)
        if self._uncollected > _UNCOLLECTED_BYTES:
            self._uncollected = 0
            gc.collect()
        return answer

    @staticmethod
    def _archived(environ: dict[str, Any], bucket: str, name: str) -> FakeKey | None:
        """The object that is read from an archive class, or asked for (of any class); None: it is another request."""
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        asked = environ["REQUEST_METHOD"] == "POST" and "restore" in query
        if not name or not (asked or environ["REQUEST_METHOD"] in ("GET", "HEAD")) or bucket not in _backend().buckets:
            return None
        key = _backend().get_object(bucket, name, version_id=query.get("versionId"))
        return key if isinstance(key, FakeKey) and (asked or key.storage_class in ARCHIVED) else None

    def _retrieve(self, environ: dict[str, Any], start_response: Any, path: str, key: FakeKey) -> Iterable[bytes]:
        """RestoreObject."""
        body = self._take_body(environ)
        try:
            status = self._retrieval.ask(path, key.etag, str(key.storage_class), body, _now())
        except Refused as refused:
            said = _ERROR.format(code=refused.code, message=refused.message).encode()
            start_response(
                f"{refused.status} REFUSED", [("Content-Type", "application/xml"), ("Content-Length", str(len(said)))]
            )
            return [said]
        start_response(f"{status} {'OK' if status == 200 else 'ACCEPTED'}", [("Content-Length", "0")])
        return [b""]

    def _know_source(self, environ: dict[str, Any]) -> None:
        """Of a CopyObject, moto is given the time until which its source may be read."""
        source, _, query = environ.get("HTTP_X_AMZ_COPY_SOURCE", "").partition("?")
        path = unquote(source).lstrip("/")
        bucket, _, name = path.partition("/")
        if name and bucket in _backend().buckets:
            key = _backend().get_object(bucket, name, version_id=dict(parse_qsl(query)).get("versionId"))
            if isinstance(key, FakeKey) and key.storage_class in ARCHIVED:
                key.set_expiry(self._retrieval.readable_until(path, key.etag, _now()))

    def _as_retrieved(self, start_response: Any, path: str, key: FakeKey) -> Any:
        """moto is given the time until which it may be read; the answer says what S3 says of it."""
        now = _now()
        key.set_expiry(self._retrieval.readable_until(path, key.etag, now))
        header = self._retrieval.header(path, key.etag, now)

        def begin(status: str, headers: Any, exc_info: Any = None) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() != "x-amz-restore"]
            kept += [("x-amz-restore", header)] if header else []
            return start_response(status, kept, exc_info) if exc_info else start_response(status, kept)

        return begin

    def _from_file(
        self, environ: dict[str, Any], start_response: Any, bucket: str, name: str
    ) -> Iterable[bytes] | None:
        """A stored object, sent from its file with the headers that moto gives; None: moto shall answer by itself."""
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        known = _backend().buckets.get(bucket)
        if known is None or not name or set(query) - {"versionId", "x-id"}:
            return None
        key = _backend().get_object(bucket, name, version_id=query.get("versionId"))
        body = key._value_buffer if isinstance(key, FakeKey) else None
        if not isinstance(body, StoredBody):
            return None
        told: list[Any] = []
        head = {**environ, "REQUEST_METHOD": "HEAD", "wsgi.input": io.BytesIO(b""), "CONTENT_LENGTH": "0"}
        asked = head.pop("HTTP_RANGE", "")
        _close(self._moto(head, lambda status, headers, exc_info=None: told.extend([status, dict(headers)])))
        status, headers = told[0], {entry.lower(): value for entry, value in told[1].items()}
        span = one_range(asked, key.contentsize) if asked else (0, key.contentsize)
        # An object in cold storage isn't given out; one that was replaced in the meantime has other headers.
        if (
            not status.startswith("200")
            or "x-amz-storage-class" in headers
            or headers.get("etag") != key.etag
            or span is None
        ):
            return None
        source = body.path.open("rb")
        if asked:
            status = "206 PARTIAL CONTENT"
            headers = {entry: value for entry, value in headers.items() if not entry.startswith("x-amz-checksum")}
            headers["content-range"] = f"bytes {span[0]}-{span[0] + span[1] - 1}/{key.contentsize}"
        elif key.checksum_type == "COMPOSITE":  # which moto says of a whole object, and not of its head
            for entry in [entry for entry in headers if entry.startswith("x-amz-checksum-")]:
                headers[entry] = f"{headers[entry]}-{key.checksum_parts}"
        headers["content-length"] = str(span[1])
        start_response(status, list(headers.items()))
        return pieces(source, *span)

    def _keep_objects(self, bucket_name: str, names: set[str]) -> None:
        bucket = _backend().buckets.get(bucket_name)
        if bucket is None:
            return
        self._noted(bucket)
        for name in names:
            versions = bucket.keys.getlist(name, [])
            # A body that is closed already has been replaced in the meantime: that request writes its own.
            with contextlib.suppress(ValueError):
                self._kept.write(bucket_name, name, versions, _tags)

    def _keep_setting(self, environ: dict[str, Any], bucket: str, setting: str, body: bytes) -> None:
        if environ["REQUEST_METHOD"] == "DELETE":
            self._kept.drop_setting(bucket, setting)
        elif environ["REQUEST_METHOD"] == "PUT":
            headers = {name: environ[name] for name in _KEPT_HEADERS if name in environ}
            self._kept.keep_setting(bucket, setting, environ.get("QUERY_STRING", ""), headers, body)
            if not setting and bucket in _backend().buckets:
                self._noted(_backend().buckets[bucket])

    @staticmethod
    def _is_of_a_lost_upload(environ: dict[str, Any], bucket: str) -> bool:
        """A part for an upload that a kill has ended; moto itself would stumble over it."""
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        known = _backend().buckets.get(bucket)
        return "partNumber" in query and known is not None and query.get("uploadId") not in known.multiparts

    @staticmethod
    def _setting(environ: dict[str, Any]) -> str | None:
        """What a request to a bucket sets; empty: the bucket itself; None: nothing."""
        words = {name for name, _ in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)}
        if words & _NOT_SETTINGS:
            return None
        return ",".join(sorted(words))

    @staticmethod
    def _take_body(environ: dict[str, Any]) -> bytes:
        length, body = environ.get("CONTENT_LENGTH"), b""
        if length or environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read(int(length) if length else -1)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return body

    @staticmethod
    def _noted(bucket: FakeBucket) -> FakeBucket:
        if not isinstance(bucket.keys, NotedKeys):
            noted = NotedKeys()
            for name, versions in bucket.keys.iterlists():
                noted.setlist(name, versions)
            bucket.keys = noted
        return bucket


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _close(answer: Iterable[bytes]) -> None:
    for _ in answer:
        pass
    close = getattr(answer, "close", None)
    if close is not None:
        close()


def _backend() -> S3Backend:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def _tags(key: FakeKey) -> dict[str, str]:
    found: dict[str, str] = _backend().tagger.get_tag_dict_for_resource(key.arn)
    return found


def _tag(key: FakeKey, tags: dict[str, str]) -> None:
    tagger = _backend().tagger
    tagger.tag_resource(key.arn, tagger.convert_dict_to_tags_input(tags))
