"""A container's own view of the files: its volumes where its spec mounts them, its root read-only where that is asked.

`python -m drillbook_lab.node.container VIEW.json -- COMMAND…` makes the view for itself, in a mount namespace of its own,
and runs the command in it. Under a new root lies what the machine has; a folder that lacks a mount point (`/evidence` is
nowhere on a machine) is laid out again, its entries one by one. Needs `names.available()`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from drillbook_lab import names
from drillbook_lab.agent.procs import die_with_parent

_MS_BIND, _MS_MOVE, _MS_REC, _MS_UNBINDABLE = 4096, 8192, 16384, 1 << 17
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1
_CLONE_NEWPID = 0x20000000
_ALIVE = ("dev", "proc")  # stay writable, as a container has its own

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Root:
    """A new root that is being laid out. Every path that is passed in is one of the machine, without symbolic links."""

    def __init__(self, at: Path) -> None:
        self._at = at
        self._ours: set[Path] = set()
        self._lay_out(at, Path("/"))

    def make_room(self, target: Path) -> Path:
        """The mount point for a path of the container."""
        here = self._at
        for part in target.parts[1:]:
            if not (here / part).exists():
                if here not in self._ours:
                    self._lay_out(here, Path("/") / here.relative_to(self._at))
                (here / part).mkdir()
                self._ours.add(here / part)
            here /= part
        return here

    def attach(self, source: Path, target: Path, *, read_only: bool = False) -> None:
        """Put a folder of the machine where the container is to see it."""
        place = self.make_room(target)
        _mount(source, place, _MS_BIND | _MS_REC)
        if read_only:
            _make_read_only(place)
        else:
            self._ours.add(place)

    def freeze(self) -> None:
        """What is there so far can't be written to."""
        _make_read_only(self._at)

    def shows(self, path: Path) -> bool:
        """Whether a path is there and not hidden by a volume."""
        return (self._at / path.relative_to("/")).exists()

    def enter(self, cwd: Path) -> None:
        """Have this root as one's own, and no way back."""
        os.chdir(self._at)
        _mount(Path(), Path("/"), _MS_MOVE)
        os.chroot(".")
        os.chdir(cwd)

    def _lay_out(self, here: Path, real: Path) -> None:
        entries = list(os.scandir(real))
        _mount(Path("tmpfs"), here, 0, "tmpfs")
        _mount(Path("none"), here, _MS_UNBINDABLE)  # or it would lie in itself, wherever that is
        self._ours.add(here)
        for entry in entries:
            place = here / entry.name
            if entry.is_symlink():
                place.symlink_to(Path(entry.path).readlink())
                continue
            if entry.is_dir():
                place.mkdir()
            else:
                place.touch()
            if real != Path("/") or entry.name not in _ALIVE:
                _mount(Path(entry.path), place, _MS_BIND | _MS_REC)


def _mount(source: Path, target: Path, flags: int, kind: str | None = None) -> None:
    kind_bytes = kind.encode() if kind else None
    if _libc is None or _libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def _make_read_only(place: Path) -> None:
    """With all that is mounted below. A kernel before 5.12 can't: then it stays writable."""
    attributes = (ctypes.c_uint64 * 4)(_RDONLY, 0, 0, 0)
    if _libc is not None:
        _libc.syscall(
            _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)
        )


def enter(view: dict[str, Any]) -> None:
    """See the files as the view says. OSError: what can't be mounted."""
    if not names.own_mounts():
        raise OSError("this process may not have a mount namespace of its own")
    root = Root(Path(view["root"]))
    mounts = sorted(view["mounts"], key=lambda mount: len(Path(mount["target"]).parts))
    targets = [Path(os.path.realpath(mount["target"])) for mount in mounts]
    for target in targets:
        root.make_room(target)
    if view["read_only"]:
        root.freeze()
    for name in _ALIVE:
        root.attach(Path("/", name), Path("/", name))
    for mount, target in zip(mounts, targets, strict=True):
        root.attach(Path(mount["source"]), target, read_only=mount["read_only"])
    for path in map(Path, view["image"]):  # a volume at /tmp hides what an installation has there
        if not root.shows(path):
            root.attach(path, path, read_only=True)
    root.enter(Path(view["cwd"]))


def run(command: list[str]) -> int:
    """The command as the first of a PID namespace: with it all that it has started ends. Its exit status, as a shell's."""
    die_with_parent()  # once more: a new user namespace unties
    if _libc is not None:
        _libc.unshare(_CLONE_NEWPID)  # where that is refused, it runs all the same
    child = os.fork()
    if child == 0:
        die_with_parent()
        os.execvp(command[0], command)  # noqa: S606 - the container's command, no shell
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def main() -> None:
    """Make the view, run the command in it, and end as it does."""
    file, _, *command = sys.argv[1:]
    enter(json.loads(Path(file).read_text(encoding="utf-8")))
    sys.exit(run(command))


if __name__ == "__main__":
    main()
