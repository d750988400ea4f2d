"""Whether a recovery fits on the volumes that the new cluster declares: what is known stops it, what is estimated is shown."""

from __future__ import annotations

from typing import Any

import pytest
from fix_wal import NOON, Memory, Wal, minutes

from drillbook.archive import catalogue
from drillbook.model import BaseBackup
from drillbook.steps.archive.room import declared, judged

GIB = 2**30
PATH = "/var/lib/postgresql/tablespaces/fast/data"


def backup(*, data: int = 10 * GIB, stored: int = 10 * GIB, compression: str = "", fast: int = 0) -> BaseBackup:
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    (found,) = catalogue(store, "pg").usable
    spaces = (("fast", fast),) if fast else ()
    return found.model_copy(
        update={"size_bytes": stored, "cluster_size_bytes": data, "compression": compression, "stored_bytes_of": spaces}
    )


def spec(data: Any = "20Gi", wal: str = "", fast: str = "", **parameters: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "storage": data if isinstance(data, dict) else {"size": data},
        "postgresql": {"parameters": parameters},
    }
    found |= {"walStorage": {"size": wal}} if wal else {}
    return found | ({"tablespaces": [{"name": "fast", "storage": {"size": fast}}]} if fast else {})


TEMPLATE = {"pvcTemplate": {"resources": {"requests": {"storage": "8Gi"}}}}


@pytest.mark.parametrize(
    ("taken", "wanted", "wal", "short"),
    [
        pytest.param(backup(), spec("8Gi"), 0, "storage", id="data"),
        pytest.param(backup(), spec(TEMPLATE), 0, "storage", id="data, by its pvcTemplate"),
        pytest.param(backup(data=0), spec("8Gi"), 0, "storage", id="data, by what is in the bucket"),
        pytest.param(
            backup(stored=3 * GIB, compression="gzip"), spec("8Gi"), 0, "storage", id="data, compressed in the bucket"
        ),
        pytest.param(
            backup(data=0, compression="gzip"),
            spec("8Gi"),
            0,
            "storage",
            id="data, of which only the packed size is known",
        ),
        pytest.param(backup(data=8 * GIB), spec("8Gi"), 4 * GIB, "storage", id="data with WAL next to it"),
        pytest.param(backup(), spec(wal="256Mi"), 4 * GIB, "walStorage", id="WAL"),
        pytest.param(backup(), spec(wal="2Gi", max_wal_size="8GB"), 9 * GIB, "walStorage", id="WAL, by max_wal_size"),
        pytest.param(
            backup(data=15 * GIB, stored=15 * GIB, fast=5 * GIB),
            spec(fast="4Gi"),
            0,
            "tablespaces[fast]",
            id="tablespace",
        ),
        pytest.param(
            backup(data=15 * GIB, stored=9 * GIB, fast=5 * GIB, compression="gzip"),
            spec(fast="4Gi"),
            0,
            "tablespaces[fast]",
            id="tablespace, packed",
        ),
        pytest.param(
            backup(stored=15 * GIB, fast=5 * GIB), spec(), 0, "tablespaces[fast]", id="tablespace that is not declared"
        ),
        pytest.param(
            backup(data=40 * GIB, stored=9 * GIB, fast=2 * GIB, compression="gzip"),
            spec(fast="10Gi"),
            0,
            "all volumes together",
            id="all together",
        ),
    ],
)
def test_g05_a_volume_that_is_known_to_be_too_small_stops_a_full_restore(
    taken: BaseBackup, wanted: dict[str, Any], wal: int, short: str
) -> None:
    faults, _, _ = judged(taken, wanted, wal)
    assert len(faults) == 1 and faults[0].startswith(short), faults


@pytest.mark.parametrize(
    ("taken", "wanted", "wal", "what"),
    [
        pytest.param(backup(data=0, stored=3 * GIB, compression="gzip"), spec(), 0, "how large the data is", id="data"),
        pytest.param(backup(), spec(wal="512Mi"), None, "how much is replayed", id="WAL"),
        pytest.param(
            backup(), spec(wal="768Mi"), 4 * GIB, "may be too small", id="WAL between half of its bound and all of it"
        ),
        pytest.param(backup(), spec({}), 0, "names no size", id="no size"),
        pytest.param(backup(), spec("10Gi"), 0, "must stay free", id="no reserve"),
        pytest.param(
            backup(data=20 * GIB, stored=9 * GIB, fast=4 * GIB, compression="lz4"),
            spec(fast="5Gi"),
            0,
            "estimated",
            id="a packed tablespace",
        ),
    ],
)
def test_g05_what_is_only_estimated_is_shown_and_stops_nothing(
    taken: BaseBackup, wanted: dict[str, Any], wal: int | None, what: str
) -> None:
    faults, unknown, _ = judged(taken, wanted, wal)
    assert not faults and what in " ".join(unknown), (faults, unknown)


@pytest.mark.parametrize(
    ("taken", "wanted", "wal"),
    [
        pytest.param(backup(), spec(), 4 * GIB, id="one volume"),
        pytest.param(
            backup(), spec("11Gi", wal="2Gi"), 40 * GIB, id="WAL apart, most of it removed while it is replayed"
        ),
        pytest.param(
            backup(data=15 * GIB, stored=15 * GIB, fast=5 * GIB), spec("15Gi", fast="6Gi"), 0, id="tablespace"
        ),
        pytest.param(backup(stored=3 * GIB, compression="gzip"), spec("11Gi"), 0, id="packed"),
    ],
)
def test_g05_a_recovery_that_fits_says_nothing(taken: BaseBackup, wanted: dict[str, Any], wal: int) -> None:
    faults, unknown, details = judged(taken, wanted, wal)
    assert not faults and not unknown
    assert all("measured" in words or "estimated" in words for _, words in details)


def test_a_size_comes_from_the_field_that_cloudnativepg_uses() -> None:
    assert declared({"storage": {"size": "1Gi", **TEMPLATE}}) == {"storage": GIB}
    assert declared(spec(TEMPLATE, wal="1Gi", fast="2Gi")) == {
        "storage": 8 * GIB,
        "walStorage": GIB,
        "tablespaces[fast].storage": 2 * GIB,
    }
    assert declared({"storage": {"size": "much"}}) == {"storage": 0}


def test_the_bytes_of_each_tablespace_are_read_from_the_bucket() -> None:
    store, wal = Memory(), Wal()
    backup_id = store.backup(wal, NOON, tablespaces=repr([("fast", 16500, PATH)]))
    data = store.objects[f"pg/base/{backup_id}/data.tar"][0]
    for name in ("16500.tar", "16500_0001.tar"):
        store.put(f"pg/base/{backup_id}/{name}", data, minutes(1))
    (found,) = catalogue(store, "pg").usable
    assert found.stored_bytes_of == (("fast", 2 * len(data)),)
    assert found.size_bytes == 3 * len(data)
