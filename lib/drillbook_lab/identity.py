"""Who PostgreSQL runs as: root may not run it, so root's lab needs another identity.

Three cases, probed once a process:

1. an ordinary user: as is;
2. root, user namespaces allowed: inside one, mapped to an ordinary uid. Files stay root's on the outside, so
   nothing has to change hands;
3. root where `unshare` is refused (a chroot): another user, by `setpriv`. What PostgreSQL touches must belong to
   that user: `prepare_dir` and `hand_over` see to it.

The uid has to have a name in /etc/passwd, or initdb refuses: `postgres` where there is one (CNPG's uid 26 seldom is),
else one that every system has.
"""

from __future__ import annotations

import enum
import functools
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from drillbook_lab import pgbin
from drillbook_lab.errors import LabError


class Identity(enum.Enum):
    """How a program that refuses root is started."""

    SELF = "this user"
    USER_NAMESPACE = "root in a user namespace"
    OTHER_USER = "another user"


@functools.cache
def named_user() -> pwd.struct_passwd:
    """Somebody with a name who is not root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return next(entry for entry in pwd.getpwall() if entry.pw_uid)


def _prefix(chosen: Identity) -> tuple[str, ...]:
    if chosen is Identity.SELF:
        return ()
    user = named_user()
    if chosen is Identity.USER_NAMESPACE:
        return ("unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}", "--")
    # `keep`: a change of uid clears the parent-death signal, and a child that outlives the lab is a leak.
    change = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=keep")
    return ("setpriv", *change, "--")


def _works(prefix: Sequence[str], argv: Sequence[str]) -> str | None:
    """None if the program ran, else what it said."""
    if shutil.which(prefix[0]) is None:
        return f"{prefix[0]} is not installed"
    done = subprocess.run([*prefix, *argv], capture_output=True, text=True, check=False, cwd="/")
    return None if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


@functools.cache
def identity() -> Identity:
    """The identity for PostgreSQL on this machine; LabError if there isn't one, saying the one thing to do."""
    if sys.platform == "linux" and not Path("/proc/self").exists():
        raise LabError(
            "PostgreSQL can't start here",
            "/proc is not mounted, and it looks there for its libraries",
            "mount -t proc proc /proc",
        )
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return Identity.SELF
    if _works(_prefix(Identity.USER_NAMESPACE), ["true"]) is None:
        found = Identity.USER_NAMESPACE
    elif (refused := _works(_prefix(Identity.OTHER_USER), ["true"])) is None:
        found = Identity.OTHER_USER
    else:
        raise LabError(
            "PostgreSQL refuses to run as root, and root can't become another user here",
            f"unshare and setpriv both failed ({refused})",
            "run the lab as an ordinary user",
        )
    # Through a shell: setpriv itself can still start what the new user can't read.
    for needed in ([sys.executable, "-I", "-c", "import barman, drillbook_lab"], [pgbin.program("postgres"), "-V"]):
        if (unreadable := _works(_prefix(found), ["sh", "-c", '"$0" "$@"', *needed])) is not None:
            raise LabError(
                f"PostgreSQL's user can't run {Path(needed[0]).name}",
                f"{needed[0]} as {found.value} ({named_user().pw_name}): {unreadable.splitlines()[-1]}",
                "set the project up in a folder that every user may read (chmod o+rx on it and the folders above it)",
            )
    return found


def wrap(argv: Sequence[str]) -> list[str]:
    """The same command under PostgreSQL's identity; still one process, so its pid and exit status stay its own."""
    return [*_prefix(identity()), *argv]


def hand_over(*paths: Path | str) -> None:
    """Make these files and trees PostgreSQL's own, where its identity has files of its own."""
    if identity() is not Identity.OTHER_USER:
        return
    for path in map(Path, paths):
        _own(path)
        if path.is_dir() and not path.is_symlink():
            for folder, directories, files in os.walk(path):
                for name in (*directories, *files):
                    _own(Path(folder, name))


chown_tree = hand_over


def share(*paths: Path | str) -> None:
    """Hand over single files that are in our folders, and let PostgreSQL's identity through to them."""
    hand_over(*paths)
    if identity() is Identity.OTHER_USER:
        for path in paths:
            _let_through(Path(path).resolve())


def _own(path: Path) -> None:
    try:
        os.chown(path, named_user().pw_uid, named_user().pw_gid, follow_symlinks=False)
    except FileNotFoundError:
        pass  # a live directory: what is gone needs no owner


def may_write(path: str) -> bool:
    """Whether PostgreSQL's identity may make files in this folder, which isn't ours to change."""
    if identity() is Identity.OTHER_USER:
        folder = Path(path)
        return folder.is_dir() and bool(folder.stat().st_mode & 0o002)
    return os.access(path, os.W_OK)


def prepare_dir(path: Path | str, mode: int = 0o700) -> Path:
    """A directory that PostgreSQL owns; its parents are let through but not handed over."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    made.chmod(mode)
    hand_over(made)
    if identity() is Identity.OTHER_USER:
        _let_through(made.resolve())
    return made


def _let_through(path: Path) -> None:
    """Search permission on the way down: the lab's home is 0700 by default, and another uid has to pass it."""
    for parent in path.parents:
        status = parent.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & 0o001:
            parent.chmod(status.st_mode | 0o001)
