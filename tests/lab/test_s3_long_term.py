"""The long-term location by the library's two keys, against the lab's store: HEAD and GET by one, RestoreObject by the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from fix_agent import BUCKET, Store, agent_home, store, wait_for

from drillbook.archive.retrieval import LongTermStore, ReadState, Request, Retriever
from drillbook.errors import Changed, ObjectStoreError

__all__ = ["agent_home", "store"]

KEYS = {
    "writer": {"secret": "w", "policy": "readwrite"},
    "reader": {"secret": "r", "policy": "readonly"},
    "asker": {"secret": "a", "policy": "retrieval"},
}


@pytest.fixture
def cold(store: Store) -> Iterator[Store]:
    """A store with an archived object, which takes a second and a half to come."""
    store.keys(KEYS)
    (store.state / "retrieval.json").write_text(json.dumps({"Standard": 1.5, "Bulk": 3600}))
    store.client().put_object(Bucket=BUCKET, Key="p/cold", Body=os.urandom(9), StorageClass="GLACIER")
    store.client().put_object(Bucket=BUCKET, Key="p/slow", Body=os.urandom(9), StorageClass="DEEP_ARCHIVE")
    store.client().put_object(Bucket=BUCKET, Key="p/warm", Body=b"tea")
    yield store
    store.keys({name: KEYS[name] for name in ("writer", "reader")})
    (store.state / "retrieval.json").unlink()


def reader(store: Store) -> LongTermStore:
    keys = {"access_key_id": "reader", "secret_access_key": "r"}
    return LongTermStore.open(f"s3://{BUCKET}/p", endpoint_url=store.endpoint, **keys)


def asker(store: Store, key: str = "asker") -> Retriever:
    keys = {"access_key_id": key, "secret_access_key": key[0]}
    return Retriever.open(f"s3://{BUCKET}/p", endpoint_url=store.endpoint, **keys)


def test_i17_an_object_is_asked_for_by_one_key_and_read_by_the_other(cold: Store) -> None:
    with reader(cold) as seen, asker(cold) as asking:
        assert [seen.readable(key).state for key in ("cold", "warm", "none")] == [
            ReadState.ARCHIVED,
            ReadState.READABLE,
            ReadState.GONE,
        ]
        assert asking.retrieve("cold", tier="Standard", days=2) is Request.BEGUN
        assert asking.retrieve("cold", tier="Standard", days=2) is Request.UNDER_WAY, "safe to repeat"
        assert seen.readable("cold").state is ReadState.UNDER_WAY
        found = wait_for("the object", lambda: (one := seen.readable("cold")).state is ReadState.READABLE and one)
        assert found.storage_class == "GLACIER" and found.until is not None and len(seen.get("cold")) == 9
        assert asking.retrieve("cold", tier="Standard", days=9) is Request.EXTENDED
        until = seen.readable("cold").until
        assert until is not None and until > found.until


def test_i17_each_key_may_do_its_own_and_nothing_else(cold: Store) -> None:
    with asker(cold) as asking, pytest.raises(ObjectStoreError, match="AccessDenied"):
        asking.get("warm")
    with asker(cold) as asking, pytest.raises(ObjectStoreError, match="AccessDenied"):
        list(asking.list(""))
    with asker(cold, "reader") as wrong, pytest.raises(ObjectStoreError) as caught:
        wrong.retrieve("cold", tier="Standard", days=2)
    assert caught.value.reason == "AccessDenied" and "s3:RestoreObject" in caught.value.todo
    with reader(cold) as seen:
        assert seen.readable("cold").state is ReadState.ARCHIVED


def test_i17_what_the_store_refuses_is_said_and_a_lost_answer_is_no_certainty(cold: Store) -> None:
    with asker(cold) as asking:
        with pytest.raises(ObjectStoreError, match="InvalidArgument"):
            asking.retrieve("slow", tier="Expedited", days=2)
        with pytest.raises(ObjectStoreError, match="NoSuchKey"):
            asking.retrieve("none", tier="Standard", days=2)
        cold.faults(lose_answers=True)
        with pytest.raises(ObjectStoreError) as caught:
            asking.retrieve("slow", tier="Bulk", days=2)
        assert caught.value.changed is Changed.UNKNOWN
        cold.faults()
    with reader(cold) as seen:
        assert seen.readable("slow").state is ReadState.UNDER_WAY, "it had been taken on"
