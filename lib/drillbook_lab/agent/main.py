"""What the pod's long-running programs share: arguments, signals, and how a failure is said."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent.log import SIDECAR, Log
from drillbook_lab.agent.procs import die_with_parent
from drillbook_lab.agent.spec import PodSpec, StoreSpec
from drillbook_lab.errors import LabError


class JobFailed(Exception):
    """The program can't reach its end; the text is the reason in CNPG's words."""


def parser(about: str) -> argparse.ArgumentParser:
    """`--spec FILE`."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--spec", type=Path, required=True, help="the pod's spec, a JSON file")
    return arguments


def prepare(spec: PodSpec, spec_file: Path) -> None:
    """Directories and files that PostgreSQL's identity must be able to use."""
    identity.prepare_dir(spec.run_dir)
    identity.prepare_dir(Path(spec.pgdata).parent)
    sidecar = Path(spec.run_dir, "logs", f"{SIDECAR}.log")
    if sidecar.exists():  # what archives as PostgreSQL writes there
        identity.share(sidecar)
    stores: list[StoreSpec] = [store for store in (spec.archive, spec.source) if store is not None]
    identity.share(spec_file, *(store.credentials_file for store in stores))


def run(program: Callable[[PodSpec, Path, Log], Awaitable[int]], spec_file: Path, failure: str) -> int:
    """Run a program to its exit status; a reason ends it with 1 and one line in the log.

    SIGTERM cancels it, unless it listens itself: its children go with it.
    """
    die_with_parent()
    spec = PodSpec.read(spec_file)
    log = Log(spec.pod, "instance-manager")

    async def supervised() -> int:
        prepare(spec, spec_file)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await program(spec, spec_file, log)

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        log.error(failure, "terminated")
        return 128 + signal.SIGTERM
    except (JobFailed, LabError) as error:
        log.error(failure, error)
        return 1
    except Exception as error:
        log.error(failure, f"{type(error).__name__}: {error}")
        sys.excepthook(*sys.exc_info())
        return 1
