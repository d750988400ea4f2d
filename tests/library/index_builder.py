"""A process that builds or drops one index, to be killed: ``python -m tests.library.index_builder build|drop …``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.library.fix_integrity import Server
from tests.library.fix_psql import Psql

from drillbook.indexes.build import Limits, build, drop, look
from drillbook.indexes.shape import WantedIndex
from drillbook.postgres.client import Address
from drillbook.swap.superuser import Superuser

PATIENT = Limits(lock_seconds=60.0, look_seconds=0.1)


def main(what: str, host: str, port: str, programs: str, database: str, sql: str) -> None:
    """Do ``what`` with the index of ``sql`` and return when it is done."""
    server = Server.__new__(Server)
    server.address, server.programs = Address(host, int(port)), Path(programs)
    superuser = Superuser(Psql(server), "db", "pg-1")  # type: ignore[arg-type]
    index = WantedIndex.of(sql, schema="app")
    if what == "build":
        with server.superuser(database) as db:
            build(superuser, database, index, PATIENT, lambda *_: None, lambda wanted: look(db, wanted))
    else:
        drop(superuser, database, "app", index.name, PATIENT, lambda *_: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
