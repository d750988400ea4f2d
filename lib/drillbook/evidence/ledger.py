"""The ledger of a site: every run is written down when it opens, at each gate, when it closes and when it is sealed.

So a missing run shows, and so does one whose journal was rewritten before the seal. What becomes known of a sealed run later, a ticket or
its retest, is a line of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drillbook.evidence import gates
from drillbook.evidence.canonical import now
from drillbook.evidence.chain import ChainFile, Tail
from drillbook.evidence.journal import Journal
from drillbook.model import Verdict


class Ledger:
    """``outputs/ledger/<site>.jsonl``: one entry a line, naming the entries before it by digest.

    ``previous`` is a list because two copies of a ledger may be brought together: the entry that does so names both
    ends. A broken line is noted by the next entry (``torn``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ChainFile(path, "ledger")

    @classmethod
    def of(cls, outputs: Path, site: str) -> Ledger:
        """The ledger of ``site`` below the outputs folder."""
        return cls(outputs / "ledger" / f"{site}.jsonl")

    def open(self, run_id: str, runbook: str) -> dict[str, Any]:
        """Note that a run has opened; raises :class:`EvidenceUnwritable`."""
        return self._append({"kind": "open", "run_id": run_id, "runbook": runbook})

    def bind(self, journal: Journal) -> dict[str, Any]:
        """Note how far a run's journal has come and the digest of its last line: what is before it can't be rewritten."""
        events = journal.events()
        opened = gates.opening(events) or {}
        seq, head = journal.head()
        told = {
            "run_id": opened.get("run_id"),
            "runbook": opened.get("runbook"),
            "after": events[seq - 1]["type"] if seq else "",
        }
        return self._append({"kind": "bind", "events": seq, "head_sha256": head} | told)

    def seal(
        self, run_id: str, runbook: str, verdict: Verdict | None, *, record_sha256: str, sums_sha256: str
    ) -> dict[str, Any]:
        """Note that a run is sealed, with the digests of its record and of its ``SHA256SUMS``."""
        digests = {"record_sha256": record_sha256, "sums_sha256": sums_sha256}
        shown = None if verdict is None else str(verdict)
        return self._append({"kind": "seal", "run_id": run_id, "runbook": runbook, "verdict": shown} | digests)

    def deviation(self, run_id: str, runbook: str, *, record_sha256: str, **noted: Any) -> dict[str, Any]:
        """Note what became known of a sealed run: ``ticket``, ``retested_by``, ``note``, ``by`` and ``actor``."""
        return self._append(
            {"kind": "deviation", "run_id": run_id, "runbook": runbook, "record_sha256": record_sha256} | noted
        )

    def numbered(self) -> list[tuple[int, dict[str, Any]]]:
        """The entries on the disk with the numbers of their lines, oldest first."""
        return [(line.number, line.value) for line in self._file.lines() if line.value is not None]

    def entries(self) -> list[dict[str, Any]]:
        """The entries on the disk, oldest first."""
        return [line.value for line in self._file.lines() if line.value is not None]

    def lines(self) -> tuple[int, str]:
        """How many lines it has, and the digest of the last one, which stands for all before it; 0 and "" for none."""
        known = self._file.lines()
        return (len(known), known[-1].sha256) if known else (0, "")

    def token(self, line: int) -> Path:
        """Where the time stamp over a line is."""
        return self.path.with_name(f"{self.path.stem}.{line}.tsr")

    def stamped(self) -> list[int]:
        """The lines that have a time stamp, in their order."""
        names = (path.name for path in self.path.parent.glob(f"{self.path.stem}.*.tsr"))
        numbers = (name.removeprefix(f"{self.path.stem}.").removesuffix(".tsr") for name in names)
        return sorted(int(number) for number in numbers if number.isdigit())

    def opening(self, run_id: str) -> tuple[dict[str, Any], str] | None:
        """The entry that opened a run and the digest of its line, which stands for everything before it."""
        for line in self._file.lines():
            if line.value is not None and line.value.get("kind") == "open" and line.value.get("run_id") == run_id:
                return line.value, line.sha256
        return None

    def sealing(self, run_id: str) -> tuple[dict[str, Any], str, int] | None:
        """The entry that sealed a run, the digest of its line and the line's number."""
        for line in self._file.lines():
            if line.value is not None and line.value.get("kind") == "seal" and line.value.get("run_id") == run_id:
                return line.value, line.sha256, line.number
        return None

    def _append(self, entry: dict[str, Any]) -> dict[str, Any]:
        def make(tail: Tail) -> list[dict[str, Any]]:
            entry["at"] = now()
            if tail.torn:
                entry["torn"] = {"after": tail.after, "lines": len(tail.torn), "bytes": sum(map(len, tail.torn))}
            return [entry]

        self._file.create()
        self._file.append(make, lambda head: {"previous": [head] if head else []})
        return entry
