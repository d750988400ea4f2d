"""Databases that are declared: made, changed, dropped, and let go, by a Cluster's real server."""

from __future__ import annotations

from typing import Any

import pytest
from fix_clusters import SmallCluster, namespace
from fix_lab import CNPG, CORE, RunningLab, until

NAMESPACE = "declared"
PATH = f"{CNPG}/{NAMESPACE}/databases"
GONE = "cluster resource has been deleted, skipping reconciliation"


def declare(lab: RunningLab, name: str, **spec: Any) -> None:
    body = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Database",
        "metadata": {"name": name},
        "spec": {"cluster": {"name": "declaring"}, "name": name, "owner": "app", **spec},
    }
    lab.create(PATH, body)


def status(lab: RunningLab, name: str) -> dict[str, Any]:
    return dict(lab.get(f"{PATH}/{name}").get("status") or {})


@pytest.mark.soak
def test_a_database_follows_its_declaration_and_outlives_it_unless_told_otherwise(lab: RunningLab) -> None:
    cluster = SmallCluster(lab, namespace(lab, NAMESPACE), "declaring").create()

    def there() -> set[str]:
        return {name for (name,) in cluster.app("SELECT datname FROM pg_database WHERE NOT datistemplate")}

    declare(lab, "kept", connectionLimit=7, encoding="UTF8", template="template0")
    declare(lab, "dropped", databaseReclaimPolicy="delete")
    declare(lab, "refused", owner="nobody")
    until(lambda: status(lab, "kept") == status(lab, "dropped") == {"applied": True, "observedGeneration": 1})
    until(lambda: status(lab, "refused").get("message"))
    assert status(lab, "refused") == {
        "applied": False,
        "message": 'while creating database "refused": ERROR: role "nobody" does not exist (SQLSTATE 42704)',
    }
    assert {"kept", "dropped"} <= there() and "refused" not in there()

    lab.patch(f"{PATH}/kept", {"spec": {"connectionLimit": 9}})
    until(lambda: status(lab, "kept").get("observedGeneration") == 2)
    assert cluster.app("SELECT datconnlimit FROM pg_database WHERE datname = 'kept'") == [(9,)]
    lab.delete(f"{PATH}/dropped")
    until(lambda: lab.find(f"{PATH}/dropped") is None and "dropped" not in there())
    declare(lab, "absent", ensure="absent")
    until(lambda: status(lab, "absent").get("applied"))
    lab.delete(f"{PATH}/kept")
    until(lambda: lab.find(f"{PATH}/kept") is None)
    assert "kept" in there(), "its policy is to retain it"

    declare(lab, "kept")
    until(lambda: status(lab, "kept").get("applied"))
    lab.delete(cluster.path)
    until(lambda: {status(lab, name).get("message") for name in ("kept", "refused", "absent")} == {GONE})
    assert not lab.get(f"{PATH}/kept")["metadata"].get("finalizers"), "nobody is there who could see to it"
    SmallCluster(lab, NAMESPACE, "declaring").create()
    until(lambda: status(lab, "kept") == {"applied": True, "observedGeneration": 1})
    lab.delete(f"{CORE}/{NAMESPACE}")
