"""Nothing is lost on the way: kernel and runner killed with -9 in the recovery wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fix_drills import NOTEBOOK, ROOT, Drill, DrillLab, children, until


def _start(lab: DrillLab) -> tuple[subprocess.Popen[str], Path]:
    before = set(lab.folders())
    command = [sys.executable, "-m", "drillbook", "run", str(NOTEBOOK), "--mode", "apply"]
    runner = subprocess.Popen(
        command, cwd=ROOT, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    folder = until(lambda: next(iter(set(lab.folders()) - before), None), "the run has a folder")
    until(lambda: _waits(folder), "the recovery wait began")
    return runner, folder


def _waits(folder: Path) -> bool:
    journal = folder / "journal.jsonl"
    return journal.exists() and '"step":"WaitForRecovery"' in journal.read_text()


def _kernel(runner: subprocess.Popen[str]) -> int:
    (kernel,) = [pid for pid in children(runner.pid) if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return kernel


@pytest.mark.long
def test_a_killed_kernel_is_settled_by_its_runner(drill_lab: DrillLab) -> None:
    runner, folder = _start(drill_lab)
    os.kill(_kernel(runner), signal.SIGKILL)
    said, _ = runner.communicate(timeout=480)
    drill = Drill(runner.returncode, folder, said)
    assert (drill.code, drill.verdict) == (6, "UNPROVEN"), drill.said
    assert drill.of("attempt")[-1]["how"] == "kernel died"
    assert drill.created and {event["id"] for event in drill.of("settled")} == set(drill.created)
    assert (folder / "report.html").exists()
    assert "not seen to finish" in str(drill.record["verdict"]["reasons"])
    assert drill_lab.drillbook("verify", folder.name).returncode == 0


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param((signal.SIGTERM,), marks=pytest.mark.soak, id="terminated"),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.long, id="Ctrl-C twice"),
    ],
)
def test_a_runner_that_is_told_to_stop_settles_first(drill_lab: DrillLab, signals: tuple[signal.Signals, ...]) -> None:
    runner, folder = _start(drill_lab)
    for number in signals:
        runner.send_signal(number)
        until(lambda: not any(b"papermill" in _program(pid) for pid in children(runner.pid)), "papermill has gone")
    said, _ = runner.communicate(timeout=480)
    drill = Drill(runner.returncode, folder, said)
    assert (drill.code, drill.verdict) == (6, "UNPROVEN"), drill.said
    assert drill.of("attempt")[-1]["how"] == "interrupted"
    assert {event["id"] for event in drill.of("settled")} == set(drill.created)
    assert ("press Ctrl-C once more" in said) is (len(signals) > 1)


@pytest.mark.long
def test_a_kernel_that_dies_as_it_starts_is_started_again(drill_lab: DrillLab, tmp_path: Path) -> None:
    """As it does where another process has taken one of the ports that Jupyter had chosen for it."""
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    lines = f"""import os
path = {str(tmp_path / "starts")!r}
with open(path, "a") as file:
    file.write("x")
if os.path.getsize(path) < int(os.environ["DIES_BEFORE"]):
    os._exit(1)
"""
    (startup / "00-dies.py").write_text(lines)
    drill_lab.env |= {"IPYTHONDIR": str(tmp_path), "DIES_BEFORE": "2"}
    try:
        run = drill_lab.run(NOTEBOOK, mode="plan")
        assert run.code == 0, run.said
        assert (tmp_path / "starts").read_text() == "xx"
        drill_lab.env["DIES_BEFORE"] = "99"
        never = drill_lab.run(NOTEBOOK, mode="plan")
    finally:
        for name in ("IPYTHONDIR", "DIES_BEFORE"):
            del drill_lab.env[name]
    assert (never.code, never.folder) == (70, Path()), never.said
    assert "Kernel died before replying to kernel_info" in never.said
    assert (tmp_path / "starts").read_text() == "x" * 5


def _program(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.long
def test_when_the_runner_is_killed_too_cleanup_finds_what_is_left(drill_lab: DrillLab) -> None:
    runner, folder = _start(drill_lab)
    killed = [runner.pid, *children(runner.pid)]
    for pid in killed:
        with suppress(ProcessLookupError):  # one that had done its work
            os.kill(pid, signal.SIGKILL)
    runner.communicate(timeout=60)
    assert drill_lab.left(), "the copy outlives its run"
    assert " open " in drill_lab.drillbook("list").stdout

    cleaned = drill_lab.drillbook("cleanup")

    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    drill = Drill(0, folder, cleaned.stdout)
    assert drill.verdict == "UNPROVEN"
    assert drill.record["verdict"]["closed_by"] == "cleanup"
    order = [event["id"].partition("/")[0] for event in drill.of("settled")]
    assert order.index("Cluster") < order.index("ObjectStore") < order.index("Secret") < order.index("ConfigMap")
    assert drill_lab.drillbook("verify", folder.name).returncode == 0
    # Runs of other tests may wait at their gates here: those are left as they are.
    again = drill_lab.drillbook("cleanup").stdout.strip().splitlines()
    assert not [line for line in again if "left as it is" not in line and line != "nothing was left behind"]
    assert drill_lab.left() == []
