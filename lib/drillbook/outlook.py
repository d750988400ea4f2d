"""The recovery window on a terminal, as JSON or as a picture; reads only, and needs no SQL."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drillbook import cards, picture
from drillbook.doctor import Silent
from drillbook.errors import ParameterError
from drillbook.model import show_instant
from drillbook.procedures import window
from drillbook.site import load_site
from drillbook.step import Context

MOST_BACKUPS = 12


def outlook(console: Console, site: str, *, as_json: bool, svg: Path | None, samples: int) -> int:
    """Tell what can be recovered now; the exit status: 0 all of it, 1 something is broken, 2 something may be on its way."""
    ctx = Context(site=load_site(site), run_id="", mode="plan", recorder=Silent(), mask=lambda secret: None)
    try:
        found = window.read_window(ctx, samples=samples)
    finally:
        ctx.close()
    if svg is not None:
        try:
            svg.write_text(picture.svg(found.drawn) + "\n", encoding="utf-8")
        except OSError as error:
            raise ParameterError(
                [f"--svg {svg} can't be written: {error.strerror}"], where="drillbook window"
            ) from error
    if as_json:
        console.print(json.dumps(_plain(found), indent=1, ensure_ascii=False), markup=False, soft_wrap=True)
    else:
        _tell(console, found)
    passing = all(gap.broken.state.passing for gap in found.gaps)
    if found.damaged or not found.backups or not passing:
        return 1
    return 2 if found.gaps else 0


def _plain(found: window.Reachable) -> dict[str, object]:
    reaches = [{"latest": show_instant(reach.latest) if reach.latest else None} for reach in found.backups]
    plain = found.model_dump(mode="json")
    plain["backups"] = [item | more for item, more in zip(plain["backups"], reaches, strict=True)]
    return plain | {"todo": list(found.todo)}


def _tell(console: Console, found: window.Reachable) -> None:
    console.print(
        Text.assemble(("recovery window", "bold"), f"  {found.location}/{found.server_name}, read {_at(found.read_at)}")
    )
    for period in found.periods:
        console.print(Text.assemble(("  reachable   ", "green"), f"{_at(period.first)}  to  {_at(period.last)}"))
    if not found.periods:
        console.print(Text("  nothing can be recovered to a time", style="bold red"))
    if found.newest is not None:
        commit = found.newest
        console.print(
            Text(
                f"  newest      commit of XID {commit.xid} at {_at(commit.committed_at)}: by target_xid, or target_lsn {commit.lsn}"
            )
        )
    archived = f", archived {_at(found.newest_archived_at)}" if found.newest_archived_at else ""
    console.print(
        Text(f"  WAL         {found.segments:,} segments, the newest {found.newest_segment or 'none'}{archived}")
    )
    _backups(console, found)
    for gap in found.gaps:
        style = "yellow" if gap.broken.state.passing else "bold red"
        console.print(
            Text.assemble(("  gap         ", style), f"{gap.broken}, between {_at(gap.after)} and {_at(gap.before)}")
        )
    for item in found.damaged:
        console.print(Text.assemble(("  damaged     ", "bold red"), str(item)))
    if found.sampled and not found.damaged:
        console.print(Text(f"  sample      {len(found.sampled)} segments read through, every record's checksum right"))
    if not found.uploads_told and found.gaps:
        console.print(Text("  uploads     not told: these credentials may not list multipart uploads"))
    for line in found.todo:
        console.print(Text(f"    → {line}"))


def _backups(console: Console, found: window.Reachable) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("  base backup", "reaches from", "to", "timeline", "WAL", "size", ""):
        table.add_column(heading, no_wrap=heading != "")
    for reach in found.backups[-MOST_BACKUPS:]:
        latest = _at(reach.latest) if reach.latest else "its own end"
        size = cards.show_bytes(reach.size_bytes)
        table.add_row(
            f"  {reach.backup_id}", _at(reach.earliest), latest, str(reach.timeline), f"{reach.segments:,}", size,
            Text(reach.problem, style="red"),
        )  # fmt: skip
    if found.backups:
        console.print(table)
    if len(found.backups) > MOST_BACKUPS:
        console.print(Text(f"  and {len(found.backups) - MOST_BACKUPS} older ones: --json has them all", style="dim"))
    for backup_id, reason in found.unusable:
        console.print(Text.assemble(("  not usable  ", "yellow"), f"{backup_id}: {reason}"))


def _at(at: datetime) -> str:
    return show_instant(at).replace("T", " ")
