"""A recovery hangs, fails or takes longer than forecast: the symptom, each possible cause, the one that it is, and the proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import ParameterError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.model import Check, ClusterRef, Frozen, Verdict, show_seconds
from drillbook.steps.preflight.readiness import HEALTHY
from drillbook.steps.troubleshoot.answer import Named
from drillbook.steps.troubleshoot.recovery_causes import RecoverySeen, checked, symptoms
from drillbook.steps.troubleshoot.recovery_state import Reader, made_by_runs, names_of, of_ended_run, recovery_cluster
from drillbook.steps.troubleshoot.search import cause_checks, record_answer, record_end, symptom_checks

NONE_THERE = "no run of Drillbook has a recovery cluster here; name one by recovery_namespace and recovery_cluster"


class RecoveryState(Frozen):
    """What was read, as a card shows it; ``seen`` None: there is no recovery to look at."""

    seen: RecoverySeen | None
    unread: tuple[str, ...] = ()
    others: str = ""  # further recovery clusters of runs

    def rows(self) -> Iterator[tuple[str, str]]:
        seen = self.seen
        if seen is None:
            yield "Recovery", NONE_THERE
            return
        yield "Cluster", f"{seen.namespace}/{seen.name}: {seen.phase or 'no phase yet'}"
        yield "Age", show_seconds(seen.age.total_seconds())
        yield "Expected", f"at most {show_seconds(seen.expected.total_seconds())}, by {seen.expected_by}"
        yield "Job", f"{seen.job['metadata']['name']}, {seen.failed} attempts failed" if seen.job else "there is none"
        yield "Now", seen.progress.doing
        if seen.progress.left is not None:
            yield "WAL before it", f"at most {seen.progress.left} segments"
        if seen.words:
            yield "It says", seen.words
        if self.unread:
            yield "Not read", "; ".join(self.unread)
        if self.others:
            yield "Others", self.others


@dataclass(frozen=True)
class ReadRecoveryState(Step[RecoveryState]):
    """Read the recovery's Cluster, Job, pods, claims, warnings and logs, and the archive's listing.

    Without a name it is the newest unfinished Cluster that a run has made by recovery, found by its label. Of a run that
    has ended the logs are read that it has kept: its copy is gone. What the rights did not let it read is named.
    """

    namespace: str
    cluster: str
    expected_minutes: int
    failed_run: str = ""

    def do(self, ctx: Context) -> RecoveryState:
        if self.expected_minutes < 0:
            raise ParameterError([f"expected_minutes is {self.expected_minutes}; give 0 or more"], where="parameters")
        ctx.recorder.note(Facts(test=TestKind(type="search for the cause of a slow recovery; nothing was changed")))
        if self.failed_run:
            kept = of_ended_run(ctx, self.failed_run)
            return RecoveryState(
                seen=kept, unread=(f"the Cluster: run {self.failed_run} has ended, its logs were read",)
            )
        found = recovery_cluster(ctx, self.namespace, self.cluster)
        if found is None:
            return RecoveryState(seen=None)
        reader = Reader(ctx, found)
        seen = reader.read(timedelta(minutes=self.expected_minutes) if self.expected_minutes else None)
        rest = (
            []
            if self.cluster
            else [one for one in made_by_runs(ctx) if one["metadata"]["uid"] != found["metadata"]["uid"]]
        )
        return RecoveryState(seen=seen, unread=tuple(dict.fromkeys(reader.unread)), others=names_of(rest))


@dataclass(frozen=True)
class RecoverySymptom(CheckStep):
    """Whether the recovery is in trouble at all: one that is within its forecast, or finished, is not your problem."""

    state: RecoveryState
    name: ClassVar[str] = "symptom"
    proves: ClassVar[str] = "there is something to look for"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        expected = "a recovery that has failed, has been given up, or takes longer than forecast"
        found = symptoms(self.state.seen) if self.state.seen else []
        return symptom_checks(self, found, expected=expected, well=_well(self.state))


@dataclass(frozen=True)
class RecoveryCauses(CheckStep):
    """Each thing that keeps a recovery from ending, from the root to the leaves: one that is broken hides those below it."""

    state: RecoveryState
    name: ClassVar[str] = "causes"
    proves: ClassVar[str] = "this is not what keeps the recovery from ending"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        if self.state.seen is None:
            return [self.result(Verdict.NOT_APPLICABLE, expected="in order", reason=NONE_THERE)]
        return cause_checks(self, checked(self.state.seen))


@dataclass(frozen=True)
class NameRecoveryCause(Step[Named]):
    """The cause, its evidence, and what to do; or that the recovery is well, and the trouble is somewhere else."""

    state: RecoveryState

    def do(self, ctx: Context) -> Named:
        seen = self.state.seen
        return record_answer(
            ctx,
            symptoms(seen) if seen else [],
            checked(seen) if seen else [],
            about=f"Recovery into {seen.namespace}/{seen.name}" if seen else "Recovery",
            proves="what keeps the recovery from ending is known",
            well=_well(self.state),
            unread="; ".join(self.state.unread) or "no log, event or condition says why",
        )


@dataclass(frozen=True)
class RecoveryAfterFix(CheckStep):
    """Look again, after the fix: finished, on its way, or still held by the same cause."""

    state: RecoveryState
    named: Named
    name: ClassVar[str] = "after the fix"
    proves: ClassVar[str] = "what kept the recovery from ending is gone"
    required: ClassVar[bool] = False
    looks_again: ClassVar[bool] = True

    def observe(self, ctx: Context) -> Sequence[Check]:
        before = self.state.seen
        if before is None or not self.named.cause:
            return [self.result(Verdict.NOT_APPLICABLE, reason="there was nothing to fix")]
        expected = f"no longer: {self.named.cause}"
        there = ctx.kube.get(k8s.CLUSTER, before.namespace, before.name)
        if there is None:
            return [self.result(Verdict.NOT_APPLICABLE, expected=expected, reason="the Cluster was removed")]
        now = Reader(ctx, there).read(before.expected)
        if now.phase == HEALTHY:
            record_end(ctx, "gone since")
            return [self.result(Verdict.VERIFIED, expected=expected, observed="the Cluster is healthy")]
        left = [cause.name for _, cause in checked(now) if cause]
        if self.named.cause in left:
            reason = "the cause is still there: apply the fix, then run this cell again"
            return [self.result(Verdict.UNPROVEN, expected=expected, observed=now.progress.doing, reason=reason)]
        record_end(ctx, "gone since")
        observed = f"{now.progress.doing}; {f'now: {left[0]}' if left else 'nothing else is wrong'}"
        return [self.result(Verdict.VERIFIED, expected=expected, observed=observed)]


def _well(state: RecoveryState) -> str:
    seen = state.seen
    if seen is None:
        return NONE_THERE
    if seen.phase == HEALTHY:
        return f"{ClusterRef(namespace=seen.namespace, name=seen.name)} is healthy, its recovery is finished"
    took, wanted = show_seconds(seen.age.total_seconds()), show_seconds(seen.expected.total_seconds())
    return f"it is under way since {took} of at most {wanted} ({seen.expected_by}): {seen.progress.doing}"


__all__ = [
    "NameRecoveryCause",
    "ReadRecoveryState",
    "RecoveryAfterFix",
    "RecoveryCauses",
    "RecoveryState",
    "RecoverySymptom",
]
