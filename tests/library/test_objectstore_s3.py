"""The S3 store against a server over HTTP: what it reads, what it may do without, and what its errors say."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3.session
import pytest
from fix_archive import ACCESS_KEY, BUCKET, S3, SECRET_KEY, free_port, running_s3

from drillbook.errors import ObjectStoreError, ParameterError, WalGap
from drillbook.objectstore import ArchivedSegment, S3Store, catalogue, read_segment, wal_names

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
        with pytest.raises(ObjectStoreError, match="AccessDenied") as denied:
            catalogue(lister, "pg")
        assert (denied.value.status, denied.value.reason) == (403, "AccessDenied")
        assert "s3:GetObject" in denied.value.todo
        with pytest.raises(ObjectStoreError, match="InvalidAccessKeyId") as unknown:
            wal_names(opened(s3, access_key_id=ACCESS_KEY[::-1]), "pg")
        assert ACCESS_KEY[::-1] not in chained(unknown.value)
        iam.close()


@pytest.mark.parametrize(("ending", "compression", "package"), [("lz4", "lz4", "lz4"), ("zst", "zstd", "zstandard")])
def test_a_compression_without_its_package_names_the_package(
    s3: S3, ending: str, compression: str, package: str
) -> None:
    name = NAMES[1]
    s3.put(f"some/prefix/{compression}/wals/{name[:16]}/{name}.{ending}", b"not really compressed")
    segment = wal_names(opened(s3), compression).segment(name)
    assert isinstance(segment, ArchivedSegment) and segment.compression == compression
    with pytest.raises((ObjectStoreError, WalGap)) as error:
        read_segment(opened(s3), segment)
    # Where the package is installed after all, the object is what is wrong.
    assert f"Python package {package}" in str(error.value) or "damaged" in str(error.value)
