"""The gate before a destructive section: planned, shown, confirmed by people, and held to what was confirmed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from drillbook import kube as k8s
from drillbook.engine import waiting_runs
from drillbook.engine.approval import approve, cluster_uid
from drillbook.engine.gate import Part, Section, part_digest, plan_json, subject
from drillbook.engine.gate_card import GateCards, attended, who_confirmed
from drillbook.engine.observations import Observations
from drillbook.engine.previous_attempts import PreviousAttempts, PreviousStep
from drillbook.engine.step import Context, Pending, Plan, Step
from drillbook.errors import Changed, ConfirmationRequired, NotConfirmed, ParameterError, RunbookError
from drillbook.evidence import Ledger, gates
from drillbook.evidence.judge import unsettled
from drillbook.manifests.cleanup import keep_until
from drillbook.model import causes, parse_instant, show_instant

_MISSING = "a confirmation is missing"


class Gatekeeper:
    """Knows which sections of a run were confirmed; asks, waits, and lets a gated step pass or not."""

    def __init__(
        self,
        context: Context,
        observations: Observations,
        *,
        past: PreviousAttempts | None,
        phrase: str,
        make_plan: Callable[[Step[Any], Pending | None], Plan],
        go_on: Callable[[], None],
        give_back: Callable[[str], None],
    ) -> None:
        self._context, self._observations, self._past, self._phrase = context, observations, past, phrase
        self._make_plan, self._go_on, self._give_back = make_plan, go_on, give_back
        self._cards = GateCards(context, observations)
        self._confirmed: list[Section] = []
        self._blocked: list[Section] = []
        self._broken: dict[str, str] = {}  # a section's digest, and the step of it that failed

    # -- planning ------------------------------------------------------------------------------

    def plan(self, title: str, steps: tuple[Step[Any], ...]) -> Section:
        """Make every step's plan; what has begun in an earlier attempt keeps the plan that was confirmed."""
        if stands := self._stands(title, steps):
            return stands
        known = self._past.section(title, [type(step).__name__ for step in steps]) if self._past else None
        begun, before = (known[1], known[0]) if known else ({}, {})
        parts, blocked = [], ""
        for index, step in enumerate(steps):
            if index in begun:
                parts.append(Part(step, begun[index].plan or {}, before["steps"][index]["digest"], begun=True))
                continue
            unknown = step.unknown
            try:
                plan = self._make_plan(step, unknown)
            except RunbookError as error:
                blocked = blocked or error.what
                plan = Plan(summary=error.what, notes=(error.todo,) if error.todo else ())
            blocked = blocked or (str(unknown) if unknown is not None else "")
            parts.append(Part(step, plan_json(plan), part_digest(step, plan)))
        same = [step["digest"] for step in before.get("steps") or ()] == [part.digest for part in parts]
        return Section(
            title,
            self._context.site.cluster.name,
            tuple(parts),
            subject(self._context.run_id, self._context.parameters)
            | {f"accepted: {name}": why for name, why in self._observations.accepted.items()},
            blocked,
            begun=str(before["digest"]) if before and same else "",
        )

    def _stands(self, title: str, steps: tuple[Step[Any], ...]) -> Section | None:
        """The section that was confirmed and has begun in this process: its done steps would make another plan now."""
        events = self._observations.journal.events()
        return next(
            (one for one in self._confirmed if (one.title, one.steps) == (title, steps) and _has_begun(one, events)),
            None,
        )

    def show(self, section: Section) -> None:
        """The section's card: what it is about, what is lost, the exact plan; who confirmed it, if it was."""
        passed = [
            one for one in gates.confirmed(self._observations.journal.events()) if one["digest"] == section.digest
        ]
        self._cards.show(section, confirmed=who_confirmed(passed[-1]["approvals"]) if passed else "")

    # -- confirming ----------------------------------------------------------------------------

    def confirm(self, section: Section) -> None:
        """Let the section pass, or journal that the run waits, give the Lease back, and raise ConfirmationRequired."""
        if self._context.mode == "plan":
            return
        if section.begun or section in self._confirmed:
            self._admit(section)
            self.show(section)
            return
        unmet = causes(self._observations.unmet())
        if section.blocked or unmet:
            self._blocked.append(section)
            names = ", ".join(check.name for check in self._observations.unmet())
            reason = (
                section.blocked
                or f"{unmet}. Where that is known and bearable, the profile accepts it by name: waivers ({names})"
            )
            self.show(section if section.blocked else _blocked(section, reason))
            return
        shown = section.digest
        section = self.plan(section.title, section.steps)
        if section.blocked:
            self._blocked.append(section)
            return
        if any((one.title, one.digest) == (section.title, section.digest) for one in self._confirmed):
            self._admit(section)  # the cell is run again: the same plan needs no second passage
            self.show(section)
            return
        events = self._observations.journal.events()
        if section.harmless:  # nobody is asked about nothing; said once, also in a run that is resumed
            said = any(
                (one["section"], one["digest"]) == (section.title, section.digest) for one in gates.confirmed(events)
            )
            self._admit(section) if said else self._pass(section, None)
            return
        before = gates.waiting(events)
        if stands := gates.confirmed_for_another_target(events, section.title, section.part_digests):
            self._pass(section, before, stands["approvals"])
            return
        if reason := self._not_yet(section, before):
            changed = shown != section.digest or (before is not None and before["digest"] != section.digest)
            self._wait(section, "the plan has changed: an earlier phrase is void" if changed else reason)
        self._go_on()
        self._pass(section, before)

    def _not_yet(self, section: Section, before: gates.Event | None) -> str:
        """Why the section isn't confirmed yet; "" if it is. The parameter ``confirm`` counts as this person's word."""
        journal, people = self._observations.journal, self._context.site.approvals.people
        given = gates.approvals(journal.events(), section.digest)
        if not gates.missing(given, people):
            return ""
        if self._phrase == section.phrase and before is not None and before["digest"] == section.digest:
            try:
                approve(journal, self._phrase, self._kube(), how="parameter")
            except ParameterError as error:
                return "; ".join(error.faults)
            given = gates.approvals(journal.events(), section.digest)
        if not (missing := gates.missing(given, people)):
            return ""
        if given:
            names = ", ".join(str(event["actor"]["username"]) for event in given)
            return f"approved by {names}; another person must approve"
        return "two different people must approve" if missing > 1 else _MISSING

    def _kube(self) -> k8s.Kube | None:
        try:
            return self._context.kube
        except RunbookError:
            return None

    def _wait(self, section: Section, reason: str) -> NoReturn:
        site, journal = self._context.site, self._observations.journal
        run_id = self._context.run_id
        reason = "; ".join(filter(None, (reason, gates.not_restorable(journal.events()))))
        deadline = datetime.now(UTC) + site.approvals.deadline
        made = [event["id"] for event in unsettled(journal.events())]
        kube = self._kube()
        journal.append(
            "waiting",
            section=section.title,
            digest=section.digest,
            phrase=section.phrase,
            people=site.approvals.people,
            deadline=show_instant(deadline),
            reason=reason,
            made=made,
            subject=dict(section.subject),
            lost=section.lost,
            outage=section.outage,
            top=[list(row) for row in self._cards.top()],
            steps=[step | {"plan": part.shown} for step, part in zip(_steps(section), section.parts, strict=True)],
            kube_system_uid=cluster_uid(kube) if kube else "",
        )
        self.bind()
        if kube is not None:
            notes = {
                event["namespace"] for event in unsettled(journal.events()) if event["kind"] == k8s.CONFIG_MAP.kind
            }
            for namespace in sorted({site.drill_namespace, *notes}):
                keep_until(kube, namespace, run_id, deadline)
        kept = f" What was made is kept until {deadline:%Y-%m-%d %H:%M} UTC." if made else ""
        error = self._waits_here if attended() else self._waits_anywhere
        stands = waiting_runs.of(self._observations.folder, journal.events())
        self._give_back(f"Run {str(stands).removeprefix('run ')}; on {socket.gethostname()}" if made else "")
        raise error(section, reason, kept)

    def _waits_here(self, section: Section, reason: str, kept: str) -> ConfirmationRequired:
        """Asks in the notebook: the card has a text box, and the error beneath it says only what to do."""
        run_id, asked = self._context.run_id, "Waiting for you: type the phrase and press Enter or Confirm."
        self._cards.ask(
            section, asked if reason == _MISSING else f"Waiting: {reason}.", lambda typed: self._typed(section, typed)
        )
        return self._error(
            "waiting for you: type the phrase in the card's text box and press Enter or Confirm"
            + ("" if reason == _MISSING else f" ({reason})"),
            f"Then run this cell again (Shift+Enter). Or in a terminal: `drillbook approve {run_id}`.{kept}",
        )

    def _waits_anywhere(self, section: Section, reason: str, kept: str) -> ConfirmationRequired:
        """Nobody is there: the error names the commands."""
        run_id = self._context.run_id
        self._cards.show(section, asks=f"Waiting: {reason}.")
        return self._error(
            f"{section.title}: {reason}. The phrase of this plan: {section.phrase}",
            f'`drillbook approve {run_id} --phrase "{section.phrase}"`, then `drillbook resume {run_id}`; '
            f'or `drillbook resume {run_id} --confirm "{section.phrase}"`.{kept}',
        )

    def _error(self, what: str, todo: str) -> ConfirmationRequired:
        made = [event["id"] for event in unsettled(self._observations.journal.events())]
        changed = Changed.DONE if made or any(not one.harmless for one in self._confirmed) else Changed.NOTHING
        more = f" and {len(made) - 3} more (`drillbook list` names them)" if len(made) > 3 else ""
        said = f"made or changed, and not undone yet: {', '.join(made[:3])}{more}" if made else ""
        return ConfirmationRequired(what, changed=changed, changes=said, todo=todo)

    def _typed(self, section: Section, phrase: str) -> tuple[str, bool]:
        """The text box's answer: noted like any other approval; what came of it, and whether nothing more is to be typed."""
        journal = self._observations.journal
        try:
            approve(journal, phrase, self._kube(), how="widget")
        except ParameterError as error:
            return f"Not noted: {'; '.join(error.faults)}.", False
        given = gates.approvals(journal.events(), section.digest)
        if gates.missing(given, self._context.site.approvals.people):
            return (
                f"Noted: {who_confirmed(given)}. Another person must approve: `drillbook approve {self._context.run_id}`.",
                False,
            )
        self._cards.settle(section, f"{who_confirmed(given)}. Now run this cell again (Shift+Enter)")
        return "", True

    def _pass(self, section: Section, before: gates.Event | None, given: Sequence[gates.Event] = ()) -> None:
        events = self._observations.journal.events()
        waited = 0.0
        first = next((e for e in events if e["type"] == "waiting" and e["section"] == section.title), before)
        if first is not None:
            since = parse_instant(first["at"])
            waited = (datetime.now(UTC) - since).total_seconds()
            self._observations.phase("waiting at gates", since, waited, f"until {section.title!r} was confirmed")
        self._observations.journal.append(
            "confirmed",
            section=section.title,
            digest=section.digest,
            subject=dict(section.subject),
            steps=_steps(section),
            approvals=[
                {key: event[key] for key in ("actor", "how", "at")}
                for event in given or gates.approvals(events, section.digest)
            ],
            waited_seconds=round(waited, 3),
        )
        self.bind()
        self._admit(section)
        self.show(section)

    def bind(self) -> None:
        """Note in the ledger how far the journal has come: what is before a gate or the close can't be rewritten unseen."""
        if self._context.mode == "apply" and self._context.outputs is not None:
            Ledger.of(self._context.outputs, self._context.site.name).bind(self._observations.journal)

    def _admit(self, section: Section) -> None:
        self._confirmed = [known for known in self._confirmed if known.title != section.title] + [section]

    # -- the steps behind it -------------------------------------------------------------------

    def section_of(self, step: Step[Any]) -> str:
        """The title of the confirmed section that the step is in, the last one of equals; "" for none."""
        return next((section.title for section in reversed(self._confirmed) if section.part_of(step)), "")

    def note_failure(self, step: Step[Any], what: str) -> None:
        """A step has failed: of its section only what settles is still done."""
        for section in self._confirmed:
            if section.part_of(step):
                self._broken.setdefault(section.digest, what)

    def barred(self, step: Step[Any]) -> str:
        """Why a gated step is not run: its section was not asked for, or an earlier step of it has failed."""
        confirmed = next((one for one in reversed(self._confirmed) if one.part_of(step)), None)
        if confirmed is not None:
            return "" if step.settles else self._broken.get(confirmed.digest, "")
        section = next((one for one in self._blocked if one.part_of(step)), None)
        if section is None:
            return ""
        unmet = "; ".join(check.name for check in self._observations.unmet())
        return f"nobody was asked to confirm {section.title!r}, because of: {section.blocked or unmet}"

    def admit(self, step: Step[Any], plan: Plan | None, half_done: PreviousStep | None) -> Mapping[str, Any]:
        """Let a gated step pass, and answer its place in the section; its plan, made now, must be the confirmed one.

        A step that began in an earlier attempt and was not seen to end is let pass under the plan that it began with.
        Raises NotConfirmed, and ConfirmationRequired if the plan has changed before anything of the section began.
        """
        for section in reversed(self._confirmed):
            part = section.part_of(step)
            if part is None:
                continue
            place = {"digest": section.digest, "part": section.parts.index(part)}
            if half_done is not None and part.begun:
                return place
            if plan is not None and part_digest(step, plan) == part.digest:
                return place
            if not _has_begun(section, self._observations.journal.events()):
                self._confirmed.remove(section)
                self._wait(self.plan(section.title, section.steps), "the plan has changed since it was confirmed")
            raise NotConfirmed(
                f"the plan of {step.title!r} is not the one that was confirmed ({section.title})",
                todo="See what has changed; what was begun is put back by this run's clean-up.",
            )
        raise NotConfirmed(
            f"{step.title!r} is in a destructive section that was not confirmed",
            todo="Run the cells with run.plan and run.confirm of its section first.",
        )


def _has_begun(section: Section, events: Sequence[gates.Event]) -> bool:
    return any(
        (event.get("section") or {}) and event["section"]["digest"] == section.digest
        for event in events
        if event["type"] == "step_started"
    )


def _blocked(section: Section, reason: str) -> Section:
    return replace(section, blocked=reason)


def _steps(section: Section) -> list[dict[str, str]]:
    return [
        {
            "step": type(part.step).__name__,
            "title": part.step.title,
            "effect": str(part.step.effect),
            "digest": part.digest,
        }
        for part in section.parts
    ]
