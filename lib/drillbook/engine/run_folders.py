"""Where runs lie and what they are called."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from drillbook.errors import EvidenceUnwritable, ParameterError


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that holds ``runbooks/``; the working directory if there isn't one."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "runbooks").is_dir()), here)


def outputs_dir() -> Path:
    """``$DRILLBOOK_OUTPUTS``, else ``outputs/`` of the project."""
    given = os.environ.get("DRILLBOOK_OUTPUTS", "")
    return Path(given).resolve() if given else project_root() / "outputs"


def require_writable() -> None:
    """Make the outputs folder; EvidenceUnwritable if nothing can be written there. Nothing else is touched."""
    folder = outputs_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room for evidence")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> EvidenceUnwritable:
    return EvidenceUnwritable(
        f"the evidence folder {folder} can't be written: {error.strerror}",
        todo="Make outputs/ writable, free some space, or name another place in DRILLBOOK_OUTPUTS.",
    )


def runbook_folders() -> list[Path]:
    """Where runbooks are looked for: the project's, those of this library's checkout, those of an installed package."""
    package = Path(__file__).resolve().parents[1]
    return [project_root() / "runbooks", package.parents[1] / "runbooks", package / "runbooks"]


def find_runbook(named: str) -> Path:
    """A runbook's notebook by its path or its name. ParameterError if there is none."""
    path = Path(named)
    if path.is_file():
        return path
    places = runbook_folders()
    found = next(
        (one for one in (folder / f"{path.name.removesuffix('.ipynb')}.ipynb" for folder in places) if one.is_file()),
        None,
    )
    if found is None:
        known = sorted({one.stem for folder in places for one in folder.glob("*.ipynb")})
        raise ParameterError([f"there is no runbook {named}"], where="runbook", todo=f"There are: {', '.join(known)}.")
    return found


def notebook_path(runbook: str) -> Path | None:
    """The runbook's notebook: the one that a runner names, else ``runbooks/<runbook>.ipynb``, else the one that is open."""
    given = os.environ.get("DRILLBOOK_NOTEBOOK", "")
    path = Path(given) if given else project_root() / "runbooks" / f"{runbook}.ipynb"
    return path if path.is_file() else None if given else open_notebook()


def open_notebook() -> Path | None:
    """The notebook that this kernel was started for, where the Jupyter server says so."""
    path = Path(os.environ.get("JPY_SESSION_NAME", ""))
    return path if path.suffix == ".ipynb" and path.is_file() else None


def copy_to_work_on(notebook: Path, now: datetime | None = None) -> Path:
    """Copy a runbook to ``outputs/open/``, so that the tracked one stays as it is; EvidenceUnwritable if it can't be."""
    folder = outputs_dir() / "open"
    path = folder / f"{notebook.stem}-{(now or datetime.now(UTC)).strftime('%Y%m%dT%H%M%SZ')}.ipynb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(notebook.read_bytes())
    except OSError as error:
        raise _unwritable(folder, error) from error
    return path


def new_run_id(now: datetime | None = None) -> str:
    """``20261101T101500Z-1a2b3c``: sorts by time, fits a Kubernetes label, and is drawn, so that two never meet."""
    return f"{(now or datetime.now(UTC)).strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(3)}"


def make_run_dir(runbook: str, run_id: str) -> Path:
    """Make the run's folder, readable by its owner only; EvidenceUnwritable before anything is touched."""
    folder = outputs_dir() / runbook / run_id
    try:
        (folder / "logs").mkdir(parents=True, mode=0o750)
    except FileExistsError as error:
        raise EvidenceUnwritable(f"run {run_id} exists already", todo="Start a new run.") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def run_dirs(outputs: Path | None = None) -> Iterator[Path]:
    """Every run's folder, oldest first by run id."""
    found = (outputs or outputs_dir()).glob("*/*/journal.jsonl")
    yield from sorted((path.parent for path in found), key=lambda folder: folder.name)


def find_run(run: str) -> Path:
    """A run's folder from its path, its id, or the start of its id; ParameterError if there isn't one, or more than one."""
    path = Path(run)
    if (path / "journal.jsonl").is_file():
        return path.resolve()
    found = [folder for folder in run_dirs() if folder.name.startswith(run)]
    if len(found) == 1:
        return found[0]
    fault = f"{run!r} matches {len(found)} runs" if found else f"there is no run {run!r} under outputs/"
    raise ParameterError([fault], where="run", todo="`drillbook list` shows the runs.")
