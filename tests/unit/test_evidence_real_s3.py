"""A real S3 server that is not the lab's: it holds what the evidence needs, by whatever error it refuses (docs/real-s3.md).

Run by hand, with test_evidence_vault.py on the same server: ``DRILLBOOK_REAL_S3=http://127.0.0.1:9000,KEY,SECRET pytest -s …``.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fix_real_s3 import REAL_S3, RealStore
from fix_vault import BUCKET, OPEN

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not REAL_S3, reason="DRILLBOOK_REAL_S3=http://127.0.0.1:PORT,KEY,SECRET names no server"),
]
NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)
SEEN: list[tuple[str, str]] = []


@pytest.fixture(scope="module")
def store() -> Iterator[RealStore]:
    made = RealStore(OPEN, BUCKET)
    SEEN.append(("server", str(made.client().list_buckets()["ResponseMetadata"]["HTTPHeaders"].get("server"))))
    yield made
    sys.stdout.write("\n" + "\n".join(f"| {what} | {answer} |" for what, answer in SEEN) + "\n")


@pytest.fixture
def client(store: RealStore) -> Any:
    return store.client()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def refused(what: str, call: Callable[[], Any]) -> str:
    """Ask for what must be refused; by which code it was."""
    with pytest.raises(ClientError) as error:
        call()
    status, code = (
        error.value.response["ResponseMetadata"]["HTTPStatusCode"],
        str(error.value.response["Error"]["Code"]),
    )
    SEEN.append((what, f"{status} {code}"))
    assert 400 <= status < 500, code
    return code


def put(client: Any, key: str, mode: str = "COMPLIANCE") -> str:
    lock = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": NOW + YEAR}
    made = client.put_object(Bucket=BUCKET, Key=key, Body=b"proof", ChecksumAlgorithm="SHA256", **lock)
    return str(made["VersionId"])


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_i16_real_a_locked_version_stays(client: Any, key: str, mode: str) -> None:
    version = put(client, key, mode)
    where = {"Bucket": BUCKET, "Key": key, "VersionId": version}
    refused(f"{mode}: delete by version id", lambda: client.delete_object(**where))
    one = {"Objects": [{"Key": key, "VersionId": version}]}
    batch = client.delete_objects(Bucket=BUCKET, Delete=one, ChecksumAlgorithm="SHA256")
    SEEN.append((f"{mode}: delete by version id, in a batch", ", ".join(e["Code"] for e in batch.get("Errors", []))))
    assert batch.get("Errors") and not batch.get("Deleted")
    client.delete_object(Bucket=BUCKET, Key=key)
    client.put_object(Bucket=BUCKET, Key=key, Body=b"other")
    listed = client.list_object_versions(Bucket=BUCKET, Prefix=key)
    assert len(listed["Versions"]) == 2 and len(listed["DeleteMarkers"]) == 1
    assert client.get_object(**where)["Body"].read() == b"proof"
    SEEN.append((f"{mode}: plain delete, plain put", "200, a marker and a newer version; the locked one stays"))


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
def test_i16_real_a_retention_is_never_shortened_or_weakened(
    client: Any, key: str, mode: str, wanted: str, days: int
) -> None:
    version = put(client, key, mode)
    where = {"Bucket": BUCKET, "Key": key, "VersionId": version}
    retention = {"Mode": wanted, "RetainUntilDate": NOW + timedelta(days=days)} if wanted else {}
    shown = f"{wanted}, {days} of 365 days" if wanted else "taken away"
    refused(f"{mode}: retention {shown}", lambda: client.put_object_retention(**where, Retention=retention))
    found = client.get_object_retention(**where)["Retention"]
    assert (found["Mode"], found["RetainUntilDate"]) == (mode, NOW + YEAR)


def test_i16_real_a_retention_may_be_made_longer(client: Any, key: str) -> None:
    where = {"Bucket": BUCKET, "Key": key, "VersionId": put(client, key)}
    client.put_object_retention(**where, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": NOW + 2 * YEAR})
    assert client.get_object_retention(**where)["Retention"]["RetainUntilDate"] == NOW + 2 * YEAR


def test_i16_real_a_legal_hold_protects_until_it_is_released(client: Any, key: str) -> None:
    made = client.put_object(
        Bucket=BUCKET, Key=key, Body=b"proof", ChecksumAlgorithm="SHA256", ObjectLockLegalHoldStatus="ON"
    )
    where = {"Bucket": BUCKET, "Key": key, "VersionId": made["VersionId"]}
    refused("legal hold: delete by version id", lambda: client.delete_object(**where))
    refused("retention of an object that has none", lambda: client.get_object_retention(**where))
    client.put_object_legal_hold(**where, LegalHold={"Status": "OFF"})
    client.delete_object(**where)


def test_i16_real_a_bucket_without_object_lock_takes_no_lock(client: Any, key: str) -> None:
    whole = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": NOW + YEAR}
    refused(
        "a lock in a bucket without Object Lock",
        lambda: client.put_object(Bucket=OPEN, Key=key, Body=b"proof", ChecksumAlgorithm="SHA256", **whole),
    )
    refused(
        "its Object Lock configuration",
        lambda: client.get_object_lock_configuration(Bucket=OPEN),
    )
    suspended = {"Status": "Suspended"}
    refused(
        "versioning suspended under Object Lock",
        lambda: client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=suspended),
    )


def test_i16_real_conditional_writes(client: Any, key: str) -> None:
    def write(body: bytes, **condition: str) -> Any:
        return client.put_object(Bucket=BUCKET, Key=key, Body=body, **condition)

    refused("If-Match where there is no object", lambda: write(b"0", IfMatch='"none"'))
    first = write(b"1", IfNoneMatch="*")["ETag"]
    assert refused("If-None-Match where there is one", lambda: write(b"2", IfNoneMatch="*")) == "PreconditionFailed"
    second = write(b"2", IfMatch=first)["ETag"]
    assert refused("If-Match with an older ETag", lambda: write(b"3", IfMatch=first)) == "PreconditionFailed"
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"2"
    client.delete_object(Bucket=BUCKET, Key=key)
    try:
        write(b"3", IfMatch=second)
    except ClientError as error:
        assert error.response["Error"]["Code"] in ("NoSuchKey", "PreconditionFailed")
        SEEN.append(("If-Match behind a delete marker", str(error.response["Error"]["Code"])))
    else:  # no way past us: a ledger's head is read before it is moved, and the marker is found by `drillbook verify`
        SEEN.append(("If-Match behind a delete marker", "taken"))
        return
    write(b"3", IfNoneMatch="*")


@pytest.mark.parametrize("turn", range(5))
def test_i16_real_of_many_conditional_writers_one_wins(store: RealStore, key: str, turn: int) -> None:
    def write(n: int) -> str:
        try:
            store.client().put_object(Bucket=BUCKET, Key=key, Body=f"{n}".encode(), IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(8) as pool:
        ends = sorted(pool.map(write, range(24)))
    SEEN.append((f"24 writers with If-None-Match, turn {turn}", ", ".join(dict.fromkeys(ends))))
    assert ends.count("won") == 1
    assert len(store.client().list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"]) == 1


def test_i16_real_a_lock_without_a_checksum(client: Any, key: str) -> None:
    """S3 asks for a checksum with a lock. A server that does not is no worse: what was stored is read back and compared."""

    def bare(request: Any, **_: Any) -> None:
        for name in [name for name in request.headers if "checksum" in name.lower() or name.lower() == "content-md5"]:
            del request.headers[name]

    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": NOW + YEAR}
    client.meta.events.register("before-sign.s3.PutObject", bare)
    with contextlib.suppress(ClientError):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"proof", **lock)
        SEEN.append(("a lock without a checksum", "taken"))
        return
    SEEN.append(("a lock without a checksum", "refused"))
