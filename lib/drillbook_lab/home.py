"""Where a lab lives: its files, its short socket directory, and the lock that makes it the only one of its home."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook_lab.errors import LabError
from drillbook_lab.node.processes import kill_processes_under

VARIABLE = "DRILLBOOK_LAB_HOME"
_SOCKETS_PREFIX = "/tmp/dbl-"
# What `down` may remove: a home that was pointed at somebody's folder by mistake loses nothing else.
_OURS = (
    "lab.json",
    "progress.jsonl",
    "kubeconfig",
    "audit.jsonl",
    "labd.log",
    "writer.json",
    "writer.log",
    "faults.json",
    "site.yaml",
    "s3",
    "s3.log",
    "tls",
    "tokens.json",
    "registry.db",
    "registry.db-wal",
    "registry.db-shm",
    "addresses.json",
    "pods",
    "hosts",
    "volumes",
    "faults",
    "declared",
    "application.json",
    "lock",
)


def default_home() -> Path:
    """`$DRILLBOOK_LAB_HOME`, else the user's state directory; root's is the system's.

    PostgreSQL may run as another user there, and root's own home is not to be opened to it.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if os.geteuid() == 0 and not os.environ.get("XDG_STATE_HOME"):
        return Path("/var/lib/drillbook/lab")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "drillbook" / "lab"


@dataclass(frozen=True)
class LabHome:
    """The files of one lab."""

    root: Path

    @property
    def state_file(self) -> Path:
        """What the lab says of itself: pid, address, profile, how far it is."""
        return self.root / "lab.json"

    @property
    def progress(self) -> Path:
        """One JSON line a stage of the start."""
        return self.root / "progress.jsonl"

    @property
    def kubeconfig(self) -> Path:
        """The way in: contexts `lab` and `lab-admin`."""
        return self.root / "kubeconfig"

    @property
    def audit(self) -> Path:
        """One JSON line for every request to the API server."""
        return self.root / "audit.jsonl"

    @property
    def log(self) -> Path:
        """The daemon's own log."""
        return self.root / "labd.log"

    @property
    def s3(self) -> Path:
        """The object store's state: keys.json, faults.json, access.jsonl."""
        return self.root / "s3"

    @property
    def application(self) -> Path:
        """The application's objects, while they are not made yet."""
        return self.path("application.json")

    @property
    def declared(self) -> Path:
        """What stands for Git: manifests that a reconciler holds the site to."""
        return self.path("declared")

    @property
    def faults(self) -> Path:
        """What each fault that is in force needs to be undone."""
        return self.root / "faults"

    def path(self, name: str) -> Path:
        """Another file of the lab."""
        return self.root / name

    def state(self) -> dict[str, Any]:
        """The state file; empty if there is no lab."""
        try:
            found: dict[str, Any] = json.loads(self.state_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    @property
    def is_resumable(self) -> bool:
        """Whether a lab lies here that was up once: it is resumed. An unfinished one is begun again."""
        return bool(self.state().get("built")) and self.path("registry.db").exists()

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state file in one step."""
        write_json(self.state_file, state)

    def lock(self) -> Lock:
        """Take the home, or say who has it."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            os.close(handle)
            pid = self.state().get("pid", "unknown")
            raise LabError(
                "a lab runs in this home already", f"{self.root}, pid {pid}", "drillbook lab down"
            ) from fault
        return Lock(handle)

    def is_running(self) -> bool:
        """Whether a daemon holds the home."""
        if not (self.root / "lock").exists():
            return False
        try:
            self.lock().release()
        except LabError:
            return True
        return False

    def remove_sockets(self) -> None:
        """Remove the socket directory of the daemon that wrote the state file."""
        sockets = str(self.state().get("socket_dir", ""))
        if sockets.startswith(_SOCKETS_PREFIX):
            shutil.rmtree(sockets, ignore_errors=True)

    def clear(self, *, keep: tuple[str, ...] = ()) -> None:
        """Remove everything that a lab leaves; the caller knows that none runs."""
        self.remove_sockets()
        kill_processes_under(
            [self.root / name for name in ("volumes", "pods", "s3")]
        )  # a killed daemon's, on their way out
        for name in _OURS:
            if name in keep:
                continue
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


@dataclass(frozen=True)
class Lock:
    """A held home; the kernel gives it back when its process ends, however it ends."""

    handle: int

    def release(self) -> None:
        """Let go."""
        os.close(self.handle)


def new_socket_dir() -> Path:
    """A short directory: a socket's path has room for 107 bytes, and a home may lie anywhere."""
    made = Path(tempfile.mkdtemp(prefix="dbl-", dir="/tmp"))
    made.chmod(0o711)
    return made


def write_json(path: Path, content: Any, mode: int = 0o600) -> None:
    """Replace a JSON file in one step; readers see the old or the new one."""
    draft = path.with_name(path.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=1)
    draft.replace(path)
