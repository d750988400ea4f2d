"""Whether evidence is what was sealed. What must be true, and the code carries the same numbers:

1. ``journal.jsonl``: every line ends in a newline and is an object; ``seq`` counts from 1; ``prev`` is the digest of
   the line before. A broken line is allowed only where a ``torn`` event behind it says so.
2. The journal begins with ``opened``, whose run id and runbook name the folder that it is in.
3. ``record.json`` is, byte for byte, what the journal gives.
4. ``SHA256SUMS`` lists every file of the folder, and each has the digest that is listed.
5. Each attempt's notebook is the one whose digests the journal holds.
6. The ledger: every line is an entry and names the digest of the line before it.
7. Every run that the ledger sealed has its folder; its record, its sums and its verdict are the ledger's.
8. Every run that the ledger opened has its folder. Open without a seal is unfinished, not tampered.
9. Every run in a folder that isn't a plan is in its site's ledger.
10. Each line of a journal that the ledger names, at a gate or at the close, is still there.
11. With a trust file: every run that was sealed since its first key counts is signed by one of its keys, over these files
    and over the ledger's line that sealed the run; ``openssl`` can check the same with the files next to the envelope.
14. Each ticket and retest that the ledger notes is about a run that it sealed before, by that run's digest; a retest is another run of
    the same runbook, which it sealed before as VERIFIED. (12 and 13 are rules of the bucket and of time stamps.)

One thing can't be seen from one copy alone: that the *end* of the ledger was cut off together with the folders of those
runs. So the report shows the digest of the ledger's line before the run: keep it elsewhere, in a ticket for instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drillbook.errors import EvidenceTampered
from drillbook.evidence.canonical import SCHEMA, canonical, notebook_digest, sha256_file
from drillbook.evidence.chain import parse, read_lines
from drillbook.evidence.links import journal_problems, ledger_problems
from drillbook.evidence.record import record
from drillbook.evidence.seal import ATTESTED, JOURNAL, RECORD, SUMS, files_of, read_sums
from drillbook.model import parse_instant, show_instant

if TYPE_CHECKING:
    from drillbook.evidence.signatures import Signed
    from drillbook.evidence.trust import Trust


@dataclass(frozen=True)
class EvidenceFinding:
    """One thing that is not as it must be: the rule's number, where (file, line or link), and what was found.

    ``tampered`` is false for what a killed run leaves: that is unfinished, not altered.
    """

    rule: int
    where: str
    what: str
    tampered: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify(outputs: Path, run_dir: Path | None = None, *, trust: Trust | None = None) -> list[EvidenceFinding]:
    """Check every run below ``outputs``, or only ``run_dir`` with its site's ledger; an empty list means all is well.

    ``trust`` are the keys that count; without it signatures are not looked at. Reads only. Never raises for what it finds: a file that can't be read is a finding too.
    """
    found: list[EvidenceFinding] = []
    folders = [run_dir] if run_dir else sorted(path.parent for path in outputs.glob(f"*/*/{JOURNAL}"))
    runs = [_Run(outputs, folder, found) for folder in folders]
    ledgers = {path.stem: _LedgerFile(outputs, path, found) for path in sorted((outputs / "ledger").glob("*.jsonl"))}
    for run in runs:
        run.check()
        # A journal that lost its first line doesn't name its site: the ledger that names the run is taken.
        ledger = ledgers.get(run.site) or next((item for item in ledgers.values() if item.names(run.run_id)), None)
        if run.mode != "plan":
            if ledger is None:
                what = f"run {run.run_id or run.folder.name} is there, but not its ledger"
                found.append(EvidenceFinding(9, f"ledger/{run.site or '?'}.jsonl", what))
            else:
                ledger.check_run(run)
                if trust is not None:
                    ledger.check_signature(run, trust)
    if run_dir is None:
        for ledger in ledgers.values():
            ledger.check_missing({run.run_id for run in runs})
    for ledger in ledgers.values():
        ledger.check_ended_keys()
    return found


def require_intact(findings: Sequence[EvidenceFinding]) -> None:
    """Raise :class:`EvidenceTampered` naming everything that was altered; what is only unfinished passes."""
    altered = [str(finding) for finding in findings if finding.tampered]
    if altered:
        raise EvidenceTampered(
            "the evidence is not what was sealed\n" + "\n".join(f"  - {line}" for line in altered),
            todo="Compare with the copy that is kept elsewhere; treat the run as not proven.",
        )


class _Run:
    """A run's folder, read once; of what was read only its names are kept: there may be thousands."""

    def __init__(self, outputs: Path, folder: Path, found: list[EvidenceFinding]) -> None:
        self.folder, self._found = folder, found
        inside = folder.resolve().is_relative_to(outputs.resolve())
        self.shown = str(folder.resolve().relative_to(outputs.resolve())) if inside else str(folder)
        self.run_id, self.site, self.mode = folder.name, "", ""
        self.lines: set[str] = set()

    def tell(self, rule: int, name: str, what: str, *, tampered: bool = True) -> None:
        self._found.append(EvidenceFinding(rule, f"{self.shown}/{name}", what, tampered))

    def check(self) -> None:
        sealed = (self.folder / SUMS).exists()
        data = self._read(1, JOURNAL)
        lines, rest = read_lines(data)
        self.lines = {line.sha256 for line in lines}
        events = [line.value for line in lines if line.value is not None]
        # 1
        problems = list(journal_problems(lines, rest, sealed=sealed))
        for number, what in problems:
            self.tell(1, f"{JOURNAL} line {number}", what, tampered=sealed or number <= len(lines))
        # 2
        opened = events[0] if events else {}
        if opened.get("type") != "opened":
            self.tell(2, f"{JOURNAL} line 1", "is not the event `opened`", tampered=bool(events))
        self.site = str((opened.get("site") or {}).get("name", ""))
        self.mode = str(opened.get("mode", ""))
        for key, name in (("run_id", self.folder.name), ("runbook", self.folder.parent.name)):
            if key in opened and opened[key] != name:
                self.tell(2, f"{JOURNAL} line 1", f"{key} is {opened[key]!r}, the folder says {name!r}")
        if sealed:
            self._check_record(events)
            self._check_sums()
            self._check_notebooks(events)

    def _check_record(self, events: list[dict[str, Any]]) -> None:
        # 3
        stored = self._read(3, RECORD)
        kept = parse(stored) or {}
        schema = (kept.get("record") or {}).get("schema")
        if stored and schema not in (None, SCHEMA):
            self.tell(3, RECORD, f"has schema {schema}, this version computes {SCHEMA}: not recomputed", tampered=False)
            return
        try:
            shown = record(events)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.tell(3, RECORD, f"the journal gives no record: {type(error).__name__} {error}")
            return
        if stored and stored != canonical(shown) + b"\n":
            self._check_end((kept.get("record") or {}).get("journal") or {}, shown["record"]["journal"])
            self.tell(3, RECORD, f"is not what the journal shows: {_first_difference(kept, shown)}")

    def _check_end(self, kept: dict[str, Any], shown: dict[str, Any]) -> None:
        # 1: the chain alone can't tell that its end was changed or cut off; the record can.
        there, sealed = shown["events"], kept.get("events")
        if isinstance(sealed, int) and there < sealed:
            lost = f"event {sealed} is" if sealed == there + 1 else f"events {there + 1} to {sealed} are"
            self.tell(1, f"{JOURNAL} line {there + 1}", f"{lost} missing: the journal was truncated")
        elif isinstance(sealed, int) and there > sealed:
            self.tell(1, f"{JOURNAL} line {sealed + 1}", f"was added: {sealed} events were sealed")
        elif kept.get("head_sha256") != shown["head_sha256"]:
            self.tell(1, f"{JOURNAL} line {there}", "was edited, or a line before it with all links recreated")

    def _check_sums(self) -> None:
        # 4
        listed = read_sums(self._read(4, SUMS).decode("utf-8", errors="replace"))
        present = set(files_of(self.folder))
        for name in sorted(listed.keys() | present):
            if name not in present:
                self.tell(4, name, f"is listed in {SUMS} and missing")
            elif name not in listed:
                self.tell(4, name, f"is not listed in {SUMS}: it was added after the seal")
            elif sha256_file(self.folder / name) != listed[name]:
                self.tell(4, name, f"was changed: its digest is not the one in {SUMS}")

    def _check_notebooks(self, events: list[dict[str, Any]]) -> None:
        # 5
        for event in events:
            name = event.get("notebook") if event.get("type") == "attempt" else ""
            if not name:
                continue
            path = self.folder / str(name)
            if not path.is_file():
                # One that was run by hand and abandoned was never kept: its attempt has no digest of it.
                if event.get("sha256"):
                    self.tell(5, str(name), f"attempt {event.get('n')} ran it, and it is missing")
                continue
            if event.get("sha256") and sha256_file(path) != event["sha256"]:
                self.tell(5, str(name), f"is not the notebook that attempt {event.get('n')} left")
            if event.get("notebook_sha256"):
                try:
                    same = notebook_digest(path) == event["notebook_sha256"]
                except (ValueError, KeyError, TypeError):
                    same = False
                if not same:
                    self.tell(5, str(name), f"its prose or code is not what attempt {event.get('n')} ran")

    @property
    def attested(self) -> bool:
        """Whether anything here says that it is signed."""
        return any((self.folder / f"{name}.dsse.json").exists() for name in ATTESTED)

    def digest(self, name: str) -> str:
        """The digest of a file of this run, ``""`` if it is missing."""
        path = self.folder / name
        return sha256_file(path) if path.is_file() else ""

    def _read(self, rule: int, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            self.tell(rule, name, "is missing" if isinstance(error, FileNotFoundError) else str(error.strerror))
            return b""


class _LedgerFile:
    """A site's ledger, read once."""

    def __init__(self, outputs: Path, path: Path, found: list[EvidenceFinding]) -> None:
        self._found, self._outputs = found, outputs
        self.shown = f"ledger/{path.name}"
        lines, rest = read_lines(path.read_bytes())
        self.entries = [(line.number, line.value) for line in lines if line.value is not None]
        self._digests = {line.number: line.sha256 for line in lines}
        self._signed: dict[str, Signed] = {}
        self._opens: dict[str, int] = {}
        self._seals: dict[str, tuple[int, dict[str, Any]]] = {}
        self._bound: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for number, entry in self.entries:
            run_id = str(entry.get("run_id"))
            if entry.get("kind") == "seal":
                self._seals.setdefault(run_id, (number, entry))
            elif entry.get("kind") == "bind":
                self._bound.setdefault(run_id, []).append((number, entry))
            elif entry.get("kind") == "deviation":
                self._check_deviation(number, entry)
            else:
                self._opens.setdefault(run_id, number)
        # 6
        for number, what in ledger_problems(lines, rest):
            self._tell(6, number, what, tampered=number <= len(lines))

    def _tell(self, rule: int, number: int, what: str, *, tampered: bool = True) -> None:
        self._found.append(EvidenceFinding(rule, f"{self.shown} line {number}", what, tampered))

    def _check_deviation(self, number: int, entry: dict[str, Any]) -> None:
        # 14: the lines before this one have been taken already, the lines behind it have not
        run_id, retest = str(entry.get("run_id")), str(entry.get("retested_by") or "")
        _, sealed = self._seals.get(run_id, (0, {}))
        if not sealed:
            self._tell(14, number, f"notes a ticket of run {run_id}, which no line before it sealed")
        elif sealed.get("record_sha256") != entry.get("record_sha256"):
            self._tell(14, number, f"notes a ticket of run {run_id} with another record than the one that was sealed")
        if retest:
            _, other = self._seals.get(retest, (0, {}))
            if other.get("verdict") != "VERIFIED" or other.get("runbook") != entry.get("runbook") or retest == run_id:
                what = f"names {retest} as the retest of run {run_id}, and no line before it sealed it as VERIFIED"
                self._tell(14, number, f"{what} by {entry.get('runbook')}")

    def names(self, run_id: str) -> bool:
        """Whether this ledger knows of a run."""
        return run_id in self._opens or run_id in self._seals

    def check_run(self, run: _Run) -> None:
        seal = self._seals.get(run.run_id)
        # 10
        for number, entry in self._bound.get(run.run_id, ()):
            if entry.get("head_sha256") not in run.lines:
                when = f"at {entry.get('at')}, after event {entry.get('events')} ({entry.get('after')})"
                run.tell(
                    10,
                    JOURNAL,
                    f"was rewritten: it has no line with the digest that {self.shown} line {number} noted {when}",
                )
        # 9
        if run.run_id not in self._opens:
            self._found.append(EvidenceFinding(9, self.shown, f"has no entry for the opening of run {run.run_id}"))
        if seal is None:
            if (run.folder / SUMS).exists():
                self._found.append(EvidenceFinding(9, self.shown, f"has no entry for the seal of run {run.run_id}"))
            elif run.run_id in self._opens:
                run.tell(
                    8,
                    SUMS,
                    "is not there yet: the run is unfinished (`drillbook finish` or `cleanup` ends it)",
                    tampered=False,
                )
            return
        # 7
        number, entry = seal
        for name, key in ((RECORD, "record_sha256"), (SUMS, "sums_sha256")):
            if run.digest(name) != entry.get(key):
                run.tell(7, name, f"is not the one that {self.shown} line {number} sealed")
        if run.digest(RECORD) == entry.get("record_sha256"):
            verdict = ((parse((run.folder / RECORD).read_bytes()) or {}).get("verdict") or {}).get("verdict")
            if verdict != entry.get("verdict"):
                self._tell(7, number, f"says {entry.get('verdict')} of run {run.run_id}, its record says {verdict}")

    def check_signature(self, run: _Run, trust: Trust) -> None:
        """Whether the run is signed by a key that counts, over what lies here."""
        # What signs takes a third of a second to import: only those who ask pay for it.
        from drillbook.evidence.signatures import checked

        # 11
        if run.run_id not in self._seals:
            return
        number, entry = self._seals[run.run_id]
        since = trust.since
        if not run.attested and (since is None or parse_instant(entry["at"]) < since):
            run.tell(11, f"{ATTESTED[0]}.dsse.json", "is not there: no key counted when it was sealed", tampered=False)
            return
        signed, faults = checked(run.folder, trust, (entry, self._digests[number], number))
        for name, what in faults:
            run.tell(11, name, what)
        if signed is not None:
            self._signed[f"{run.shown}"] = signed

    def check_ended_keys(self) -> None:
        """Name the signatures of keys that don't count any more, where only the runner's clock says that they did."""
        # 11
        for shown, signed in self._signed.items():
            ended = signed.key.ended_at(datetime.now(UTC))
            if ended and not signed.named_later(self._signed.values()):
                what = (
                    f"key {signed.key.keyid[:12]} has not counted since {show_instant(ended)}; that it signed "
                    f"before is said by this machine's clock alone: no later run of another key names it"
                )
                self._found.append(EvidenceFinding(11, f"{shown}/{ATTESTED[0]}.dsse.json", what, tampered=False))

    def check_missing(self, present: set[str]) -> None:
        """Name every run of this ledger whose folder is not there."""
        for run_id, number in {**{k: v[0] for k, v in self._seals.items()}, **self._opens}.items():
            if run_id in present:
                continue
            runbook = next(e.get("runbook") for n, e in self.entries if n == number)
            gone = f"its folder {runbook}/{run_id} or its journal is missing"
            sealed = self._seals.get(run_id)
            # 7, 8
            if sealed:
                verdict = sealed[1].get("verdict")
                self._tell(7, sealed[0], f"run {run_id} was sealed as {verdict}, and {gone}")
            else:
                self._tell(8, number, f"run {run_id} was opened, and {gone}")


def _first_difference(stored: Any, shown: Any, path: str = "") -> str:
    """Where two JSON values differ first, and how; long values are cut."""
    if isinstance(stored, dict) and isinstance(shown, dict):
        for key in sorted(stored.keys() | shown.keys()):
            if stored.get(key) != shown.get(key) or (key in stored) != (key in shown):
                return _first_difference(stored.get(key), shown.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(stored, list) and isinstance(shown, list):
        for index, (one, other) in enumerate(zip(stored, shown, strict=False)):
            if one != other:
                return _first_difference(one, other, f"{path}[{index}]")
        return f"{path} has {len(stored)} items, the journal gives {len(shown)}"
    if stored == shown:
        return "its bytes are written otherwise"
    return f"{path or 'it'} is {_cut(stored)}, the journal gives {_cut(shown)}"


def _cut(value: Any) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}…"


__all__ = ["EvidenceFinding", "require_intact", "verify"]
