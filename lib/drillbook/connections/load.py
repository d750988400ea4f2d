"""The load generator: pods as processes of their own, one block of load at a time.

The generator must not be what is measured: processes do not share an interpreter, arrivals are planned before they are
due, and each block says how late and how busy the generator itself was (:func:`untrusted`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from drillbook.connections.blocks import Block, Measured
from drillbook.errors import Changed, UpstreamError
from drillbook.postgres.pool import LIBPQ_VARIABLES, PoolTarget

BUSY = 0.8
"""A process that uses more of a processor than this sets the figures itself."""
LATE = 0.25
"""So does one whose arrivals begin later than intended by more than this share of the p95 latency."""
_PATIENCE_SECONDS = 60.0


class Pods:
    """``count`` processes with a pool each, for as long as the context lasts.

    The password goes through a pipe: neither a command line nor an environment holds it.
    """

    def __init__(self, count: int, target: PoolTarget, statements: Sequence[str]) -> None:
        self._count = count
        self._first = json.dumps(
            {
                "address": [target.address.host, target.address.port],
                "user": target.user,
                "password": target.password,
                "dbname": target.dbname,
                "statements": list(statements),
            }
        )
        self._stack = contextlib.ExitStack()
        self._running: list[tuple[subprocess.Popen[str], IO[bytes]]] = []

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if name not in LIBPQ_VARIABLES}
        try:
            for _ in range(self._count):
                said = self._stack.enter_context(tempfile.TemporaryFile())
                process = subprocess.Popen(
                    [sys.executable, "-m", "drillbook.connections.pod"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    env=environment,
                )
                self._running.append((process, said))
                self._give(process, self._first)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [process.pid for process, _ in self._running]

    def block(self, block: Block) -> Measured:
        """Give every pod its part of ``block`` at once, and merge what they measured.

        ``rate`` is that of all pods together; ``pool`` and ``workers`` are each one's own. UpstreamError if a pod can't
        connect, dies, or does not answer in time.
        """
        count = len(self._running)
        parts = [
            block.model_copy(update={"rate": block.rate / count, "seed": block.seed * 1000 + number})
            for number in range(count)
        ]
        limit = block.seconds + block.timeout_seconds + _PATIENCE_SECONDS
        watch = threading.Timer(limit, self._kill)
        watch.daemon = True  # an interrupt that comes before the block begins must not wait for it
        watch.start()
        try:
            for (process, _), part in zip(self._running, parts, strict=True):
                self._give(process, part.model_dump_json())
            return Measured.merged([self._answer(number, limit) for number in range(count)])
        finally:
            watch.cancel()

    def _kill(self) -> None:
        for process, _ in self._running:
            process.kill()

    def _answer(self, number: int, limit: float) -> Measured:
        process, said = self._running[number]
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        answer = process.stdout.readline()
        if not answer:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise UpstreamError(
                f"pod {number + 1} of the load ended with status {process.wait()}: {words or f'no answer in {limit:.0f} s'}",
                changed=Changed.DONE,
                todo="Look at memory and processors of this machine; the copy is removed by this run's clean-up.",
            )
        if "failed" in (found := json.loads(answer)):
            raise UpstreamError(
                f"pod {number + 1} of the load has no connection: {found['failed']}",
                changed=Changed.DONE,
                todo="Read the limit that it names; a smaller pool, or a pooler in front, may fit below it.",
            )
        return Measured.model_validate_json(answer)

    def _give(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        with contextlib.suppress(BrokenPipeError):  # one that died is reported where its answer is missing
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def close(self) -> None:
        """End the processes; safe to call twice."""
        for process, _ in self._running:
            with contextlib.suppress(BrokenPipeError):
                if process.stdin is not None:
                    process.stdin.close()
        for process, _ in self._running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._running = []
        self._stack.close()


def untrusted(open_loop: Measured, closed_loop: Measured | None = None) -> str:
    """Why the generator itself may have set the figures; "" if it did not."""
    faults = []
    late, p95 = open_loop.lateness.percentile(95), open_loop.latency.percentile(95)
    if late > LATE * p95:
        faults.append(f"arrivals began {late * 1000:.1f} ms late (p95), of a latency of {p95 * 1000:.1f} ms")
    busy = max(part.busy for part in (open_loop, closed_loop) if part is not None)
    if busy > BUSY:
        faults.append(f"a process of the load used {busy:.0%} of a processor")
    return "; ".join(faults)


__all__ = ["BUSY", "LATE", "Pods", "untrusted"]
