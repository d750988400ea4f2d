"""The tenants' daily work: a few small commits a second in every database, until it is stopped.

Its own program, so that "stop the writers" is a real thing to do: `python -m drillbook_lab.site.writer FILE`.
Whose users come through an application rests, without a session, while a file says that it is scaled to nothing.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

from drillbook_lab.agent.procs import die_with_parent

_PATIENCE_SECONDS = 1.0
_GLANCE_SECONDS = 0.2


def work(tenant: dict[str, Any], stop: threading.Event) -> None:
    """One tenant's loop; a lost server is found again."""
    pause = 1.0 / float(tenant["per_second"])
    statements = itertools.cycle(tenant["writes"])
    away = Path(tenant["rests_while"]) if tenant.get("rests_while") else None
    while not stop.is_set():
        if away is not None and away.exists():
            stop.wait(_GLANCE_SECONDS)
            continue
        try:
            with psycopg.connect(**tenant["connection"], autocommit=True, connect_timeout=5) as connection:
                while not stop.wait(pause) and not (away is not None and away.exists()):
                    connection.execute(next(statements))
        except psycopg.Error as fault:
            sys.stderr.write(f"{tenant['name']}: {fault}\n")
            stop.wait(_PATIENCE_SECONDS)


def main(argv: list[str]) -> int:
    """Run every tenant's loop until SIGTERM."""
    die_with_parent()
    config = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    threads = [threading.Thread(target=work, args=(tenant, stop)) for tenant in config["tenants"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
