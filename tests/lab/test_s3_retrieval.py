"""Objects in an archive class, seen by boto3: refused until they were asked for and came, then readable for some days."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fix_agent import BUCKET, Store, agent_home, store, wait_for

from drillbook_lab.store.retrieval import Retrieval
from drillbook_lab.store.signature import Refused

__all__ = ["agent_home", "store"]

NOW = datetime.datetime(2026, 11, 2, 12, tzinfo=datetime.UTC)
BODY = (
    b"<RestoreRequest><Days>2</Days><GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters></RestoreRequest>"
)


def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as error:
        call()
    answer = error.value.response
    return int(answer["ResponseMetadata"]["HTTPStatusCode"]), str(answer["Error"]["Code"])


def ask(store: Store, key: str, tier: str = "Standard", days: int = 2, who: str = "writer") -> int:
    wanted = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
    answer = store.client(who).restore_object(Bucket=BUCKET, Key=key, RestoreRequest=wanted)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def state(store: Store, key: str) -> str:
    return str(store.client().head_object(Bucket=BUCKET, Key=key).get("Restore", ""))


def seconds(store: Store, **tiers: float) -> None:
    (store.state / "retrieval.json").write_text(json.dumps(tiers))


@pytest.mark.parametrize("class_", ["GLACIER", "DEEP_ARCHIVE"])
def test_i17_an_archived_object_is_asked_for_waited_for_and_read(store: Store, class_: str) -> None:
    client, key = store.client(), f"cold/{class_}"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"ice", StorageClass=class_)
    seconds(store, Standard=1.5)
    (listed,) = client.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    assert listed["StorageClass"] == class_
    assert refused(lambda: client.get_object(Bucket=BUCKET, Key=key)) == (403, "InvalidObjectState")
    assert state(store, key) == "" and client.head_object(Bucket=BUCKET, Key=key)["StorageClass"] == class_
    assert ask(store, key) == 202
    assert state(store, key) == 'ongoing-request="true"'
    assert refused(lambda: ask(store, key)) == (409, "RestoreAlreadyInProgress")
    assert refused(lambda: client.get_object(Bucket=BUCKET, Key=key)) == (403, "InvalidObjectState")
    wait_for("the object", lambda: 'ongoing-request="false"' in state(store, key))
    assert re.search(r'expiry-date="\w{3}, \d\d \w{3} \d{4} 00:00:00 GMT"', state(store, key))
    got = client.get_object(Bucket=BUCKET, Key=key)
    assert (got["Body"].read(), got["StorageClass"]) == (b"ice", class_), "the copy is readable, the class stays"
    before = state(store, key)
    assert ask(store, key, days=9) == 200 and state(store, key) != before, "its days are counted anew"


def test_i17_what_s3_refuses(store: Store) -> None:
    client = store.client()
    client.put_object(Bucket=BUCKET, Key="warm", Body=b"tea")
    client.put_object(Bucket=BUCKET, Key="deep", Body=b"ice", StorageClass="DEEP_ARCHIVE")
    client.put_object(Bucket=BUCKET, Key="cold", Body=b"ice", StorageClass="GLACIER")
    assert refused(lambda: ask(store, "warm")) == (403, "InvalidObjectState")
    assert refused(lambda: ask(store, "deep", "Expedited")) == (400, "InvalidArgument")
    assert refused(lambda: ask(store, "cold", days=0)) == (400, "InvalidArgument")
    assert refused(lambda: ask(store, "cold", "Quick")) == (400, "MalformedXML")
    assert refused(lambda: ask(store, "cold", who="reader")) == (403, "AccessDenied"), "it is a right of its own"
    assert refused(lambda: ask(store, "none"))[0] == 404
    assert state(store, "cold") == ""


def test_i17_it_is_copied_once_it_is_back(store: Store) -> None:
    client, key = store.client(), "cold/to copy"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"ice", StorageClass="GLACIER")
    source = {"Bucket": BUCKET, "Key": key}
    assert refused(lambda: client.copy_object(Bucket=BUCKET, Key="warmed", CopySource=source))[0] == 403
    seconds(store, Expedited=0)
    assert ask(store, key, "Expedited") == 202
    client.copy_object(Bucket=BUCKET, Key="warmed", CopySource=source, StorageClass="STANDARD")
    assert client.get_object(Bucket=BUCKET, Key="warmed")["Body"].read() == b"ice"


def test_i17_another_object_under_the_name_is_cold_again(store: Store) -> None:
    client, key = store.client(), "cold/twice"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"one", StorageClass="GLACIER")
    seconds(store, Expedited=0)
    assert ask(store, key, "Expedited") == 202
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"one"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"two", StorageClass="GLACIER")
    assert refused(lambda: client.get_object(Bucket=BUCKET, Key=key)) == (403, "InvalidObjectState")


def test_i17_its_days_end_at_midnight_and_what_was_asked_for_outlives_a_kill(tmp_path: Path) -> None:
    (tmp_path / "retrieval.json").write_text('{"Standard": 3600}')
    assert Retrieval(tmp_path).ask("b/k", "e", "GLACIER", BODY, NOW) == 202
    again, hour = Retrieval(tmp_path), datetime.timedelta(hours=1)
    assert again.header("b/k", "e", NOW) == 'ongoing-request="true"' and again.readable_until("b/k", "e", NOW) is None
    expires = datetime.datetime(2026, 11, 5, tzinfo=datetime.UTC)
    assert again.readable_until("b/k", "e", NOW + hour) == expires
    assert (
        again.header("b/k", "e", NOW + hour) == 'ongoing-request="false", expiry-date="Thu, 05 Nov 2026 00:00:00 GMT"'
    )
    assert again.header("b/k", "e", expires) == "" and again.readable_until("b/k", "e", expires) is None
    assert again.ask("b/k", "e", "GLACIER", BODY, expires) == 202, "after its days it is asked for as the first time"
    with pytest.raises(Refused, match="already in progress"):
        again.ask("b/k", "e", "GLACIER", BODY, expires)
