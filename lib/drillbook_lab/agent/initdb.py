"""The initdb job: PGDATA, role and database of a new cluster. `python -m drillbook_lab.agent.initdb --spec FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import conf, main, procs, sql
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.postmaster import Postmaster
from drillbook_lab.agent.spec import PodSpec


def arguments(spec: PodSpec) -> list[str]:
    """initdb's command line: CNPG's defaults are UTF8 and the C locale; checksums as the server's version has it."""
    options = spec.initdb
    argv = [
        str(Path(spec.bin_dir) / "initdb"),
        "--username=postgres",
        "--auth=trust",
        f"--encoding={options.get('encoding') or 'UTF8'}",
        f"--lc-collate={options.get('locale_collate') or 'C'}",
        f"--lc-ctype={options.get('locale_ctype') or 'C'}",
        "--no-sync",  # the first checkpoint of the running server writes it all
        "--pgdata",
        spec.pgdata,
    ]
    if options.get("data_checksums") is not None:
        argv.append("--data-checksums" if options["data_checksums"] else "--no-data-checksums")
    if options.get("wal_segment_size"):
        argv.append(f"--wal-segsize={options['wal_segment_size']}")
    return argv


async def bootstrap(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """Make PGDATA, then start the server once to make what the application needs."""
    pgdata = Path(spec.pgdata)
    if done := conf.clear_target(pgdata):
        log.info(done)
    log.info("Creating new data directory", pgdata=spec.pgdata)
    made = await procs.run(
        identity.wrap(arguments(spec)), log=log.named("initdb"), log_stdout=True, env={"LC_ALL": "C", "PATH": "/bin"}
    )
    if made.returncode != 0:
        raise main.JobFailed(f"error while creating the PostgreSQL instance: {made.last_words}")
    # Archiving is the instance's: it finds the bootstrap's segment ready to be archived, and begins with it.
    conf.write(spec, {"archive_command": "", "ssl": "off"}, local_only=True)
    server = Postmaster(spec, log)
    await server.start()
    try:
        await server.wait_until("ready")
        for line in sql.ensure_application(spec):
            log.info(line)
        sql.run_statements(spec, "postgres", spec.initdb.get("post_init_sql") or [])
        if spec.database:
            sql.run_statements(spec, spec.database, spec.initdb.get("post_init_application_sql") or [])
        sql.run_statements(spec, "postgres", ["SELECT pg_switch_wal()"])
    finally:
        await server.stop()
    marker = pgdata / conf.EMPTY_ARCHIVE_MARKER
    marker.touch()
    identity.hand_over(marker)
    log.info("PostgreSQL instance bootstrapped", pgdata=spec.pgdata)
    return 0


if __name__ == "__main__":
    chosen = main.parser("Bootstrap a new PostgreSQL instance.").parse_args()
    sys.exit(main.run(bootstrap, chosen.spec, "Error while bootstrapping the data directory"))
