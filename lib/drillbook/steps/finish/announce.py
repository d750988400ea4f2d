"""What to announce at the end: the answer in one line, and the same text to the site's webhook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckStep, Context, Plan, Step
from drillbook.errors import RunbookError
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Effect, Frozen, Verdict, causes, show_seconds
from drillbook.report.cards import show_bytes
from drillbook.steps.backup.manual_backup import FinishedBackup
from drillbook.steps.finish import webhook as notify
from drillbook.steps.preflight.readiness import SourceCluster


class DecisionText(Frozen):
    """``answer`` to the question in one line, and ``text`` to paste where people read it."""

    answer: str
    text: str


@dataclass(frozen=True)
class DeployDecision(Step[DecisionText]):
    """May I deploy now?

    Yes only if every required check of this run is VERIFIED: the backup is whole in the bucket, its WAL is archived,
    and recovery reaches past it.
    """

    cluster: SourceCluster
    finished: FinishedBackup
    reason: str = ""
    ticket: str = ""

    def do(self, ctx: Context) -> DecisionText:
        unmet = ctx.recorder.unmet()
        backup, window = ctx.recorder.facts.backup, ctx.recorder.facts.window
        if unmet or not backup or not window:
            why = causes(unmet)
            answer = f"NO. {why or 'the backup was not seen in the bucket'}"
        else:
            answer = (
                f"YES. Backup {backup.backup_id} of {self.cluster.ref} is whole in the archive; every instant from "
                f"{window.first_time[:19]} to now can be recovered from it, as far as its WAL is archived."
            )
            size, seconds = show_bytes(backup.size_bytes or 0), show_seconds(self.finished.seconds)
            ctx.recorder.note(
                Facts(claim=f"Backup {backup.backup_id} of {self.cluster.ref.name} ({size}) was made in {seconds}")
            )
        reason = f"{self.reason} {self.ticket}".strip()
        text = f"{self.cluster.ref}: backup for {reason or 'no reason given'}. {answer} Run {ctx.run_id}."
        ctx.recorder.note(Facts(answer=answer))
        ctx.recorder.log("announcement.txt", text + "\n")
        return DecisionText(answer=answer, text=text)


class Announcement(CheckStep):
    """A step that says how a run ended: written to the run's logs, and posted to the site's webhook if the profile names one.

    A webhook that fails does not undo what was done: the text is in the logs, to be pasted.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    name: ClassVar[str] = "announced"
    proves: ClassVar[str] = "people were informed"
    required: ClassVar[bool] = False

    def plan(self, ctx: Context) -> Plan:
        webhook = ctx.site.announce.webhook
        return Plan(
            summary=f"Write the text; POST it to the webhook of Secret {webhook}" if webhook else "Write the text"
        )

    def publish(self, ctx: Context, lines: Sequence[str], *, claim: str) -> Sequence[Check]:
        """Log the lines, note the first as the answer, and post them. ``claim`` is noted only if every check so far holds."""
        ctx.recorder.log("announcement.txt", "\n".join(lines) + "\n")
        ctx.recorder.note(Facts(answer=lines[0]))
        if not ctx.recorder.unmet():
            ctx.recorder.note(Facts(claim=claim))
        return self.post(ctx, " ".join(lines))

    def post(self, ctx: Context, text: str) -> Sequence[Check]:
        """Post the text to the site's webhook."""
        place = ctx.site.announce.webhook
        if place is None:
            return [
                self.result(
                    Verdict.NOT_APPLICABLE,
                    observed=text,
                    reason="the profile names no webhook: paste this text (logs/announcement.txt)",
                )
            ]
        secret = ctx.kube.secret(place.namespace, place.name)
        try:
            answer = notify.send(secret.get(ctx.site.announce.key, ""), text)
        except RunbookError as error:
            return [self.result(Verdict.UNPROVEN, expected="a success", observed=error.what, reason=error.todo)]
        return [self.result(Verdict.VERIFIED, expected="a success", observed=answer)]


@dataclass(frozen=True)
class AnnounceDecision(Announcement):
    """Inform people, by the site's webhook.

    The text is above to be pasted where no webhook is named. A webhook that fails does not undo the backup.
    """

    answer: DecisionText

    def plan(self, ctx: Context) -> Plan:
        webhook = ctx.site.announce.webhook
        return Plan(summary=f"POST the text to the webhook of Secret {webhook}" if webhook else "No webhook is named")

    def observe(self, ctx: Context) -> Sequence[Check]:
        return self.post(ctx, self.answer.text)


__all__ = ["AnnounceDecision", "DecisionText", "DeployDecision"]
