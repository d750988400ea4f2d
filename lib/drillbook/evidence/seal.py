"""The seal: what a run's folder holds, fixed by digest and written down in the site's ledger."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook.errors import Changed, EvidenceTampered
from drillbook.evidence.canonical import canonical, sha256, sha256_file
from drillbook.evidence.journal import Journal
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.record import record
from drillbook.evidence.writing import write_whole
from drillbook.model import Verdict
from drillbook.profile.evidence import EvidenceSettings

JOURNAL, RECORD, SUMS = "journal.jsonl", "record.json", "SHA256SUMS"
ATTESTED = ("attestation", "test-result")
"""Names of the signed statements about the files of a run: no part of what they are about."""
SIGNED = tuple(f"{name}.{suffix}" for name in ATTESTED for suffix in ("dsse.json", "pae", "sig"))
RECEIPT = "archived.json"
"""Whether and where the run is locked away: noted after the seal, so no part of what is sealed."""
_AFTERWARDS = (RECEIPT, *SIGNED)
# With what a process leaves that is killed while it writes one of them.
_OUTSIDE = {SUMS, *_AFTERWARDS, *(f".{name}.part" for name in _AFTERWARDS)}


@dataclass(frozen=True)
class Seal:
    """A sealed run: its verdict and the two digests that the ledger keeps."""

    run_id: str
    verdict: Verdict | None
    record_sha256: str
    sums_sha256: str


def sealed_runs(outputs: Path | None, runbooks: str = "*") -> list[Path]:
    """The folders of sealed runs below ``outputs``, the newest first; ``runbooks`` is a pattern of their names."""
    if outputs is None:
        return []
    found = (path.parent for path in outputs.glob(f"{runbooks}/*/{SUMS}"))
    return sorted(found, key=lambda folder: folder.name, reverse=True)


def seal(run_dir: Path, ledger: Ledger | None) -> Seal:
    """Write ``record.json`` and ``SHA256SUMS`` and note the run in the ledger (``None`` for a plan, which isn't in it).

    Sealing again is harmless while nothing has changed. Raises :class:`EvidenceTampered` if the run was sealed before
    and its folder is different now, naming a file; :class:`EvidenceUnwritable` if it can't be written.
    """
    data = record(Journal(run_dir / JOURNAL).events())
    run_id, runbook = str(data["record"]["id"]), str(data["test"]["runbook"])
    stored = canonical(data) + b"\n"
    earlier = _sealed(ledger, run_id)
    if (run_dir / SUMS).exists():
        _require_unchanged(run_dir, stored)
        if earlier and earlier["sums_sha256"] != sha256_file(run_dir / SUMS):
            raise _changed(run_dir, f"{SUMS} is not the one that the ledger names")
    elif earlier:
        raise _changed(run_dir, f"{SUMS} is missing, and the ledger says that the run was sealed at {earlier['at']}")
    else:
        _write(run_dir / RECORD, stored)
        _write(run_dir / SUMS, sums(run_dir).encode())
    shown = data["verdict"]["verdict"]
    verdict = None if shown is None else Verdict(shown)
    sealed = Seal(run_id, verdict, sha256(stored), sha256_file(run_dir / SUMS))
    if ledger is not None and not earlier:
        ledger.seal(run_id, runbook, verdict, record_sha256=sealed.record_sha256, sums_sha256=sealed.sums_sha256)
    return sealed


def sign_if_asked(run_dir: Path, ledger: Ledger, settings: EvidenceSettings) -> str:
    """Sign a run that was just sealed, if the profile names a key; why it is not signed though it should be, else ""."""
    if not settings.key:
        return ""
    # What signs takes a third of a second to import: only those who sign pay for it.
    from drillbook.evidence.signatures import sign_sealed

    return sign_sealed(run_dir, ledger, settings)


def stamp_if_asked(ledger: Ledger, settings: EvidenceSettings) -> str:
    """Have the ledger's head stamped, if the profile names an authority; why it is not stamped though it should be, else ""."""
    if settings.timestamp is None:
        return ""
    from drillbook.evidence import timestamps  # as above: only those who ask pay for it

    return timestamps.stamp_if_asked(ledger, settings.timestamp)


def files_of(run_dir: Path) -> list[str]:
    """Every file of a run's folder but ``SHA256SUMS`` and what is written after the seal, by its relative path, sorted."""
    found: list[str] = []
    for folder, _, names in os.walk(run_dir):
        inside = os.path.relpath(folder, run_dir)
        found += [name if inside == "." else f"{inside}/{name}" for name in names]
    return sorted(name for name in found if name not in _OUTSIDE)


def sums(run_dir: Path) -> str:
    """``SHA256SUMS`` in the format of coreutils: ``sha256sum -c SHA256SUMS`` checks it."""
    return "".join(f"{sha256_file(run_dir / name)}  {name}\n" for name in files_of(run_dir))


def read_sums(text: str) -> dict[str, str]:
    """The digests by file name."""
    return {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines()) if name}


def _sealed(ledger: Ledger | None, run_id: str) -> dict[str, Any] | None:
    entries = ledger.entries() if ledger is not None else []
    return next((e for e in entries if e.get("kind") == "seal" and e.get("run_id") == run_id), None)


def _require_unchanged(run_dir: Path, stored: bytes) -> None:
    if (run_dir / RECORD).read_bytes() != stored:
        raise _changed(run_dir, f"{RECORD} is not what the journal shows")
    listed = read_sums((run_dir / SUMS).read_text(encoding="utf-8"))
    for name in sorted(listed.keys() | set(files_of(run_dir))):
        present = (run_dir / name).exists()
        if name not in listed:
            raise _changed(run_dir, f"{name} was added after the seal")
        if not present or sha256_file(run_dir / name) != listed[name]:
            raise _changed(run_dir, f"{name} was {'changed' if present else 'removed'} after the seal")


def _changed(run_dir: Path, what: str) -> EvidenceTampered:
    return EvidenceTampered(
        f"run {run_dir.name} is sealed and different now: {what}",
        todo="Run `drillbook verify` to see all of it; a sealed run is never sealed again.",
        changed=Changed.NOTHING,
    )


def _write(path: Path, data: bytes) -> None:
    write_whole(path, data, todo="Make room for it, then seal again with `drillbook finish`.", changed=Changed.UNKNOWN)
