"""Names of Services inside pods: a hosts file of each namespace, laid over /etc/hosts in a mount namespace of the pod.

`svc`, `svc.ns`, `svc.ns.svc` and `svc.ns.svc.cluster.local` resolve for every process of a pod and for nobody
outside, as with cluster DNS. Where a process may not have its own mount namespace (no Linux, a container or a chroot
that refuses), names don't resolve by themselves: `HOSTS_VARIABLE` names the file to look in (`look_up`), and
Kubernetes' older way remains, `<SVC>_SERVICE_HOST` and `<SVC>_SERVICE_PORT`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drillbook_lab.api.errors import Object

HOSTS_VARIABLE = "DRILLBOOK_LAB_HOSTS"
_HOSTS = Path("/etc/hosts")
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_ZONE = "cluster.local"

# Loaded once, before any fork: between fork and exec a child may not load libraries.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def names_of(service: Object, namespace: str) -> list[str]:
    """What a Service is called by a pod of that namespace, the short name only at home."""
    meta = service["metadata"]
    name, home = meta["name"], meta["namespace"]
    long = [f"{name}.{home}", f"{name}.{home}.svc", f"{name}.{home}.svc.{_ZONE}"]
    return [name, *long] if home == namespace else long


def variables(services: Iterable[Object], namespace: str) -> dict[str, str]:
    """The environment variables by which Kubernetes tells its own pod namespace's Services."""
    found: dict[str, str] = {}
    for service in services:
        ports = service["spec"].get("ports") or ()
        address = service["spec"].get("clusterIP")
        if service["metadata"]["namespace"] != namespace or not ports or address in (None, "", "None"):
            continue
        stem = service["metadata"]["name"].upper().replace("-", "_")
        found[f"{stem}_SERVICE_HOST"] = address
        found[f"{stem}_SERVICE_PORT"] = str(ports[0]["port"])
    return found


class HostsFiles:
    """One hosts file a namespace, kept in line with the Services that there are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services: list[Object] = []

    def write(self, services: Iterable[Object]) -> None:
        """Take over the Services as they are now, in every file that a pod has already been given."""
        self._services = list(services)
        for path in self._folder.glob("*"):
            self._fill(path)

    def of(self, namespace: str) -> Path:
        """The file of a namespace's pods."""
        path = self._folder / namespace
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            path.touch(0o644)
            path.chmod(0o644)
            self._fill(path)
        return path

    def _fill(self, path: Path) -> None:
        try:
            text = _HOSTS.read_text(encoding="utf-8").rstrip("\n") + "\n"
        except OSError:
            text = "127.0.0.1 localhost\n"
        for service in self._services:
            address = service["spec"].get("clusterIP")
            if address not in (None, "", "None"):
                text += f"{address}\t{' '.join(names_of(service, path.name))}\n"
        content = text.encode()
        # In place, by one write: pods have this very file mounted, and a new one would never reach them.
        handle = os.open(path, os.O_RDWR)
        try:
            if os.pread(handle, len(content) + 1, 0) != content:
                os.pwrite(handle, content, 0)
                os.ftruncate(handle, len(content))
        finally:
            os.close(handle)


def look_up(hosts: Path, name: str) -> str:
    """The address of a name in such a file; empty where it has none."""
    try:
        lines = hosts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((address for address, *known in map(str.split, filter(None, lines)) if name in known), "")


def enter(hosts: Path) -> Callable[[], None]:
    """A `preexec_fn`: the child sees that file as /etc/hosts. Needs `available()`."""
    source, target = os.fsencode(hosts), os.fsencode(_HOSTS)

    def apart() -> None:
        assert _libc is not None  # noqa: S101 - `available` has said so
        if not own_mounts() or _libc.mount(source, target, None, _MS_BIND, None):
            os._exit(71)

    return apart


def own_mounts() -> bool:
    """Give this process a mount namespace of its own; False where it may not have one. Fit for a `preexec_fn`."""
    if _libc is None:
        return False
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        done = _libc.unshare(_CLONE_NEWNS)
    else:
        # Who isn't root may mount in its own user namespace; there it stays who it is.
        done = _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
        maps = (("setgroups", b"deny"), ("uid_map", b"%d %d 1" % (uid, uid)), ("gid_map", b"%d %d 1" % (gid, gid)))
        for name, content in maps if done == 0 else ():
            handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(handle, content)
            os.close(handle)
    return not (done or _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))


@functools.cache
def available() -> bool:
    """Whether a process may have an /etc/hosts of its own here: tried once."""
    if _libc is None or not _HOSTS.is_file():
        return False
    with tempfile.NamedTemporaryFile(prefix="dbl-hosts-") as probe, contextlib.suppress(OSError, ValueError):
        probe.write(b"127.0.0.1 localhost\n")
        probe.flush()
        argv = [sys.executable, "-I", "-S", "-c", "print(open('/etc/hosts').read(), end='')"]
        try:
            done = subprocess.run(argv, capture_output=True, check=False, preexec_fn=enter(Path(probe.name)))
        except subprocess.SubprocessError:
            return False
        return done.returncode == 0 and done.stdout == b"127.0.0.1 localhost\n"
    return False
