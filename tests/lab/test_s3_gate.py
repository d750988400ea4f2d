"""The object store: signatures, policies, faults and the access log, seen by boto3."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from fix_agent import BUCKET, Store, agent_home, processes_with, store, wait_for

from drillbook_lab.store.gate import allowed

__all__ = ["agent_home", "store"]

ODD = "a folder/ä+=&~'(x)"


@pytest.fixture
def mended(store: Store) -> Iterator[Store]:
    """The store, its faults undone afterwards."""
    yield store
    store.faults()


def code(call: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def test_objects_come_back_as_they_were_put(store: Store) -> None:
    """put, get, range, head, list, copy, delete, and a multipart upload, with names that need encoding."""
    client = store.client()
    client.put_object(Bucket=BUCKET, Key=ODD, Body=b"hello")
    assert client.get_object(Bucket=BUCKET, Key=ODD)["Body"].read() == b"hello"
    assert client.get_object(Bucket=BUCKET, Key=ODD, Range="bytes=1-2")["Body"].read() == b"el"
    assert client.head_object(Bucket=BUCKET, Key=ODD)["ContentLength"] == 5
    assert store.names("a folder/") == [ODD]
    client.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": ODD})
    assert client.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == b"hello"
    body = os.urandom(20 << 20)
    client.upload_fileobj(io.BytesIO(body), BUCKET, "large")
    came_back = io.BytesIO()
    client.download_fileobj(BUCKET, "large", came_back)
    assert came_back.getvalue() == body
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "large"}, {"Key": "copied"}]})
    client.delete_object(Bucket=BUCKET, Key=ODD)
    assert not {"large", "copied", ODD} & set(store.names(""))


def test_signatures_are_checked(store: Store) -> None:
    """A wrong secret, an unknown key, no signature at all; and a presigned URL that is good, then altered."""
    settings: dict[str, Any] = {
        "endpoint_url": store.endpoint,
        "region_name": "us-east-1",
        "config": Config(signature_version="s3v4", retries={"max_attempts": 1}),
    }
    wrong = boto3.client("s3", aws_access_key_id="writer", aws_secret_access_key="no", **settings)
    unknown = boto3.client("s3", aws_access_key_id="nobody", aws_secret_access_key="no", **settings)
    right = boto3.client("s3", aws_access_key_id="writer", aws_secret_access_key="w", **settings)
    assert code(lambda: wrong.list_objects_v2(Bucket=BUCKET)) == "SignatureDoesNotMatch"
    assert code(lambda: unknown.put_object(Bucket=BUCKET, Key="x", Body=b"x" * 1_000_000)) == "InvalidAccessKeyId"
    right.put_object(Bucket=BUCKET, Key="signed", Body=b"yes")
    url = right.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "signed"})
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - the store's own http address
        assert answer.read() == b"yes"
    for bad in (url.replace("/signed", "/other"), f"{store.endpoint}/{BUCKET}/signed"):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(bad)  # noqa: S310
        refused.value.close()


def test_a_readonly_key_reads(store: Store) -> None:
    """Reading and listing pass; writing and deleting are denied."""
    store.client().put_object(Bucket=BUCKET, Key="kept", Body=b"1")
    reader = store.client("reader")
    assert reader.get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"1"
    assert code(lambda: reader.put_object(Bucket=BUCKET, Key="kept", Body=b"2")) == "AccessDenied"
    assert code(lambda: reader.delete_object(Bucket=BUCKET, Key="kept")) == "AccessDenied"
    assert store.client().get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"1"


@pytest.mark.parametrize(
    ("method", "bucket", "name", "query", "passes"),
    [
        ("GET", "b", "pg/source/x", "", True),
        ("GET", "b", "pg/source2/x", "", False),
        ("GET", "b", "", "prefix=pg/source/wals/", True),
        ("GET", "b", "", "prefix=pg/", False),
        ("GET", "b", "", "", False),
        ("HEAD", "b", "", "", True),
        ("HEAD", "other", "", "", False),
        ("PUT", "b", "pg/source/x", "", False),
    ],
)
def test_prefixes(method: str, bucket: str, name: str, query: str, passes: bool) -> None:
    """A key can be held to a folder."""
    assert allowed({"policy": "readonly", "prefixes": ["b/pg/source/"]}, method, bucket, name, query) is passes


def test_a_key_deletes_many_at_once_only_where_it_may_delete_one(store: Store) -> None:
    """DeleteObjects is a request to the bucket; its body is judged name by name, and refused as a whole."""
    keys = {"writer": {"secret": "w", "policy": "readwrite"}, "reader": {"secret": "r", "policy": "readonly"}}
    store.keys({**keys, "folder": {"secret": "f", "policy": "readwrite", "prefixes": [f"{BUCKET}/mine"]}})
    for name in ("mine/a&b", "mine/c", "mine2/d"):
        store.client().put_object(Bucket=BUCKET, Key=name, Body=b"1")
    settings = {"endpoint_url": store.endpoint, "region_name": "us-east-1", "config": Config(proxies={})}
    folder = boto3.client("s3", aws_access_key_id="folder", aws_secret_access_key="f", **settings)
    reader = store.client("reader")

    def delete(client: Any, *names: str) -> Any:
        return client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": name} for name in names]})

    assert code(lambda: delete(folder, "mine/c", "mine2/d")) == "AccessDenied"
    assert code(lambda: delete(reader, "mine/c")) == "AccessDenied"
    assert store.names("mine") == ["mine/a&b", "mine/c", "mine2/d"]
    delete(folder, "mine/a&b", "mine/c")
    assert store.names("mine") == ["mine2/d"]
    store.keys(keys)


def test_faults_come_and_go_while_it_runs(mended: Store) -> None:
    """Down, busy, denied, hidden: each at once, each undone at once."""
    client = mended.client()
    client.put_object(Bucket=BUCKET, Key="there", Body=b"1")

    def get() -> Any:
        return client.get_object(Bucket=BUCKET, Key="there")

    mended.faults(down=True)
    with pytest.raises(BotoCoreError):
        get()
    mended.faults(busy=True)
    assert code(get) == "SlowDown"
    mended.faults(deny_keys=["writer"])
    assert code(get) == "AccessDenied"
    assert mended.client("reader").get_object(Bucket=BUCKET, Key="there")["Body"].read() == b"1"
    mended.faults(hide=[f"{BUCKET}/there"])
    assert code(get) == "NoSuchKey"
    mended.faults()
    assert get()["Body"].read() == b"1"


def test_keys_are_read_again(store: Store) -> None:
    """A key taken away is unknown at the next request."""
    path = store.state / "keys.json"
    before = json.loads(path.read_text())
    store.keys({"reader": before["reader"]})
    assert code(lambda: store.client().list_objects_v2(Bucket=BUCKET)) == "InvalidAccessKeyId"
    store.keys(before)
    store.client().list_objects_v2(Bucket=BUCKET)


def test_the_access_log_names_who_did_what(store: Store) -> None:
    """One line a request, refused ones as well."""
    store.client().put_object(Bucket=BUCKET, Key="logged", Body=b"12345")
    code(lambda: store.client("reader").delete_object(Bucket=BUCKET, Key="logged"))
    put, delete = [line for line in store.access_log() if line["object"] == "logged"]
    assert (put["key"], put["method"], put["bucket"], put["status"], put["bytes"]) == ("writer", "PUT", BUCKET, 200, 5)
    assert (delete["key"], delete["method"], delete["status"]) == ("reader", "DELETE", 403)


def test_it_dies_with_its_parent(agent_home: Path) -> None:
    """Neither gate nor moto outlives a parent that was killed."""
    state = agent_home / "orphan"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'drillbook_lab.store', '--state', {str(state)!r}])"
    parent = subprocess.Popen([sys.executable, "-c", script])
    wait_for("the store", (state / "ready").exists)
    wait_for("parent, gate and moto", lambda: len(processes_with(str(state))) == 3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for("both gone", lambda: not processes_with(str(state)))
