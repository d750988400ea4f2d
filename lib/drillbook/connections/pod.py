"""An application's pod under load: one process, one pool. ``python -m drillbook.connections.pod``, started by ``load``.

It reads JSON lines from its standard input, first where to connect, then a block a line, and answers each with a line. The
end of its input ends it at once, whatever it does: so it never outlives whatever started it, however that ended.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import sys
import threading
import time
from collections import Counter

from drillbook.connections.blocks import Block, Measured
from drillbook.connections.latency import Latencies
from drillbook.postgres.client import Address
from drillbook.postgres.pool import ConnectionRefused, NoConnection, Pool, PoolTarget

_LOOK_SECONDS = 0.02


class Run:
    """One block in one process."""

    def __init__(self, pool: Pool, block: Block, statements: list[str]) -> None:
        self._pool = pool
        self._block = block
        self._statements = [text.encode() for text in statements]
        self._chance = random.Random(block.seed)  # noqa: S311 - a load, not a secret
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._times = {name: Latencies() for name in ("latency", "acquire", "query", "held", "lateness")}
        self._began = self._used = self._busy = self._ends_at = 0.0

    async def measured(self) -> Measured:
        """Do it from now on, until its last transaction has ended."""
        looking = asyncio.create_task(self._look())
        gc.collect()
        gc.disable()  # a pause of the collector would be measured as one of the server
        self._began, self._used = time.monotonic(), time.process_time()
        self._ends_at = self._began + self._block.seconds
        try:
            await (self._open() if self._block.rate else self._closed())
        finally:
            gc.enable()
            looking.cancel()
        return Measured(
            arrivals=self._counts["arrivals"],
            completed=self._counts["completed"],
            timeouts=self._counts["timeouts"],
            seconds=self._block.seconds,
            **self._times,
            busy=self._busy,
            samples=self._counts["samples"],
            full=self._counts["full"],
            waiting=self._counts["waiting"],
            errors=dict(self._errors.most_common(5)),
            refusals=dict(Counter(self._pool.refusals).most_common(5)),
        )

    async def _open(self) -> None:
        """Every arrival at its instant, whether or not the ones before it have been served."""
        running = set[asyncio.Task[None]]()
        at = self._began
        while True:
            at += self._chance.expovariate(self._block.rate)
            if at >= self._ends_at:
                break
            load = self._next()
            # Also where it is late already: what was begun has its turn.
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            task = asyncio.create_task(self._transaction(at, *load))
            running.add(task)
            task.add_done_callback(running.discard)
        self._note_busy()
        await asyncio.gather(*running)

    async def _closed(self) -> None:
        """Each worker begins the next transaction when its last one has ended: for throughput, never for latency."""

        async def work() -> None:
            while (now := time.monotonic()) < self._ends_at:
                await self._transaction(now, *self._next())

        await asyncio.gather(*(work() for _ in range(self._block.workers)))
        self._note_busy()

    def _note_busy(self) -> None:
        """The processor time used while load was given; what waits for its time-out afterwards uses none."""
        self._busy = (time.process_time() - self._used) / (time.monotonic() - self._began)

    def _next(self) -> tuple[bytes, float]:
        """What a transaction does: a statement, and how long it holds its connection afterwards.

        A closed loop's throughput depends on the mean alone: there the times are spread just enough that its workers do not
        march in step, which would be counted by whole rounds.
        """
        mean, chance = self._block.hold_seconds, self._chance
        statement = chance.choice(self._statements)
        if not mean:
            return statement, 0.0
        return statement, chance.expovariate(1 / mean) if self._block.rate else chance.uniform(0.5, 1.5) * mean

    async def _transaction(self, intended: float, statement: bytes, hold: float) -> None:
        self._counts["arrivals"] += 1
        self._times["lateness"].add(time.monotonic() - intended)
        try:
            async with self._pool.connection() as connection:
                acquired = time.monotonic()
                await connection.execute(statement)
                answered = time.monotonic()
                if hold:
                    await asyncio.sleep(hold)
        except NoConnection:
            self._counts["timeouts"] += 1
            return
        except ConnectionRefused as error:
            self._errors[str(error)] += 1
            return
        ended = time.monotonic()
        self._counts["completed"] += ended <= self._ends_at
        for name, seconds in (
            ("latency", ended - intended),
            ("acquire", acquired - intended),
            ("query", answered - acquired),
            ("held", ended - acquired),
        ):
            self._times[name].add(seconds)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            state = self._pool.state()
            self._counts["samples"] += 1
            self._counts["full"] += state.free == 0 and state.open >= self._pool.size
            self._counts["waiting"] = max(self._counts["waiting"], state.waiting)


async def _block(target: PoolTarget, block: Block, statements: list[str]) -> str:
    async with Pool(target, size=block.pool, idle=block.idle, timeout_seconds=block.timeout_seconds) as pool:
        return (await Run(pool, block, statements).measured()).model_dump_json()


async def _serve(lines: asyncio.Queue[str]) -> None:
    given = json.loads(await lines.get())
    host, port = given["address"]
    target = PoolTarget(Address(host, port), given["user"], given["dbname"], given["password"])
    for _ in itertools.count():
        block = Block.model_validate_json(await lines.get())
        try:
            answer = await _block(target, block, given["statements"])
        except NoConnection as error:
            answer = json.dumps({"failed": str(error)})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _read(lines: asyncio.Queue[str], loop: asyncio.AbstractEventLoop) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(lines.put_nowait, line)
    os._exit(0)


async def _main() -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    threading.Thread(target=_read, args=(lines, asyncio.get_running_loop()), daemon=True).start()
    await _serve(lines)


if __name__ == "__main__":
    asyncio.run(_main())
