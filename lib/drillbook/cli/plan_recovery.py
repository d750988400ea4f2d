"""Which of the three recoveries fit now, and what each costs: read from cluster and archive; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drillbook.engine import outputs_dir
from drillbook.engine.step import Context, NullRecorder, Step
from drillbook.errors import NotReady, RunbookError
from drillbook.evidence.facts import TenantLoss
from drillbook.model import AskedTarget, Verdict, show_instant, show_seconds, show_span
from drillbook.profile import load_site
from drillbook.steps.archive.forecast import forecast_recovery
from drillbook.steps.archive.losses import losses, to_tell
from drillbook.steps.archive.restore_point import ChooseRestorePoint, RestoreStart
from drillbook.steps.archive.room import RoomForReplacement, RoomInPlace
from drillbook.steps.archive.targets import resolve_target
from drillbook.steps.backup.safety_backup import not_serving
from drillbook.steps.cutover.rebuild_check import CheckRebuild
from drillbook.steps.cutover.repoint import CheckRepoint
from drillbook.steps.cutover.swap_check import CheckSwapFits
from drillbook.steps.preflight.old_cluster import OldCluster, ReadOldCluster, as_it_was

ARCHIVED = "nothing that is archived"


@dataclass
class Way:
    """One of the recoveries: what is in its way ("" for none), how long every tenant is down, what is lost, what room it needs."""

    runbook: str
    outage: str
    lost: str
    room: str
    faults: list[str] = field(default_factory=list)


def plan_recovery(console: Console, site: str, database: str, target: Mapping[str, str]) -> int:
    """Print the three recoveries side by side; the exit status: 0 at least one fits, 4 none does."""
    profile = load_site(site)
    database = database or profile.tenants[0].database
    ctx = Context(
        site=profile,
        run_id="plan",
        mode="plan",
        recorder=NullRecorder(),
        mask=lambda secret: None,
        outputs=outputs_dir(),
    )
    try:
        with console.status("reading cluster and archive"):
            old = ReadOldCluster().do(ctx)
            point = ChooseRestorePoint(old, AskedTarget.of(target)).do(ctx)
            ways = ways_of(ctx, old, point, database)
    finally:
        ctx.close()
    _show(console, old, point, ways)
    return 0 if any(not way.faults for way in ways) else 4


def ways_of(ctx: Context, old: OldCluster, point: RestoreStart, database: str) -> list[Way]:
    """The three recoveries to this point, each with what is in its way."""
    once, twice = _forecast(ctx, old, point)
    mine, every = _lost(ctx, old, point, database)
    spec = as_it_was(ctx, old)["spec"]
    size = f"{spec.get('storage', {}).get('size', 'unknown')} a volume"
    why = not_serving(ctx, old.ref)
    swap = CheckSwapFits(old, database, point.resolved)
    return [
        Way(
            "recover-point-in-time",
            f"{database} only: read-only for {once}, then seconds",
            mine,
            f"a copy of {size}, and the database once more on each instance",
            [why] if why else _faults(ctx, swap),
        ),
        Way(
            "recover-full-restore",
            f"every tenant: {once}",
            every,
            f"{old.instances} × {size}",
            [*_faults(ctx, CheckRepoint(old)), *_too_small(ctx, RoomForReplacement(old, point))],
        ),
        Way(
            "recover-full-restore-in-place",
            f"every tenant: {twice}",
            every,
            f"a copy of {size}",
            [*_faults(ctx, CheckRebuild(old)), *_too_small(ctx, RoomInPlace(old, point))],
        ),
    ]


def _too_small(ctx: Context, room: RoomForReplacement) -> list[str]:
    return [f"{check.name}: {check.observed}" for check in room.do(ctx).checks if check.verdict is Verdict.FAILED]


def _faults(ctx: Context, step: Step[Any]) -> list[str]:
    try:
        step.do(ctx)
    except NotReady as error:
        return list(error.faults)
    except RunbookError as error:
        return [error.what]
    return []


def _forecast(ctx: Context, old: OldCluster, point: RestoreStart) -> tuple[str, str]:
    """One recovery and two, each with its interval."""
    try:
        wal = (point.resolved or resolve_target(ctx, old, AskedTarget())).wal
        found = forecast_recovery(ctx, old, point.backup, wal)
    except RunbookError as error:
        return f"unknown ({error.what})", "unknown"
    if found.seconds is None or found.low is None or found.high is None:
        return "an unknown time", "an unknown time"
    return show_span(found.seconds, found.low, found.high), show_span(2 * found.seconds, 2 * found.low, 2 * found.high)


def _lost(ctx: Context, old: OldCluster, point: RestoreStart, database: str) -> tuple[str, str]:
    """What the database loses, and what every tenant does."""
    if point.resolved is None:
        return ARCHIVED, ARCHIVED
    try:
        found = to_tell(
            ctx.site,
            losses(
                ctx, old, point.resolved.last_before, point.resolved.first_after, server_name=point.backup.server_name
            ),
        )
    except RunbookError as error:
        return f"unknown ({error.what})", "unknown"
    said = {one.database: _said(one) for one in found}
    return f"{database}: {said.get(database, 'unknown')}", "; ".join(f"{name}: {text}" for name, text in said.items())


def _said(one: TenantLoss) -> str:
    return f"{one.commits} commits ({show_seconds(one.seconds)} of work)" if one.commits else "nothing"


def _show(console: Console, old: OldCluster, point: RestoreStart, ways: list[Way]) -> None:
    console.print(Text.assemble(("recoveries of ", "bold"), f"{old.ref}, target: {point.target}"))
    backup = point.backup
    console.print(
        Text(
            f"  base backup {backup.backup_id}, ended {show_instant(backup.end_time)}, serverName {backup.server_name}"
        )
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("runbook", "fits", "outage", "lost from service", "room"):
        table.add_column(heading, overflow="fold")
    for way in ways:
        fits = Text("no", style="bold red") if way.faults else Text("yes", style="green")
        table.add_row(way.runbook, fits, way.outage, way.lost, way.room)
    console.print(table)
    for way in ways:
        for fault in way.faults:
            console.print(Text(f"    {way.runbook}: {fault}"))


__all__ = ["Way", "plan_recovery", "ways_of"]
