"""A small server for Prometheus that reads ledger and archive by itself, so that the alarm lives when no drill does."""

from __future__ import annotations

import hmac
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST
from rich.console import Console

from drillbook.cli import headless
from drillbook.cli.metrics import ArchiveState, Evidence, Readings, text
from drillbook.engine.step import Context, NullRecorder
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence.due import due, runs_of
from drillbook.evidence.trust import Trust
from drillbook.evidence_store import pending_runs
from drillbook.model import AskedTarget
from drillbook.profile import Site, load_site
from drillbook.steps.archive import FindArchive
from drillbook.steps.archive.base_backup import choose_base_backup
from drillbook.steps.archive.forecast import forecast_recovery
from drillbook.steps.archive.reading import read_archive
from drillbook.steps.archive.targets import resolve_target

FORECAST_EVERY = timedelta(hours=1)
"""Where no earlier run says how long it takes, a forecast reads a little of the archive."""


def serve(
    console: Console,
    outputs: Path,
    site: str,
    *,
    trust: Trust | None,
    listen: str,
    every: float,
    token_file: Path | None,
) -> int:
    """Read every ``every`` seconds and answer /metrics until SIGTERM or SIGINT; the exit status.

    ParameterError: the address is none, can't be taken, or is not loopback and no token is demanded.
    """
    profile = load_site(site)
    host, port = _address(listen, token_file)
    token = _token(token_file)
    reader = Reader(profile, outputs, trust)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        server = make_server(host, port, application(lambda: reader.found, profile, token), _Server, _Quiet)
    except OSError as error:
        raise ParameterError([f"--listen {listen}: {error.strerror}"], where="drillbook exporter") from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        console.print(
            f"serving   http://{host}:{server.server_port}/metrics for {profile.name}, read every {every:g} s"
        )
        while not stopped.is_set():
            reader.read()
            for name, why in reader.found.failed.items():
                console.print(f"not read  {name}: {why}", style="yellow")
            stopped.wait(every)
        server.shutdown()
    return 0


class Reader:
    """Reads the site's archive and evidence; what could not be read keeps its last value, and is said to have failed."""

    def __init__(self, site: Site, outputs: Path, trust: Trust | None) -> None:
        self.found = Readings(None, None, {"archive": "not read yet", "evidence": "not read yet"})
        self._site, self._outputs, self._trust = site, outputs, trust
        self._forecast = _Forecast()

    def read(self) -> None:
        """Read both once. Raises nothing: the exporter outlives what it watches."""
        failed: dict[str, str] = {}
        archive, evidence = self.found.archive, self.found.evidence
        try:
            archive = self._archive()
        except Exception as error:
            failed["archive"] = _said(error)
        try:
            evidence = self._evidence()
        except Exception as error:
            failed["evidence"] = _said(error)
        self.found = Readings(archive, evidence, failed)

    def _archive(self) -> ArchiveState:
        ctx = Context(
            site=self._site,
            run_id="",
            mode="plan",
            recorder=NullRecorder(),
            mask=lambda secret: None,
            outputs=self._outputs,
        )
        try:
            found = read_archive(ctx, samples=0, checked=0, read_through=0)
            self._forecast.renew(ctx)
        finally:
            ctx.close()
        reach = found.current.reach
        usable = bool(reach.backups and reach.periods) and not reach.backups[-1].problem
        damages = {str(item) for item in (*found.damages, *reach.damaged)} | {str(gap.broken) for gap in found.gaps}
        return ArchiveState(
            read_at=found.read_at,
            usable=usable,
            until=found.newest.committed_at if found.newest else None,
            archived_at=reach.newest_archived_at,
            damages=len(damages),
            forecast_seconds=self._forecast.seconds,
        )

    def _evidence(self) -> Evidence:
        runs = runs_of(self._outputs, self._site.name, self._trust)
        owed = due(self._site.schedules, runs, datetime.now(UTC))
        standing = [
            one for one in headless.runs() if one.site == self._site.name and one.state in ("waiting", "stopped")
        ]
        pending = pending_runs(self._outputs, self._site)
        return Evidence(tuple(owed), tuple(runs), len(standing), None if pending is None else len(pending))


@dataclass
class _Forecast:
    """The forecast of a recovery to the end of the archive, made again once an hour; None where it is unknown."""

    seconds: float | None = None
    made_at: datetime | None = None

    def renew(self, ctx: Context) -> None:
        now = datetime.now(UTC)
        if self.made_at and now - self.made_at < FORECAST_EVERY:
            return
        self.seconds, self.made_at = None, now
        try:
            cluster = FindArchive().do(ctx)
            backup = choose_base_backup(ctx, cluster, age_required=False)
            self.seconds = forecast_recovery(
                ctx, cluster, backup, resolve_target(ctx, cluster, AskedTarget()).wal
            ).seconds
        except RunbookError:
            return  # what is wrong with the archive is what the reading says


def application(found: Callable[[], Readings], site: Site, token: str) -> Callable[..., Iterable[bytes]]:
    """GET /metrics with the token, where one is demanded; nothing else is answered."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        given = str(environ.get("HTTP_AUTHORIZATION", ""))
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            start("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
            return []
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD") or environ.get("PATH_INFO") != "/metrics":
            start("404 Not Found", [("Content-Length", "0")])
            return []
        body = text(site, found())
        start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))])
        return [body]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the reverse lookup of the address that the library makes: it may take half a minute."""
        host, port = self.server_address[:2]
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(host), self.server_address[1] or port
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every half a minute is no news."""


def _address(listen: str, token_file: Path | None) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    try:
        loopback, number = ip_address(host.strip("[]")).is_loopback, int(port)
    except ValueError:
        raise ParameterError(
            [f"--listen {listen} is no address: write 127.0.0.1:9477"], where="drillbook exporter"
        ) from None
    if not loopback and token_file is None:
        raise ParameterError(
            [f"--listen {listen} is not loopback, and no --token-file is given: anybody on the network could read it"],
            where="drillbook exporter",
            todo="Give --token-file, and the same token to Prometheus (authorization.credentials).",
        )
    return host.strip("[]"), number


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ParameterError(
            [f"--token-file {path} can't be read: {error.strerror}"], where="drillbook exporter"
        ) from error
    if len(token) < 16 or not token.isprintable():
        raise ParameterError(
            [f"--token-file {path} holds no token of at least 16 characters"], where="drillbook exporter"
        )
    return token


def _said(error: Exception) -> str:
    return error.what if isinstance(error, RunbookError) else f"{type(error).__name__}: {error}"


__all__ = ["Reader", "application", "serve"]
