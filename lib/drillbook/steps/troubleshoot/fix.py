"""The fix of a cause, where it is one change of one Kubernetes object: shown, confirmed, made, and read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Action, CheckStep, Context, Plan, Step
from drillbook.errors import Changed, ParameterError, PreconditionError, VerificationError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.model import Check, Effect, Frozen, Verdict, show_seconds
from drillbook.steps.preflight.readiness import denied
from drillbook.steps.troubleshoot.answer import Named, ObjectPatch
from drillbook.steps.troubleshoot.search import record_end

_KINDS = {kind.kind: kind for kind in (k8s.CLUSTER, k8s.POOLER, k8s.SCHEDULED_BACKUP, k8s.DEPLOYMENT)}


class Fixed(Frozen):
    """What was done about the cause; ``where`` "": nothing."""

    where: str = ""
    how: str = "nothing"

    def rows(self) -> Iterator[tuple[str, str]]:
        yield "Changed", self.where or "nothing"
        if self.where:
            yield "How", self.how


@dataclass(frozen=True)
class ApplyFix(Step[Fixed]):
    """Make the fix, where it is one change of one Kubernetes object.

    Only if it is ``wanted``. Every other fix needs a password, a manifest or a decision, and stays a command for a
    person. Nothing is changed while another run holds something on the cluster: what looks broken may be what that run
    has closed. Raises ParameterError for a ``wanted`` that is neither true nor false, PreconditionError where a right
    is missing or the object is gone.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    named: Named
    wanted: bool

    def plan(self, ctx: Context) -> Plan:
        if not isinstance(self.wanted, bool):
            raise ParameterError([f"fix: {self.wanted!r} is neither true nor false"], where="parameters")
        if self.unknown is not None:
            return Plan(summary=f"{self.title} (the cause is {self.unknown})")
        patch = self.named.patch
        if patch is None:
            why = "the fix is no change of one object" if self.named.cause else "there is nothing to fix"
            return Plan(summary=f"Nothing: {why}", harmless=True)
        where = self._kind(patch).where(patch.namespace, patch.name)
        merge = json.dumps(patch.merge, sort_keys=True)
        if not self.wanted:
            return Plan(summary=f"Nothing: fix is False. It would merge into {where}: {merge}", harmless=True)
        missing = denied(ctx, (("get", self._kind(patch), ""), ("patch", self._kind(patch), "")), patch.namespace)
        if missing:
            raise PreconditionError(
                f"missing right: {'; '.join(missing)}",
                todo="Apply deploy/recover/ for the time of the fix, or run the printed command as yourself.",
            )
        return Plan(
            summary=f"Merge into {where}: {merge}",
            touches=(Action(f"merge {merge} into", patch.kind, patch.namespace, patch.name, self._uid(ctx, patch)),),
            notes=("where Git declares it, Git must agree: else it is changed back",),
        )

    def do(self, ctx: Context) -> Fixed:
        patch = self.named.patch
        if patch is None or not self.wanted:
            return Fixed()
        kind = self._kind(patch)
        ctx.recorder.note(Facts(test=TestKind(type=f"search for a cause, and its fix: {self.named.cause}")))
        asked = {"verb": "patch", "kind": patch.kind, "namespace": patch.namespace, "name": patch.name}
        ctx.require_lease()
        undo.put_back(ctx.kube, asked | {"patch": patch.merge})
        return Fixed(
            where=kind.where(patch.namespace, patch.name), how=f"merged {json.dumps(patch.merge, sort_keys=True)}"
        )

    def verify(self, ctx: Context, result: Fixed) -> None:
        patch = self.named.patch
        if patch is None or not result.where:
            return
        found = ctx.kube.get(self._kind(patch), patch.namespace, patch.name)
        if found is None or not undo.matches(found, patch.merge):
            raise VerificationError(
                f"{result.where} is not as the fix has set it",
                expected=json.dumps(patch.merge, sort_keys=True),
                observed="another value" if found is not None else "no such object",
                todo="See which controller has changed it back: Git, Argo CD or Flux.",
                changed=Changed.DONE,
            )

    def _kind(self, patch: ObjectPatch) -> k8s.Kind:
        return _KINDS[patch.kind]

    def _uid(self, ctx: Context, patch: ObjectPatch) -> str:
        found = ctx.kube.get(self._kind(patch), patch.namespace, patch.name)
        if found is None:
            raise PreconditionError(
                f"{self._kind(patch).where(patch.namespace, patch.name)} is gone",
                todo="Run this again: the cause is another now.",
            )
        return str(found["metadata"]["uid"])


@dataclass(frozen=True)
class AfterFix(CheckStep):
    """Whether the cause is gone, and the symptom with it.

    After a fix of this run both are waited for, at most limits.step, and must be gone; the symptom only where
    ``waits``: some end with the next backup, which backup-manual makes.
    """

    named: Named
    fixed: Fixed
    wanted: bool
    name: ClassVar[str] = "after the fix"
    required: ClassVar[bool] = False
    looks_again: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    def look(self, ctx: Context) -> tuple[list[str], list[str]]:
        """The causes and the symptoms that are there now."""
        raise TypeError(f"{type(self).__name__} has no look()")

    def not_run(self, reason: str) -> list[Check]:
        """Where the fix was wanted and not made, the run has not done what it was to do."""
        return [self.result(Verdict.UNPROVEN, required=self.wanted, reason=f"not run: {reason}")]

    def observe(self, ctx: Context) -> Sequence[Check]:
        cause = self.named.cause
        if not cause:
            return [self.result(Verdict.NOT_APPLICABLE, reason="there was nothing to fix")]
        causes, symptoms = self._when_gone(ctx)
        says: dict[str, Any] = {"required": bool(self.fixed.where), "expected": f"no longer: {cause}"}
        if cause in causes:
            reason = (
                "the cause is still there although the fix was made: see whether Git, Argo CD or Flux has put it back, and read its "
                "evidence in a new run"
                if self.fixed.where
                else "the cause is still there: run the fix, then run this cell again"
            )
            return [self.result(Verdict.UNPROVEN, observed="still there", reason=reason, **says)]
        if symptoms and self.waits:
            wait = "" if self.fixed.where else "wait and run this cell again, or "
            reason = f"the cause is gone, and the symptom is not: {wait}open this runbook again for what lies behind it"
            return [self.result(Verdict.UNPROVEN, observed=symptoms[0], reason=reason, **says)]
        left = f"still: {symptoms[0]}" if symptoms else "no symptom is left"
        record_end(ctx, f"fixed: {self.fixed.where}" if self.fixed.where else "gone since")
        return [self.result(Verdict.VERIFIED, observed=f"the cause is gone; {left}", **says)]

    def _when_gone(self, ctx: Context) -> tuple[list[str], list[str]]:
        """What is there in the end: at once where this run has fixed nothing."""
        limit = ctx.site.limits.step.total_seconds() if self.fixed.where else 0.0
        started = time.monotonic()
        while True:
            causes, symptoms = self.look(ctx)
            left = [self.named.cause] if self.named.cause in causes else symptoms if self.waits else []
            waited = time.monotonic() - started
            if not left or waited > limit:
                return causes, symptoms
            rows = (("waited", f"{show_seconds(waited)}, at most {show_seconds(limit)}"),)
            ctx.recorder.progress(f"waiting for this to end: {left[0]}", rows=rows)
            ctx.pause(1.0)


__all__ = ["AfterFix", "ApplyFix", "Fixed"]
