"""A command in its own terminal: `python -m drillbook_lab.terminal COMMAND…`, for `exec` with a tty.

Between the pipes that we are given and the terminal that the command sees, bytes pass as they are; the end of our
input is the terminal's end-of-file key.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import sys

_CHUNK = 64 * 1024
_END_OF_FILE = b"\x04"


def main(argv: list[str]) -> int:
    """Run the command to its end; its exit status is ours."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.setdefault("TERM", "xterm")
        try:
            os.execvp(argv[0], argv)  # noqa: S606 - the caller's own command
        except OSError as fault:
            os.write(2, f"{argv[0]}: {fault.strerror}\n".encode())
            os._exit(127)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGHUP))
    sources = [0, terminal]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if 0 in ready:
            data = os.read(0, _CHUNK)
            if not data:
                sources.remove(0)
            os.write(terminal, data or _END_OF_FILE)
        if terminal in ready:
            try:
                data = os.read(terminal, _CHUNK)
            except OSError:  # the command and all its children have let go of the terminal
                break
            if not data:
                break
            os.write(1, data)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
