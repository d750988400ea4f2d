"""What steps report, written to the journal as it is reported (``step.Recorder``)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drillbook.engine.previous_attempts import PreviousAttempts, PreviousStep
from drillbook.engine.progress import Progress
from drillbook.engine.show import Display
from drillbook.engine.step import Obligation
from drillbook.errors import PreconditionError
from drillbook.evidence import Journal, Masker, gates, plain
from drillbook.evidence.facts import Facts
from drillbook.evidence.judge import unsettled
from drillbook.model import Check, show_instant, show_seconds
from drillbook.report import cards

_WORTH_SAYING_SECONDS = 2.0


def with_time(rows: Sequence[tuple[str, str]], seconds: float) -> list[tuple[str, str]]:
    """What a progress shows, with how long its step takes so far where it does not say that itself: else it seems to hang."""
    said = any(name == "waited" for name, _ in rows)
    return [*rows] if said or seconds < _WORTH_SAYING_SECONDS else [*rows, ("running for", show_seconds(int(seconds)))]


class Observations:
    """A run's checks, facts and promises: in the journal for good, in memory for the steps that ask."""

    def __init__(self, folder: Path, masker: Masker) -> None:
        self.folder, self.masker = folder, masker
        self.journal = Journal.open(folder / "journal.jsonl", masker=masker)
        self.write = self.journal.append
        self.n = 0
        self.title = ""
        self.display: Display | None = None
        self.doing = Progress(folder, masker.mask)
        self.step_checks: list[Check] = []
        self.asking_again: list[Check] | None = None
        """While a resumed run asks again what it knows already: checks go here, and nothing is written."""
        self.waived: dict[str, str] = {}
        """Checks that the profile accepts, with the reason; and those that this run has met, with their verdict."""
        self.accepted: dict[str, str] = {}
        self._checks: list[Check] = []
        self.facts = Facts()
        self._begun = time.monotonic()

    def begin(self, n: int, title: str, display: Display, *, undoing: bool = False) -> None:
        """A step begins: what is reported from now on is its own. One that undoes goes on though the journal can't be written."""
        self.write = self.journal.note if undoing else self.journal.append
        self.n, self.title, self.display, self.step_checks = n, title, display, []
        self._begun = time.monotonic()
        self.doing.begin()

    def remember(self, past: PreviousAttempts, step: PreviousStep | None = None) -> None:
        """Take in what an earlier attempt noted: its facts, and the checks of a complete step."""
        self.facts = self.facts.and_(past.facts)
        if step is not None:
            self._checks += step.checks
            self.accepted |= {
                check.name: f"{check.verdict}: {self.waived[check.name]}"
                for check in step.checks
                if check.name in self.waived and not check.required
            }
            self.step_checks += step.checks

    def check(self, check: Check) -> None:
        if check.unmet and (because := self.waived.get(check.name)):
            # Judged as it is; but it neither stops this run nor counts in its verdict, and the gate says so.
            reason = "; ".join(filter(None, (check.reason, f"accepted by the profile: {because}")))
            check = check.model_copy(update={"required": False, "reason": reason})
            self.accepted[check.name] = f"{check.verdict}: {because}"
        if self.asking_again is not None:
            self.asking_again.append(check)
            return
        self._checks.append(check)
        self.step_checks.append(check)
        self.write("check", n=self.n, **check.model_dump(mode="json"))

    def note(self, learned: Facts) -> None:
        if self.asking_again is None:
            self.facts = self.facts.and_(learned)
            for name, value in learned.json_values().items():
                self.write("fact", name=name, value=value)

    def phase(self, name: str, started_at: datetime, seconds: float, how: str) -> None:
        if self.asking_again is None:
            at = show_instant(started_at)
            self.write("phase", name=name, started_at=at, seconds=round(seconds, 3), how=how)

    def obligation(self, obligation: Obligation) -> None:
        if obligation.undo is not None and any(item.id == obligation.id for item in self.promises()):
            return  # the first one knows the value from before the change
        data: dict[str, Any] = {
            "id": obligation.id,
            "what": obligation.what,
            "kind": obligation.kind,
            "namespace": obligation.namespace,
            "name": obligation.name,
            "uid": (obligation.undo or {}).get("uid", ""),
        }
        if obligation.undo is not None:
            data["undo"] = plain(obligation.undo)
            if self.masker.mask(data["undo"]) != data["undo"]:
                raise PreconditionError(
                    f"what was there before ({obligation.what}) holds a secret, which the journal does not keep: "
                    "it could not be put back",
                    todo="Keep that value in a Secret, and start a new run.",
                )
        self.write("obligation", **data)

    def settled(self, obligation: Obligation, how: str, proof: str) -> None:
        self.write("settled", id=obligation.id, how=how, proof=proof)

    def promises(self) -> list[Obligation]:
        """What this run has promised to undo and not undone yet, in order; of earlier attempts too."""
        return [
            Obligation(event["kind"], event["namespace"], event["name"], event["what"], undo=event.get("undo"))
            for event in unsettled(self.journal.events())
        ]

    def log(self, name: str, text: str) -> None:
        masked = self.masker.mask(text)
        path = self.folder / "logs" / name
        if path.exists():  # a step that is done again in a later attempt: its first log stays
            path = path.with_stem(f"{path.stem}-{gates.attempt(self.journal.events())}")
        path.write_text(masked, encoding="utf-8")
        data = path.read_bytes()
        self.write("log", file=f"logs/{path.name}", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    def progress(self, text: str, *, fraction: float | None = None, rows: Sequence[tuple[str, str]] = ()) -> None:
        if self.display is not None:
            self.doing.say(self.n, self.title, text, fraction, rows)
            shown = with_time(rows, time.monotonic() - self._begun)
            bundle = cards.progress_card(self.title, text, fraction=fraction, rows=shown)
            self.display.draw(bundle, at_most_every_seconds=0.4)

    def unmet(self) -> list[Check]:
        return [check for check in self._checks if check.unmet]
