"""The object store's memory: killed with -9 at any moment, it comes back with all that it had answered for."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fix_agent import BUCKET, Store, agent_home, processes_with, wait_for

pytestmark = pytest.mark.soak

__all__ = ["agent_home"]

ODD = "a folder/../ä+=&~'(x)%2F"


def again(store: Store) -> None:
    """Kill the gate, and with it moto; start the same store again."""
    store.process.send_signal(signal.SIGKILL)
    store.process.wait()
    wait_for("moto gone", lambda: not processes_with(str(store.state)))
    (store.state / "ready").unlink()
    store.process = subprocess.Popen(
        [sys.executable, "-m", "drillbook_lab.store", "--state", str(store.state), "--bucket", BUCKET]
    )
    wait_for("the store", (store.state / "ready").exists)
    store.endpoint = (store.state / "ready").read_text().strip()


@pytest.fixture(scope="module")
def own(agent_home: Path) -> Iterator[Store]:
    """A store of this file's own, to be killed."""
    store = Store(agent_home / "kept")
    yield store
    store.stop()


def resident(store: Store) -> int:
    """Bytes of memory that moto takes."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"drillbook_lab.store.backend" in (folder / "cmdline").read_bytes() and str(store.state) in str(
                (folder / "cwd").readlink()
            ):
                return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    raise AssertionError("there is no moto")


def code(call: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def test_objects_come_back_with_all_that_is_known_of_them(own: Store) -> None:
    client = own.client()
    client.put_object(
        Bucket=BUCKET,
        Key=ODD,
        Body=b"hello",
        ContentType="text/plain",
        Metadata={"who": "me"},
        Tagging="a=b",
        StorageClass="STANDARD_IA",
    )
    body = os.urandom(12 << 20)
    client.upload_fileobj(io.BytesIO(body), BUCKET, "large")
    client.put_object(Bucket=BUCKET, Key="gone", Body=b"x")
    client.put_object(Bucket=BUCKET, Key="twice", Body=b"1")
    client.put_object(Bucket=BUCKET, Key="twice", Body=b"2")
    client.put_object(Bucket=BUCKET, Key="gone too", Body=b"x")
    client.delete_object(Bucket=BUCKET, Key="gone")
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "gone too"}]})
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="never")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key="never", UploadId=upload, PartNumber=1, Body=b"part")
    known = {key: client.head_object(Bucket=BUCKET, Key=key) for key in (ODD, "large", "twice")}
    again(own)
    client = own.client()
    assert own.names("") == sorted([ODD, "large", "twice"])
    for key, before in known.items():
        after = client.head_object(Bucket=BUCKET, Key=key)
        for fact in ("ETag", "LastModified", "ContentLength", "ContentType", "Metadata", "StorageClass"):
            assert after.get(fact) == before.get(fact), (key, fact)
    assert client.get_object(Bucket=BUCKET, Key=ODD)["Body"].read() == b"hello"
    assert client.get_object_tagging(Bucket=BUCKET, Key=ODD)["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert client.get_object(Bucket=BUCKET, Key="large")["Body"].read() == body
    assert client.get_object(Bucket=BUCKET, Key="large", Range="bytes=100-199")["Body"].read() == body[100:200]
    assert client.get_object(Bucket=BUCKET, Key="twice")["Body"].read() == b"2"
    # An upload that was under way is the one thing that is lost, and it is said.
    lost = lambda: client.upload_part(Bucket=BUCKET, Key="never", UploadId=upload, PartNumber=2, Body=b"more")  # noqa: E731
    assert code(lost) == "NoSuchUpload"
    assert len(list((own.state / "objects" / "bodies").iterdir())) == 3  # what was replaced or deleted is swept


def test_versions_markers_locks_and_settings_come_back(own: Store) -> None:
    client = own.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 7}},
        },
    )
    client.put_bucket_lifecycle_configuration(
        Bucket="locked",
        LifecycleConfiguration={
            "Rules": [{"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}]
        },
    )
    first = client.put_object(Bucket="locked", Key="k", Body=b"1")["VersionId"]
    client.put_object(Bucket="locked", Key="k", Body=b"2")
    client.put_object_legal_hold(Bucket="locked", Key="k", VersionId=first, LegalHold={"Status": "ON"})
    marker = client.delete_object(Bucket="locked", Key="k")["VersionId"]
    client.create_bucket(Bucket="passing")
    client.delete_bucket(Bucket="passing")
    before = client.list_object_versions(Bucket="locked")
    again(own)
    client = own.client()
    after = client.list_object_versions(Bucket="locked")
    for part in ("Versions", "DeleteMarkers"):
        assert [(v["VersionId"], v["IsLatest"]) for v in after[part]] == [
            (v["VersionId"], v["IsLatest"]) for v in before[part]
        ]
    assert after["DeleteMarkers"][0]["VersionId"] == marker
    assert client.get_object(Bucket="locked", Key="k", VersionId=first)["Body"].read() == b"1"
    assert client.get_bucket_versioning(Bucket="locked")["Status"] == "Enabled"
    assert client.get_bucket_lifecycle_configuration(Bucket="locked")["Rules"][0]["ID"] == "old"
    held = client.get_object_legal_hold(Bucket="locked", Key="k", VersionId=first)["LegalHold"]["Status"]
    assert held == "ON"
    assert code(lambda: client.delete_object(Bucket="locked", Key="k", VersionId=first)) == "AccessDenied"
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == {BUCKET, "locked"}


def test_what_is_stored_takes_no_memory(own: Store) -> None:
    client = own.client()
    client.put_object(Bucket=BUCKET, Key="warm", Body=os.urandom(8 << 20))
    before = resident(own)
    for number in range(24):
        client.put_object(Bucket=BUCKET, Key=f"block {number}", Body=os.urandom(8 << 20))
    assert resident(own) - before < 96 << 20  # of 192 MB
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"block {number}"} for number in range(24)]})


def test_a_large_object_takes_no_memory_either_in_parts_or_in_ranges(own: Store) -> None:
    client = own.client()
    block = os.urandom(8 << 20)
    client.upload_fileobj(io.BytesIO(block * 2), BUCKET, "warm in parts")
    before, peak = resident(own), 0
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="base")["UploadId"]
    parts = []
    for number in range(1, 25):
        where = {"Bucket": BUCKET, "Key": "base", "UploadId": upload, "PartNumber": number}
        parts.append({"PartNumber": number, "ETag": client.upload_part(**where, Body=block)["ETag"]})
        peak = max(peak, resident(own))
    wrong = [*parts[:-1], {**parts[-1], "ETag": parts[0]["ETag"].replace('"', "") + "0"}]
    call = {"Bucket": BUCKET, "Key": "base", "UploadId": upload}
    refused = lambda: client.complete_multipart_upload(**call, MultipartUpload={"Parts": wrong})  # noqa: E731
    assert code(refused) == "InvalidPart"
    client.complete_multipart_upload(**call, MultipartUpload={"Parts": parts})
    size = 24 * len(block)
    head = client.head_object(Bucket=BUCKET, Key="base")
    assert (head["ContentLength"], head["ETag"].rstrip('"')[-3:]) == (size, "-24")
    whole = client.get_object(Bucket=BUCKET, Key="base")
    assert sum(len(piece) for piece in whole["Body"].iter_chunks(1 << 20)) == size
    for asked, first, last in (
        ("bytes=5-14", 5, 14),
        (f"bytes={size - 3}-", size - 3, size - 1),
        ("bytes=-3", size - 3, size - 1),
    ):
        some = client.get_object(Bucket=BUCKET, Key="base", Range=asked)
        assert some["ContentRange"] == f"bytes {first}-{last}/{size}"
        assert some["Body"].read() == (block * 2)[first % len(block) :][: last - first + 1]
    assert code(lambda: client.get_object(Bucket=BUCKET, Key="base", Range=f"bytes={size}-")) == "InvalidRange"
    assert max(peak, resident(own)) - before < 96 << 20  # of 192 MB
    again(own)
    tail = own.client().get_object(Bucket=BUCKET, Key="base", Range="bytes=-9")["Body"].read()
    assert tail == block[-9:]
    own.client().delete_object(Bucket=BUCKET, Key="base")
    assert code(lambda: own.client().get_object(Bucket=BUCKET, Key="base")) == "NoSuchKey"
