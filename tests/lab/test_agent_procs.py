"""Children that die with their parent, however the parent was started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fix_agent import wait_for

PARENT = """
import signal, subprocess, sys
from drillbook_lab.agent.procs import tied
signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as a shell does for what it runs in the background
child = subprocess.Popen(["sleep", "600"], preexec_fn=tied(int(sys.argv[1])))
print(child.pid, flush=True)
child.wait()
"""


def gone(process: Path) -> bool:
    """Whether it has ended; where nobody collects orphans it stays as a zombie."""
    try:
        return ") Z " in (process / "stat").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("death_signal", [signal.SIGQUIT, signal.SIGKILL])
def test_a_child_dies_with_a_parent_that_ignores_the_signal(death_signal: signal.Signals) -> None:
    argv = [sys.executable, "-c", PARENT, str(int(death_signal))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.exists()
        parent.kill()
    wait_for("the child's end", lambda: gone(child), seconds=10)
