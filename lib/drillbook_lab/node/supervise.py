"""Starting, following and ending the daemon from outside: what the command line does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome
from drillbook_lab.node.processes import processes_under

_GLANCE_SECONDS = 0.05
_PATIENCE_SECONDS = 420.0
_DOWN_SECONDS = 30.0

Report = Callable[[dict[str, Any]], None]


def daemon_command(home: LabHome, profile: str, data_mb: float, *more: str) -> list[str]:
    """The daemon's command line."""
    argv = [sys.executable, "-m", "drillbook_lab.daemon", "--home", str(home.root), "--foreground"]
    return [*argv, "--profile", profile, "--data-mb", str(data_mb), *more]


def start(home: LabHome, argv: list[str], *, detached: bool) -> subprocess.Popen[bytes]:
    """Start the daemon; detached, it has its own session and outlives us."""
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    _begin(home)
    with home.log.open("ab" if home.is_resumable else "wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=detached,
            process_group=None if detached else 0,
            cwd="/",
            env=_environment(),
        )


def _begin(home: LabHome) -> None:
    """What an earlier daemon said of itself is not what the next one says."""
    home.progress.unlink(missing_ok=True)
    if home.is_resumable:
        home.write_state({**home.state(), "ready": False, "failed": None})
    else:
        home.clear()
        home.root.mkdir(parents=True, exist_ok=True, mode=0o700)


def _environment() -> dict[str, str]:
    # The daemon's working directory is not the caller's: relative entries would point elsewhere.
    env = dict(os.environ)
    path = env.get("PYTHONPATH")
    if path:
        env["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep) if entry)
    if env.get("DRILLBOOK_LAB_CRDS"):
        env["DRILLBOOK_LAB_CRDS"] = str(Path(env["DRILLBOOK_LAB_CRDS"]).absolute())
    return env


def follow(home: LabHome, daemon: subprocess.Popen[bytes] | None, report: Report) -> dict[str, Any]:
    """Report each stage until the lab is ready; its state. `LabError` when it can't be."""
    began = time.monotonic()
    lines = _lines(home.progress)
    while True:
        for line in lines:
            if line is None:
                break
            report(line)
            began = time.monotonic()
        state = home.state()
        if state.get("ready"):
            return state
        if state.get("failed"):
            raise LabError("the lab could not be made", str(state["failed"]), f"see {home.log}")
        ended = daemon is not None and daemon.poll() is not None
        if ended and not home.is_running():
            raise LabError("the lab's daemon ended", _last_words(home), f"see {home.log}")
        # One stage may load or back up all of the data.
        patience = _PATIENCE_SECONDS + 2 * float(state.get("data_mb", 0.0))
        if time.monotonic() > began + patience:
            raise LabError("the lab is not up in time", f"no progress for {patience:.0f} s", f"see {home.log}")
        time.sleep(_GLANCE_SECONDS)


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Complete lines of a growing file; None whenever there is no further one yet."""
    while not path.exists():
        yield None
    with path.open(encoding="utf-8") as source:
        pending = ""
        while True:
            pending += source.readline()
            if pending.endswith("\n"):
                yield json.loads(pending)
                pending = ""
            else:
                yield None


def _last_words(home: LabHome) -> str:
    try:
        lines = home.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1][-400:] if lines else ""


def down(home: LabHome) -> bool:
    """End the lab and remove all of it; whether there was one."""
    was_running = home.is_running()
    if was_running:
        pid = int(home.state().get("pid", 0))
        if pid:
            _end(home, pid)
    left = processes_under([home.root]) if home.root.exists() else []
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    existed = home.state_file.exists()
    home.clear()
    return was_running or existed


def _end(home: LabHome, pid: int) -> None:
    deadline = time.monotonic() + _DOWN_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while home.is_running():
        if time.monotonic() > deadline:
            # Its children have a parent-death signal: they go with it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline += _DOWN_SECONDS
        time.sleep(_GLANCE_SECONDS)
