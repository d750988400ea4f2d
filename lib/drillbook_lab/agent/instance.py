"""The instance: PostgreSQL until SIGTERM. `python -m drillbook_lab.agent.instance --spec FILE`.

SIGTERM is a fast shutdown, SIGHUP writes the configuration anew from the spec and reloads it. The server's
own exit is the program's exit; a server that ends unasked is never a success.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from drillbook_lab.agent import conf, main
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.postmaster import Postmaster
from drillbook_lab.agent.spec import PodSpec


def configure(spec: PodSpec, spec_file: Path) -> None:
    """The configuration of a running instance."""
    conf.write(spec, {"archive_command": conf.archive_command(spec, spec_file), **conf.tls(spec)})


async def serve(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """Run the server to its end."""
    log.info("Starting the instance", pgdata=spec.pgdata, listen_address=spec.listen_address, port=spec.port)
    if spec.tls_dir is not None and not conf.offers_tls(spec.bin_dir):
        log.info("TLS is off: this PostgreSQL was built without it", bin_dir=spec.bin_dir)
    configure(spec, spec_file)
    server = Postmaster(spec, log)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def reload() -> None:
        changed = PodSpec.read(spec_file)
        main.prepare(changed, spec_file)
        configure(changed, spec_file)
        server.reload()

    loop.add_signal_handler(signal.SIGTERM, asked.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await server.start()

    async def shut_down_when_asked() -> None:
        await asked.wait()
        log.info("Requesting fast shutdown of the PostgreSQL instance")
        server.running.send_signal(signal.SIGINT)

    shutdown = asyncio.create_task(shut_down_when_asked())
    returncode = await server.wait()
    shutdown.cancel()
    if asked.is_set():
        log.info("PostgreSQL instance stopped", exit_status=returncode)
        return returncode
    log.error("PostgreSQL ended unasked", exit_status=returncode)
    return 128 - returncode if returncode < 0 else returncode or 1


if __name__ == "__main__":
    chosen = main.parser("Run the PostgreSQL instance of a pod.").parse_args()
    sys.exit(main.run(serve, chosen.spec, "Error while running the instance"))
