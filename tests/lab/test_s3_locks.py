"""What S3 refuses under Object Lock, and of conditional writes: the lab's store refuses it too, though moto would not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from fix_agent import BUCKET, Store

LOCKED = "evidence"
NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    running = Store(tmp_path_factory.mktemp("locks") / "s3", "--locked-bucket", LOCKED)
    running.keys(
        {
            "writer": {"secret": "w", "policy": "readwrite"},
            "admin": {"secret": "a", "policy": "readwrite", "bypass_governance": True},
        }
    )
    yield running
    running.stop()


@pytest.fixture
def client(store: Store) -> Any:
    return store.client()


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def put(client: Any, name: str, mode: str = "COMPLIANCE", until: datetime = NOW + YEAR, **more: Any) -> str:
    """Put a locked object; its version."""
    lock = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": until}
    made = client.put_object(Bucket=LOCKED, Key=name, Body=b"proof", ChecksumAlgorithm="SHA256", **lock | more)
    return str(made["VersionId"])


def kept(client: Any, name: str, version: str) -> tuple[str, datetime]:
    found = client.get_object_retention(Bucket=LOCKED, Key=name, VersionId=version)["Retention"]
    return found["Mode"], found["RetainUntilDate"]


def retain(client: Any, name: str, version: str, mode: str, until: datetime, **more: Any) -> Any:
    retention = {"Mode": mode, "RetainUntilDate": until}
    return client.put_object_retention(Bucket=LOCKED, Key=name, VersionId=version, Retention=retention, **more)


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_i16_a_locked_version_is_neither_deleted_nor_overwritten(store: Store, client: Any, mode: str) -> None:
    version = put(client, f"kept-{mode}", mode)
    where = {"Bucket": LOCKED, "Key": f"kept-{mode}"}
    assert code(lambda: client.delete_object(**where, VersionId=version)) == "AccessDenied"
    batch = client.delete_objects(
        Bucket=LOCKED, Delete={"Objects": [{"Key": where["Key"], "VersionId": version}]}, ChecksumAlgorithm="SHA256"
    )
    assert [error["Code"] for error in batch["Errors"]] == ["AccessDenied"]
    request = AWSRequest("PUT", f"{store.endpoint}/{LOCKED}/{where['Key']}?versionId={version}", data=b"other")
    S3SigV4Auth(Credentials("writer", "w"), "s3", "us-east-1").add_auth(request)
    answer = URLLib3Session().send(request.prepare())
    assert answer.status_code == 400 and b"This operation does not accept a version-id" in answer.content
    assert client.get_object(**where, VersionId=version)["Body"].read() == b"proof"


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_i16_a_plain_delete_or_put_succeeds_and_the_locked_version_stays(client: Any, mode: str) -> None:
    name = f"hidden-{mode}"
    version = put(client, name, mode)
    client.delete_object(Bucket=LOCKED, Key=name)
    assert code(lambda: client.get_object(Bucket=LOCKED, Key=name)) == "NoSuchKey"
    client.put_object(Bucket=LOCKED, Key=name, Body=b"other")
    listed = client.list_object_versions(Bucket=LOCKED, Prefix=name)
    assert len(listed["Versions"]) == 2 and len(listed["DeleteMarkers"]) == 1
    assert client.get_object(Bucket=LOCKED, Key=name, VersionId=version)["Body"].read() == b"proof"


@pytest.mark.parametrize(
    ("mode", "wanted", "days"),
    [
        ("COMPLIANCE", "COMPLIANCE", 364),
        ("COMPLIANCE", "GOVERNANCE", 366),
        ("COMPLIANCE", "", 0),
        ("GOVERNANCE", "GOVERNANCE", 364),
        ("GOVERNANCE", "", 0),
    ],
)
def test_i16_a_retention_is_never_shortened_or_weakened(client: Any, mode: str, wanted: str, days: int) -> None:
    name = f"short-{mode}-{wanted}-{days}"
    version = put(client, name, mode)
    retention = {"Mode": wanted, "RetainUntilDate": NOW + timedelta(days=days)} if wanted else {}
    call = {"Bucket": LOCKED, "Key": name, "VersionId": version, "Retention": retention}
    assert code(lambda: client.put_object_retention(**call)) == "AccessDenied"
    assert kept(client, name, version) == (mode, NOW + YEAR)


def test_i16_a_retention_may_be_made_longer(client: Any) -> None:
    version = put(client, "longer")
    retain(client, "longer", version, "COMPLIANCE", NOW + 2 * YEAR)
    assert kept(client, "longer", version) == ("COMPLIANCE", NOW + 2 * YEAR)
    assert code(lambda: retain(client, "longer", version, "COMPLIANCE", NOW + YEAR)) == "AccessDenied"


def test_i16_governance_is_bypassed_with_header_and_permission_only(store: Store, client: Any) -> None:
    admin = store.client("admin")
    version, strict = put(client, "bypass", "GOVERNANCE"), put(client, "strict")
    sooner, bypass = NOW + timedelta(days=1), {"BypassGovernanceRetention": True}
    where = {"Bucket": LOCKED, "Key": "bypass", "VersionId": version}
    assert code(lambda: client.delete_object(**where, **bypass)) == "AccessDenied"  # no permission
    assert code(lambda: retain(client, "bypass", version, "GOVERNANCE", sooner, **bypass)) == "AccessDenied"
    assert code(lambda: admin.delete_object(**where)) == "AccessDenied"  # no header
    assert code(lambda: admin.delete_object(**where, BypassGovernanceRetention=False)) == "AccessDenied"
    retain(admin, "bypass", version, "GOVERNANCE", sooner, **bypass)
    assert kept(client, "bypass", version) == ("GOVERNANCE", sooner)
    admin.delete_object(**where, **bypass)
    assert code(lambda: client.get_object(**where)) == "NoSuchVersion"
    where = {"Bucket": LOCKED, "Key": "strict", "VersionId": strict}
    assert code(lambda: admin.delete_object(**where, **bypass)) == "AccessDenied"  # COMPLIANCE: nobody
    assert code(lambda: retain(admin, "strict", strict, "COMPLIANCE", sooner, **bypass)) == "AccessDenied"


def test_i16_a_legal_hold_protects_until_it_is_released(store: Store, client: Any) -> None:
    made = client.put_object(
        Bucket=LOCKED, Key="held", Body=b"proof", ChecksumAlgorithm="SHA256", ObjectLockLegalHoldStatus="ON"
    )
    where = {"Bucket": LOCKED, "Key": "held", "VersionId": made["VersionId"]}
    for who, more in ((client, {}), (store.client("admin"), {"BypassGovernanceRetention": True})):
        assert code(lambda who=who, more=more: who.delete_object(**where, **more)) == "AccessDenied"
    assert code(lambda: client.get_object_retention(**where)) == "NoSuchObjectLockConfiguration"
    client.put_object_legal_hold(**where, LegalHold={"Status": "OFF"})
    client.delete_object(**where)


def test_i16_a_lock_needs_a_bucket_a_checksum_and_both_of_its_halves(client: Any) -> None:
    until = {"ObjectLockRetainUntilDate": NOW + YEAR}
    whole = {"ObjectLockMode": "COMPLIANCE", **until}

    def refused(**more: Any) -> str:
        call = {"Bucket": LOCKED, "Key": "half", "Body": b"proof", "ChecksumAlgorithm": "SHA256"} | more
        return code(lambda: client.put_object(**call))

    wrong = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    assert refused(**until) == refused(ObjectLockMode="COMPLIANCE") == "InvalidArgument"
    assert refused(ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=NOW - YEAR) == "InvalidArgument"
    assert refused(**whole, Bucket=BUCKET) == "InvalidRequest"
    assert refused(**whole, ChecksumSHA256=wrong) == "BadDigest"
    assert "Contents" not in client.list_objects_v2(Bucket=LOCKED, Prefix="half")
    put(client, "whole", ChecksumSHA256=base64.b64encode(hashlib.sha256(b"proof").digest()).decode())


def test_i16_a_lock_without_a_checksum_is_refused(store: Store) -> None:
    request = AWSRequest("PUT", f"{store.endpoint}/{LOCKED}/bare", data=b"proof")
    request.headers["x-amz-object-lock-mode"] = "COMPLIANCE"
    request.headers["x-amz-object-lock-retain-until-date"] = (NOW + YEAR).isoformat()
    S3SigV4Auth(Credentials("writer", "w"), "s3", "us-east-1").add_auth(request)
    answer = URLLib3Session().send(request.prepare())
    assert answer.status_code == 400 and b"Content-MD5 OR x-amz-checksum-" in answer.content


def test_i16_versioning_stays_on_under_object_lock(client: Any) -> None:
    suspended = {"Status": "Suspended"}
    assert code(lambda: client.put_bucket_versioning(Bucket=LOCKED, VersioningConfiguration=suspended)) == (
        "InvalidBucketState"
    )
    client.put_bucket_versioning(Bucket=LOCKED, VersioningConfiguration={"Status": "Enabled"})
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=suspended)
    assert client.get_object_lock_configuration(Bucket=LOCKED)["ObjectLockConfiguration"]["ObjectLockEnabled"] == (
        "Enabled"
    )


@pytest.mark.parametrize("bucket", [BUCKET, LOCKED])
def test_i16_conditional_writes(client: Any, bucket: str) -> None:
    def write(body: bytes, **condition: str) -> Any:
        return client.put_object(Bucket=bucket, Key="head", Body=body, **condition)

    assert code(lambda: write(b"0", IfMatch='"none"')) == "NoSuchKey"
    first = write(b"1", IfNoneMatch="*")["ETag"]
    assert code(lambda: write(b"2", IfNoneMatch="*")) == "PreconditionFailed"
    second = write(b"2", IfMatch=first)["ETag"]
    assert code(lambda: write(b"3", IfMatch=first)) == "PreconditionFailed"
    assert client.get_object(Bucket=bucket, Key="head")["Body"].read() == b"2"
    assert code(lambda: write(b"3", IfNoneMatch=second)) == "NotImplemented"
    client.delete_object(Bucket=bucket, Key="head")
    assert code(lambda: write(b"3", IfMatch=second)) == "NoSuchKey"
    write(b"3", IfNoneMatch="*")


def test_i16_of_many_conditional_writers_one_wins(store: Store) -> None:
    def write(n: int) -> str:
        try:
            store.client().put_object(Bucket=LOCKED, Key="one", Body=f"{n}".encode(), IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(8) as pool:
        ends = sorted(pool.map(write, range(24)))
    assert ends == ["PreconditionFailed"] * 23 + ["won"]
    assert len(store.client().list_object_versions(Bucket=LOCKED, Prefix="one")["Versions"]) == 1


def test_i16_locks_outlive_a_killed_store(tmp_path: Path) -> None:
    first = Store(tmp_path / "s3", "--locked-bucket", LOCKED)
    version = put(first.client(), "kept")
    first.process.kill()
    first.process.wait()
    second = Store(tmp_path / "s3", "--locked-bucket", LOCKED)
    try:
        assert kept(second.client(), "kept", version) == ("COMPLIANCE", NOW + YEAR)
        where = {"Bucket": LOCKED, "Key": "kept", "VersionId": version}
        assert code(lambda: second.client().delete_object(**where)) == "AccessDenied"
    finally:
        second.stop()


def test_faults_begin_after_and_end_after_so_many_requests(store: Store, client: Any) -> None:
    def tried() -> str:
        try:
            client.list_objects_v2(Bucket=BUCKET)
        except (ClientError, BotoCoreError) as error:
            return type(error).__name__
        return "well"

    store.faults(after=1, requests=2, busy=True)
    assert [tried() for _ in range(3)] == ["well", "ClientError", "well"]  # botocore tries each call twice
    store.faults(lose_answers=True, requests=2)
    with pytest.raises(BotoCoreError):
        client.put_object(Bucket=BUCKET, Key="lost-answer", Body=b"1")
    assert store.names("lost-answer") == ["lost-answer"]
    store.faults()
