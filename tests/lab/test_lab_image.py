"""Labs from one prepared image: each is a lab of its own, with the data and the archive of the image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drillbook_lab import image
from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise
from drillbook_lab.view import Client

CLUSTER = "/apis/postgresql.cnpg.io/v1/namespaces/cnpg-system/clusters/shared-postgres"


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LabHome, LabHome]]:
    monkeypatch.setenv(image.VARIABLE, str(tmp_path / "images"))
    homes = LabHome(tmp_path / "one"), LabHome(tmp_path / "two")
    daemons = []
    try:
        for home in homes:
            daemons.append(supervise.start(home, supervise.daemon_command(home, "first", 1.0), detached=True))
            supervise.follow(home, daemons[-1], lambda line: None)
        yield homes
    finally:
        for home in homes:
            supervise.down(home)
        for daemon in daemons:
            daemon.wait(30)


@pytest.mark.soak
def test_two_labs_of_one_image_are_two_labs(two: tuple[LabHome, LabHome]) -> None:
    one, other = (identity(home) for home in two)
    assert {name for name in one if one[name] == other[name]} == {"system_id", "backup"}
    for home in two:
        cluster = Client(home).get(CLUSTER)
        assert cluster["status"]["phase"] == "Cluster in healthy state"
        old = str(two[0].root.parent / "images").encode()
        named = [path for path in image._texts(home.root) if path.is_file() and old in path.read_bytes()]
        assert named == [], "no file of the lab's own names the image's folder"


def identity(home: LabHome) -> dict[str, Any]:
    """What tells one lab from another, and what they share."""
    client = Client(home)
    backups = client.get(CLUSTER.replace("clusters/shared-postgres", "backups"))["items"]
    return {
        "url": home.state()["url"],
        "endpoint": home.state()["endpoint"],
        "net": json.loads(home.path("addresses.json").read_text())["net"],
        "tokens": home.path("tokens.json").read_text(),
        "kube_system": client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"],
        "system_id": client.get(CLUSTER)["status"]["systemID"],
        "backup": backups[0]["status"]["backupId"],
    }
