"""What the instance manager does about a full volume: no start without room for a WAL segment, and a stop when it goes.

PostgreSQL itself would panic when it can't write WAL; here the account says so, and the server is stopped as abruptly.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from drillbook_lab.agent import conf
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.postmaster import Postmaster
from drillbook_lab.agent.spec import PodSpec
from drillbook_lab.node import volume_capacity

EXIT_CODE = volume_capacity.NO_SPACE_EXIT_CODE
NO_SPACE = "no space left on device"
LOOK_SECONDS = 1.0
_LONGEST_LOOK_SECONDS = 4.0
_FILLS_BYTES_PER_SECOND = 2**28  # faster than a server writes: a volume with room is looked at less often
_DEFAULT_SEGMENT = 16 * 2**20

T = TypeVar("T")


class NoSpace(Exception):
    """The volume is full; the text ends as the operating system would say it."""


def volume(spec: PodSpec) -> Path:
    """The volume that PGDATA is on."""
    return Path(spec.pgdata).parent


def wal_segment_bytes(spec: PodSpec) -> int:
    """The size of a segment, by pg_controldata; the default's before there is a PGDATA."""
    try:
        return int(conf.controldata(spec)["Bytes per WAL segment"])
    except (subprocess.CalledProcessError, KeyError, ValueError):
        return _DEFAULT_SEGMENT


def enough_for_wal(spec: PodSpec, log: Log) -> bool:
    """Whether a WAL segment still fits; if not, the log says so in CNPG's words."""
    account = volume_capacity.account(volume(spec))
    if account.has_room(wal_segment_bytes(spec)):
        return True
    log.info(
        "Detected low-disk space condition, avoid starting the instance", capacity=account.capacity, used=account.used
    )
    return False


async def stop_when_full(spec: PodSpec, server: Postmaster, log: Log) -> bool:
    """Watch the volume while the server runs; true when it had to be stopped. Cancel it with the server."""
    segment = wal_segment_bytes(spec)
    pause = LOOK_SECONDS
    while True:
        await asyncio.sleep(pause)
        account = volume_capacity.account(volume(spec))
        room = _LONGEST_LOOK_SECONDS if account.free is None else account.free / _FILLS_BYTES_PER_SECOND
        pause = min(max(room, LOOK_SECONDS), _LONGEST_LOOK_SECONDS)
        if server.running.returncode is None and not account.has_room(segment):
            log.error(
                "Stopping PostgreSQL", "no free disk space for WALs", capacity=account.capacity, used=account.used
            )
            server.running.send_signal(signal.SIGQUIT)
            return True


async def ended_for_space(watch: asyncio.Task[bool]) -> bool:
    """End the watch over a server that has ended; whether the watch had stopped it."""
    watch.cancel()
    (outcome,) = await asyncio.gather(watch, return_exceptions=True)
    return outcome is True


async def within_volume(spec: PodSpec, work: Awaitable[T], glance_seconds: float = 0.1) -> T:
    """Do work that writes to the volume; NoSpace as soon as it holds more than it can."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=glance_seconds)
            account = await asyncio.to_thread(volume_capacity.account, volume(spec))
            if not account.has_room(0):
                raise NoSpace(f"write {spec.pgdata}: {NO_SPACE} ({account.used} of {account.capacity} bytes)")
            if done:
                return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
