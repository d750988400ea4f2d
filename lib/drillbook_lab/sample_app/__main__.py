"""`python -m drillbook_lab.sample_app`: serve until SIGTERM, then let what is under way finish."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import psycopg
from aiohttp import web

from drillbook_lab.sample_app import log as lines
from drillbook_lab.sample_app import settings
from drillbook_lab.sample_app.database import Database
from drillbook_lab.sample_app.service import Service

log = logging.getLogger("app.main")


async def serve(chosen: settings.Settings) -> int:
    """The app's whole life; its exit status."""
    asked = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, asked.set)
    database = Database(chosen)
    try:
        await database.open()
    except (psycopg.Error, OSError) as fault:
        log.error("the database can't be reached: %s", str(fault).strip(), exc_info=fault)
        return 1
    try:
        await _answer(chosen, database, asked)
    finally:
        await database.close()  # whatever happened: its workers outlive a cancellation
    log.info("ended")
    return 0


async def _answer(chosen: settings.Settings, database: Database, asked: asyncio.Event) -> None:
    """Serve until it is asked for an end; what is under way then has its time to finish."""
    service = Service(chosen, database)
    runner = web.AppRunner(service.application(), shutdown_timeout=chosen.drain)
    await runner.setup()
    await web.TCPSite(runner, chosen.address, chosen.port).start()
    where = {key: chosen.connection.get(key) for key in ("host", "port", "dbname", "user")}
    log.info("serving on %s:%d", chosen.address, chosen.port, extra={"fields": {"database": where}})
    await asked.wait()
    log.info("draining")
    service.draining = True
    await runner.cleanup()


def main() -> int:
    """Read the environment and serve."""
    lines.set_up()
    try:
        chosen = settings.read(os.environ)
    except settings.SettingsFault as fault:
        log.error("%s", fault)
        return 2
    return asyncio.run(serve(chosen))


if __name__ == "__main__":
    sys.exit(main())
