"""A restored copy is live software: with an enabled subscription and a foreign server in it, it opens no connection."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from fix_drills import DrillLab, until

from drillbook import kube as k8s

pytestmark = pytest.mark.long


class Publisher:
    """Something to connect to, and a watch on which processes try: by their sockets, not by their word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._watch)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        self._socket.close()

    def _accept(self) -> None:
        # Connections are kept open without an answer, so that anyone who connects can be seen at leisure.
        kept = []
        while not self._stop.is_set():
            try:
                kept.append(self._socket.accept()[0])
            except OSError:
                break
        for connection in kept:
            connection.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            wanted = f":{self.port:04X}"
            lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            inodes = {f"socket:[{line[9]}]" for line in lines if line[2].endswith(wanted)}
            for process in Path("/proc").glob("[0-9]*") if inodes else []:
                try:
                    if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                        self.seen.add(_data_directory(process))
                except OSError:
                    continue


def _data_directory(process: Path) -> str:
    return str((process / "cwd").readlink())


def test_the_copy_opens_no_connection(drill_lab: DrillLab) -> None:
    database = drill_lab.site.tenants[0].database
    publisher = Publisher()
    target = f"host=127.0.0.1 port={publisher.port} dbname=elsewhere user=nobody password=irrelevant"
    drill_lab.sql(database, "create extension if not exists postgres_fdw")
    drill_lab.sql(
        database,
        f"create server elsewhere foreign data wrapper postgres_fdw options (host '127.0.0.1', port '{publisher.port}')",
    )
    drill_lab.sql(
        database,
        f"create subscription incoming connection '{target}' publication p with (connect = false, slot_name = 'x')",
    )
    drill_lab.sql(database, "alter subscription incoming enable")
    try:
        source = f"{drill_lab.site.cluster.name}-1"
        until(
            lambda: any(source in place for place in publisher.seen), "the source's own worker is seen: the watch works"
        )
        drill = drill_lab.drill()
    finally:
        drill_lab.sql(database, "alter subscription incoming disable")
        drill_lab.sql(database, "alter subscription incoming set (slot_name = none)")
        drill_lab.sql(database, "drop subscription incoming")
        drill_lab.sql(database, "drop extension postgres_fdw cascade")
        publisher.close()
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    copy = next(name for name in drill.created if name.startswith("Cluster/")).rpartition("/")[2]
    assert publisher.seen and not [place for place in publisher.seen if copy in place], publisher.seen
    assert set(drill.verdicts("quarantine").values()) == {"VERIFIED"}


def test_the_drills_account_may_not_exec_or_read_secrets_at_the_source(drill_lab: DrillLab) -> None:
    with k8s.Kube.open(str(drill_lab.home / "kubeconfig"), "lab") as drill:
        source = drill_lab.site.cluster.namespace
        assert drill.whoami().username == f"system:serviceaccount:{drill_lab.site.drillbook_namespace}:drillbook"
        assert not drill.can_i("create", k8s.POD, subresource="exec", namespace=source)
        for verb in ("get", "list"):
            assert not drill.can_i(verb, k8s.SECRET, namespace=source)
        for verb in ("create", "patch", "update", "delete"):
            assert not drill.can_i(verb, k8s.CLUSTER, namespace=source)
