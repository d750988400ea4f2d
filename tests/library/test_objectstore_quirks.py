"""Stores that break off, answer short, page oddly or limit requests: each as a small HTTP server that does just that."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from barman.cloud_providers.aws_s3 import S3CloudInterface
from fix_archive import ACCESS_KEY, SECRET_KEY

from drillbook.archive import S3Store
from drillbook.errors import ObjectStoreError

BODY = bytes(range(256)) * 12_000  # about 3 MB: several pieces


class Odd(BaseHTTPRequestHandler):
    """Answers as `answers` says, one request after the other; keeps what was asked."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]]
    answers: ClassVar[Callable[[Odd, int], None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers.items())))
        type(self).answers(self, len(self.asked))

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        if length is not None and length > len(body):
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    @property
    def range(self) -> tuple[int, int]:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else len(BODY)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def store(
    answers: Callable[[Any, int], None], path: str = "s3://bucket/pg", **more: str
) -> Iterator[tuple[S3Store, type[Odd]]]:
    class Here(Odd):
        asked: ClassVar[list[tuple[str, dict[str, str]]]] = []

    Here.answers = staticmethod(answers)  # type: ignore[assignment]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        with S3Store.open(
            path, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=endpoint, **more
        ) as opened:
            yield opened, Here
    finally:
        server.shutdown()
        server.server_close()


def breaking(times: int, after: int = 1_500_000) -> Callable[[Odd, int], None]:
    """Breaks off after so many bytes, so many times."""

    def answer(self: Odd, number: int) -> None:
        first, end = self.range
        body, status = BODY[first:end], 206 if "Range" in self.headers else 200
        if number <= times:
            self.send(status, body[:after], length=len(body), ETag='"one"')
        else:
            self.send(status, body, ETag='"one"')

    return answer


@pytest.mark.parametrize(("start", "length"), [(0, None), (1000, None), (1000, 2_500_000)])
@pytest.mark.parametrize("times", [0, 1, 3])
def test_g07_a_body_that_breaks_off_is_read_on_from_there(times: int, start: int, length: int | None) -> None:
    end = None if length is None else start + length
    with store(breaking(times)) as (opened, server):
        assert opened.get("object", start=start, length=length) == BODY[start:end]
        assert len(server.asked) <= times + 1
        ranges = [headers.get("Range") for _, headers in server.asked]
        assert len(set(ranges)) == len(ranges), "never the same bytes twice"
        assert all(headers.get("If-Match") == '"one"' for _, headers in server.asked[1:])


def test_g07_a_stream_goes_on_as_well() -> None:
    with store(breaking(2)) as (opened, _):
        assert b"".join(opened.stream("object", piece=1 << 20)) == BODY


def test_g07_what_breaks_off_for_ever_is_an_error_that_says_so() -> None:
    with store(breaking(99, after=0)) as (opened, server):
        with pytest.raises(ObjectStoreError, match=r"broke off after 0 of 3,072,000 bytes .*, 4 times") as error:
            opened.get("object")
        assert error.value.reason == "Interrupted" and error.value.todo and len(server.asked) == 4


def test_g07_an_object_that_was_replaced_is_not_put_together() -> None:
    def answer(self: Odd, number: int) -> None:
        if number == 1:
            self.send(200, BODY[:1_500_000], length=len(BODY), ETag='"one"')
        else:
            self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    with store(answer) as (opened, _), pytest.raises(ObjectStoreError) as error:
        opened.get("object")
    assert error.value.reason == "PreconditionFailed" and "read it again" in error.value.todo


def test_g07_a_store_that_knows_no_ranges_is_read_all_the_same() -> None:
    with store(lambda self, number: self.send(200, BODY)) as (opened, _):
        assert opened.get("object", start=5000, length=100) == BODY[5000:5100]
        assert opened.get("object", start=len(BODY) - 10) == BODY[-10:]


def listing(entries: str, *, truncated: bool, more: str = "") -> bytes:
    flag = str(truncated).lower()
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{flag}</IsTruncated>{more}{entries}</ListBucketResult>"
    ).encode()


def entry(key: str, **fields: str) -> str:
    said = {"Size": "1", "LastModified": "2026-11-01T12:00:00.000Z", **fields}
    return f"<Contents><Key>{key}</Key>{''.join(f'<{n}>{v}</{n}>' for n, v in said.items() if v)}</Contents>"


KEYS = [f"pg/a/{number:02}" for number in range(25)]


def paging(self: Odd, number: int) -> None:
    """Ten keys a page, truncated, and never a token."""
    after = parse_qs(urlsplit(self.path).query).get("start-after", [""])[0]
    page = [key for key in KEYS if key > after][:10]
    self.send(200, listing("".join(map(entry, page)), truncated=bool(page) and page[-1] != KEYS[-1]))


def test_b19_a_listing_without_a_token_goes_on_after_its_last_key() -> None:
    with store(paging) as (opened, server):
        assert ["pg/" + item.key for item in opened.list("a/")] == KEYS
        assert len(server.asked) == 3


def test_b19_folders_are_stepped_over_as_well() -> None:
    def answer(self: Odd, number: int) -> None:
        after = parse_qs(urlsplit(self.path).query).get("start-after", [""])[0]
        left = [name for name in ("pg/a/", "pg/b/", "pg/c/") if name + "x" > after]
        folders = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in left[:1])
        self.send(200, listing(folders, truncated=len(left) > 1))

    with store(answer) as (opened, _):
        assert opened.level("").folders == ("a/", "b/", "c/")


@pytest.mark.parametrize(
    "page",
    [
        listing("", truncated=True),
        listing(entry("pg/a"), truncated=True),
        listing(entry("pg/a"), truncated=True, more="<NextContinuationToken>same</NextContinuationToken>"),
    ],
    ids=["nothing", "the same page", "the same token"],
)
def test_b19_a_listing_that_never_ends_is_refused_by_name(page: bytes) -> None:
    with store(lambda self, number: self.send(200, page)) as (opened, server):
        with pytest.raises(ObjectStoreError, match="IsTruncated") as error:
            list(opened.list(""))
        assert error.value.reason == "IncompleteListing" and len(server.asked) <= 2


def test_b19_what_a_listing_leaves_out() -> None:
    bare = listing(entry("pg/a", LastModified=""), truncated=False)
    with store(lambda self, number: self.send(200, bare)) as (opened, _):
        (item,) = opened.list("")
        assert (item.key, item.etag, item.modified.year) == ("a", "", 1970)
    sizeless = listing(entry("pg/a", Size=""), truncated=False)
    refused = pytest.raises(ObjectStoreError, match="names a without its size")
    with store(lambda self, number: self.send(200, sizeless)) as (opened, _), refused:
        list(opened.list(""))


@pytest.mark.parametrize(
    ("status", "code", "todo"),
    [
        (403, "SignatureDoesNotMatch", "signed for region eu-north-9"),
        (400, "AuthorizationHeaderMalformed", "archive.reader_secret.region"),
        (403, "RequestTimeTooSkewed", "clock"),
    ],
)
def test_b10_a_refused_signature_names_the_region(status: int, code: str, todo: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    with store(lambda self, number: self.send(status, body), region="eu-north-9") as (opened, _):
        with pytest.raises(ObjectStoreError, match=code) as error:
            opened.get("object")
        assert todo in error.value.todo


def test_b19_a_store_that_slows_down_is_asked_again_and_then_named() -> None:
    slow = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    with store(lambda self, number: self.send(503, slow)) as (opened, server):
        with pytest.raises(ObjectStoreError, match="SlowDown") as error:
            opened.get("object")
        assert "limits requests" in error.value.todo and len(server.asked) == 4


@pytest.mark.parametrize(
    ("destination", "prefix"),
    [
        ("s3://bucket/pg", "pg/"),
        ("s3://bucket/pg/", "pg/"),
        ("s3://bucket/pg//", "pg//"),
        ("s3://bucket//pg", "pg/"),
        ("s3://bucket/a//b/", "a//b/"),
        ("s3://bucket", ""),
        ("s3://bucket/", ""),
    ],
)
def test_b29_keys_are_joined_as_barman_joins_them(destination: str, prefix: str) -> None:
    """barman: the path without its leading slashes, os.path.join with the server's name."""
    barmans = S3CloudInterface(url=destination).path
    assert prefix == (f"{barmans}/" if barmans and not barmans.endswith("/") else barmans)
    with store(lambda self, number: self.send(200, b"x"), destination) as (opened, server):
        opened.get("srv/base/1/backup.info")
        assert urlsplit(server.asked[0][0]).path == f"/bucket/{prefix}srv/base/1/backup.info"
