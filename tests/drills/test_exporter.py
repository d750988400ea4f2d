"""The exporter against the lab: what it says of a healthy archive, of a damaged one, and of one that can't be read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from fix_drills import ROOT, DrillLab, until
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.long


@contextmanager
def exporter(lab: DrillLab) -> Iterator[str]:
    """Running, with a reading every second; the address that it says."""
    argv = [sys.executable, "-m", "drillbook", "exporter", "--listen", "127.0.0.1:0", "--every", "1"]
    env = lab.env | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    try:
        assert running.stdout is not None
        told = re.search(r"http://\S+", running.stdout.readline())
        assert told
        yield told[0]
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.communicate()


def values(address: str) -> dict[str, float]:
    """Every sample without its site, by name and label."""
    with urlopen(address, timeout=30) as answer:  # noqa: S310 - our own server
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.name + "".join(f" {value}" for name, value in sample.labels.items() if name != "site"): sample.value
        for family in families
        for sample in family.samples
    }


def test_i17_the_archive_as_it_is_and_as_it_becomes(drill_lab: DrillLab) -> None:
    drill_lab.archive_segments(1)
    with exporter(drill_lab) as address:
        until(lambda: values(address).get("drillbook_recoverable") == 1, "the archive was read")
        found = values(address)
        assert found["drillbook_read_failed archive"] == found["drillbook_read_failed evidence"] == 0
        assert 0 <= found["drillbook_loss_if_lost_now_seconds"] < 600
        assert found["drillbook_recoverable_until_seconds"] <= found["drillbook_archive_read_timestamp_seconds"]
        drill_lab.archive_segments(2)
        with drill_lab.fault("wal-removed"):
            until(lambda: values(address)["drillbook_recoverable"] == 0, "the gap is seen")
            assert values(address)["drillbook_archive_damages"] >= 1
        until(lambda: values(address)["drillbook_recoverable"] == 1, "the segment is back")
        assert values(address)["drillbook_recoverable_until_seconds"] > found["drillbook_recoverable_until_seconds"]
        with drill_lab.fault("store-refusing"):
            until(lambda: values(address)["drillbook_read_failed archive"] == 1, "the store refuses")
            assert values(address)["drillbook_recoverable"] == 0
        until(lambda: values(address)["drillbook_recoverable"] == 1, "the store answers again")
