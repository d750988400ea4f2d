"""The agent's pure parts, and the identity that PostgreSQL runs under."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from drillbook_lab import identity, pgbin
from drillbook_lab.agent import barman, conf
from drillbook_lab.agent.pg_log import to_record
from drillbook_lab.agent.spec import PodSpec, StoreSpec, TargetSpec
from drillbook_lab.agent.targets import Backup, NoBackup, catalogue, choose, parse_time, to_postgres_time
from drillbook_lab.agent.wal_feed import successor
from drillbook_lab.errors import LabError

NOON = datetime.datetime(2026, 8, 1, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def backup(number: int, timeline: int = 1) -> Backup:
    """Ends `number` hours after noon at LSN 0/<number>000000."""
    end = NOON + number * HOUR
    return Backup(f"id{number}", "", end - HOUR, end, "", "", "", f"0/{number}000000", timeline, "")


BACKUPS = [backup(1), backup(2), backup(3, timeline=2)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, "id3"),
        (TargetSpec(target_time="2026-08-01T14:00:00Z"), "id2"),
        (TargetSpec(target_time="2026-08-01T13:59:59.999999Z"), "id1"),
        (TargetSpec(target_time="2026-08-01 16:30:00+02"), "id2"),
        (TargetSpec(target_time="2026-08-01 14:30:00"), "id2"),
        (TargetSpec(target_lsn="0/2000000"), "id1"),
        (TargetSpec(target_lsn="0/2000001"), "id2"),
        (TargetSpec(target_tli="1"), "id2"),
        (TargetSpec(target_tli="latest"), "id3"),
        (TargetSpec(backup_id="id1", target_time="2020-01-01T00:00:00Z"), "id1"),
    ],
)
def test_base_backup_choice(target: TargetSpec | None, expected: str) -> None:
    """The newest that ends before the target, as CNPG chooses."""
    assert choose(BACKUPS, target).backup_id == expected


def test_no_base_backup() -> None:
    """CNPG's two texts."""
    with pytest.raises(NoBackup, match=r"^no target backup found$"):
        choose(BACKUPS, TargetSpec(target_time="2026-08-01T12:59:59Z"))
    with pytest.raises(NoBackup, match=r"^no backup found with ID nix$"):
        choose(BACKUPS, TargetSpec(backup_id="nix"))


def test_an_unfinished_backup_is_no_candidate() -> None:
    """Without an end time it isn't complete, whatever barman's status says."""
    assert catalogue({"backups_list": [{"backup_id": "x", "begin_time": "Sat Aug  1 12:00:00 2026"}]}) == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("2026-08-01T10:15:00Z", "2026-08-01 10:15:00.000000+0000"),
        ("2026-08-01T10:15:00.25+02:00", "2026-08-01 10:15:00.250000+0200"),
        ("2026-08-01T10:15:00", "2026-08-01 10:15:00.000000+0000"),
        ("2026-08-01 10:15:00", "2026-08-01 10:15:00"),
        ("2026-08-01 10:15:00.5+05:30", "2026-08-01 10:15:00.5+05:30"),
    ],
)
def test_target_times(given: str, sent: str) -> None:
    """RFC 3339 gets an explicit offset; PostgreSQL's own form goes through unchanged."""
    assert to_postgres_time(given) == sent


def test_a_time_without_a_zone_is_utc() -> None:
    """For the choice of the base backup."""
    assert parse_time("2026-08-01 12:00:00") == NOON
    with pytest.raises(ValueError, match="not a recovery target time"):
        parse_time("yesterday")


def test_segments_follow_each_other() -> None:
    """Across the end of a log file."""
    assert successor("000000010000000000000007") == "000000010000000000000008"
    assert successor("0000000300000001000000FF") == "000000030000000200000000"


def test_spec_survives_its_file(tmp_path: Path) -> None:
    """Written for its owner alone, read back equal; an unknown field is named."""
    spec = PodSpec(
        namespace="n",
        cluster="c",
        pod="c-1",
        pgdata="/d",
        run_dir="/r",
        socket_dir="/s",
        bin_dir="/b",
        archive=StoreSpec("s3://b/p", "c"),
        target=TargetSpec(target_time="2026-08-01T10:15:00Z"),
    )
    path = tmp_path / "spec.json"
    spec.write(path)
    assert PodSpec.read(path) == spec
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().replace('"pod"', '"pot"'))
    with pytest.raises(TypeError, match="pot"):
        PodSpec.read(path)


def test_settings_that_no_spec_can_change(tmp_path: Path) -> None:
    """Fixed ones win, defaults yield; the last rule of pg_hba.conf lets everybody in with a password."""
    spec = PodSpec(
        namespace="n",
        cluster="c",
        pod="c-1",
        pgdata=str(tmp_path),
        run_dir=str(tmp_path),
        socket_dir="/tmp/x",
        bin_dir="/b",
        parameters={"archive_mode": "off", "archive_timeout": "1min", "work_mem": "it's"},
        hba=["hostssl app app 10.0.0.0/8 scram-sha-256"],
    )
    conf.write(spec, {"archive_command": conf.archive_command(spec, tmp_path / "spec.json")})
    lines = (tmp_path / "custom.conf").read_text().splitlines()
    for line in (
        "archive_mode = 'on'",
        "archive_command = '/bin/true'",
        "archive_timeout = '1min'",
        "ssl_min_protocol_version = 'TLSv1.3'",
        "wal_level = 'logical'",
        "wal_keep_size = '512MB'",
        "work_mem = 'it''s'",
    ):
        assert line in lines
    rules = (tmp_path / "pg_hba.conf").read_text().splitlines()
    standbys = "host replication streaming_replica 127.0.0.0/8 scram-sha-256"
    assert rules == ["local all postgres trust", standbys, spec.hba[0], "host all all all scram-sha-256"]
    archiving = replace(spec, archive=StoreSpec("s3://b/p", "c"))
    assert conf.archive_command(archiving, tmp_path / "50% off.json").endswith("50%% off.json' %p")


def test_records_have_cnpgs_names() -> None:
    """csvlog's columns under the names that CloudNativePG's reader gives them; a message may hold quotes and line ends."""
    record = to_record('t,,,7,,,,,,,,FATAL,XX000,"a ""message""\nof two lines",,,,,,,,,,"postmaster",,0')
    assert record == {
        "log_time": "t",
        "process_id": "7",
        "error_severity": "FATAL",
        "sql_state_code": "XX000",
        "message": 'a "message"\nof two lines',
        "backend_type": "postmaster",
        "query_id": "0",
    }
    assert to_record("what a child of the server says") is None


def test_nothing_of_the_machine_reaches_barman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor a profile."""
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("AWS_PROFILE", "production")
    credentials = tmp_path / "c.json"
    credentials.write_text('{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}')
    env = barman.environment(StoreSpec("s3://b/p", "c", credentials_file=str(credentials)), home="/h")
    assert env["AWS_ACCESS_KEY_ID"] == "a"
    assert not {"http_proxy", "AWS_PROFILE"} & set(env)


def test_postgresql_runs_as_somebody_else_than_root(tmp_path: Path) -> None:
    """The wrapped command is one process, with the pid that was started, and not root inside."""
    home = identity.prepare_dir(tmp_path / "data")
    script = "import os, pathlib; pathlib.Path('made').touch(); print(os.getpid(), os.geteuid())"
    child = subprocess.Popen(
        identity.wrap([sys.executable, "-I", "-c", script]), cwd=home, stdout=subprocess.PIPE, text=True
    )
    out, _ = child.communicate()
    pid, uid = map(int, out.split())
    assert (pid, child.returncode) == (child.pid, 0)
    assert uid != 0
    assert (home / "made").exists()


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that isn't PostgreSQL's."""
    monkeypatch.setenv(pgbin.VARIABLE, str(tmp_path))
    pgbin.bin_dir.cache_clear()
    try:
        with pytest.raises(LabError, match=f"no initdb, postgres.* in {tmp_path}"):
            pgbin.bin_dir()
    finally:
        monkeypatch.undo()
        pgbin.bin_dir.cache_clear()
    assert os.access(pgbin.program("postgres"), os.X_OK)
