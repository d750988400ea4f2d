"""The full-recovery job against a real archive: its order, its words, and each way in which it fails."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_agent import BUCKET, FOLDER, Pod, Site, agent_home, archived, processes_with, site, store, wait_for

from drillbook_lab.agent import conf
from drillbook_lab.agent.spec import TargetSpec
from drillbook_lab.node import volume_capacity

__all__ = ["agent_home", "site", "store"]

# What the job says of the sidecar's refusal: the sidecar's own line is before it.
HEAD = "while restoring cluster: "
RPC = HEAD + "rpc error: code = Unknown desc = "


@pytest.fixture
def copies(site: Site) -> Iterator[Any]:
    """Makes pods of this test's own, and removes them."""
    made: list[Pod] = []

    def make(**fields: Any) -> Pod:
        made.append(site.pod(**{"source": site.side(wal_max_parallel=4), "database": "app", "owner": "app", **fields}))
        return made[-1]

    yield make
    for pod in made:
        pod.remove()


def at(moment: datetime.datetime) -> TargetSpec:
    return TargetSpec(target_time=moment.isoformat().replace("+00:00", "Z"))


@pytest.mark.soak
def test_point_in_time_recovery(site: Site, copies: Any) -> None:
    """The copy has what was committed before the target and nothing after it; the log tells each phase in order."""
    password = site.home / "new-password"
    password.write_text("changed")
    copy = copies(
        target=at(site.before_second),
        owner_password_file=str(password),
        archive=site.side("copy-destination", "writer"),
        tls_dir=None,
    )
    done = copy.run("recovery")
    assert done.returncode == 0, done

    phases = [
        "Starting full recovery",
        "Checking the WAL archive destination",
        "Target backup found",
        "First needed WAL found in the archive",
        "Starting barman-cloud-restore",
        "Restore completed",
        "Generated recovery configuration",
        "Starting PostgreSQL",
        "starting point-in-time recovery to ",
        "redo starts at ",
        "recovery stopping before commit of transaction ",
        "last completed transaction was at log time ",
        "selected new timeline ID: 2",
        "archive recovery complete",
        "database system is ready to accept connections",
        "Full recovery completed",
    ]
    messages = done.messages()
    found = [next((i for i, message in enumerate(messages) if message.startswith(phase)), -1) for phase in phases]
    assert -1 not in found, dict(zip(phases, found, strict=True))
    assert found == sorted(found)
    assert [line["ts"] for line in done.lines] == sorted(line["ts"] for line in done.lines)
    assert all(line["logging_pod"] == copy.spec.pod for line in done.lines)
    (chosen,) = [line["backup"] for line in done.lines if line["msg"] == "Target backup found"]
    assert chosen["backup_id"] == site.backup["backupId"]
    records = [line["record"] for line in done.lines if line.get("msg") == "record"]
    assert {"log_time", "error_severity", "message", "sql_state_code", "process_id"} <= set(records[0])
    (settings,) = [line["settings"] for line in done.lines if line["msg"] == "Generated recovery configuration"]
    assert settings["max_connections"] == "137", "the source's, by pg_controldata: larger than the copy's 100"
    assert settings["archive_command"] == "false"
    assert not site.store.names(f"{FOLDER}/copy-destination/wals/")

    copy.start()
    with copy.connect("app") as connection:
        rows = connection.execute("select number from marker order by 1").fetchall()
    assert rows == [(0,), (1,)]
    assert copy.ask("select pg_is_in_recovery()") is False
    with copy.connect("app", user="app", password="changed", host=copy.spec.listen_address):
        pass
    # Archiving starts with the history file, under the copy's own serverName, and the marker goes.
    wait_for("the history file", lambda: site.store.names(f"{FOLDER}/copy-destination/wals/00000002.history"))
    archived(copy, "00000002")
    wait_for("the marker gone", lambda: not (Path(copy.spec.pgdata) / ".check-empty-wal-archive").exists())
    assert [name for name in site.store.names(f"{FOLDER}/source/wals/") if "/00000002" in name] == []


@pytest.mark.soak
def test_without_a_target_it_replays_all_and_promotes(site: Site, copies: Any) -> None:
    """No target: the end of the archive is silently the end; an earlier valid PGDATA is kept aside on the volume."""
    copy = copies(source=site.side(wal_max_parallel=1), database="orders", owner="orders")
    pgdata = Path(copy.spec.pgdata)
    (pgdata / "global").mkdir(parents=True)
    (pgdata / "global" / "pg_control").touch()
    (pgdata / "PG_VERSION").write_text("18")
    done = copy.run("recovery")
    assert done.returncode == 0, done
    assert done.said("selected new timeline ID: 2")
    assert len(list(pgdata.parent.glob("pgdata_*"))) == 1
    copy.start()
    with copy.connect("app") as connection:
        assert connection.execute("select max(number) from marker").fetchone() == (3,)
    # Not naming the restored database adds a stray one: CNPG's behaviour.
    assert copy.ask("select count(*) from pg_database where datname in ('app', 'orders')") == 2


@pytest.mark.soak
def test_the_restore_point_of_a_backup(site: Site, copies: Any) -> None:
    """`targetName` barman_<id> is the restore point that barman-cloud-backup leaves on a primary."""
    backup_id = site.backup["backupId"]
    copy = copies(target=TargetSpec(backup_id=backup_id, target_name=f"barman_{backup_id}"))
    done = copy.run("recovery")
    assert done.returncode == 0, done
    assert done.said(f'recovery stopping at restore point "barman_{backup_id}"')


@pytest.mark.parametrize(
    ("server", "target", "reason"),
    [
        ("source", TargetSpec(target_time="2020-01-01T00:00:00Z"), "no target backup found"),
        ("nobody", None, "no target backup found"),
        ("source", TargetSpec(target_tli="7"), "no target backup found"),
        ("source", TargetSpec(backup_id="20200101T000000"), "no backup found with ID 20200101T000000"),
    ],
)
@pytest.mark.soak
def test_no_backup_for_the_target(site: Site, copies: Any, server: str, target: TargetSpec | None, reason: str) -> None:
    """Time before the first backup, wrong serverName, a timeline without one, an unknown ID."""
    copy = copies(source=site.side(server), target=target)
    done = copy.run("recovery")
    assert (done.returncode, done.error) == (1, RPC + reason)
    (sidecar,) = [line["error"] for line in done.lines if line["msg"] == "Error while handling GRPC request"]
    assert sidecar == reason
    assert not Path(copy.spec.pgdata).exists()


@pytest.mark.soak
def test_target_after_the_last_commit(site: Site, copies: Any) -> None:
    """PostgreSQL itself says that it can't reach it."""
    copy = copies(target=at(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)))
    done = copy.run("recovery")
    assert done.returncode == 1
    assert done.said("recovery ended before configured recovery target was reached")
    assert done.error.startswith(HEAD + "while waiting for PostgreSQL to stop recovery mode: ")


@pytest.mark.soak
def test_target_before_the_named_backup_is_consistent(site: Site, copies: Any) -> None:
    """An explicit backup whose end is after the target can't serve it, if the WAL shows that in time.

    By time it shows only with a commit during the backup; on a quiet source the copy stops before the first commit
    after it, and the job succeeds.
    """
    target = TargetSpec(backup_id=site.backup["backupId"], target_lsn=site.backup["beginLSN"])
    done = copies(target=target).run("recovery")
    assert done.returncode == 1
    assert done.said("requested recovery stop point is before consistent recovery point")
    assert done.error.startswith(HEAD + "while waiting for PostgreSQL to stop recovery mode: ")


@pytest.mark.soak
def test_a_time_before_the_named_backup_on_a_quiet_source_is_not_noticed(site: Site, copies: Any) -> None:
    """PostgreSQL compares times at commits only: with none during the backup it stops, consistent, before the next."""
    started = datetime.datetime.fromisoformat(site.backup["startedAt"].replace("Z", "+00:00"))
    target = at(started - datetime.timedelta(hours=1))
    target.backup_id = site.backup["backupId"]
    copy = copies(target=target)
    done = copy.run("recovery")
    assert done.returncode == 0, done
    assert done.said("recovery stopping before commit of transaction ")
    copy.start()
    with copy.connect("app") as connection:
        assert connection.execute("select number from marker").fetchall() == [(0,)]


@pytest.mark.soak
def test_a_time_before_the_named_backup_on_a_busy_source(site: Site, copies: Any) -> None:
    """A commit during the backup shows it: the server stops there, before it is consistent."""
    with site.source.connect("app") as connection:
        connection.execute("create table busy (n int)")
        taking = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "drillbook_lab.agent.backup",
                "--spec",
                str(site.source.spec_file),
                "--name",
                "backup-20260101000001",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        while taking.poll() is None:
            connection.execute("insert into busy values (1)")
        assert taking.stdout is not None
        taken = json.loads(taking.stdout.read().splitlines()[-1])
        taking.stdout.close()
        row = connection.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
    archived(site.source, row[0])
    target = at(site.before_second)
    target.backup_id = taken["backupId"]
    done = copies(target=target).run("recovery")
    for name in site.store.names(f"{FOLDER}/source/base/{taken['backupId']}/"):
        site.store.client().delete_object(Bucket=BUCKET, Key=name)  # the other tests mean the first backup
    assert done.returncode == 1
    assert done.said("requested recovery stop point is before consistent recovery point")
    assert done.error.startswith(HEAD + "while waiting for PostgreSQL to stop recovery mode: ")


def volume_of(pod: Pod, capacity: int) -> Path:
    """Give the pod's volume a size."""
    folder = Path(pod.spec.pgdata).parent
    folder.mkdir(exist_ok=True)
    claim = {"spec": {}, "status": {"capacity": {"storage": str(capacity)}}}
    volume_capacity.set_capacity(folder, claim)
    return folder


@pytest.mark.soak
def test_a_volume_that_cant_hold_the_base_backup(site: Site, copies: Any) -> None:
    """What earlier attempts left aside counts, and so does a sparse file's length."""
    copy = copies()
    ballast = volume_of(copy, 2**30) / "ballast"
    with ballast.open("wb") as out:
        out.truncate(2**30 - 2**20)
    done = copy.run("recovery")
    assert done.returncode == 1
    assert "no space left on device" in done.error
    assert not processes_with(copy.spec.pgdata)


@pytest.mark.soak
def test_a_volume_that_fills_up_stops_the_instance(site: Site, copies: Any) -> None:
    """No room for a WAL segment: PostgreSQL is stopped, the program ends with CNPG's code, and so does a new start."""
    pod = copies(source=None)
    folder = volume_of(pod, 2**30)
    assert pod.run("initdb").returncode == 0
    pod.start()
    with (folder / "ballast").open("wb") as out:
        out.truncate(2**30)
    assert pod.process is not None
    assert pod.process.wait(60) == volume_capacity.NO_SPACE_EXIT_CODE
    assert "no free disk space for WALs" in pod.log.read_text()
    again = pod.run("instance")
    assert again.returncode == volume_capacity.NO_SPACE_EXIT_CODE
    assert again.said("Detected low-disk space condition, avoid starting the instance")
    (folder / "ballast").unlink()
    pod.start()
    assert pod.ask("select 1") == 1


@pytest.mark.soak
def test_first_wal_missing(site: Site, copies: Any) -> None:
    """The probe ends the job before anything is fetched."""
    server = site.broken("no-begin-wal")
    for name in site.store.names(f"{FOLDER}/{server}/wals/"):
        if name.endswith(f"/{site.backup['beginWal']}.gz"):
            site.store.client().delete_object(Bucket=BUCKET, Key=name)
    copy = copies(source=site.side(server))
    done = copy.run("recovery")
    assert done.returncode == 1
    assert done.error.startswith(
        RPC + "encountered an error while checking the presence of first needed WAL in the archive: "
    )
    assert not Path(copy.spec.pgdata).exists()


@pytest.mark.soak
def test_wal_gap_before_the_target(site: Site, copies: Any) -> None:
    """A segment lost between backup and target ends the replay early, and the job with it."""
    server = site.broken("gap")
    begin = site.backup["beginWal"]
    names = [name for name in site.store.names(f"{FOLDER}/{server}/wals/") if name.endswith(".gz")]
    segments = [name for name in names if len(Path(name).name) == len(f"{begin}.gz")]
    gap = [name for name in segments if Path(name).name > f"{begin}.gz"][1]
    site.store.client().delete_object(Bucket=BUCKET, Key=gap)
    done = copies(source=site.side(server, wal_max_parallel=4), target=at(site.before_second)).run("recovery")
    assert done.returncode == 1
    assert done.said("recovery ended before configured recovery target was reached")
    told = [line["walName"] for line in done.lines if line["msg"] == "WAL file not found in the recovery object store"]
    assert Path(gap).name[:24] in told


@pytest.mark.soak
def test_without_a_target_a_gap_is_the_end_and_nobody_is_told(site: Site, copies: Any) -> None:
    """The silent shortfall: the job succeeds, and what was committed after the gap is missing."""
    server = site.broken("short")
    begin = site.backup["beginWal"]
    segments = [
        name for name in site.store.names(f"{FOLDER}/{server}/wals/") if len(Path(name).name) == len(f"{begin}.gz")
    ]
    site.store.client().delete_object(
        Bucket=BUCKET, Key=[name for name in segments if Path(name).name > f"{begin}.gz"][1]
    )
    copy = copies(source=site.side(server, wal_max_parallel=4))
    done = copy.run("recovery")
    assert done.returncode == 0, done
    assert not [line for line in done.lines if line["level"] == "error" and "error" in line]
    copy.start()
    with copy.connect("app") as connection:
        assert connection.execute("select max(number) from marker").fetchone() == (1,)


@pytest.mark.soak
def test_without_a_target_a_store_that_goes_away_is_the_end_too(site: Site, copies: Any) -> None:
    """A network that fails midway is no failure either: PostgreSQL hears that the segment isn't there."""
    copy = copies(source=site.side(wal_max_parallel=1))
    argv = [sys.executable, "-m", "drillbook_lab.agent.recovery", "--spec", str(copy.spec_file)]
    job = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def fetched() -> list[dict[str, Any]]:
        """What the sidecar has said so far."""
        complete = copy.sidecar_log.read_text().rpartition("\n")[0] if copy.sidecar_log.exists() else ""
        return [json.loads(line) for line in complete.splitlines()]

    try:
        wait_for("the first segment", lambda: any(line["msg"] == "Restored WAL file" for line in fetched()))
        site.store.faults(down=True)
        assert job.wait(300) == 0, fetched()
    finally:
        site.store.faults()
    lines = fetched()
    told = [line for line in lines if line["msg"] == "Failed restoring WAL file (Postgres might retry)"]
    assert "barman-cloud-wal-restore" in told[0]["error"]
    copy.start()
    with copy.connect("app") as connection:
        assert connection.execute("select max(number) < 3 from marker").fetchone() == (True,)


def test_torn_base_backup(site: Site, copies: Any) -> None:
    """A truncated data.tar fails in barman's words."""
    server = site.broken("torn")
    (name,) = [name for name in site.store.names(f"{FOLDER}/{server}/base/") if name.endswith("data.tar")]
    client = site.store.client()
    body = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=name, Body=body[: len(body) // 3])
    done = copies(source=site.side(server)).run("recovery")
    assert done.returncode == 1
    assert done.said("Can't restore backup")
    assert done.said("unexpected end of data")
    assert done.error in (RPC + "Operation error (exit code 1)", RPC + "General error (exit code 4)")


def test_destination_in_use(site: Site, copies: Any) -> None:
    """The folder that the copy would archive to holds WAL: refused, unless the annotation says otherwise."""
    copy = copies(archive=site.side("source", "writer"))
    done = copy.run("recovery")
    assert done.returncode == 1
    assert done.said("WAL archive check failed for server source: Expected empty archive")
    assert done.error.startswith(RPC + "unexpected failure invoking barman-cloud-wal-archive: exit status 1")
    archive_check = [i for i, message in enumerate(done.messages()) if "Expected empty archive" in message]
    misleading = [i for i, line in enumerate(done.lines) if "unexpected failure" in str(line.get("error"))]
    assert archive_check[0] < misleading[0]
    assert not done.said("Target backup found")


def test_denied_and_down(site: Site, copies: Any) -> None:
    """A refused key and a store that hangs up: the exit status, and barman's own words in the sidecar's line."""
    try:
        site.store.faults(deny_keys=["reader"])
        denied = copies().run("recovery")
        site.store.faults(down=True)
        down = copies().run("recovery")
    finally:
        site.store.faults()
    assert (denied.returncode, down.returncode) == (1, 1)
    assert (denied.error, down.error) == (RPC + "exit status 4", RPC + "exit status 4")
    (listed,) = [line for line in denied.lines if line["msg"] == "Can't extract backup id"]
    assert listed["stderr"].rstrip().endswith("(AccessDenied) when calling the ListObjectsV2 operation: Access Denied")


def test_killed_job_leaves_no_process(site: Site, copies: Any) -> None:
    """kill -9 in the middle of the base backup: barman and PostgreSQL die with the job."""
    copy = copies()
    argv = [sys.executable, "-m", "drillbook_lab.agent.recovery", "--spec", str(copy.spec_file)]
    job = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    for line in job.stdout:
        if json.loads(line)["msg"] == "Starting PostgreSQL":
            break
    job.send_signal(signal.SIGKILL)
    job.wait()
    job.stdout.close()
    wait_for("no process of the job", lambda: not processes_with(copy.spec.pgdata))


def test_archiver_refuses_a_used_folder(site: Site, copies: Any) -> None:
    """A *new* cluster over a used folder runs, but archives nothing, and says why."""
    fresh = copies(source=None, archive=site.side("source", "writer"))
    assert fresh.run("initdb").returncode == 0
    fresh.start()
    fresh.ask("select pg_switch_wal()")
    outcome = wait_for("an outcome", fresh.outcomes)[0]
    assert outcome["ok"] is False
    assert outcome["message"] == "unexpected failure invoking barman-cloud-wal-archive: exit status 1"
    assert outcome["detail"].endswith("WAL archive check failed for server source: Expected empty archive")
    fresh.kill()  # a shutdown would try to archive six times more


def test_password_users_come_in_over_the_network_only_with_their_password(site: Site) -> None:
    """The last rule: scram for everybody; the socket is for postgres alone."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        site.source.connect("app", user="app", password="wrong", host=site.source.spec.listen_address)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        site.source.connect("app", user="app")
    with site.source.connect("app", user="app", password="app-password", host=site.source.spec.listen_address):
        pass
    if not conf.offers_tls(site.source.spec.bin_dir):
        assert "TLS is off" in site.source.log.read_text()
        return
    host = site.source.spec.listen_address
    tls = {"sslmode": "verify-full", "sslrootcert": f"{site.source.spec.tls_dir}/ca.crt"}
    with site.source.connect("app", user="app", password="app-password", host=host, **tls) as connection:
        assert connection.execute("select version from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (
            "TLSv1.3",
        )
