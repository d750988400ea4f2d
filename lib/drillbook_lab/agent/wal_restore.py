"""restore_command: `wal_restore --spec FILE %f %p`. Exit 0 with the file in place, 1 if it can't be had.

Started once a segment, often `python -I -S`: it only asks the recovery job, which fetches ahead (`wal_feed`).
Without a job that listens it fetches the one file itself.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET_NAME = "walrestore.sock"
_STREAM_FIRST = 3


def main(argv: list[str]) -> int:
    """Ask, and pass the answer on."""
    if len(argv) != 4 or argv[0] != "--spec":
        sys.stderr.write("usage: wal_restore --spec FILE WAL DESTINATION\n")
        return 3
    _, spec_file, wal, destination = argv
    destination = os.path.join(os.getcwd(), destination)  # noqa: PTH109, PTH118 - relative to PGDATA
    with open(spec_file, encoding="utf-8") as handle:  # noqa: PTH123
        spec = json.load(handle)
    address = os.path.join(spec["socket_dir"], SOCKET_NAME)  # noqa: PTH118
    answer = _ask(address, f"{wal}\n{destination}\n")
    return _fetch(spec, wal, destination) if answer is None else answer


def _ask(address: str, request: str) -> int | None:
    """The job's answer; None if no job listens."""
    import _socket  # the module under `socket`: a tenth of the start-up

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(address)
        connection.send(request.encode())
        answer = connection.recv(16)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    finally:
        connection.close()
    return int(answer) if answer else 1


def _streams(spec: dict[str, Any], wal: str) -> bool:
    """Whether a standby can have it from its primary, which costs nothing; asked too often, it can't."""
    import socket

    words = dict(word.split("=", 1) for word in str(spec.get("upstream") or "").split())
    if "host" not in words:
        return False
    note = os.path.join(spec["run_dir"], "wal-asked")  # noqa: PTH118
    try:
        with open(note, encoding="utf-8") as handle:  # noqa: PTH123
            before, times = handle.read().split()
    except (FileNotFoundError, ValueError):
        before, times = "", "0"
    count = int(times) + 1 if before == wal else 1
    with open(note, "w", encoding="utf-8") as handle:  # noqa: PTH123
        handle.write(f"{wal} {count}")
    if count > _STREAM_FIRST:
        return False
    try:
        socket.create_connection((words["host"], int(words.get("port", "5432"))), 1).close()
    except OSError:
        return False
    return True


def _fetch(spec: dict[str, Any], wal: str, destination: str) -> int:
    """One file, without a job to help."""
    import subprocess

    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))  # noqa: PTH100, PTH118, PTH120
    from drillbook_lab.agent import barman
    from drillbook_lab.agent.spec import StoreSpec

    if spec.get("source") is None or _streams(spec, wal):
        return 1
    store = StoreSpec(**spec["source"])
    # An empty spool directory of our own: barman's default is one for the whole machine, and it serves from it.
    spool = os.path.join(spec["run_dir"], "wal-restore")  # noqa: PTH118
    options = ["--spool-dir", spool]
    argv = [barman.program("barman-cloud-wal-restore"), *options, *barman.store_arguments(store), wal, destination]
    done = subprocess.run(argv, env=barman.environment(store, home="/"), check=False)
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
