"""The full-recovery job, in CNPG's order and words. `python -m drillbook_lab.agent.recovery --spec FILE`.

Destination check, catalogue, probe of the first WAL, base backup, configuration, replay to the target and
promotion, stop, a second start for the application's role and database, stop. Nothing is archived in between. With the
plugin all that is barman's is done and given by its own container; the job hears of it by remote calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import barman, conf, disk_space, main, procs, sql
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.main import JobFailed
from drillbook_lab.agent.postmaster import Postmaster, ServerDied
from drillbook_lab.agent.spec import PodSpec, StoreSpec
from drillbook_lab.agent.targets import Backup, NoBackup, catalogue, choose
from drillbook_lab.agent.wal_feed import WalFeed

POLL_SECONDS = 0.2
READY = "database system is ready to accept connections"


async def job(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """The recovery, and the lines that end it: why it failed, twice, and the sidecar's, which says nothing of success or failure."""
    try:
        return await recover(spec, spec_file, log)
    except JobFailed as error:
        log.error("Error while restoring a backup", error)
        raise JobFailed(f"while restoring cluster: {error}") from error
    finally:
        if spec.source is not None and spec.source.by_plugin:
            log.sidecar(spec.run_dir).error("While terminating server")


async def recover(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """The whole recovery; JobFailed says why not, in CNPG's words."""
    if spec.source is None:
        raise JobFailed("recovery source not specified")
    log.info("Starting full recovery", serverName=spec.source.server_name, pgdata=spec.pgdata)
    if done := conf.clear_target(Path(spec.pgdata)):
        log.info(done)
    restoring = log.sidecar(spec.run_dir) if spec.source.by_plugin else log
    if spec.source.fault:
        raise _through_sidecar(spec.source, JobFailed(spec.source.fault), restoring)
    async with WalFeed(spec, spec.source, restoring) as feed:
        try:
            await check_destination(spec, restoring)
            backup = await find_backup(spec, spec.source, restoring)
            await probe(feed, backup, restoring)
            await restore_data_dir(spec, spec.source, backup, restoring)
        except JobFailed as error:
            raise _through_sidecar(spec.source, error, restoring) from error
        configure(spec, spec_file, log)
        await replay(spec, log)
    log.info("Full recovery completed", backupID=backup.backup_id)
    return 0


def _through_sidecar(source: StoreSpec, error: JobFailed, log: Log) -> JobFailed:
    """The sidecar says why, and the job gets to know it by a remote call."""
    if not source.by_plugin:
        return error
    log.error("Error while handling GRPC request", error)
    return JobFailed(f"rpc error: code = Unknown desc = {error}")


async def probe(feed: WalFeed, backup: Backup, log: Log) -> None:
    """Without the WAL that its base backup begins with, nothing is fetched at all."""
    returncode = await feed.probe(backup.begin_wal)
    if returncode:
        raise JobFailed(
            "encountered an error while checking the presence of first needed WAL in the archive: "
            + barman.wal_restore_text(returncode, backup.begin_wal)
        )
    log.info("First needed WAL found in the archive", walName=backup.begin_wal)


async def check_destination(spec: PodSpec, log: Log) -> None:
    """Where the copy will archive to must hold no WAL: another cluster's history would be mixed with ours."""
    if spec.archive is None:
        log.info("Skipping the destination check: the cluster does not archive")
        return
    if spec.skip_empty_archive_check:
        log.info("Skipping the destination check: disabled by annotation")
        return
    log.info("Checking the WAL archive destination", serverName=spec.archive.server_name)
    argv = [barman.program("barman-cloud-check-wal-archive"), *barman.store_arguments(spec.archive)]
    env = barman.environment(spec.archive, home=spec.run_dir)
    done = await procs.run(identity.wrap(argv), env=env, log=log.named("barman-cloud-check-wal-archive"))
    if done.returncode:
        # CNPG names the wrong program and not the reason: barman's own line before it does.
        raise JobFailed(f"unexpected failure invoking barman-cloud-wal-archive: exit status {done.returncode}")


async def find_backup(spec: PodSpec, source: StoreSpec, log: Log) -> Backup:
    """The base backup that serves the target, from barman's own catalogue."""
    log.info("Recovering from external cluster", serverName=source.server_name)
    command, options = "barman-cloud-backup-list", ["--format", "json", *barman.store_arguments(source)]
    env = barman.environment(source, home=spec.run_dir)
    done = await procs.run(identity.wrap([barman.program(command), *options]), env=env)
    if done.returncode:
        # barman's words are a field of this line; who asked hears of the exit status only.
        why = f"exit status {done.returncode}"
        said = {"command": command, "options": options, "stdout": done.stdout, "stderr": done.stderr}
        log.named("barman").error("Can't extract backup id", why, **said)
        raise JobFailed(why)
    try:
        backup = choose(catalogue(json.loads(done.stdout)), spec.target)
    except NoBackup as error:
        raise JobFailed(str(error)) from error
    log.info(
        "Target backup found",
        backup={
            "backup_id": backup.backup_id,
            "backup_name": backup.name,
            "begin_time": backup.begin_at.isoformat(),
            "end_time": backup.end_at.isoformat(),
            "begin_wal": backup.begin_wal,
            "end_wal": backup.end_wal,
            "begin_xlog": backup.begin_lsn,
            "end_xlog": backup.end_lsn,
            "timeline": backup.timeline,
            "systemid": backup.system_id,
        },
    )
    return backup


async def restore_data_dir(spec: PodSpec, source: StoreSpec, backup: Backup, log: Log) -> None:
    """Fetch the base backup into PGDATA."""
    options = [*barman.store_arguments(source), backup.backup_id, spec.pgdata]
    log.info("Starting barman-cloud-restore", options=options)
    env = barman.environment(source, home=spec.run_dir)
    argv = [barman.program("barman-cloud-restore"), *options]
    restoring = procs.run(identity.wrap(argv), env=env, log=log.named("barman-cloud-restore"))
    try:
        done = await disk_space.within_volume(spec, restoring)
    except disk_space.NoSpace as error:
        log.error("Can't restore backup", error)
        raise JobFailed(str(error)) from error
    if done.returncode:
        reason = barman.exit_text(done.returncode)
        log.error("Can't restore backup", reason)
        raise JobFailed(reason)
    Path(spec.pgdata).chmod(0o700)
    log.info("Restore completed", backupID=backup.backup_id)


def configure(spec: PodSpec, spec_file: Path, log: Log) -> None:
    """The copy's own configuration, the target, and the signal that makes the server recover from the archive."""
    pgdata = Path(spec.pgdata)
    settings = conf.recovery(spec, spec_file)
    conf.write(spec, settings, local_only=True)
    (pgdata / "postgresql.auto.conf").write_text("", encoding="utf-8")
    for name in ("recovery.signal", conf.EMPTY_ARCHIVE_MARKER):
        (pgdata / name).touch(mode=0o600)
        identity.hand_over(pgdata / name)
    log.info("Generated recovery configuration", settings=settings)


async def replay(spec: PodSpec, log: Log) -> None:
    """Start, replay, promote and stop; then start again for the application's role and database, and stop for good."""
    ready = asyncio.Event()

    def on_record(record: dict[str, str]) -> None:
        if record.get("message") == READY:
            ready.set()

    async def recovered(server: Postmaster) -> None:
        await until_recovered(spec, server, ready, log)
        log.info("Recovery finished, the instance is a primary", timeline=_timeline(spec))

    async def furnished(server: Postmaster) -> None:
        await server.wait_until("ready")
        for line in sql.ensure_application(spec):
            log.info(line)

    await _run(spec, Postmaster(spec, log, on_record), recovered, "waiting for PostgreSQL to stop recovery mode")
    await _run(spec, Postmaster(spec, log), furnished, "creating the application's role and database")


async def _run(spec: PodSpec, server: Postmaster, work: Callable[[Postmaster], Awaitable[None]], what: str) -> None:
    """One run of the server, for some work at it; JobFailed says in what it failed."""
    await server.start()
    try:
        await disk_space.within_volume(spec, work(server), disk_space.LOOK_SECONDS)
    except (ServerDied, disk_space.NoSpace) as error:
        raise JobFailed(f"while {what}: {error}") from error
    finally:
        if server.running.returncode is None:
            await _forgo_archiving(spec, server)
        returncode = await server.stop()
    if returncode:
        raise JobFailed(f"while stopping the restored instance: PostgreSQL exited with status {returncode}")


async def until_recovered(spec: PodSpec, server: Postmaster, ready: asyncio.Event, log: Log) -> None:
    """Ask the server every now and then, and at once when its log says that it is done."""
    await server.wait_until("ready", "standby")
    told: bool | None = None
    while True:
        recovering = True
        if server.status() in ("ready", "standby"):
            try:
                recovering = await asyncio.to_thread(sql.in_recovery, spec)
            except sql.NotAnswering:
                recovering = True  # it ends, or is about to be ready: the next round tells
        if recovering != told:
            log.info("Checking if the server is still in recovery", recovery=recovering)
            told = recovering
        if not recovering:
            return
        if server.running.returncode is not None:
            raise ServerDied(await server.wait())
        try:
            await asyncio.wait_for(ready.wait(), POLL_SECONDS)
            ready.clear()
        except TimeoutError:
            pass


async def _forgo_archiving(spec: PodSpec, server: Postmaster) -> None:
    """Without a command the archiver ends at once; with `false` it would try six times, a second apart, before that."""
    pgdata = Path(spec.pgdata)
    with (pgdata / conf.CUSTOM_CONF).open("a", encoding="utf-8") as settings:
        settings.write("archive_command = ''\n")
    server.reload()
    await asyncio.sleep(0.02)


def _timeline(spec: PodSpec) -> int:
    """The new timeline; pg_controldata may still show the old one until the first checkpoint."""
    with sql.connect(spec) as connection:
        row = connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchone()
    return int(row[0][:8], 16) if row else 0


if __name__ == "__main__":
    chosen = main.parser("Recover a cluster from an object store.").parse_args()
    sys.exit(main.run(job, chosen.spec, "restore error"))
