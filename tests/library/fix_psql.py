"""A superuser's psql without a pod: that of the server's own installation."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server

from drillbook.kube.execution import ExecResult
from drillbook.swap.superuser import Superuser
from drillbook_lab.identity import wrap


@dataclass(frozen=True)
class Psql:
    """A pod whose psql is that of the server's installation."""

    server: Server

    def exec(
        self, namespace: str, pod: str, container: str, argv: Sequence[str], *, stdin: bytes, **_: Any
    ) -> ExecResult:
        words = [str(self.server.programs / "psql") if word == "psql" else word for word in argv]
        words[words.index("-U") + 1] = SUPERUSER
        where = [
            "env",
            f"PGHOST={self.server.address.host}",
            f"PGPORT={self.server.address.port}",
            f"PGPASSWORD={PASSWORD}",
        ]
        at = words.index(str(self.server.programs / "psql"))
        done = subprocess.run(wrap([*words[:at], *where, *words[at:]]), input=stdin, capture_output=True, cwd="/")
        return ExecResult(done.stdout, done.stderr, done.returncode)


@pytest.fixture
def superuser(server: Server) -> Superuser:
    return Superuser(Psql(server), "db", "pg-1")  # type: ignore[arg-type]
