"""Children that die with their parent, and commands whose output becomes log lines as it comes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drillbook_lab.agent import barman
from drillbook_lab.agent.log import Log

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel for `death_signal` when the parent (the thread that forked us) is gone."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)


def tied(death_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn`: like `die_with_parent`, and closing the gap in which the parent died before we asked.

    What runs in a shell's background ignores SIGQUIT, and so do its children until they install a handler: not this one.
    """
    parent = os.getpid()

    def tie() -> None:
        if death_signal != signal.SIGKILL:
            signal.signal(death_signal, signal.SIG_DFL)
        die_with_parent(death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return tie


@dataclass(frozen=True)
class Done:
    """How a command ended, and all that it said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The reason that it gave on stderr."""
        return barman.last_words(self.stderr)


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    log: Log | None = None,
    log_stdout: bool = False,
) -> Done:
    """Run to the end; each line of stderr is logged the moment it is written, under the program's own name."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=tied(),
        limit=1 << 20,
    )
    assert child.stdout is not None and child.stderr is not None  # noqa: S101 - PIPE was asked for

    async def read(stream: asyncio.StreamReader, said: list[str], pipe: str, to: Log | None) -> None:
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            said.append(line)
            if to is not None and line.strip():
                to.info(line, pipe=pipe)

    out: list[str] = []
    err: list[str] = []
    try:
        await asyncio.gather(
            read(child.stdout, out, "stdout", log if log_stdout else None), read(child.stderr, err, "stderr", log)
        )
        returncode = await child.wait()
    except BaseException:
        if child.returncode is None:
            child.kill()
            await child.wait()  # or the loop is closed before it hears of the end, and says so on stderr
        raise
    return Done(returncode, "\n".join(out), "\n".join(err))
