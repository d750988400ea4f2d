"""Nothing is lost on the way: the kernel killed with -9 inside every step of a destructive procedure, then resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from fix_drills import ROOT, Drill, DrillLab, children, until
from fix_tiny import Tiny, phrase_of, steady, write_notebook

from drillbook.engine.alive import alive

pytestmark = pytest.mark.timeout(1800)

# Killed inside these in every run of CI; in the others too in `make test-soak`.
SAMPLE = ("MakeThing after", "Replace")
BEFORE_THE_GATE = ("LookAround", "MakeThing", "MakeThing after")
BEHIND_THE_GATE = (
    "Drain",
    "Drain after",
    "Replace",
    "Replace after",
    "ScaleUp",
    "ScaleUp after",
    "ValueIsNew",
    "RemoveThing",
)


@pytest.fixture(scope="module")
def tiny(drill_lab: DrillLab, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny procedure as a notebook."""
    return Tiny(drill_lab, write_notebook(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def as_before(tiny: Tiny) -> Iterator[None]:
    """Subject and application are recreated for each test, and taken away after it."""
    tiny.prepare()
    yield
    tiny.clear()


@pytest.fixture(scope="module")
def undisturbed(tiny: Tiny) -> Drill:
    """A run that stopped at its gate only."""
    tiny.prepare()
    run = tiny.run(tiny.profile("killed"))
    done = tiny.resume(run, confirm=phrase_of(run))
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    return done


def equals(one: Drill, other: Drill) -> None:
    """Two records say the same outside of ids, times and attempts."""
    for part in ("steps", "checks", "cleanup", "verdict", "test", "system", "facts"):
        assert steady(one.record[part]) == steady(other.record[part]), part


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, marks=pytest.mark.long if where in SAMPLE else pytest.mark.soak)
        for where in BEFORE_THE_GATE + BEHIND_THE_GATE
    ],
)
def test_a_kernel_killed_in_a_step_is_resumed_to_the_same_end(tiny: Tiny, undisturbed: Drill, where: str) -> None:
    early = where in BEFORE_THE_GATE
    run = tiny.run(tiny.profile("killed"), die_in=where if early else "")
    killed = run if early else tiny.resume(run, confirm=phrase_of(run), die_in=where)
    assert killed.code == 6, killed.said
    assert "drillbook resume" in killed.said and "drillbook abandon" in killed.said
    assert " stopped " in tiny.lab.drillbook("list").stdout
    again = tiny.resume(run)
    if early:
        assert again.code == 3 and tiny.untouched, again.said
        again = tiny.resume(run, confirm=phrase_of(run))
    assert (again.code, again.verdict) == (0, "VERIFIED"), again.said
    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    assert tiny.history() == [run.folder.name], "the destructive step ran once"
    equals(again, undisturbed)
    assert len(list(run.folder.glob("executed*.ipynb"))) == 3
    assert tiny.lab.drillbook("verify", run.folder.name).returncode == 0


@pytest.mark.soak
def test_a_runner_killed_with_its_kernel_leaves_a_run_that_can_be_resumed(tiny: Tiny, undisturbed: Drill) -> None:
    run = tiny.run(tiny.profile("killed"))
    command = [sys.executable, "-m", "drillbook", "resume", run.folder.name, "--notebook", str(tiny.notebook)]
    command += ["--confirm", phrase_of(run)]
    env = tiny.lab.env | tiny.env(TINY_SLEEP_IN="Drain after")
    runner = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    until(lambda: tiny.state()["replicas"] == 0, "the application is drained")
    for pid in [runner.pid, *children(runner.pid)]:  # papermill outlives its runner otherwise, and goes on
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    runner.wait()
    until(lambda: not alive(run.folder), "the kernel has gone")
    done = tiny.resume(run)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert tiny.history() == [run.folder.name]
    equals(done, undisturbed)
