"""Running a notebook headless, and closing a run whatever became of its kernel.

A cell can't seal the notebook it stands in, and after a kernel's death nothing runs in it any more: so what is left is
settled here, and executed notebook, page, report and sums are added here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from drillbook import cleanup as removal
from drillbook import kube as k8s
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence import Journal, Ledger, Masker, judge, notebook_digest, seal, sha256_file
from drillbook.headless.page import prepare, write_page
from drillbook.manifests import RUN_LABEL
from drillbook.model import Verdict
from drillbook.report import render
from drillbook.run import LEASE_SECONDS, lease_name, places, validate
from drillbook.run.alive import alive
from drillbook.site import Site, load_site

Progress = Callable[[dict[str, Any]], None]
STOPPED_MIDWAY = 6
BUG = 70


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. ``verdict`` is None for a plan and for a refusal."""

    run_id: str
    folder: Path
    verdict: str | None
    exit_code: int
    headline: str


@dataclass(frozen=True)
class RunSummary:
    """A run as ``drillbook list`` shows it."""

    run_id: str
    runbook: str
    site: str
    mode: str
    started_at: str
    state: str  # running | open | sealed
    verdict: str
    folder: Path


def execute(
    notebook: Path, parameters: dict[str, Any], *, mode: str, site: str, progress: Progress = lambda _: None
) -> RunOutcome:
    """Run ``notebook`` by papermill in a process of its own, settle what it left, add the pages, seal.

    Raises ParameterError with every fault before anything is touched. ``progress`` gets each journal event as it lands.
    """
    profile = validate(site=site, mode=mode, parameters=parameters)
    if not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="notebook")
    run_id = places.new_run_id()
    folder = places.outputs_dir() / notebook.stem / run_id
    places.require_writable()
    # papermill saves as cells finish; the run's folder is made by the kernel, so it writes beside it first.
    partial = places.outputs_dir() / f".{run_id}.ipynb"
    given = parameters | {"mode": mode} | ({"site": site} if site else {})
    how, message = _papermill(notebook, partial, given, run_id, folder, profile, progress)
    if not (folder / "journal.jsonl").exists():
        partial.unlink(missing_ok=True)
        return RunOutcome(run_id, folder, None, BUG, f"the notebook ended before it opened its run: {message}")
    shutil.move(partial, folder / "executed.ipynb") if partial.exists() else None
    return settle(folder, how=how, message=message, by="runner", progress=progress)


def _papermill(
    notebook: Path, output: Path, parameters: dict[str, Any], run_id: str, folder: Path, site: Site, progress: Progress
) -> tuple[str, str]:
    """Returns how the notebook ended (completed, error, kernel died, timeout) and papermill's last words."""
    environment = os.environ | {
        "DRILLBOOK_RUN_ID": run_id,
        "DRILLBOOK_NOTEBOOK": str(notebook.resolve()),
        "DRILLBOOK_OUTPUTS": str(places.outputs_dir()),
        # The kernel must be this installation's, whatever kernels the user has registered.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
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
    ]
    deadline = time.monotonic() + site.limits.total.total_seconds()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        _terminated_as_interrupted(),
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        ) as child,
    ):
        threading.Thread(target=prepare, name="prepare the page", daemon=True).start()
        seen = 0
        try:
            while child.poll() is None:
                seen = _tell(folder, seen, progress)
                if time.monotonic() > deadline:
                    _kill(child, folder)
                    return "timeout", f"the run took longer than limits.total ({site.limits.total})"
                time.sleep(0.1)
        except KeyboardInterrupt:
            _kill(child, folder)
            return "interrupted", "the runner was told to stop"
        _tell(folder, seen, progress)
        stderr.seek(0)
        words = stderr.read()
    if child.returncode == 0:
        return "completed", ""
    last = [line for line in words.splitlines() if line.strip()]
    dead = "DeadKernelError" in words or "Kernel died" in words
    return ("kernel died" if dead else "error"), (
        last[-1][:300] if last else f"papermill ended with {child.returncode}"
    )


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM (a scheduler's way to stop a run) is taken like Ctrl-C, so that the run is settled all the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kill(child: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill papermill, and wait until the kernel, which watches its parent, has gone too: it must not act any more."""
    os.killpg(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.1)


def _tell(folder: Path, seen: int, progress: Progress) -> int:
    path = folder / "journal.jsonl"
    if not path.exists():
        return seen
    events = Journal(path).events()
    for event in events[seen:]:
        progress(event)
    return len(events)


def settle(
    folder: Path,
    *,
    how: str,
    message: str,
    by: str,
    notebook: str = "executed.ipynb",
    progress: Progress = lambda _: None,
) -> RunOutcome:
    """Remove what the run left, journal how it ended, add page and report, seal; safe to repeat."""
    events = _events(folder)
    opened = events[0]
    if not (folder / "SHA256SUMS").exists():
        _add_the_end(folder, opened, how, message, by, notebook, progress)
    seal(folder, Ledger.of(folder.parent.parent, opened["site"]["name"]) if opened["mode"] == "apply" else None)
    events = _events(folder)
    found = judge(events)
    verdict = None if found.verdict is None else str(found.verdict)
    return RunOutcome(opened["run_id"], folder, verdict, exit_code(events, how), found.headline)


def _add_the_end(
    folder: Path, opened: dict[str, Any], how: str, message: str, by: str, notebook: str, progress: Progress
) -> None:
    masker = Masker()
    journal = Journal.open(folder / "journal.jsonl", masker=masker)
    events = journal.events()
    closed = any(event["type"] == "closed" for event in events)
    if opened["mode"] == "apply" and (unsettled(events) or not closed):
        _settle_cluster(journal, opened, masker, progress)
    path = folder / notebook
    digests = {"sha256": sha256_file(path), "notebook_sha256": notebook_digest(path)} if path.is_file() else {}
    journal.append("attempt", n=1, notebook=notebook, how=how, error=message, **digests)
    if not closed:
        judged = judge(journal.events())
        journal.append("closed", verdict=judged.verdict, reasons=judged.reasons, by=by)
    write_page(path)
    render(folder)


def _events(folder: Path) -> list[dict[str, Any]]:
    return Journal(folder / "journal.jsonl").events()


def unsettled(events: list[dict[str, Any]]) -> list[str]:
    """Ids of what the run promised to undo and has not."""
    settled = {event["id"] for event in events if event["type"] == "settled"}
    return [event["id"] for event in events if event["type"] == "obligation" and event["id"] not in settled]


def _settle_cluster(journal: Journal, opened: dict[str, Any], masker: Masker, progress: Progress) -> None:
    """Remove by label what a dead or failed notebook left, and give its Lease back.

    What can't be removed stays an open obligation: `drillbook cleanup` finds it again.
    """
    run_id = opened["run_id"]
    removed: list[removal.Removed] = []
    try:
        site = load_site(opened["parameters"]["site"])
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context, mask=masker.learn) as kube:
            if unsettled(journal.events()):
                seconds = site.limits.step.total_seconds()
                removed = removal.remove_run(kube, site.drill_namespace, run_id, timeout_seconds=seconds)
            name = lease_name(site)
            held = kube.get(k8s.LEASE, site.drillbook_namespace, name)
            if held is not None and held["spec"].get("holderIdentity") == run_id:
                # The holder is dead: taking the Lease under its name and giving it back spares the next run the wait.
                kube.lease(site.drillbook_namespace, name, run_id, ttl_seconds=LEASE_SECONDS).release()
    except RunbookError as error:
        progress(journal.append("fact", name="cleanup_failed", value="; ".join(error.lines())))
        return
    for item in removed:
        progress(journal.append("settled", id=item.id, how="removed by the runner", proof=item.proof))
    for promise in unsettled(journal.events()):
        progress(
            journal.append(
                "settled",
                id=promise,
                how="removed by the runner",
                proof="not found by this run's label",
            )
        )


def exit_code(events: list[dict[str, Any]], how: str) -> int:
    """The command line's status for a run's journal and the way its notebook ended."""
    found = judge(events)
    errors = [event["error"] for event in events if event["type"] == "step_finished" and event.get("error")]
    codes = [int(error.get("exit_code", 2)) for error in errors]
    if BUG in codes:
        return BUG
    if found.outcome == "planned":
        return 0 if how in ("completed", "finished later") else STOPPED_MIDWAY
    if found.verdict is None:
        return codes[-1] if codes else STOPPED_MIDWAY
    if found.verdict is Verdict.VERIFIED:
        return 0
    if found.verdict is Verdict.FAILED:
        return 1
    return STOPPED_MIDWAY if how in ("kernel died", "timeout", "interrupted", "killed") else 2


def finish(folder: Path, notebook: Path) -> RunOutcome:
    """Close a run that plain papermill or JupyterLab executed: take in its notebook, settle, add pages, seal."""
    if alive(folder):
        raise ParameterError(
            [f"run {folder.name} is still open in a living kernel"],
            where="finish",
            todo="Run its last cell, or shut its kernel down.",
        )
    if not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="finish")
    if notebook.resolve() != (folder / "executed.ipynb").resolve():
        shutil.copyfile(notebook, folder / "executed.ipynb")
    closed = any(event["type"] == "closed" for event in _events(folder))
    how = "finished later" if closed else "error"
    return settle(folder, how=how, message="" if closed else "the notebook did not reach its last cell", by="runner")


def cleanup(site: str, *, now: datetime | None = None, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Settle what dead runs left: runs known here whose process is gone, and copies of others that have expired.

    Returns a line for each run that was settled, or that was left alone and why.
    """
    profile = load_site(site)
    at = now or datetime.now(UTC)
    lines: list[str] = []
    known: dict[str, Path] = {}
    for folder in places.run_dirs():
        opened = _events(folder)[0]
        if opened["site"]["name"] == profile.name and opened["mode"] == "apply":
            known[opened["run_id"]] = folder
            if not (folder / "SHA256SUMS").exists() and not alive(folder):
                say(f"settling run {folder.name}")
                partial = places.outputs_dir() / f".{folder.name}.ipynb"
                if partial.exists():
                    shutil.move(partial, folder / "executed.ipynb")
                outcome = settle(folder, how="killed", message="no process of the run was left", by="cleanup")
                lines.append(f"run {folder.name}: settled; {outcome.headline}")
    masker = Masker()
    kube = k8s.Kube.open(profile.kubernetes.kubeconfig, profile.kubernetes.context, mask=masker.learn)
    try:
        lines += _strangers(kube, profile, known, at, say)
    finally:
        kube.close()
    return lines


def _strangers(
    kube: k8s.Kube, site: Site, known: dict[str, Path], now: datetime, say: Callable[[str], None]
) -> list[str]:
    lines: list[str] = []
    left: dict[str, list[dict[str, Any]]] = {}
    for item in removal.left_of(kube, site.drill_namespace):
        left.setdefault(item["metadata"]["labels"][RUN_LABEL], []).append(item)
    for run_id, items in left.items():
        here = known.get(run_id)
        if here is not None and alive(here):
            lines.append(f"run {run_id}: still running here; left alone")
        elif here is None and not any(removal.expired(item, now) for item in items):
            lines.append(f"run {run_id}: {len(items)} objects of a run not known here, not expired; left alone")
        else:
            say(f"removing what is left of run {run_id}")
            removed = removal.remove_run(
                kube, site.drill_namespace, run_id, timeout_seconds=site.limits.step.total_seconds()
            )
            lines.append(f"run {run_id}: removed {', '.join(item.id for item in removed)}")
    return lines


def runs(outputs: Path | None = None) -> list[RunSummary]:
    """Every run under ``outputs``, oldest first; one that isn't sealed shows as open."""
    found: list[RunSummary] = []
    for folder in places.run_dirs(outputs):
        events = _events(folder)
        opened = events[0]
        closed = next((event for event in reversed(events) if event["type"] == "closed"), None)
        sealed = (folder / "SHA256SUMS").exists()
        state = "sealed" if sealed else "running" if alive(folder) else "open"
        verdict = str((closed or {}).get("verdict") or ("" if opened["mode"] == "apply" else "plan"))
        found.append(
            RunSummary(
                opened["run_id"],
                opened["runbook"],
                opened["site"]["name"],
                opened["mode"],
                opened["at"],
                state,
                verdict,
                folder,
            )
        )
    return found
