"""What an annual restore achieved: each backup's age, size, wait and recovery time, and the money, compared with the promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from drillbook.archive.long_term import ChosenBackup, show_age
from drillbook.engine.step import CheckStep, Context
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Verdict, show_seconds
from drillbook.report.cards import show_bytes
from drillbook.steps.long_term.choice import ChosenBackups
from drillbook.steps.long_term.location import settings
from drillbook.steps.long_term.retrieval import NowReadable
from drillbook.steps.recovery.copy import Recovered


@dataclass(frozen=True)
class CompareWithPromise(CheckStep):
    """Retrieval and recovery together, compared with what was promised, for each of the two backups.

    Technical times on this hardware; the waiting time is the provider's, and people and approvals come on top. An
    objective missed is a failure where the profile enforces objectives.
    """

    chosen: ChosenBackups
    readable: NowReadable
    oldest: Recovered
    random: Recovered
    name: ClassVar[str] = "long-term objective"
    proves: ClassVar[str] = "a backup of years ago can be had back in the time that was promised"

    def observe(self, ctx: Context) -> Sequence[Check]:
        pairs = (("oldest", self.chosen.oldest, self.oldest), ("random", self.chosen.random, self.random))
        found = [self._one(ctx, name, backup, recovered) for name, backup, recovered in pairs]
        figures = {
            name: {
                "backup_id": backup.backup.backup_id,
                "retrieval_seconds": round(self.readable.seconds, 1) if backup.archived else 0.0,
                "recovery_seconds": round(recovered.recovery_seconds, 1),
                "size_bytes": backup.size_bytes,
            }
            for name, backup, recovered in pairs
        }
        noted = dict(ctx.recorder.facts.long_term or {}) | {"achieved": figures}
        dates = " and ".join(dict.fromkeys(f"{backup.backup.end_time:%Y-%m-%d}" for _, backup, _ in pairs))
        claim = f"The long-term backups of {ctx.source_ref.name} of {dates} were retrieved and restored, and retention holds"
        ctx.recorder.note(Facts(long_term=noted, claim=claim))
        return found

    def _one(self, ctx: Context, name: str, backup: ChosenBackup, recovered: Recovered) -> Check:
        waited = self.readable.seconds if backup.archived else 0.0
        seconds, limit = waited + recovered.recovery_seconds, settings(ctx).objective.total_seconds()
        return self.result(
            Verdict.VERIFIED if seconds <= limit else Verdict.FAILED,
            name=f"{self.name}: {name}",
            required=ctx.site.objectives.enforce,
            expected=f"at most {show_seconds(limit)}",
            observed=f"{show_seconds(seconds)} (retrieval {show_seconds(waited)}, recovery {show_seconds(recovered.recovery_seconds)})",
            details=(
                ("backup", backup.backup.backup_id),
                ("age", show_age(backup.backup, datetime.now(UTC))),
                ("size", f"{show_bytes(backup.size_bytes)} in {len(backup.objects)} objects, {backup.classes}"),
                ("fetch, replay, promotion", " · ".join(map(show_seconds, _phases(recovered)))),
                ("estimated cost of both", str(self.chosen.cost)),
            ),
        )


def _phases(recovered: Recovered) -> tuple[float, float, float]:
    return recovered.fetch_seconds, recovered.replay_seconds, recovered.promote_seconds


__all__ = ["CompareWithPromise"]
