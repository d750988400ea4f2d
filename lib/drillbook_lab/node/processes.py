"""Starting processes that can't outlive us, and making sure that they are gone.

Every child is the leader of its own process group and gets a parent-death signal, so a supervisor that is
killed with -9 leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1

# Loaded once, before any fork: between fork and exec a child may not load libraries.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dies_with_parent(signum: int = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn` that ties the child's life to the thread that started it."""
    parent = os.getpid()

    def tie() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signum)
            if os.getppid() != parent:  # the parent died before the tie held
                os._exit(70)

    return tie


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | IO[bytes] | None = asyncio.subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    apart: Callable[[], None] | None = None,
) -> asyncio.subprocess.Process:
    """Start a program in its own process group, tied to this process; `apart` runs in the child before that."""
    return await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
        preexec_fn=_both(apart, dies_with_parent()),
        limit=2**20,
    )


def _both(first: Callable[[], None] | None, then: Callable[[], None]) -> Callable[[], None]:
    if first is None:
        return then
    before = first

    def run() -> None:
        before()
        then()

    return run


def signal_group(pid: int, signum: int) -> None:
    """Signal a whole process group; one that is gone is no fault."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


async def stop(process: asyncio.subprocess.Process, grace_seconds: float, *, group: bool = False) -> None:
    """SIGTERM, the grace, then SIGKILL to the whole group. Returns when the process has been reaped."""
    if process.returncode is None:
        if group:
            signal_group(process.pid, signal.SIGTERM)
        else:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_seconds)
    # Also after an orderly end: a helper that it started must not live on.
    signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def processes_under(roots: Iterable[Path]) -> list[int]:
    """Processes whose working directory is in one of the directories.

    PostgreSQL's backends leave their postmaster's group and overwrite their environment, but every one of
    them works in the data directory, so this finds what a process group does not.
    """
    proc = Path("/proc")
    prefixes = [str(root) for root in roots]
    if not prefixes or not proc.is_dir():
        return []
    found = []
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        try:
            cwd = os.readlink(f"/proc/{entry.name}/cwd")  # noqa: PTH115 - thousands of times a minute
        except OSError:
            continue  # gone, a zombie, or somebody else's
        cwd = cwd.removesuffix(" (deleted)")
        if any(cwd == prefix or cwd.startswith(prefix + "/") for prefix in prefixes):
            found.append(int(entry.name))
    return found


def kill_processes_under(roots: Sequence[Path], patience_seconds: float = 10.0) -> None:
    """Kill anyone who works in the directories, and wait until nobody does: they are about to be removed."""
    deadline = time.monotonic() + patience_seconds
    while (left := processes_under(roots)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


async def end_processes_under(roots: Sequence[Path], patience_seconds: float = 1.0) -> None:
    """Wait until nobody works in the directories any more; who doesn't leave is killed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_seconds
    while left := processes_under(roots):
        if loop.time() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
