"""Running a notebook headless: papermill in its own process, watched, and closed whatever became of its kernel."""

from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from drillbook.cli.headless.page import prepare
from drillbook.cli.headless.settling import BUG, Progress, RunOutcome, end_attempt, events_of, notebook_name, refusal
from drillbook.engine import UNATTENDED_ENV, run_folders, validate, waiting_runs
from drillbook.engine.alive import alive
from drillbook.errors import ParameterError
from drillbook.evidence import Journal
from drillbook.model import show_seconds
from drillbook.profile import Site

# A busy machine starts a kernel in minutes; one that never starts is ended here, before it has touched anything.
_KERNEL_SECONDS = "300"
# Jupyter chooses a kernel's five ports before the kernel binds them: another process may have taken one, and it dies.
_DIED_STARTING = "Kernel died before replying"
_STARTS = 3


def execute(
    notebook: Path, parameters: dict[str, Any], *, mode: str, site: str, progress: Progress = lambda _: None
) -> RunOutcome:
    """Run ``notebook`` by papermill in its own process, settle what it left, add the pages, seal.

    Raises ParameterError with every fault before anything is touched. ``progress`` gets each journal event as it lands.
    """
    if not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="notebook")
    profile = _validated(notebook, parameters, mode, site)
    if mode == "apply":
        waiting_runs.require_none(profile, notebook.stem, {str(parameters.get("of_run", ""))})
    run_id = run_folders.new_run_id()
    folder = run_folders.outputs_dir() / notebook.stem / run_id
    run_folders.require_writable()
    given = parameters | {"mode": mode} | ({"site": site} if site else {})
    return run_attempt(notebook, given, folder, profile, {"DRILLBOOK_RUN_ID": run_id}, progress)


def _validated(notebook: Path, parameters: dict[str, Any], mode: str, site: str) -> Site:
    """The profile; ParameterError with every fault of the parameters, unknown ones among them."""
    known = parameters_of(notebook)
    unknown = [name for name in parameters if known and name not in known]
    faults = [f"{name}: {notebook.stem} has no such parameter{_meant(name, known)}" for name in unknown]
    try:
        profile = validate(
            site=site, mode=mode, parameters={name: value for name, value in parameters.items() if name not in unknown}
        )
    except ParameterError as error:
        raise ParameterError(faults + error.faults, where="parameters and profile") from None
    if faults:
        raise ParameterError(faults, where="parameters")
    return profile


def _meant(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"


def parameters_of(notebook: Path) -> list[str]:
    """The names that a notebook's parameters cell sets; none if it has no such cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    assigned = [node for node in ast.parse(next(sources, "")).body if isinstance(node, ast.Assign)]
    return [target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)]


def partial_notebook(run_id: str) -> Path:
    """Where papermill saves as cells finish: the run's folder is made by the kernel, so it writes next to it first."""
    return run_folders.outputs_dir() / f".{run_id}.ipynb"


def run_attempt(
    notebook: Path, parameters: dict[str, Any], folder: Path, site: Site, variables: dict[str, str], progress: Progress
) -> RunOutcome:
    """One attempt: the kernel learns by ``variables`` of its environment which run it is."""
    partial = partial_notebook(folder.name)
    progress = _unheard(progress)
    before = len(events_of(folder)) if (folder / "journal.jsonl").exists() else 0
    with _Stops(progress) as stops:
        for _ in range(_STARTS):
            how, message = _papermill(notebook, partial, parameters, folder, site, variables, progress)
            if _DIED_STARTING not in message:  # else no cell was executed
                break
        stops.settling()
        return _ended(folder, partial, before, how, message, progress)


def _ended(folder: Path, partial: Path, before: int, how: str, message: str, progress: Progress) -> RunOutcome:
    """The notebook has ended: keep it, and settle the run; ``before`` is how many events there were before it."""
    if not (folder / "journal.jsonl").exists():
        partial.unlink(missing_ok=True)
        return RunOutcome(folder.name, folder, None, BUG, f"the notebook ended before it opened its run: {message}")
    if len(events_of(folder)) == before:  # refused before it was resumed
        partial.unlink(missing_ok=True)
        return refusal(folder, message)
    if partial.exists():
        shutil.move(partial, folder / notebook_name(events_of(folder)))
    return end_attempt(folder, how=how, message=message, progress=progress)


def _papermill(
    notebook: Path,
    output: Path,
    parameters: dict[str, Any],
    folder: Path,
    site: Site,
    variables: dict[str, str],
    progress: Progress,
) -> tuple[str, str]:
    """Returns how the notebook ended (completed, error, kernel died, timeout) and papermill's last words."""
    environment = (
        os.environ
        | {
            "DRILLBOOK_NOTEBOOK": str(notebook.resolve()),
            "DRILLBOOK_OUTPUTS": str(run_folders.outputs_dir()),
            # The kernel must be this installation's, whatever kernels the user has registered.
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            UNATTENDED_ENV: "1",
        }
        | variables
    )
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(output),
        "--parameters_yaml",
        yaml.safe_dump(parameters),
        "--cwd",
        str(Path.cwd()),
        "--no-progress-bar",
        "--log-level",
        "ERROR",
        "-k",
        "python3",
        "--start-timeout",
        _KERNEL_SECONDS,
    ]
    deadline = time.monotonic() + site.limits.total.total_seconds()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        ) as child,
    ):
        threading.Thread(target=prepare, name="prepare the page", daemon=True).start()
        seen = (-1, len(events_of(folder)) if (folder / "journal.jsonl").exists() else 0)
        try:
            while child.poll() is None:
                seen = _tell(folder, seen, progress)
                if time.monotonic() > deadline:
                    _kill(child, folder)
                    return (
                        "timeout",
                        f"the run took longer than limits.total ({show_seconds(site.limits.total.total_seconds())})",
                    )
                time.sleep(0.1)
        except KeyboardInterrupt:
            _kill(child, folder)
            return "interrupted", "the runner was asked to stop"
        _tell(folder, seen, progress)
        stderr.seek(0)
        words = stderr.read()
    if child.returncode == 0:
        return "completed", ""
    last = [line for line in words.splitlines() if line.strip()]
    dead = any(line.startswith("nbclient.exceptions.DeadKernelError") for line in last)
    # An error of Drillbook is reported in lines, of which the one before this says what happened.
    ours = [what for what, line in itertools.pairwise(last) if line.startswith("Changed so far: ")]
    said = [*last[-1:], *ours[-1:]]
    return ("kernel died" if dead else "error"), (
        said[-1][:300] if said else f"papermill ended with {child.returncode}"
    )


def _unheard(progress: Progress) -> Progress:
    """``progress`` that may have lost its listener: a terminal that was closed, a pipe that broke. The run goes on."""

    def tell(event: dict[str, Any]) -> None:
        with suppress(OSError, ValueError):
            progress(event)

    return tell


class _Stops:
    """Ctrl-C, SIGTERM (a scheduler's way to stop a run) and SIGHUP (a terminal that was closed) while a run is executed.

    The first ends the notebook, and the run is settled all the same. One while it is settled is answered with what
    would be left undone, the next one ends the runner; a SIGHUP never does, nor where it is ignored (nohup). What is
    answered is no event of the journal: nothing was done.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._settling, self._warned = progress, False, False

    def __enter__(self) -> _Stops:
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours:
            stops = [signal.SIGINT, signal.SIGTERM]
            stops += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
            self._before = {number: signal.signal(number, self._stop) for number in stops}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items() if self._ours else ():
            signal.signal(number, handler)

    def settling(self) -> None:
        """The notebook has ended."""
        self._settling = True

    def _stop(self, number: int, frame: object) -> None:
        if self._settling and (number == signal.SIGHUP or not self._warned):
            self._warned = self._warned or number != signal.SIGHUP
            self._progress({"type": "settling"})
            return
        self._settling = True
        raise KeyboardInterrupt


def _kill(child: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill papermill, and wait until the kernel, which watches its parent, has gone too: it must not act any more."""
    os.killpg(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.1)


def _tell(folder: Path, seen: tuple[int, int], progress: Progress) -> tuple[int, int]:
    """Report the events that are new; ``seen`` is the journal's size in bytes and its number of events. Read only if it grew."""
    path = folder / "journal.jsonl"
    if not path.exists() or (size := path.stat().st_size) == seen[0]:
        return seen
    events = Journal(path).events()
    for event in events[seen[1] :]:
        progress(event)
    return size, len(events)
