"""A child of the daemon that is to run for as long as it is wanted: started again when it dies, later each time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from drillbook_lab.node.processes import spawn, stop

log = logging.getLogger("labd")

_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0
# Who has lived this long is well: its next death is a first one again.
_WELL_SECONDS = 30.0


class Child:
    """One program, kept running from `start` until `stop`."""

    def __init__(self, what: str, argv: Sequence[str], output: Path, cwd: Path) -> None:
        self.what = what
        self._argv = list(argv)
        self._output = output
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        """Its process, while it lives."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it, if it isn't wanted already."""
        if self._keeper is not None and not self._keeper.done():
            return
        await self._spawn()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=self.what)

    async def stop(self, grace_seconds: float) -> None:
        """End it, for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._process is not None:
            await stop(self._process, grace_seconds)

    async def _spawn(self) -> None:
        with self._output.open("ab") as output:
            self._process = await spawn(self._argv, env=dict(os.environ), cwd=self._cwd, stdout=output, stderr=output)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        delay = _FIRST_DELAY_SECONDS
        while self._process is not None:
            began = loop.time()
            code = await self._process.wait()
            self.deaths += 1
            if loop.time() - began > _WELL_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            log.warning("the %s ended with status %d: started again in %.1f s", self.what, code, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
            await self._spawn()
