"""A bucket against itself, by its versions: nobody's machine and nobody's word is needed.

What must be true of it, besides what `evidence.verify` asks of the runs and the ledger that are in it:

1. Each object has one content: no delete marker hides it, and no other bytes were put over it.
2. Each version that counts is locked, and as long and as strictly as the profile says, where one is given.
3. The ledger's objects follow each other without a hole, and its head is its last line.
4. Each index names the tar that is there; each run that the ledger sealed is there.
5. Where this machine's outputs are given: its ledger goes on from the stored one, and it has each run that is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drillbook.errors import EvidenceTampered
from drillbook.evidence import EvidenceFinding, Ledger, verify
from drillbook.evidence.canonical import sha256
from drillbook.evidence.chain import read_lines
from drillbook.evidence.seal import JOURNAL
from drillbook.evidence.unpacking import put_envelopes, unpack
from drillbook.evidence_store.bucket import Lock, LockedBucket, Version
from drillbook.evidence_store.ledger import chunk_key, head_key, ledger_prefix, read_head
from drillbook.evidence_store.runs import INDEX, run_prefix
from drillbook.model import parse_instant, show_instant
from drillbook.profile.evidence import EvidenceArchive

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from drillbook.evidence.trust import Trust

_RULE = 12  # the first number behind those of `evidence.verify`


@dataclass(frozen=True)
class Chosen:
    """The version of an object that counts; its bytes are read where they are asked for, and not kept: there may be thousands."""

    bucket: LockedBucket
    version: Version
    lock: Lock

    @property
    def data(self) -> bytes:
        return self.bucket.version(self.version.key, self.version.version_id)


def sites_in(bucket: LockedBucket) -> list[str]:
    """The sites whose evidence is in a bucket, below its prefix."""
    return sorted({version.key.partition("/")[0] for version in bucket.versions("") if "/" in version.key})


def audit(
    bucket: LockedBucket,
    site: str,
    to: Path,
    *,
    settings: EvidenceArchive | None = None,
    trust: Trust | None = None,
    outputs: Path | None = None,
    authority: Sequence[Certificate] = (),
) -> list[EvidenceFinding]:
    """Check all that is in the bucket of a site, and lay it out in the empty folder ``to`` as an outputs folder; [] means all is well.

    ``settings`` say how it must be locked; without them any lock that holds is enough. ``outputs`` is the folder of the
    machine that archived it, to be compared; ``authority`` are the certificates by which time stamps count.
    ObjectStoreError: the bucket can't be read.
    """
    return _Audit(bucket, site, to, settings).findings(trust, outputs, authority)


class _Audit:
    def __init__(self, bucket: LockedBucket, site: str, to: Path, settings: EvidenceArchive | None) -> None:
        self._bucket, self._site, self._to, self._settings = bucket, site, to, settings
        self._found: list[EvidenceFinding] = []

    def _tell(self, key: str, what: str, *, tampered: bool = True) -> None:
        self._found.append(EvidenceFinding(_RULE, f"{self._bucket.location}/{key}", what, tampered))

    def findings(
        self, trust: Trust | None, outputs: Path | None, authority: Sequence[Certificate]
    ) -> list[EvidenceFinding]:
        keys: dict[str, list[Version]] = {}
        for version in self._bucket.versions(f"{self._site}/"):
            keys.setdefault(version.key, []).append(version)
        heads = keys.pop(head_key(self._site), [])
        chosen = {key: found for key, versions in keys.items() if (found := self._choose(key, versions))}
        ledger = self._ledger(chosen)
        self._head(heads, ledger)
        runs = self._runs(chosen)
        self._locks(chosen, ledger, runs)
        shown = verify(self._to, trust=trust)
        if self._tokens(chosen):
            from drillbook.evidence.timestamps import stamp_findings  # only those who have tokens pay for it

            shown += stamp_findings(Ledger.of(self._to, self._site), authority)[0]
        self._found += [_as_archived(finding, self._bucket.location) for finding in shown]
        if outputs is not None:
            self._compare(outputs, ledger, set(runs))
        return self._found

    def _choose(self, key: str, versions: Sequence[Version]) -> Chosen | None:
        """The oldest locked version: what came later came over it. Whatever hides it or differs from it is named."""
        kept = [version for version in versions if not version.deleted]
        found: Chosen | None = None
        for version in reversed(kept):
            lock = self._bucket.lock(key, version.version_id, hold=bool(self._settings and self._settings.legal_hold))
            if found is None or (not found.lock.mode and lock.mode):
                found = Chosen(self._bucket, version, lock)
        for version in versions:
            when = f"{show_instant(version.at)} (version {version.version_id})"
            if version.deleted:
                there = f"version {found.version.version_id} is still there" if found else "no version of it is left"
                self._tell(key, f"was deleted at {when}: {there}")
            elif found and version != found.version:
                differs = self._bucket.version(key, version.version_id) != found.data
                if differs:
                    over = "newer" if version.at >= found.version.at else "older"
                    what = f"has a {over} version of {when} with other bytes than version {found.version.version_id}"
                    self._tell(key, f"{what}, which is the locked one" if found.lock.mode else what)
        return found

    def _ledger(self, chosen: dict[str, Chosen]) -> list[Any]:
        """The ledger's lines, written where `verify` looks for them."""
        data, number = b"", 0
        for key in sorted(
            key for key in chosen if key.startswith(ledger_prefix(self._site)) and key.endswith(".jsonl")
        ):
            if key != chunk_key(self._site, number + 1):
                self._tell(key, f"does not follow line {number} of the ledger: lines are missing before it")
            part = chosen[key].data
            lines, rest = read_lines(part)
            if rest:
                self._tell(key, f"does not end in a newline behind line {number + len(lines)}")
            data, number = data + b"".join(line.raw + b"\n" for line in lines), number + len(lines)
        if not data:
            self._tell(ledger_prefix(self._site), "there is no ledger: what is missing can't be seen")
        path = Ledger.of(self._to, self._site).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read_lines(data)[0]

    def _tokens(self, chosen: dict[str, Chosen]) -> bool:
        """Time stamps, written next to the ledger; whether there are any."""
        prefix = ledger_prefix(self._site)
        names = {key: key.removeprefix(prefix).removesuffix(".tsr") for key in chosen if key.startswith(prefix)}
        found = {key: int(name) for key, name in names.items() if key.endswith(".tsr") and name.isdigit()}
        for key, number in found.items():
            Ledger.of(self._to, self._site).token(number).write_bytes(chosen[key].data)
        return bool(found)

    def _head(self, versions: Sequence[Version], lines: Sequence[Any]) -> None:
        """Each version of the head must be a line of the ledger, and the newest its last one."""
        key = head_key(self._site)
        furthest = 0
        for version in versions:
            when = f"{show_instant(version.at)} (version {version.version_id})"
            if version.deleted:
                self._tell(key, f"was deleted at {when}")
                continue
            try:
                head = read_head(self._bucket.version(key, version.version_id), key)
            except EvidenceTampered:
                self._tell(key, f"the version of {when} is not the head of a ledger")
                continue
            if not 0 < head.lines <= len(lines) or lines[head.lines - 1].sha256 != head.sha256:
                self._tell(key, f"the version of {when} names {head}, which is not in the ledger that is there")
            furthest = max(furthest, head.lines)
            lock = self._bucket.lock(key, version.version_id)
            if not lock.mode or (lock.until and lock.until <= datetime.now(UTC)):
                self._tell(key, f"the version of {when} is not locked", tampered=False)
        if lines and furthest < len(lines):
            what = f"names line {furthest}, and {len(lines)} are there: the upload was interrupted, or the head was removed"
            self._tell(key, what, tampered=not versions)

    def _runs(self, chosen: dict[str, Chosen]) -> dict[str, dict[str, Chosen]]:
        """Each run's objects, laid out where `verify` looks for them."""
        runs: dict[str, dict[str, Chosen]] = {}
        prefix = run_prefix(self._site)
        for key, found in chosen.items():
            if key.startswith(prefix):
                run_id, _, name = key.removeprefix(prefix).partition("/")
                runs.setdefault(run_id, {})[name] = found
        for run_id, objects in runs.items():
            folder = run_prefix(self._site, run_id)
            tar = objects.get(f"{run_id}.tar")
            if tar is None:
                self._tell(f"{folder}{run_id}.tar", "is missing")
                continue
            data = tar.data
            try:
                run = unpack(f"{self._bucket.location}/{folder}{run_id}.tar", data, self._to)
            except EvidenceTampered as error:
                self._tell(f"{folder}{run_id}.tar", error.what)
                continue
            if (run.site, run.folder.name) != (self._site, run_id):
                self._tell(f"{folder}{run_id}.tar", f"holds run {run.folder.name} of site {run.site}")
            elif fault := run.fault(Ledger.of(self._to, self._site)):
                self._tell(f"{folder}{run_id}.tar", fault)
            put_envelopes(run.folder, {name: one.data for name, one in objects.items() if name.endswith(".dsse.json")})
            self._index(folder, objects.get(INDEX), sha256(data))
        return runs

    def _index(self, folder: str, index: Chosen | None, tar_sha256: str) -> None:
        if index is None:
            self._tell(f"{folder}{INDEX}", "is missing: the upload was interrupted, and is repeated", tampered=False)
            return
        try:
            named = json.loads(index.data)["tar"]
            there = named["sha256"] == tar_sha256, named["version"]
        except (ValueError, KeyError, TypeError):
            self._tell(f"{folder}{INDEX}", "is not an index")
            return
        if not there[0]:
            self._tell(f"{folder}{INDEX}", f"names another tar (version {there[1]}) than the one that is there")

    def _locks(self, chosen: dict[str, Chosen], lines: Sequence[Any], runs: dict[str, dict[str, Chosen]]) -> None:
        """Each version that counts must be kept as the profile says: a run since its seal, lines since the last of them."""
        sealed = {
            str(line.value.get("run_id")): str(line.value.get("at"))
            for line in lines
            if line.value and line.value.get("kind") == "seal"
        }
        of_run = {
            f"{run_prefix(self._site, run_id)}{name}": sealed.get(run_id, "")
            for run_id in runs
            for name in runs[run_id]
        }
        for key, found in chosen.items():
            since = of_run.get(key) or _last_at(found.data)
            now = datetime.now(UTC)
            if not found.lock.mode or (found.lock.until and found.lock.until <= now and not self._settings):
                self._tell(key, f"version {found.version.version_id} is not locked: it can be deleted")
            elif self._settings and since:
                wanted = Lock(
                    self._settings.mode, self._settings.until(parse_instant(since)), self._settings.legal_hold
                )
                if lacks := found.lock.lacks(wanted):
                    self._tell(key, f"version {found.version.version_id}: {lacks}")

    def _compare(self, outputs: Path, lines: Sequence[Any], runs: set[str]) -> None:
        """What this machine has against what it has archived."""
        ledger = Ledger.of(outputs, self._site)
        own = read_lines(ledger.path.read_bytes())[0] if ledger.path.exists() else []
        shown = f"ledger/{ledger.path.name}"
        pairs = zip(own, lines, strict=False)
        other = next((mine.number for mine, there in pairs if mine.sha256 != there.sha256), 0)
        if other:
            self._found.append(
                EvidenceFinding(
                    _RULE, f"{shown} line {other}", "is not the line that was archived: the ledger was changed"
                )
            )
        elif len(own) < len(lines):
            gone = f"lines {len(own) + 1} to {len(lines)} were archived, and are missing here"
            self._found.append(EvidenceFinding(_RULE, shown, gone))
        for run_id in sorted(runs):
            if not any(outputs.glob(f"*/{run_id}/{JOURNAL}")):
                verdict = _verdict(lines, run_id)
                what = f"run {run_id} ({verdict}) is archived in {self._bucket.location}, and was deleted here"
                self._found.append(EvidenceFinding(_RULE, str(outputs), what))


def _verdict(lines: Sequence[Any], run_id: str) -> str:
    values = (line.value for line in lines if line.value)
    return next((str(v.get("verdict")) for v in values if v.get("kind") == "seal" and v.get("run_id") == run_id), "?")


def _last_at(data: bytes) -> str:
    return next(
        (str(line.value["at"]) for line in reversed(read_lines(data)[0]) if line.value and "at" in line.value), ""
    )


def _as_archived(finding: EvidenceFinding, location: str) -> EvidenceFinding:
    """A finding about what was laid out, as one about the bucket: only sealed runs are in it."""
    if finding.rule == 8:
        what = finding.what.partition(", and its folder")[0] + ", and not sealed by the archived end of the ledger"
        return replace(finding, where=f"{location}: {finding.where}", what=what, tampered=False)
    if finding.rule == 7 and "its folder" in finding.what:
        what = (
            finding.what.partition(", and its folder")[0]
            + ", and is not in the archive (pending where it ran, or never put)"
        )
        return replace(finding, where=f"{location}: {finding.where}", what=what)
    return replace(finding, where=f"{location}: {finding.where}")


__all__ = ["audit", "sites_in"]
