"""`python -m drillbook_lab.store --state DIR [--port P] [--bucket NAME] [--locked-bucket NAME]`: ready when `DIR/ready` holds the address."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from drillbook_lab.agent.procs import die_with_parent, tied
from drillbook_lab.store.gate import Gate


async def start_backend(state: Path) -> tuple[asyncio.subprocess.Process, URL]:
    """moto as its own child: its work and the gate's don't share an interpreter lock."""
    scratch = state / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed one's
    scratch.mkdir()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "drillbook_lab.store.backend",
        str((state / "objects").absolute()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=tied(),
        cwd=scratch,
        # Bodies are given back to the system once they are on disk, instead of being kept for the next ones.
        env={**os.environ, "TMPDIR": str(scratch), "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "2"},
    )
    assert child.stdout is not None  # noqa: S101 - PIPE was asked for
    port = (await child.stdout.readline()).decode().strip()
    if not port:
        raise SystemExit(f"moto ended with status {await child.wait()}")
    return child, URL(f"http://127.0.0.1:{port}/")


async def create_buckets(backend: URL, names: list[str], locked: list[str]) -> None:
    """Straight at moto: anyone who runs the store needs no key. Those in ``locked`` have Object Lock, and so versions."""
    async with aiohttp.ClientSession() as client:
        for name in [*names, *locked]:
            async with client.head(backend / name) as answer:
                if answer.status == 200:
                    continue  # of an earlier run
            headers = {"x-amz-bucket-object-lock-enabled": "true"} if name in locked else {}
            async with client.put(backend / name, headers=headers) as answer:
                answer.raise_for_status()


async def serve(state: Path, host: str, port: int, buckets: list[str], locked: list[str]) -> int:
    """Until SIGTERM; a dead moto ends the store."""
    state.mkdir(parents=True, exist_ok=True)
    ready = state / "ready"
    ready.unlink(missing_ok=True)
    child, backend = await start_backend(state)
    await create_buckets(backend, buckets, locked)
    runner = web.AppRunner(Gate(state, backend).application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    (bound, *_) = runner.addresses
    draft = state / "ready.new"
    draft.write_text(f"http://{host}:{bound[1]}\n", encoding="utf-8")
    draft.replace(ready)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    ended = asyncio.create_task(child.wait())
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    ready.unlink(missing_ok=True)
    await runner.cleanup()
    if child.returncode is None:
        child.terminate()
    returncode = await ended
    asked.cancel()
    return 0 if stop.is_set() else returncode or 1


def main() -> int:
    """Parse, serve."""
    die_with_parent()
    arguments = argparse.ArgumentParser(description="The lab's object store.")
    arguments.add_argument("--state", type=Path, required=True, help="keys.json, faults.json, access.jsonl, ready")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0, help="0: any free one")
    arguments.add_argument("--bucket", action="append", default=[], help="made at the start; may be repeated")
    arguments.add_argument("--locked-bucket", action="append", default=[], help="the same, with Object Lock")
    chosen = arguments.parse_args()
    return asyncio.run(serve(chosen.state, chosen.host, chosen.port, chosen.bucket, chosen.locked_bucket))


if __name__ == "__main__":
    sys.exit(main())
