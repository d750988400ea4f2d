"""The S3 store against a server over HTTP: what it reads, what it may do without, and what its errors say."""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
import traceback
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import boto3.session
import pytest
from fix_archive import ACCESS_KEY, BUCKET, S3, SECRET_KEY, free_port, running_s3

from drillbook.archive import S3Store, catalogue, not_s3, server_names, survey, wal_names
from drillbook.errors import ObjectStoreError, ParameterError
from drillbook_lab.api.tls import make_server_tls

NAMES = [f"0000000100000000{number:08X}" for number in range(1005)]


def opened(s3: S3, path: str = f"s3://{BUCKET}/some/prefix", **more: str) -> S3Store:
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "endpoint_url": s3.endpoint_url, **more}
    return S3Store.open(path, **keys)  # type: ignore[arg-type]


def chained(error: BaseException) -> str:
    """All that a log would hold of an error."""
    return "".join(traceback.format_exception(error))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as running:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: running.put(f"some/prefix/many/wals/{name[:16]}/{name}.gz", b"x"), NAMES))
        for key in ("a.txt", "folder/b.txt", "folder/deep/c.txt", "folderish/d.txt"):
            running.put(f"some/prefix/{key}", key.encode() * 10)
        running.put("some/prefixed/other", b"not below the prefix")
        yield running


@pytest.mark.long
def test_a_listing_goes_over_all_pages(s3: S3) -> None:
    listing = wal_names(opened(s3), "many")
    assert list(listing.names()) == NAMES and len(listing) == len(NAMES)
    assert listing.newest and listing.newest.name == NAMES[-1]
    assert [item.key for item in opened(s3).list("many/")] == sorted(f"many/wals/{n[:16]}/{n}.gz" for n in NAMES)


def test_what_is_no_wal_is_shown_and_not_counted(s3: S3) -> None:
    wals = "some/prefix/mixed/wals"
    for key in (
        "0000000100000000/000000010000000000000001",
        "0000000100000000/000000010000000000000002.gz",
        "0000000100000000/000000010000000000000002.00000028.backup.gz",
        "0000000100000000/000000010000000000000003.partial",
        "0000000100000000/000000010000000000000004.rar",
        "0000000100000000/notes.txt",
        "00000002.history",
        "lost+found/x",
    ):
        s3.put(f"{wals}/{key}", b"x")
    s3.put(f"{wals}/0000000100000000/000000010000000000000005.gz", b"")
    listing = wal_names(opened(s3), "mixed")
    assert list(listing.names()) == NAMES[1:3]
    assert listing.empty == [NAMES[5]]
    assert sorted(listing.unknown) == ["000000010000000000000004.rar", "lost+found/", "notes.txt"]
    assert listing.segment(NAMES[3]) is None and listing.segment("0000000900000000000000FF") is None
    assert list(listing.histories) == [2]
    assert listing.torn(1 << 20) == [NAMES[5], NAMES[1]]


def test_a_level_shows_folders_and_objects(s3: S3) -> None:
    level = opened(s3).level("")
    assert {"folder/", "folderish/"} < set(level.folders) and [o.key for o in level.objects] == ["a.txt"]
    assert opened(s3).level("folder/").folders == ("folder/deep/",)
    assert opened(s3, f"s3://{BUCKET}").level("some/").folders == ("some/prefix/", "some/prefixed/")


def test_an_object_is_read_whole_or_in_part(s3: S3) -> None:
    store = opened(s3)
    assert store.get("a.txt") == b"a.txt" * 10
    assert store.get("a.txt", start=5, length=7) == b"a.txta."
    assert store.get("a.txt", start=45) == b"a.txt"
    assert store.get("a.txt", start=45, length=99) == b"a.txt"
    assert store.get("a.txt", length=0) == b""


def test_an_object_is_described(s3: S3) -> None:
    found = opened(s3).head("a.txt")
    assert found and found == next(iter(opened(s3).list("a.txt")))
    assert found.size == 50 and abs(datetime.now(UTC) - found.modified) < timedelta(minutes=10)
    assert opened(s3).head("b.txt") is None


def test_errors_carry_the_stores_own_code(s3: S3) -> None:
    with pytest.raises(ObjectStoreError, match="NoSuchKey") as missing:
        opened(s3).get("nothing")
    assert (missing.value.status, missing.value.reason) == (404, "NoSuchKey")
    with pytest.raises(ObjectStoreError, match="listing s3://nowhere/x/base/: NoSuchBucket") as nowhere:
        catalogue(opened(s3, "s3://nowhere"), "x")
    assert "destinationPath" in nowhere.value.todo


def test_an_object_in_a_cold_class_says_so(s3: S3) -> None:
    s3.client.put_object(Bucket=BUCKET, Key="some/prefix/cold", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(ObjectStoreError, match="InvalidObjectState") as error:
        opened(s3).get("cold")
    assert "restore it" in error.value.todo
    assert (head := opened(s3).head("cold")) and head.storage_class == "GLACIER"


def test_no_answer_is_told_without_a_credential() -> None:
    store = S3Store.open(
        f"s3://{BUCKET}/p",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        endpoint_url=f"http://127.0.0.1:{free_port()}",
    )
    with pytest.raises(ObjectStoreError, match=r"no answer at http://127\.0\.0\.1") as error:
        store.get("x")
    assert (error.value.status, error.value.reason) == (0, "EndpointConnectionError")
    for text in (chained(error.value), repr(store), str(vars(error.value))):
        assert SECRET_KEY not in text and ACCESS_KEY not in text


def test_all_faults_of_an_address_are_told_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        S3Store.open("archive/x", access_key_id="", secret_access_key="s", endpoint_url="http://user:hunter2@host")
    assert len(error.value.faults) == 3 and "hunter2" not in str(error.value)
    with pytest.raises(ParameterError, match="can't be read as an address"):
        S3Store.open("s3://b", access_key_id="a", secret_access_key="s", endpoint_url="http://[::1")
    with pytest.raises(ParameterError, match="not http:// or https://"):
        S3Store.open("s3://b", access_key_id="a", secret_access_key="s", endpoint_url="localhost:9000")


def test_credentials_that_may_only_list_and_get_are_enough() -> None:
    """IAM is evaluated: one key may list and get below a prefix, one may only list."""
    only_list = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"}
    get = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/site/*"}
    # The first calls, which make the world, are not authorised: create bucket, put, and three a user.
    with running_s3(INITIAL_NO_AUTH_ACTION_COUNT="8") as s3:
        s3.put("site/pg/base/20260101T000000/backup.info", b"status=FAILED\nerror=full\n")
        iam = boto3.session.Session().client(
            "iam",
            endpoint_url=s3.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

        def user(name: str, *statements: dict[str, str]) -> S3Store:
            iam.create_user(UserName=name)
            key = iam.create_access_key(UserName=name)["AccessKey"]
            policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
            iam.put_user_policy(UserName=name, PolicyName="archive", PolicyDocument=policy)
            return opened(
                s3,
                f"s3://{BUCKET}/site",
                access_key_id=key["AccessKeyId"],
                secret_access_key=key["SecretAccessKey"],
            )

        reader, lister = user("reader", only_list, get), user("lister", only_list)
        assert catalogue(reader, "pg").unusable == [("20260101T000000", "failed: full")]
        assert len(wal_names(reader, "pg")) == 0
        assert reader.uploads("pg/") is None  # s3:ListBucketMultipartUploads isn't among them
        assert [(one.state, one.backup_id) for one in survey(reader, "pg").findings] == [("failed", "20260101T000000")]
        with pytest.raises(ObjectStoreError, match="AccessDenied") as denied:
            catalogue(lister, "pg")
        assert (denied.value.status, denied.value.reason) == (403, "AccessDenied")
        assert "s3:GetObject" in denied.value.todo
        with pytest.raises(ObjectStoreError, match="InvalidAccessKeyId") as unknown:
            wal_names(opened(s3, access_key_id=ACCESS_KEY[::-1]), "pg")
        assert ACCESS_KEY[::-1] not in chained(unknown.value)
        iam.close()


# -- how it is reached -------------------------------------------------------------------------------------------------


def test_the_default_chain_finds_the_key_or_says_that_there_is_none(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def chained_store() -> S3Store:
        return S3Store.open(f"s3://{BUCKET}/some/prefix", default_chain=True, endpoint_url=s3.endpoint_url)

    with pytest.raises(ObjectStoreError, match="default chain finds no credentials") as none:
        chained_store().get("a.txt")
    assert none.value.reason == "NoCredentials" and "archive.reader_secret" in none.value.todo
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    assert chained_store().get("a.txt") == b"a.txt" * 10
    with pytest.raises(ParameterError, match="a key is given, and the default chain"):
        S3Store.open(f"s3://{BUCKET}", default_chain=True, access_key_id=ACCESS_KEY)


class Heard(BaseHTTPRequestHandler):
    """What a client asks of a proxy, and with which headers; it is passed on to the real store."""

    asked: ClassVar[list[tuple[str, str]]]
    backend: ClassVar[str]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("X-Amz-Security-Token", "")))
        place = urlsplit(self.path)
        request = urllib.request.Request(f"{self.backend}{place.path}?{place.query}")  # noqa: S310
        for name, value in self.headers.items():
            if name.lower() != "host":
                request.add_header(name, value)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(backend: str, *, secured: ssl.SSLContext | None = None) -> Iterator[tuple[type[Heard], int]]:
    """A server that passes everything on."""

    class Here(Heard):
        asked: ClassVar[list[tuple[str, str]]] = []

    Here.backend = backend
    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    if secured is not None:
        server.socket = secured.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Here, server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_a_name_that_does_not_resolve_says_what_to_set_and_a_proxy_finds_it(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = "http://minio.storage.svc.cluster.invalid"
    with pytest.raises(ObjectStoreError, match=f"no answer at {endpoint}") as unknown:
        opened(s3, endpoint_url=endpoint).get("a.txt")
    assert "archive.endpoint_url" in unknown.value.todo and "doesn't resolve" in unknown.value.todo
    with listening(s3.endpoint_url) as (proxy, port):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        store = opened(s3, endpoint_url=endpoint, session_token="planted-session-token")
        assert store.get("a.txt") == b"a.txt" * 10
        # Path style, by the name that the proxy has to resolve, with the session's token.
        assert proxy.asked == [(f"{endpoint}/{BUCKET}/some/prefix/a.txt", "planted-session-token")]
        store.close()


def test_a_private_ca_is_trusted_where_it_is_given(s3: S3, tmp_path: Path) -> None:
    made = make_server_tls(tmp_path)
    with listening(s3.endpoint_url, secured=made.context()) as (_, port):
        endpoint = f"https://127.0.0.1:{port}"
        with pytest.raises(ObjectStoreError, match="SSLError") as distrusted:
            opened(s3, endpoint_url=endpoint).get("a.txt")
        assert "archive.endpoint_ca" in distrusted.value.todo
        files = set(Path(tempfile.gettempdir()).glob("drillbook-ca-*.pem"))
        with opened(s3, endpoint_url=endpoint, ca_pem=made.ca_pem) as store:
            assert store.get("a.txt") == b"a.txt" * 10
        assert set(Path(tempfile.gettempdir()).glob("drillbook-ca-*.pem")) == files


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        (
            {"destinationPath": "https://acme.blob.core.windows.net/backups", "azureCredentials": {}},
            "Azure Blob Storage (azureCredentials, https://acme.blob",
        ),
        (
            {"destinationPath": "https://acme.blob.core.windows.net/backups?sig=planted"},
            "Azure Blob Storage (https://acme.blob.core.windows.net/backups)",
        ),
        (
            {"destinationPath": "gs://backups/pg", "googleCredentials": {}},
            "Google Cloud Storage (googleCredentials, gs://backups/pg)",
        ),
        ({"destinationPath": "gs://backups/pg"}, "Google Cloud Storage (gs://backups/pg)"),
        ({"destinationPath": "/mnt/backups"}, "'/mnt/backups', which is not s3://bucket/prefix"),
    ],
)
def test_another_kind_of_store_is_told_by_its_name(configuration: dict[str, Any], told: str) -> None:
    (found,) = not_s3(configuration)
    assert told in found and "planted" not in found
    assert not_s3({"destinationPath": "s3://b/p", "s3Credentials": {}}) == []


def test_the_servers_of_a_prefix_are_told_apart_also_where_one_begins_as_another(s3: S3) -> None:
    base = "some/servers"
    for name in ("orders", "orders-v2"):
        s3.put(f"{base}/{name}/base/20260101T000000/backup.info", f"status=FAILED\nerror={name}\n".encode())
        s3.put(f"{base}/{name}/wals/{NAMES[0][:16]}/{NAMES[0]}", b"x")
    s3.put(f"{base}/orders-v2/wals/{NAMES[1][:16]}/{NAMES[1]}", b"x")
    s3.put(f"{base}/notes/readme.txt", b"x")
    store = opened(s3, f"s3://{BUCKET}/{base}")
    assert server_names(store) == ["orders", "orders-v2"]
    assert catalogue(store, "orders").unusable == [("20260101T000000", "failed: orders")]
    assert list(wal_names(store, "orders").names()) == NAMES[:1]
    assert list(wal_names(store, "orders-v2").names()) == NAMES[:2]
