"""Runs that were handed over as archives, laid out again as the outputs folder that they came from, to be verified."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drillbook.errors import EvidenceTampered
from drillbook.evidence.archive import SCRIPT, lines_by_run
from drillbook.evidence.chain import parse
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.seal import JOURNAL


@dataclass(frozen=True)
class Unpacked:
    """A run that was laid out: its site, its folder, and the ledger's lines about it that came with it."""

    site: str
    folder: Path
    lines: bytes

    def fault(self, ledger: Ledger) -> str:
        """What is wrong with the lines that came with it, compared with the whole ledger; "" if nothing."""
        known = b"".join(lines_by_run(ledger).get(self.folder.name, ()))
        return "" if self.lines == known else "its lines of the ledger are not those that the ledger has of this run"


def unpack(name: str, data: bytes, outputs: Path) -> Unpacked:
    """Lay one archive out as ``outputs/<runbook>/<run id>``.

    EvidenceTampered: it is no archive of one run, or holds a name that leads out of it. ``name`` is for the message.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {entry.name: tar.extractfile(entry) for entry in tar.getmembers()}
            files = {entry: file.read() for entry, file in members.items() if file is not None}
    except (tarfile.TarError, EOFError) as error:
        raise _not_one(name, str(error)) from error
    folders = {entry.partition("/")[0] for entry in files if "/" in entry}
    if len(files) != len(members) or len(folders) != 1 or any(".." in entry.split("/") for entry in files):
        raise _not_one(name, f"it holds {', '.join(sorted(folders)) or 'no folder'}")
    (run_id,) = folders
    extra = (
        set(files) - {SCRIPT, f"{run_id}.ledger.jsonl"} - {entry for entry in files if entry.startswith(f"{run_id}/")}
    )
    opened = parse(files.get(f"{run_id}/{JOURNAL}", b"").partition(b"\n")[0]) or {}
    site, runbook = str((opened.get("site") or {}).get("name", "")), str(opened.get("runbook", ""))
    if (
        extra
        or not run_id
        or not site
        or not runbook
        or {"/", "."} & set(run_id[:1] + site[:1] + runbook[:1] + runbook)
    ):
        raise _not_one(name, f"{', '.join(sorted(extra)) or 'its journal'} does not belong to one run")
    for entry, content in files.items():
        if entry.startswith(f"{run_id}/"):
            path = outputs / runbook / entry
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return Unpacked(site, outputs / runbook / run_id, files.get(f"{run_id}.ledger.jsonl", b""))


def put_envelopes(folder: Path, envelopes: Mapping[str, bytes]) -> None:
    """Write envelopes into a run's folder, each with the bytes that were signed and the bare signature, as `sign` does."""
    from drillbook.evidence.signatures import bare  # what signs takes a third of a second to import

    for name, data in envelopes.items():
        (folder / name).write_bytes(data)
        try:
            found = bare(json.loads(data))
        except ValueError:
            continue  # `verify` says that it is no envelope
        for suffix, content in found.items():
            (folder / f"{name.removesuffix('.dsse.json')}.{suffix}").write_bytes(content)


def _not_one(name: str, why: str) -> EvidenceTampered:
    return EvidenceTampered(
        f"{name} is not the archive of one run: {why}", todo="Compare it with the copy that is kept elsewhere."
    )


__all__ = ["Unpacked", "put_envelopes", "unpack"]
