"""The recovery window on a terminal, as JSON or as a picture; reads only, and needs no SQL."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drillbook.archive import READ_THROUGH, Reading
from drillbook.archive.sampling import SAMPLES
from drillbook.engine.step import Context, NullRecorder
from drillbook.errors import ParameterError
from drillbook.model import show_instant
from drillbook.profile import load_site
from drillbook.report import cards, timeline
from drillbook.steps.archive.reading import ArchiveReading, read_archive

MOST_BACKUPS = 12


def show_window(console: Console, site: str, *, as_json: bool, svg: Path | None, samples: int) -> int:
    """Tell what can be recovered now; the exit status: 0 all of it, 1 something is broken, 2 something may be on its way."""
    ctx = Context(site=load_site(site), run_id="", mode="plan", recorder=NullRecorder(), mask=lambda secret: None)
    try:
        with console.status("reading the archive"):
            found = read_archive(ctx, samples=samples, checked=samples, read_through=READ_THROUGH if samples else 0)
    finally:
        ctx.close()
    if svg is not None:
        try:
            svg.write_text(timeline.svg(found.drawing) + "\n", encoding="utf-8")
        except OSError as error:
            raise ParameterError(
                [f"--svg {svg} can't be written: {error.strerror}"], where="drillbook window"
            ) from error
    if as_json:
        console.print(json.dumps(_plain(found), indent=1, ensure_ascii=False), markup=False, soft_wrap=True)
    else:
        _tell(console, found)
    if found.whole:
        return 0
    older = any(folder.damages or folder.reach.gaps for folder in found.folders[:-1])
    return 2 if found.current.waits and not older else 1


def _plain(found: ArchiveReading) -> dict[str, object]:
    plain = found.model_dump(mode="json")
    for folder, reading in zip(plain["folders"], found.folders, strict=True):
        for item, reach in zip(folder["reach"]["backups"], reading.reach.backups, strict=True):
            item["latest"] = show_instant(reach.latest) if reach.latest else None
        folder["periods"] = [period.model_dump(mode="json") for period in reading.periods]
    damages = [*found.damages, *found.passing, *found.spare]
    return plain | {
        "periods": [period.model_dump(mode="json") for period in found.periods],
        "gaps": [gap.model_dump(mode="json") for gap in found.gaps],
        "damages": [item.model_dump(mode="json") for item in damages],
        "todo": list(found.todo),
    }


def _tell(console: Console, found: ArchiveReading) -> None:
    console.print(Text.assemble(("recovery window", "bold"), f"  {found.location}, read {_at(found.read_at)}"))
    for period in found.periods:
        console.print(Text.assemble(("  reachable   ", "green"), f"{_at(period.first)}  to  {_at(period.last)}"))
    if not found.periods:
        console.print(Text("  nothing can be recovered to a time", style="bold red"))
    if found.newest is not None:
        told = f"commit of XID {found.newest.xid} at {_at(found.newest.committed_at)}: by target_xid, or target_lsn {found.newest.lsn}"
        console.print(Text(f"  newest      {told}"))
    for folder in found.folders:
        _folder(console, folder)
    _damages(console, found)
    for line in found.todo:
        console.print(Text(f"    → {line}"))


def _folder(console: Console, folder: Reading) -> None:
    reach = folder.reach
    bounds = [f"{word} {_at(at)}" for word, at in (("from", folder.since), ("until", folder.until)) if at]
    console.print(
        Text.assemble(("serverName ", "bold"), folder.server_name, f" ({', '.join(bounds)})" if bounds else "")
    )
    archived = f", archived {_at(reach.newest_archived_at)}" if reach.newest_archived_at else ""
    console.print(
        Text(f"  WAL         {reach.segments:,} segments, the newest {reach.newest_segment or 'none'}{archived}")
    )
    _backups(console, folder)
    for gap in reach.gaps:
        style = "yellow" if gap.broken.state.passing else "bold red"
        console.print(
            Text.assemble(("  gap         ", style), f"{gap.broken}, between {_at(gap.after)} and {_at(gap.before)}")
        )
    for item in reach.damaged:
        console.print(Text.assemble(("  damaged     ", "bold red"), str(item)))
    if reach.sampled and not reach.damaged:
        console.print(Text(f"  sample      {len(reach.sampled)} segments read through, every record's checksum right"))
    if not reach.uploads_told and reach.gaps:
        console.print(Text("  uploads     not reported: these credentials may not list multipart uploads"))


def _backups(console: Console, folder: Reading) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("  base backup", "reaches from", "to", "timeline", "WAL", "size", ""):
        table.add_column(heading, no_wrap=heading != "")
    found = folder.reach
    for reach in found.backups[-MOST_BACKUPS:]:
        latest = _at(reach.latest) if reach.latest else "its own end"
        size = cards.show_bytes(reach.size_bytes)
        table.add_row(
            f"  {reach.backup_id}",
            _at(reach.earliest),
            latest,
            str(reach.timeline),
            f"{reach.segments:,}",
            size,
            Text(reach.problem, style="red"),
        )
    if found.backups:
        console.print(table)
    if len(found.backups) > MOST_BACKUPS:
        console.print(Text(f"  and {len(found.backups) - MOST_BACKUPS} older ones: --json has them all", style="dim"))
    for backup_id, reason in found.unusable:
        console.print(Text.assemble(("  not usable  ", "yellow"), f"{backup_id}: {reason}"))


def _damages(console: Console, found: ArchiveReading) -> None:
    """What the survey found and the lines above have not reported: a gap is a damage as well."""
    count, told = len(found.damages), {gap.broken.first_segment for gap in found.gaps}
    console.print(
        Text.assemble(
            ("damages ", "bold"), (str(count) if count else "none in what was read", "bold red" if count else "green")
        )
    )
    for item in (*found.damages, *found.passing, *found.spare):
        if not item.segment or item.segment not in told:
            where = f" ({item.key})" if item.key and item.key not in item.what else ""
            costs = "; it takes room and costs nothing" if item.spare else ""
            style = "yellow" if item.passing or item.spare else "bold red"
            console.print(Text.assemble((f"  {item.state:<11} ", style), f"{item.what}{where}{costs}"))
    for line in (line for folder in found.folders for line in folder.survey.read):
        console.print(Text(f"  read        {line}", style="dim"))
    for line in (line for folder in found.folders for line in folder.survey.notes):
        console.print(Text(f"  note        {line}", style="dim"))


def _at(at: datetime) -> str:
    return show_instant(at).replace("T", " ")


__all__ = ["SAMPLES", "show_window"]
