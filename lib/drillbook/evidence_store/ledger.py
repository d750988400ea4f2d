"""The ledger in the bucket: its lines in objects that are written once, and a head that is moved on by a condition.

A machine puts the lines that are not there yet as one object, named by its first line's number, only if that is absent;
then it moves the head, only if nobody else has. So of two machines that go on from the same line one is first, and the
other sees that its own line has another digest: a digest stands for all lines before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from drillbook.errors import EvidenceTampered, ObjectStoreError
from drillbook.evidence import Ledger
from drillbook.evidence.canonical import canonical
from drillbook.evidence.chain import Line, read_lines
from drillbook.evidence_store.bucket import Lock, LockedBucket
from drillbook.evidence_store.keeping import compared, keep, versions_of
from drillbook.model import parse_instant
from drillbook.profile.evidence import EvidenceArchive

SCHEMA = "drillbook.ledger-head/1"
_TURNS = 50  # of others that may move the head before this machine


@dataclass(frozen=True)
class Head:
    """How far a ledger has come: the number of its lines, and the digest of the last one."""

    lines: int
    sha256: str

    def __str__(self) -> str:
        return f"line {self.lines} ({self.sha256[:12]})" if self.lines else "no line"


def ledger_prefix(site: str) -> str:
    """Where a site's ledger is below the profile's prefix."""
    return f"{site}/ledger/"


def head_key(site: str) -> str:
    """The head's object."""
    return f"{ledger_prefix(site)}head.json"


def chunk_key(site: str, first: int) -> str:
    """The object of the lines from ``first`` on."""
    return f"{ledger_prefix(site)}{first:010d}.jsonl"


def read_head(data: bytes, where: str) -> Head:
    """A head's object; EvidenceTampered for anything else."""
    try:
        found = json.loads(data)
        return Head(int(found["lines"]), str(found["sha256"]))
    except (ValueError, TypeError, KeyError) as error:
        raise EvidenceTampered(
            f"{where} is not the head of a ledger",
            todo="`drillbook verify s3://…` names its versions: see who wrote the newest.",
        ) from error


def keep_ledger(bucket: LockedBucket, settings: EvidenceArchive, ledger: Ledger, site: str) -> Head:
    """Put the lines that are not there yet, and move the head; where it is then. Safe to repeat, from several machines.

    EvidenceTampered: this ledger does not go on from the stored one (both heads are named). ObjectStoreError.
    """
    for _ in range(_TURNS):
        stored = bucket.read(head_key(site))
        head = read_head(stored[0], f"{bucket.location}/{head_key(site)}") if stored else Head(0, "")
        own = _own(ledger)
        _require_extension(bucket, ledger, own, head)
        if len(own) == head.lines:
            return head
        end, lock = _keep_lines(bucket, settings, site, ledger, own, head), _lock(settings, own)
        data = canonical({"schema": SCHEMA, "site": site, "lines": end.lines, "sha256": end.sha256}) + b"\n"
        moved = bucket.put(head_key(site), data, lock, if_absent=stored is None, if_match=stored[1] if stored else "")
        if moved is not None:
            compared(bucket, head_key(site), moved, data, lock)
            if end.lines == len(own):
                return end
    raise ObjectStoreError(
        f"{bucket.location}/{head_key(site)} was moved by others {_TURNS} times in a row",
        reason="Busy",
        todo="`drillbook archive` tries again.",
    )


def token_key(site: str, line: int) -> str:
    """The object of the time stamp over a line."""
    return f"{ledger_prefix(site)}{line:010d}.tsr"


def keep_tokens(bucket: LockedBucket, settings: EvidenceArchive, ledger: Ledger, site: str, head: Head) -> None:
    """Put the newest time stamp that is over a line by now, if there is one: it covers all lines before it."""
    number = max((number for number in ledger.stamped() if number <= head.lines), default=0)
    if number:
        own = _own(ledger)[:number]
        data = ledger.token(number).read_bytes()
        keep(bucket, token_key(site, number), data, _lock(settings, own), same=_is_token)


def _is_token(data: bytes) -> bool:
    """Another machine's token over the same line is as good: whether it is one is judged by `audit`."""
    return len(data) > 0


def _own(ledger: Ledger) -> list[Line]:
    return read_lines(ledger.path.read_bytes())[0] if ledger.path.exists() else []


def _keep_lines(
    bucket: LockedBucket, settings: EvidenceArchive, site: str, ledger: Ledger, own: Sequence[Line], head: Head
) -> Head:
    """Put the lines behind the head, or take those that are there without a head that names them; the new head.

    Such lines are fewer (a process was killed before it moved the head) or more (another was faster); never others.
    """
    key = chunk_key(site, head.lines + 1)
    data = b"".join(line.raw + b"\n" for line in own[head.lines :])
    lock = _lock(settings, own)
    made = bucket.put(key, data, lock, if_absent=True)
    if made is not None:
        compared(bucket, key, made, data, lock)
        return _head(own)
    mine = [line.raw for line in _own(ledger)[head.lines :]]
    there: list[Line] = []
    for version in reversed(versions_of(bucket, key)):
        there = read_lines(bucket.version(key, version.version_id))[0]
        if there and [line.raw for line in there] == mine[: len(there)]:
            wanted = _lock(settings, there)
            if lacks := bucket.lock(key, version.version_id, hold=wanted.hold).lacks(wanted):
                raise EvidenceTampered(
                    f"{bucket.location}/{key} (version {version.version_id}) holds lines of the ledger, and {lacks}",
                    todo="Lengthen its lock as the profile says (`aws s3api put-object-retention`), then `drillbook archive`.",
                )
            return Head(head.lines + len(there), there[-1].sha256)
    raise _forked(bucket, ledger, _head(own), Head(head.lines + len(there), there[-1].sha256 if there else ""))


def _lock(settings: EvidenceArchive, lines: Sequence[Line]) -> Lock:
    """Counted from the last line's time, so that each try asks for the same."""
    at = next(str(line.value["at"]) for line in reversed(lines) if line.value and "at" in line.value)
    return Lock(settings.mode, settings.until(parse_instant(at)), settings.legal_hold)


def _head(lines: Sequence[Line]) -> Head:
    return Head(len(lines), lines[-1].sha256) if lines else Head(0, "")


def _require_extension(bucket: LockedBucket, ledger: Ledger, own: Sequence[Line], head: Head) -> None:
    """The stored head must be one of this ledger's lines."""
    if head.lines and (len(own) < head.lines or own[head.lines - 1].sha256 != head.sha256):
        raise _forked(bucket, ledger, _head(own), head)


def _forked(bucket: LockedBucket, ledger: Ledger, own: Head, stored: Head) -> EvidenceTampered:
    return EvidenceTampered(
        f"{ledger.path} is at {own}, and does not go on from the ledger in {bucket.location}, which is at {stored}",
        todo="If two machines run this site, give each an evidence.archive.prefix of its own. If this ledger was restored "
        "or begun again, put the stored one in its place (`drillbook verify s3://… --out DIR` writes it). If neither, "
        "somebody has changed one of them: `drillbook verify` on both says which. Nothing of this machine was lost.",
    )


__all__ = [
    "SCHEMA",
    "Head",
    "chunk_key",
    "head_key",
    "keep_ledger",
    "keep_tokens",
    "ledger_prefix",
    "read_head",
    "token_key",
]
