"""The recovery job's WAL: fetched ahead of the replay, `wal.maxParallel` segments at a time, and handed out on request.

One barman-cloud-wal-restore fetches a whole batch in parallel: its start-up (0.3 s of CPU) is paid once a batch,
and the next batch is on its way while PostgreSQL replays this one. Names carry the timeline and the spool
is emptied when the job starts, so nothing stale can be served; a batch becomes visible only when it is complete.
Partial segments and history files are fetched singly, on request alone.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import barman, procs
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.spec import PodSpec, StoreSpec
from drillbook_lab.agent.wal_restore import SOCKET_NAME

_SEGMENT = re.compile(r"[0-9A-F]{24}")
NOT_FOUND = 1
_KEPT = 4


class WalFeed:
    """Answers `wal_restore`; at most one batch is being fetched at any time."""

    def __init__(self, spec: PodSpec, store: StoreSpec, log: Log) -> None:
        self._store = store
        self._log = log.named("wal-restore")
        self._parallel = max(1, store.wal_max_parallel)
        self._spool = Path(spec.pgdata).with_name("wal-restore-spool")
        self._batch_dir = Path(spec.pgdata).with_name("wal-restore-batch")
        self._address = Path(spec.socket_dir) / SOCKET_NAME
        self._environment = barman.environment(store, home=spec.run_dir)
        self._server: asyncio.Server | None = None
        self._batch: asyncio.Task[int] | None = None
        self._batch_start = ""
        self._newest = ""  # the last segment of the last complete batch
        self._answers: set[asyncio.Task[None]] = set()
        self._ended = False  # the last batch was short: nothing to fetch ahead until asked

    async def __aenter__(self) -> WalFeed:
        for directory in (self._spool, self._batch_dir):
            shutil.rmtree(directory, ignore_errors=True)
            identity.prepare_dir(directory)
        identity.prepare_dir(self._address.parent)
        self._address.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, self._address)
        identity.hand_over(self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for answer in self._answers:
            answer.cancel()  # PostgreSQL has ended while it waited for a file
        await asyncio.gather(*self._answers, return_exceptions=True)
        if self._batch is not None:
            self._batch.cancel()
            await asyncio.gather(self._batch, return_exceptions=True)
        self._address.unlink(missing_ok=True)
        for directory in (self._spool, self._batch_dir):
            shutil.rmtree(directory, ignore_errors=True)

    async def probe(self, wal: str) -> int:
        """Fetch a segment (and what follows it) into the spool without handing it out; barman's exit status."""
        return await self._fetch_batch(wal)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._respond(reader, writer))
        self._answers.add(task)
        await asyncio.wait({task})  # asyncio's streams complain of a handler that is cancelled itself
        self._answers.discard(task)
        writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wal = (await reader.readline()).decode().strip()
        destination = Path((await reader.readline()).decode().strip())
        try:
            returncode = await self.provide(wal, destination)
        except OSError as error:
            self._log.error("Failed restoring WAL file (Postgres might retry)", error, walName=wal)
            returncode = NOT_FOUND
        # PostgreSQL treats 1 as "not there"; any failure is reported that way, as CNPG does.
        writer.write(b"1" if returncode else b"0")

    async def provide(self, wal: str, destination: Path) -> int:
        """Put the file where PostgreSQL wants it; barman's exit status if that can't be done."""
        if not _SEGMENT.fullmatch(wal):
            return self._told(await self._fetch_one(wal, destination), wal)
        if not self._hand_out(wal, destination):
            returncode = await self._fetch_now(wal, destination)
            if returncode:
                return self._told(returncode, wal)
        self._log.info("Restored WAL file", walName=wal)
        self._fetch_ahead(wal)
        return 0

    async def _fetch_now(self, wal: str, destination: Path) -> int:
        returncode = await self._settle()
        if self._hand_out(wal, destination):
            return 0
        if returncode is None or self._batch_start != wal:
            returncode = await self._fetch_batch(wal)
            if returncode == 0:
                self._hand_out(wal, destination)
        if returncode == NOT_FOUND:  # a whole one isn't there; a partial one, left by a demoted primary, may be
            returncode = await self._fetch_one(wal, destination)
        return returncode

    def _told(self, returncode: int, wal: str) -> int:
        if returncode == NOT_FOUND:
            self._log.info("WAL file not found in the recovery object store", walName=wal)
        elif returncode:
            reason = barman.wal_restore_text(returncode, wal)
            self._log.error("Failed restoring WAL file (Postgres might retry)", reason, walName=wal)
        else:
            self._log.info("Restored WAL file", walName=wal)
        return returncode

    def _hand_out(self, wal: str, destination: Path) -> bool:
        """From the spool, where the last few stay: having reached its target, PostgreSQL asks for one of them again.

        A copy, for PostgreSQL overwrites old segments as it goes on.
        """
        if not (self._spool / wal).is_file():
            return False
        draft = destination.with_name(destination.name + ".copy")
        shutil.copyfile(self._spool / wal, draft)
        draft.chmod(0o600)
        identity.hand_over(draft)
        draft.replace(destination)
        for name in self._unused_before(wal)[:-_KEPT]:
            (self._spool / name).unlink()
        return True

    def _unused_before(self, wal: str) -> list[str]:
        return sorted(path.name for path in self._spool.iterdir() if path.name < wal)

    def _fetch_ahead(self, wal: str) -> None:
        """Start the next batch once the last one is in use."""
        if self._parallel == 1 or self._ended or (self._batch is not None and not self._batch.done()):
            return
        if sum(1 for path in self._spool.iterdir() if path.name > wal) < self._parallel:
            self._batch_start = successor(self._newest)
            self._batch = asyncio.create_task(self._fetch_batch(self._batch_start))

    async def _settle(self) -> int | None:
        """Wait for the batch that is on its way, if there is one; how it ended."""
        if self._batch is None:
            return None
        batch, self._batch = self._batch, None
        return await batch

    async def _fetch_batch(self, wal: str) -> int:
        """Fetch this segment and those that follow it; they enter the spool together."""
        options = ["--no-partial", "--parallel", str(self._parallel), "--spool-dir", str(self._batch_dir)]
        returncode = await self._barman(options, wal, self._batch_dir / f"{wal}.asked")
        asked = self._batch_dir / f"{wal}.asked"
        if returncode == 0 and asked.is_file():
            asked.rename(self._batch_dir / wal)
        fetched = sorted(path for path in self._batch_dir.iterdir() if _SEGMENT.fullmatch(path.name))
        if returncode == 0:
            for path in fetched:
                path.replace(self._spool / path.name)
            self._newest = fetched[-1].name
        else:
            for path in self._batch_dir.iterdir():
                path.unlink()
        self._ended = returncode != 0
        return returncode

    async def _fetch_one(self, wal: str, destination: Path) -> int:
        draft = self._spool / f"{wal}.one"
        # An empty spool directory of our own: barman's default is one for the whole machine, and it serves from it.
        returncode = await self._barman(["--spool-dir", str(self._batch_dir)], wal, draft)
        if returncode == 0:
            shutil.move(draft, destination)
        else:
            draft.unlink(missing_ok=True)
        return returncode

    async def _barman(self, options: list[str], wal: str, destination: Path) -> int:
        argv = [
            barman.program("barman-cloud-wal-restore"),
            *options,
            *barman.store_arguments(self._store),
            wal,
            str(destination),
        ]
        done = await procs.run(identity.wrap(argv), env=self._environment)
        if done.returncode > NOT_FOUND and done.last_words:
            self._log.named("barman-cloud-wal-restore").info(done.last_words, pipe="stderr")
        return done.returncode


def successor(wal: str, segments_per_log: int = 256) -> str:
    """The name of the next segment (16 MB ones: 256 to a log file)."""
    log, segment = int(wal[8:16], 16), int(wal[16:24], 16) + 1
    if segment >= segments_per_log:
        log, segment = log + 1, 0
    return f"{wal[:8]}{log:08X}{segment:08X}"
