"""A tablespace that was created after the base backup, found in the WAL; and releases with known faults."""

from __future__ import annotations

import subprocess
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from fix_wal import NOON, SYSTEM, Memory, Wal, minutes

from drillbook.archive import ArchiveSnapshot, Reading, catalogue, read_folder, resolve
from drillbook.model import Lsn, RecoveryTarget
from drillbook.steps.recovery.known_faults import of_operator, operator_version
from drillbook_lab import pgbin

PATH = "/var/lib/postgresql/tablespaces/reports/data"


def create(wal: Wal) -> Lsn:
    return wal.record(5, 0, pack("<I", 16500) + PATH.encode() + b"\0")


def with_one(*, in_backup: bool = False) -> tuple[Memory, Lsn]:
    store, wal = Memory(), Wal()
    store.backup(wal, NOON)
    store.archive(wal.segment((1001, minutes(1))), minutes(1.5))
    made = create(wal)
    store.archive(wal.segment((1002, minutes(2))), minutes(2.5))
    store.archive(wal.segment((1003, minutes(3))), minutes(3.5))
    if in_backup:
        backup_id = store.backup(wal, minutes(4), tablespaces=repr([("reports", 16500, PATH)]))
        base = f"pg/base/{backup_id}"
        store.put(f"{base}/16500.tar", store.objects[f"{base}/data.tar"][0], minutes(4))
    for minute in range(5, 12):
        store.archive(wal.segment((1000 + minute, minutes(minute))), minutes(minute + 0.5))
    return store, made


def read(store: Memory, *names: str) -> Reading:
    return read_folder(
        store, "pg", system_id=str(SYSTEM), timeline=1, tablespaces=names, samples=0, checked=0, now=minutes(600)
    )


def test_b35_the_record_is_the_one_that_pg_waldump_sees(tmp_path: Path) -> None:
    wal = Wal(major=18)
    made = create(wal)
    name, body = wal.segment((1001, minutes(1)))
    (tmp_path / name).write_bytes(body)
    argv = [str(pgbin.bin_dir() / "pg_waldump"), f"--path={tmp_path}", "--rmgr=Tablespace", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    high, _, low = str(made).partition("/")
    assert f'desc: CREATE 16500 "{PATH}"' in done.stdout and f"{high}/{low.zfill(8)}" in done.stdout


def test_b35_the_window_names_it_with_its_lsn() -> None:
    store, made = with_one()
    found = read(store, "reports")
    (finding,) = found.survey.damages
    assert finding.state == "new tablespace" and f"{PATH} was created at LSN {made}" in finding.what
    assert finding.segment == "000000010000000000000003" and "new base backup" in finding.todo
    assert any(str(made) in line and "take a new base backup now" in line for line in found.reach.todo)


def test_b35_a_target_behind_it_says_so_and_one_before_does_not() -> None:
    store, made = with_one()
    held = ArchiveSnapshot.read(store, catalogue(store, "pg").usable, "pg", system_id=str(SYSTEM), timeline=1)
    behind = resolve(held, RecoveryTarget(target_time=minutes(2.5)))
    assert str(made) in behind.new_tablespaces[0] and "take a new base backup" in dict(behind.rows())["will fail"]
    assert resolve(held, RecoveryTarget(target_time=minutes(0.5))).new_tablespaces == ()


@pytest.mark.parametrize("names", [["reports"], []])
def test_b35_nothing_is_said_where_the_backup_has_it(names: list[str]) -> None:
    store, _ = with_one(in_backup=True)
    found = read(store, *names)
    assert found.survey.damages == () and found.reach.new_tablespaces == ()


def test_b35_what_was_declared_and_never_created_is_no_finding() -> None:
    store, _ = with_one(in_backup=True)
    assert read(store, "later", "reports").survey.damages == ()


@pytest.mark.parametrize("version", ["1.27.3", "1.28.1", "v1.28.3", "1.29.0", "1.29.1"])
def test_b37_releases_on_which_targettli_may_have_no_effect_are_known(version: str) -> None:
    known, todo = of_operator(version)
    assert "targetTLI" in known and version in known and "1.29.2" in todo


@pytest.mark.parametrize("version", ["1.26.0", "1.27.2", "1.28.0", "1.28.4", "1.29.2", "1.30.0", "2.0.0", "", "main"])
def test_b37_others_are_not(version: str) -> None:
    assert of_operator(version) == ("", "")


@pytest.mark.parametrize(
    ("pod", "version"),
    [
        ({"metadata": {"annotations": {"cnpg.io/operatorVersion": "1.29.1"}}}, "1.29.1"),
        (
            {"spec": {"initContainers": [{"name": "bootstrap-controller", "image": "r:5000/cnpg:1.28.2@sha256:0"}]}},
            "1.28.2",
        ),
        ({"spec": {"initContainers": [{"name": "bootstrap-controller", "image": "r:5000/cnpg"}]}}, ""),
        ({}, ""),
    ],
)
def test_b37_the_release_is_read_from_the_primary(pod: dict[str, Any], version: str) -> None:
    assert operator_version(pod) == version
