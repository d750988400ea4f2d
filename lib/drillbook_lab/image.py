"""Prepared images: a site that was built once and is copied for each further lab, which then only has to start.

Only where ``DRILLBOOK_LAB_IMAGES`` names a folder for them, as the tests do: what a person starts is built before their
eyes. An image is keyed by everything that it was made from, and lasts an hour: its base backup is as old as it is.

A lab that comes from an image has addresses, ports, certificates, tokens and a ``kube-system`` UID of its own. With
others from the same image it shares PostgreSQL's system identifier and the passwords.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from drillbook_lab import pgbin
from drillbook_lab.addresses import AddressBook, free_port
from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome, write_json
from drillbook_lab.identity import share
from drillbook_lab.node import supervise
from drillbook_lab.site import deploy

VARIABLE = "DRILLBOOK_LAB_IMAGES"
_LASTS_SECONDS = 3600.0
_NOT_COPIED = ("lock", "labd.log", "progress.jsonl", "audit.jsonl", "kubeconfig", "site.yaml", "tls", "tokens.json")
_DATA = ("base", "global", "pg_wal", "objects")  # data files, and the bucket's: nothing of a lab's own is in them


def place(home: LabHome, arguments: list[str]) -> bool:
    """Fill an empty home from the image for these arguments of the daemon, made first if there is none.

    False if images are not asked for. LabError: the image could not be built.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return False
    root = Path(folder).absolute()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    image = root / _key(arguments)
    with _held(image.with_suffix(".lock")):
        if not _lasts(image):
            for old in root.iterdir():
                if old.is_dir() and not old.suffix and not _lasts(old):
                    shutil.rmtree(old, ignore_errors=True)
            _build(image, arguments)
        subprocess.run(["cp", "-a", "--reflink=auto", f"{image}/.", str(home.root)], check=True)
    _own(home)
    return True


def _key(arguments: list[str]) -> str:
    found = hashlib.sha256(json.dumps([arguments, pgbin.version(), str(pgbin.bin_dir()), os.geteuid()]).encode())
    for folder in (Path(__file__).parent, deploy.folder()):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:20]


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lasts(image: Path) -> bool:
    state = LabHome(image).state_file
    return state.exists() and time.time() - state.stat().st_mtime < _LASTS_SECONDS


def _build(image: Path, arguments: list[str]) -> None:
    """Build the site in a lab of its own, end that lab, and keep what it leaves."""
    shutil.rmtree(image, ignore_errors=True)
    home = LabHome(image.with_suffix(".part"))
    supervise.down(home)
    command = [sys.executable, "-m", "drillbook_lab.daemon", "--home", str(home.root), "--image", *arguments]
    home.root.mkdir(mode=0o700, exist_ok=True)
    with home.log.open("wb") as log:
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        supervise.follow(home, daemon, lambda line: None)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    for name in _NOT_COPIED:
        path = home.path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    home.write_state({**home.state(), "ready": False})
    home.root.rename(image)


def _own(home: LabHome) -> None:
    """Make the copy a lab of its own: other addresses and ports, another cluster."""
    state = home.state()
    book = json.loads(home.path("addresses.json").read_text(encoding="utf-8"))
    net, endpoint = AddressBook().net, f"http://127.0.0.1:{free_port()}"
    write_json(home.path("addresses.json"), book | {"net": net})  # its other addresses are replaced with the rest
    changes = {
        f"{book['net']}.".encode(): f"{net}.".encode(),
        str(state["endpoint"]).encode(): endpoint.encode(),
        str(_built_in(home)).encode(): str(home.root).encode(),
        _kube_system(home).encode(): str(uuid.uuid4()).encode(),
    }
    home.write_state({name: value for name, value in state.items() if name not in ("url", "socket_dir")})
    for path in _texts(home.root):
        _replace(path, changes)
    with contextlib.closing(sqlite3.connect(home.path("registry.db"), isolation_level=None)) as base:
        for old, new in changes.items():
            base.execute("UPDATE objects SET body = replace(body, ?, ?)", (old.decode(), new.decode()))
    share(*home.path("volumes").iterdir())


def _built_in(home: LabHome) -> Path:
    """The folder that the image was built in, by the writer's own configuration."""
    told = json.loads(home.path("writer.json").read_text(encoding="utf-8"))
    return next(Path(tenant["rests_while"]).parent for tenant in told["tenants"] if "rests_while" in tenant)


def _kube_system(home: LabHome) -> str:
    with contextlib.closing(sqlite3.connect(home.path("registry.db"))) as base:
        row = base.execute("SELECT body FROM objects WHERE kind = 'Namespace' AND name = 'kube-system'").fetchone()
    if row is None:
        raise LabError("a prepared image can't be used", "it has no namespace kube-system", f"unset {VARIABLE}")
    return str(json.loads(row[0])["metadata"]["uid"])


def _texts(root: Path) -> Iterator[Path]:
    """The lab's own files: what it has written of itself, and PostgreSQL's configuration."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _DATA and not name.startswith("pg_")]
        yield from (Path(folder, name) for name in files if name != "registry.db")


def _replace(path: Path, changes: Mapping[bytes, bytes]) -> None:
    if path.is_symlink() or not path.is_file():
        return
    before = after = path.read_bytes()
    for old, new in changes.items():
        after = after.replace(old, new)
    if after != before:
        status = path.stat()
        path.write_bytes(after)
        os.chown(path, status.st_uid, status.st_gid)
