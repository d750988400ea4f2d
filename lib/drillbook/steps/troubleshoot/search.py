"""What every search for a cause records: the symptom, each possible cause, and the answer."""

from __future__ import annotations

from collections.abc import Sequence

from drillbook.engine.step import CheckStep, Context
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Verdict
from drillbook.steps.troubleshoot.answer import NOT_YOURS, Cause, Named, name_cause


def symptom_checks(step: CheckStep, found: Sequence[str], *, expected: str, well: str) -> list[Check]:
    """Whether there is anything to look for: the first symptom, with the others as details; n/a, because it is ``well``."""
    if not found:
        return [step.result(Verdict.NOT_APPLICABLE, expected=expected, reason=f"{NOT_YOURS}: {well}")]
    also = tuple((f"also {n}", words) for n, words in enumerate(found[1:], 1))
    return [step.result(Verdict.VERIFIED, expected=expected, observed=found[0], details=also)]


def cause_checks(step: CheckStep, causes: Sequence[tuple[str, Cause | None]]) -> list[Check]:
    """A check for each possible cause; FAILED: it is one."""
    return [
        step.result(
            Verdict.FAILED if cause else Verdict.VERIFIED,
            name=f"cause: {name}",
            expected="in order",
            observed=f"{cause.name}: {cause.seen}" if cause else "in order",
        )
        for name, cause in causes
    ]


def record_answer(
    ctx: Context,
    wrong: Sequence[str],
    causes: Sequence[tuple[str, Cause | None]],
    *,
    about: str,
    proves: str,
    well: str,
    unread: str,
) -> Named:
    """Name the cause and record it; UNPROVEN where something is ``wrong`` and no cause shows: ``unread`` says what is missing."""
    found = [cause for _, cause in causes if cause]
    named = name_cause(wrong, found, well=well)
    known = bool(found) or not wrong
    ctx.recorder.check(
        Check(
            name="cause",
            proves=proves,
            verdict=Verdict.VERIFIED if known else Verdict.UNPROVEN,
            expected="one cause, or nothing wrong",
            observed=named.cause
            or (named.answer if wrong else "nothing wrong"),  # the answer stands above it, with the evidence
            reason="" if known else unread,
        )
    )
    ctx.recorder.note(Facts(answer=named.answer, claim=f"{about}: {named.cause or 'nothing is wrong'}"))
    return named


def record_end(ctx: Context, words: str) -> None:
    """Add to the run's claim how the cause has ended: else the headline would still read as if it were there."""
    said = ctx.recorder.facts.claim or ""
    if not said.endswith(words):
        ctx.recorder.note(Facts(claim=f"{said}; {words}"))


__all__ = ["cause_checks", "record_answer", "record_end", "symptom_checks"]
